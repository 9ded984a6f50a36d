"""Preconditioners from weighted walkers.

For a law `ρ` the covariance `Σ` of the positions tells how far it reaches, and `F`, that
of the gradients, equals the mean Hessian and tells how steep it is; for a Gaussian
`F = Σ⁻¹`. Far modes widen `Σ` and narrow places raise `F`. Their geometric mean
`C = Σ # F⁻¹`, which whitens positions and gradients alike, stands between. Where it would
reach much further than `F⁻¹`, between modes, moves could not follow: there it is bounded.
"""

import math

import torch
from torch import Tensor

from pyro_jarzynski.core.preconditioner import Factor
from pyro_jarzynski.core.trees import Position
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.errors import ArgumentTypeError

# Eigenvalues below this share of the largest are lifted to it.
SMALLEST = 1e-10
# Most that the preconditioner exceeds the inverse mean Hessian by, in any direction.
MAX_STRETCH = 4.0


def metric(walkers: Walkers, *, dense: bool = True) -> Tensor:
    """Estimate the preconditioner `C = Σ # F⁻¹` from weighted walkers.

    `Σ # F⁻¹ = F^{-½} (F^{½} Σ F^{½})^{½} F^{-½}`, and for a diagonal `√(Σ_ii / F_ii)`.
    Dense estimates are shrunk towards a diagonal by `d / (n + d)`, with `n` the effective
    sample size, each in coordinates that the other one whitens: there all directions are
    of one scale, and what is lent to a narrow one is no more than its own width.

    Args:
        walkers: Weighted walkers whose position is one tensor `(N, d)`.
        dense: Whether to return a matrix `(d, d)`, or its diagonal alone, `(d,)`.

    Returns:
        A positive definite matrix or positive numbers, in the dtype of the positions.

    Source:
        Bhatia (2007), Positive Definite Matrices, ch. 4, for the mean; draws and
        gradients are combined so by the sampler nutpie.
    """
    position, gradient = walkers.position, walkers.evaluation.grad
    if not isinstance(position, Tensor) or not isinstance(gradient, Tensor):
        raise ArgumentTypeError(
            "A metric needs positions that are one tensor, `(N, d)`, got "
            f"{type(position).__name__}; join the parts by `torch.cat`."
        )
    weight = walkers.weight.flatten()
    weight = weight / weight.sum()
    effective = float(1 / weight.square().sum())
    if not dense:
        spread, steepness = (_variances(x, weight) for x in (position, gradient))
        stretch = (spread * steepness).sqrt().clamp(max=MAX_STRETCH)
        return (stretch / steepness).to(position.dtype)
    spread, steepness = (_covariance(x, weight) for x in (position, gradient))
    spread, steepness = (
        _shrunk_beside(spread, steepness, effective),
        _shrunk_beside(steepness, spread, effective),
    )
    root, inverse = _roots(steepness)
    stretch, _ = _roots(root @ spread @ root, most=MAX_STRETCH)
    return _symmetric(inverse @ stretch @ inverse).to(position.dtype)


def shrunk(covariance: Tensor, effective: float) -> Tensor:
    """Return `(n S + d diag S) / (n + d)`: no eigenvalue is far too small by chance.

    Args:
        covariance: Covariance `S` of a sample, `(d, d)`.
        effective: Its effective size `n`.
    """
    variance = covariance.diagonal()
    floor = SMALLEST * variance.max().clamp(min=torch.finfo(torch.float64).tiny)
    diagonal, size = variance.clamp(min=floor).diag(), len(variance)
    mixed = (effective * covariance + size * diagonal) / (effective + size)
    return mixed + SMALLEST * diagonal


def squared_jump(start: Position, end: Position, factor: Factor) -> Tensor:
    """Return `mean |L⁻¹ (y - x)|² / 2d`: 0 for walkers at rest, 1 for independent ones.

    Args:
        start: Positions `x` before some moves, `(N, d)`.
        end: Positions `y` after them, `(N, d)`.
        factor: `L`, the factor of a preconditioner; `None` is the deviation of `x`.
    """
    assert isinstance(start, Tensor)
    assert isinstance(end, Tensor)
    shift = (end - start).to(torch.float64)
    if factor is None:
        shift = shift / start.to(torch.float64).std(0).clamp(min=torch.finfo().tiny)
    elif factor.diagonal is not None and factor.shape == shift.shape[1:]:
        shift = shift / factor.diagonal.to(torch.float64)
    else:
        lower = factor.lower.to(torch.float64)
        shift = torch.linalg.solve_triangular(lower, shift.mT, upper=False).mT
    return shift.square().mean() / 2


def _variances(values: Tensor, weight: Tensor) -> Tensor:
    values = values.to(torch.float64)
    variance = weight @ (values - weight @ values).square()
    floor = SMALLEST * variance.max().clamp(min=torch.finfo(torch.float64).tiny)
    return variance.clamp(min=floor)


def _covariance(values: Tensor, weight: Tensor) -> Tensor:
    values = values.to(torch.float64)
    centred = values - weight @ values
    return (weight[:, None] * centred).mT @ centred


def _shrunk_beside(matrix: Tensor, dual: Tensor, effective: float) -> Tensor:
    """Return a covariance shrunk where its dual, about its inverse, is the identity."""
    lower = torch.linalg.cholesky(shrunk(dual, effective))
    white = shrunk(_symmetric(lower.mT @ matrix @ lower), effective)
    half = torch.linalg.solve_triangular(lower.mT, white, upper=True)
    return _symmetric(torch.linalg.solve_triangular(lower.mT, half.mT, upper=True))


def _symmetric(matrix: Tensor) -> Tensor:
    """Return a symmetric matrix without the rounding of its products."""
    return (matrix + matrix.mT) / 2


def _roots(matrix: Tensor, most: float = math.inf) -> tuple[Tensor, Tensor]:
    """Return the square root of a matrix, bounded, and its inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp(min=SMALLEST * float(values[-1])).sqrt().clamp(max=most)
    return (vectors * values) @ vectors.mT, (vectors / values) @ vectors.mT
