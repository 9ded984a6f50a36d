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
from pyro_jarzynski.core.preconditioner import Factor, scale, scale_transposed
from pyro_jarzynski.core.trees import Position, inner, map_tree, num_walkers, select
from pyro_jarzynski.core.turning import find_turned


class Trial(NamedTuple):
    """A move of every walker, before anybody has decided on it.

    Attributes:
        end: Where they come to, in the shape of the position. Moves that are turned back
            come to where they began.
        there: Energy and gradient there.
        log_ratio: That of the two directions, `(N,)`, float64.
        slope_sq: `∇U·C ∇U` where they come from, `(N,)`.
    """

    end: Position
    there: Evaluation
    log_ratio: Tensor
    slope_sq: Tensor

    def drift_energy(self, step_size: float) -> Tensor:
        """Return `¼ h ∇U·C ∇U` in nats, `(N,)`: what the drift has in `α_U`."""
        return self.slope_sq * (step_size / 4)


def trial(
    energy: Energy,
    position: Position,
    here: Evaluation,
    noise: Position,
    step_size: float,
    factor: Factor = None,
    *,
    turns: bool = False,
    chunk_size: int | None = None,
) -> Trial:
    """Propose a move and evaluate an energy at its end; the noise is used up by it.

    An energy whose moves are compiled makes them itself, where it has code for them.

    Args:
        energy: The energy at the end of the move.
        position: `x`, `(N, *event)`.
        here: Energy and gradient at `x`.
        noise: `ξ`, in the shape of `x`.
        step_size: `h`, in squared units of `x`.
        factor: `L`, the factor of the preconditioner; `None` is the identity.
        turns: Whether moves that end outside of the support are turned back.
        chunk_size: Walkers per call of the energy; `None` takes all at once.
    """
    compiled = getattr(energy, "langevin", None)
    if compiled is not None and factor is None:
        size = num_walkers(position)
        whole = chunk_size is None or chunk_size >= size
        found = compiled(position, here, noise, step_size, turns=turns) if whole else None
        if found is not None:
            return found
    slope = scale_transposed(factor, here.grad)
    far = propose(position, slope, noise, step_size, factor)
    turned = find_turned(energy, position, far, chunk_size=chunk_size) if turns else None
    end = far if turned is None else select(turned, position, far)
    there = evaluate(energy, end, chunk_size=chunk_size)
    slope_sq = _squared(here, factor, slope)
    ratio = log_ratio(
        position, here, far, there, step_size, factor, slope_sq=slope_sq, turned=turned
    )
    return Trial(end, there, ratio, slope_sq)


def propose(
    position: Position,
    slope: Position,
    noise: Position,
    step_size: float,
    factor: Factor = None,
) -> Position:
    """Return `y = x - h L (Lᵀ∇U(x)) + √(2h) L ξ`; the noise `ξ` is used up by it.

    Args:
        position: `x`, `(N, *event)`.
        slope: `Lᵀ∇U(x)`, in the shape of `x`.
        noise: `ξ`, in the shape of `x`.
        step_size: `h`, in squared units of `x`.
        factor: `L`, the factor of the preconditioner; `None` is the identity.
    """
    drift, kick = scale(factor, slope), scale(factor, noise)
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
    *,
    slope_sq: Tensor | None = None,
    turned: Tensor | None = None,
) -> Tensor:
    """Return `α_U(x, y) - α_V(y, x)` in float64.

    Args:
        start: `x`, `(N, *event)`.
        here: `U` and its gradient at `x`.
        end: `y`, in the shape of `x`.
        there: `V` and its gradient at `y`, or at `x` where the move is turned back.
        step_size: `h`, in squared units of `x`.
        factor: `L`, the factor of the preconditioner; `None` is the identity.
        slope_sq: `∇U·C ∇U` at `x`, `(N,)`, if it is known.
        turned: Moves that are turned back at `y`, `(N,)`; see `core.turning`.

    Returns:
        One log-ratio per walker, `(N,)`.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), arXiv:2305.19414, Proposition 1.
    """
    shift = map_tree(torch.sub, end, start)
    back = inner(shift, there.grad)
    slopes = inner(shift, here.grad) + (
        back if turned is None else torch.where(turned, -back, back)
    )
    known = _squared(here, factor) if slope_sq is None else slope_sq
    squares = known - _squared(there, factor)
    gain = here.energy.to(torch.float64) - there.energy.to(torch.float64)
    return gain + slopes.to(torch.float64) / 2 + squares.to(torch.float64) * step_size / 4


def _squared(at: Evaluation, factor: Factor, slope: Position | None = None) -> Tensor:
    """Return `∇U·C ∇U`, `(N,)`, by `Lᵀ∇U` if that is known."""
    if factor is None:
        return at.grad_sq
    slope = scale_transposed(factor, at.grad) if slope is None else slope
    return inner(slope, slope)
