"""The Langevin move and the exact log-ratio of its two directions.

With drift `-h C ∇U` and noise `√(2h) L ξ`, `C = L Lᵀ`, the move `x → y` under `U` and the
move back `y → x` under `V` are Gaussian, and

    log [e^{-V(y)} q_V(y → x)] - log [e^{-U(x)} q_U(x → y)] = α_U(x, y) - α_V(y, x),
    α_U(x, y) = U(x) + ½ (y - x)·∇U(x) + ¼ h ∇U(x)·C ∇U(x).

This one number is the increment of the log-weight of unadjusted Langevin, and with
`V = U` the acceptance of MALA. `C` itself drops out of all terms but the last.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core.evaluation import Energy, Evaluation, evaluate
from pyro_jarzynski.core.preconditioner import Factor, covary, scale, scale_transposed
from pyro_jarzynski.core.trees import Position, inner, map_tree, num_walkers


class Trial(NamedTuple):
    """A move of every walker, before anybody has decided on it.

    Attributes:
        end: Where they come to, in the shape of the position.
        there: Energy and gradient there.
        log_ratio: That of the two directions, `(N,)`, float64.
    """

    end: Position
    there: Evaluation
    log_ratio: Tensor


def trial(
    energy: Energy,
    position: Position,
    here: Evaluation,
    noise: Position,
    step_size: float,
    factor: Factor = None,
    *,
    chunk_size: int | None = None,
) -> Trial:
    """Propose a move and evaluate an energy at its end; the noise is used up by it.

    An energy whose moves are compiled makes them itself, where it has code for them.
    """
    compiled = getattr(energy, "langevin", None)
    if compiled is not None and factor is None:
        size = num_walkers(position)
        whole = chunk_size is None or chunk_size >= size
        found = compiled(position, here, noise, step_size) if whole else None
        if found is not None:
            return found
    end = propose(position, here.grad, noise, step_size, factor)
    there = evaluate(energy, end, chunk_size=chunk_size)
    return Trial(end, there, log_ratio(position, here, end, there, step_size, factor))


def propose(
    position: Position,
    grad: Position,
    noise: Position,
    step_size: float,
    factor: Factor = None,
) -> Position:
    """Return `y = x - h C ∇U(x) + √(2h) L ξ`; the noise `ξ` is used up by it."""
    drift, kick = covary(factor, grad), scale(factor, noise)
    spread = math.sqrt(2 * step_size)
    return map_tree(
        lambda x, g, xi: xi.mul_(spread).add_(x).sub_(g, alpha=step_size),
        position,
        drift,
        kick,
    )


def log_ratio(
    start: Position,
    here: Evaluation,
    end: Position,
    there: Evaluation,
    step_size: float,
    factor: Factor = None,
) -> Tensor:
    """Return `α_U(x, y) - α_V(y, x)` in float64.

    Args:
        start: `x`, `(N, *event)`.
        here: `U` and its gradient at `x`.
        end: `y`, in the shape of `x`.
        there: `V` and its gradient at `y`.
        step_size: `h`, in squared units of `x`.
        factor: `L`, the factor of the preconditioner; `None` is the identity.

    Returns:
        One log-ratio per walker, `(N,)`.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), arXiv:2305.19414, Proposition 1.
    """
    shift = map_tree(torch.sub, end, start)
    slopes = inner(shift, here.grad) + inner(shift, there.grad)
    squares = _squared(here, factor) - _squared(there, factor)
    gain = here.energy.to(torch.float64) - there.energy.to(torch.float64)
    return gain + slopes.to(torch.float64) / 2 + squares.to(torch.float64) * step_size / 4


def drift_energy(at: Evaluation, step_size: float, factor: Factor = None) -> Tensor:
    """Return `¼ h ∇U·C ∇U` in nats, `(N,)`: the part of `α` that is due to the drift."""
    return _squared(at, factor) * (step_size / 4)


def _squared(at: Evaluation, factor: Factor) -> Tensor:
    """Return `∇U·C ∇U`, `(N,)`."""
    if factor is None:
        return at.grad_sq
    whitened = scale_transposed(factor, at.grad)
    return inner(whitened, whitened)
