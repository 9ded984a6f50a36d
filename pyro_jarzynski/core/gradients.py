"""Terms of an energy with their gradients: the one place that differentiates.

Terms are a function from a position with `N` walkers to a tuple of energies, each `(N,)`.
They may know their gradients themselves, as compiled ones do.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.trees import Position, leaves, map_tree, num_walkers, rebuild
from pyro_jarzynski.errors import ArgumentTypeError, EnergyError

TermsFn: TypeAlias = Callable[[Any], tuple[Tensor, ...]]


class Term(NamedTuple):
    """Energy `(N,)` of each walker, and its gradient in the shape of the position."""

    energy: Tensor
    grad: Position


class GradedTerms(Protocol):
    """Terms that know their gradients, so that nobody need differentiate them."""

    def __call__(self, position: Any) -> tuple[Tensor, ...]:
        """Return the energies, each `(N,)`."""

    def graded(self, position: Any) -> tuple[Term, ...]:
        """Return the energies with their gradients."""


def grade(terms: TermsFn | GradedTerms, position: Position) -> tuple[Term, ...]:
    """Return terms with their gradients: by themselves if they know them, or by autograd.

    Raises:
        EnergyError: The terms are not of shape `(N,)` or not differentiable.
    """
    by_itself = getattr(terms, "graded", None)
    if by_itself is not None:
        return by_itself(position)
    return differentiate(terms, position)


def differentiate(terms: TermsFn, position: Position) -> tuple[Term, ...]:
    """Return terms with their gradients by autograd."""
    with standard_modes():
        point = map_tree(as_leaf, position)
        return grade_at(terms, point, slice(0, num_walkers(position)))[1]


def grade_at(
    terms: TermsFn, point: Position, rows: slice
) -> tuple[tuple[Tensor, ...], tuple[Term, ...]]:
    """Return terms at a leaf of autograd, with their graph, and with their gradients."""
    values = terms(point)
    for value in values:
        check_shape(value, rows)
    check_graph(any(value.requires_grad for value in values))
    return values, tuple(differentiated(value, point) for value in values)


def differentiated(values: Tensor, point: Position, *, keep_graph: bool = True) -> Term:
    """Return one term at a leaf of autograd with its gradient."""
    inputs = list(leaves(point))
    if not values.requires_grad:
        return Term(values, rebuild(point, (torch.zeros_like(x) for x in inputs)))
    slopes = torch.autograd.grad(
        values.sum(), inputs, retain_graph=keep_graph, materialize_grads=True
    )
    return Term(values.detach(), rebuild(point, iter(slopes)))


def as_leaf(x: Tensor) -> Tensor:
    """Return a leaf of autograd at the place of a tensor."""
    if not x.is_floating_point():
        raise ArgumentTypeError(
            "`position` must be of a floating dtype, since walkers move along gradients; "
            f"got {x.dtype}. Call `.to(torch.get_default_dtype())`."
        )
    x = x.clone() if x.is_inference() else x.detach()
    return x.requires_grad_()


def check_shape(values: object, rows: slice) -> None:
    """Raise unless there is one energy per walker."""
    expected = (rows.stop - rows.start,)
    if not isinstance(values, Tensor):
        raise EnergyError(
            f"An energy must return a tensor of shape {expected}, one energy per walker; "
            f"got {type(values).__name__}. End it by `return` and operations of torch."
        )
    if tuple(values.shape) != expected:
        raise EnergyError(
            f"An energy must return one energy per walker: expected shape {expected}, "
            f"got {tuple(values.shape)}; sum over the event dimensions."
        )


def check_graph(differentiable: bool) -> None:  # noqa: FBT001
    """Raise unless some energy depends on the positions."""
    if not differentiable:
        raise EnergyError(
            "The energies do not depend on the positions in a way that torch can "
            "differentiate; look for `detach`, `no_grad`, `item` or NumPy in the energy."
        )
