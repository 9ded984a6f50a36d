"""Energies and their gradients at the positions of walkers.

An energy is a function from a position with `N` walkers to `N` energies in nats,

    energy_fn(position) -> (N,)

or a `CombinedEnergy`, a linear combination of several of them that come from one call.
A count of the calls of `evaluate` is the cost of a run.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.core.faults import may_hold
from pyro_jarzynski.core.gradients import (
    Term,
    TermsFn,
    as_leaf,
    check_graph,
    check_shape,
    differentiated,
    grade,
    grade_at,
)
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.shortage import shortage_told
from pyro_jarzynski.core.trees import Position, inner, map_tree, num_walkers, select
from pyro_jarzynski.core.watching import look
from pyro_jarzynski.errors import EnergyError, count

# The argument is a `Position`: an energy takes the kind that its walkers have.
EnergyFn: TypeAlias = Callable[[Any], Tensor]


class CombinedEnergy(NamedTuple):
    """A linear combination `U(x) = Σ_j c_j E_j(x)` of energies from one call.

    Attributes:
        terms: Function from a position to the tuple of `E_j(x)`, each `(N,)`.
        coefficients: The `c_j`. A term with coefficient 0 is left out, so that it may be
            infinite there.
        in_support: Function from a position to the mask of walkers at which the energy is
            finite, `(N,)`, if that is known without the terms; see `core.turning`.
    """

    terms: TermsFn
    coefficients: tuple[float, ...]
    in_support: Callable[[Any], Tensor | None] | None = None


Energy: TypeAlias = EnergyFn | CombinedEnergy


class Evaluation(NamedTuple):
    """Energy and gradient of each walker at one position.

    Attributes:
        energy: `U(x)` in nats, `(N,)`.
        grad_or_none: `∇U(x)`, in the shape of the position; `None` where nobody asked. Zero
            where it is not finite.
        grad_sq: `|∇U(x)|²`, `(N,)`, which moves need. Zero without a gradient.
        terms: Energies and gradients of the terms of a `CombinedEnergy`, or nothing.
        source: Function that gave the terms, by which another combination of them is told
            from one of other terms.
    """

    energy: Tensor
    grad_or_none: Position | None
    grad_sq: Tensor
    terms: tuple["Term", ...] = ()
    source: TermsFn | None = None

    @property
    def grad(self) -> Position:
        """The gradient, or an error where it was not asked for."""
        if self.grad_or_none is None:
            raise EnergyError(
                "These walkers were evaluated without gradients, which their kernel needs. "
                "Use `BlockGibbs`, or start them by `init(..., gradient=True)`."
            )
        return self.grad_or_none


# Energy in nats from which a density is zero, whatever constant the energy has on top.
NEGLIGIBLE = 1e12

# Called on each chunk of walkers, with its energies while their graph is alive.
Visitor: TypeAlias = Callable[[slice, Tensor, Evaluation], None]


def evaluate(
    energy: Energy,
    position: Position,
    *,
    chunk_size: int | None = None,
    visit: Visitor | None = None,
    gradient: bool = True,
) -> Evaluation:
    """Evaluate an energy and its gradient once at every walker.

    Args:
        energy: The energy, in nats.
        position: Walkers, `(N, *event)`, or a dictionary of such tensors.
        chunk_size: Walkers per call of `energy`; `None` takes all at once.
        visit: Called as `visit(rows, energy, evaluation)` on each chunk while the graph of
            its energies is alive, so that gradients with respect to parameters share the
            forward pass.
        gradient: Whether to differentiate by the position. A `CombinedEnergy` always is.

    Returns:
        Detached energies and gradients.

    Raises:
        ArgumentTypeError: The walkers are no real numbers that can move.
        EnergyError: The energies are not of shape `(N,)` or not differentiable.
        WalkerMemoryError: So many walkers at once do not fit into memory.

    Example:
        >>> found = pj.evaluate(lambda x: x.square().sum(1) / 2, torch.ones(3, 2))
        >>> found.energy, found.grad[0]
        (tensor([1., 1., 1.]), tensor([1., 1.]))
    """
    size = num_walkers(position)
    if chunk_size is not None:
        count("chunk_size", chunk_size)
    step = size if chunk_size is None else min(chunk_size, size)
    whole: Evaluation | None = None
    for start in range(0, size, step):
        rows = slice(start, min(start + step, size))
        chunk = position if step == size else map_tree(lambda x, r=rows: x[r], position)
        look()
        with shortage_told(rows.stop - rows.start):
            if isinstance(energy, CombinedEnergy) and visit is None:
                part = combine(grade(energy.terms, chunk), energy)
            elif gradient or isinstance(energy, CombinedEnergy):
                part = _evaluate_chunk(energy, chunk, rows, visit)
            else:
                part = _value_chunk(energy, chunk, rows, visit)
        if step == size:
            return part
        # Copied into tensors for all walkers: a small tensor that each call leaves between
        # its large ones would fragment the heap, which then grows with every call.
        if whole is None:
            whole = map_tree(lambda x: x.new_empty(size, *x.shape[1:]), part)
        map_tree(lambda kept, x, r=rows: kept[r].copy_(x), whole, part)
    assert whole is not None
    return whole


def reevaluate(
    energy: Energy,
    position: Position,
    known: Evaluation,
    *,
    chunk_size: int | None = None,
) -> Evaluation:
    """Evaluate another energy at walkers that were evaluated before.

    For another combination of the same terms this costs no call at all. Walkers without a
    gradient remain so.
    """
    if isinstance(energy, CombinedEnergy) and known.source == energy.terms:
        return combine(known.terms, energy)
    gradient = known.grad_or_none is not None
    return evaluate(energy, position, chunk_size=chunk_size, gradient=gradient)


def combine(terms: Sequence[Term], combination: CombinedEnergy) -> Evaluation:
    """Return the linear combination of evaluated terms."""
    known, source = tuple(terms), combination.terms
    used = [(t, c) for t, c in zip(known, combination.coefficients, strict=True) if c != 0]
    if not used:
        zero = map_tree(torch.zeros_like, known[0])
        return Evaluation(zero.energy, zero.grad, zero.energy, known, source)
    first, scale = used[0]
    energy, grad = first.energy * scale, map_tree(lambda g: g * scale, first.grad)
    for term, scale in used[1:]:
        energy = energy + scale * term.energy
        grad = map_tree(lambda a, b, c=scale: a.add(b, alpha=c), grad, term.grad)
    return _evaluation(energy, grad, known, source)


def _evaluation(
    energy: Tensor,
    grad: Position,
    terms: tuple[Term, ...] = (),
    source: TermsFn | None = None,
) -> Evaluation:
    grad_sq = inner(grad, grad)
    if may_hold(~torch.isfinite(grad_sq)):
        energy, grad, grad_sq = sound(energy, grad, grad_sq)
    return Evaluation(energy, grad, grad_sq, terms, source)


def sound(
    energy: Tensor, grad: Position, grad_sq: Tensor
) -> tuple[Tensor, Position, Tensor]:
    """Return energies, gradients and their squares, zero where these are not finite.

    The weights of moves and their acceptance are exact with any function of the position in
    the place of the gradient. So a gradient that is NaN, by a branch that is not taken or
    by an overflow, costs nothing but speed where the energy itself is finite. Only an
    energy that is as large as no difference of densities is taken as infinite: the density
    is zero, or has no bound.
    """
    broken = ~torch.isfinite(grad_sq)
    overflown = broken & (energy.abs() > NEGLIGIBLE)
    energy = torch.where(overflown, energy.sign() * math.inf, energy)
    zeros = map_tree(torch.zeros_like, (grad, grad_sq))
    return energy, *select(broken, zeros, (grad, grad_sq))


def is_outside(evaluation: Evaluation) -> tuple[Tensor, Tensor]:
    """Find the walkers that cannot be where they are.

    Returns:
        Two masks, `(N,)`: walkers of density zero (energy plus infinity), and walkers
        whose energy is NaN or minus infinity.
    """
    zero_density = evaluation.energy == math.inf
    return zero_density, ~zero_density & ~torch.isfinite(evaluation.energy)


def _evaluate_chunk(
    energy: Energy, position: Position, rows: slice, visit: Visitor | None
) -> Evaluation:
    with standard_modes():
        point = map_tree(as_leaf, position)
        if isinstance(energy, CombinedEnergy):
            terms, graded = grade_at(energy.terms, point, rows)
            used = zip(terms, energy.coefficients, strict=True)
            values = torch.stack([c * t for t, c in used if c != 0]).sum(0)
            result = combine(graded, energy)
        else:
            values = energy(point)
            check_shape(values, rows)
            check_graph(values.requires_grad)
            found = differentiated(values, point, keep_graph=visit is not None)
            result = _evaluation(*found)
        if visit is not None:
            visit(rows, values, result)
        return result


def _value_chunk(
    energy: EnergyFn, position: Position, rows: slice, visit: Visitor | None
) -> Evaluation:
    """Evaluate without a gradient by the position: its graph serves only `visit`."""
    with standard_modes(), torch.set_grad_enabled(visit is not None):
        values = energy(position)
        check_shape(values, rows)
        known = values.detach()
        result = Evaluation(known, None, torch.zeros_like(known))
        if visit is not None:
            visit(rows, values, result)
    return result
