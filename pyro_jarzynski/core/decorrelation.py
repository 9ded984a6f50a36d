"""Correlation of walkers with where they started, by direction."""

import math

import torch
from torch import Tensor

from pyro_jarzynski.core.preconditioner import Factor
from pyro_jarzynski.core.trees import Position

# Whitened coordinates are cut off here before they are squared.
MAX_WHITE = 1e100


class SquaredJumps:
    """Squared jumps of walkers since their start, and what they say of each direction.

    The directions are the coordinates and the principal directions of the starts in
    whitened coordinates `L⁻¹ x`: moves are slow along those that are wide there.

    Args:
        start: Positions `x` before any move, `(N, d)`. Rows that are not finite, as of
            walkers of weight zero, are left out.
        factor: `L`, the factor of a preconditioner; `None` is the deviation of `x`.
    """

    def __init__(self, start: Position, factor: Factor) -> None:
        """Find the directions, and the starts along them."""
        assert isinstance(start, Tensor)
        # Indices, because a mask makes the processor wait for a GPU at each use.
        self.kept = torch.isfinite(start).all(1).nonzero().flatten()
        kept = start[self.kept].to(torch.float64)
        self.centre = kept.mean(0)
        self.directions = _principal_directions(kept - self.centre, factor)
        self.start = self._along(start)
        self.history: list[Tensor] = []

    def record(self, end: Position, most: float) -> tuple[Tensor, Tensor]:
        """Return the mean squared jump, and whether all directions have decorrelated.

        The first is `mean |L⁻¹ (y - x)|² / 2d`: 0 for walkers at rest, 1 for independent
        ones. A direction `v` has decorrelated if the correlation `c` of `v·x` and `v·y`
        is at most `most` in size. Its estimate has a standard error of `(1 - c²) / √N`;
        for the largest of `k`, `√(2 log 2k)` of these are added.

        Walkers that cannot leave their modes stay correlated. So a direction has also
        decorrelated if its jumps have stopped growing. Those of an autoregression grow
        from `1 - c^{m/n}` after `m` of `n` moves to `1 - c`; `m` is half of `n`.

        Args:
            end: Positions `y` after one move more, `(N, d)`.
            most: Largest correlation.
        """
        assert isinstance(end, Tensor)
        along = self._along(end)
        jump = (along - self.start).square().mean(0) / 2
        spread = (_variance(self.start) + _variance(along)) / 2
        correlation = 1 - jump / spread.clamp(min=torch.finfo(torch.float64).tiny)
        size, directions = along.shape
        error = (1 - most**2) / math.sqrt(max(size, 1))
        limit = most + error * math.sqrt(2 * math.log(2 * directions))
        fast = correlation.abs() <= limit
        self.history.append(jump)
        num = len(self.history)
        if num > 1:
            half = num // 2
            growth = (1 - most) / (1 - most ** (half / num))
            fast = fast | (jump <= growth * self.history[half - 1])
        return jump[: directions // 2].mean(), (fast & (jump > 0)).all()

    def _along(self, position: Tensor) -> Tensor:
        """Return positions along the principal directions and coordinates, `(N, 2d)`."""
        centred = position[self.kept].to(torch.float64) - self.centre
        return torch.cat([centred @ self.directions, centred], 1)


def _variance(values: Tensor) -> Tensor:
    return (values - values.mean(0)).square().mean(0)


def _principal_directions(centred: Tensor, factor: Factor) -> Tensor:
    """Return `L⁻ᵀ V`, where `V` are the eigenvectors of the covariance of `L⁻¹ x`."""
    if factor is None:
        width = _variance(centred).sqrt().clamp(min=torch.finfo().tiny)
    elif factor.diagonal is not None and factor.shape == centred.shape[1:]:
        width = factor.diagonal.to(torch.float64)
    else:
        lower = factor.lower.to(torch.float64)
        white = torch.linalg.solve_triangular(lower, centred.mT, upper=False).mT
        return torch.linalg.solve_triangular(lower.mT, _eigenvectors(white), upper=True)
    return _eigenvectors(centred / width) / width[:, None]


def _eigenvectors(white: Tensor) -> Tensor:
    white = white.clamp(-MAX_WHITE, MAX_WHITE)
    return torch.linalg.eigh(white.mT @ white).eigenvectors
