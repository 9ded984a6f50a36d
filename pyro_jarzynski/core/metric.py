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

from pyro_jarzynski.core.preconditioner import Covariance
from pyro_jarzynski.core.trees import Position
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.errors import ArgumentTypeError

# Eigenvalues below this share of the largest are lifted to it.
SMALLEST = 1e-10
# Most that the preconditioner exceeds the inverse mean Hessian by, in any direction.
MAX_STRETCH = 4.0


def metric(walkers: Walkers, *, dense: bool = True) -> Tensor:
    """Estimate the preconditioner `C = Σ # F⁻¹` from weighted walkers.

    `Σ # F⁻¹ = F^{-½} (F^{½} Σ F^{½})^{½} F^{-½}`, and for a diagonal `√(Σ_ii / F_ii)`. A
    dense estimate is shrunk towards its diagonal by `d / (n + d)`, with `n` the
    effective sample size.

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
        raise ArgumentTypeError("A metric needs positions that are one tensor, `(N, d)`.")
    weight = walkers.weight.flatten()
    weight = weight / weight.sum()
    effective = float(1 / weight.square().sum())
    spread = _covariance(position, weight, effective, dense=dense)
    steepness = _covariance(gradient, weight, effective, dense=dense)
    if not dense:
        stretch = (spread * steepness).sqrt().clamp(max=MAX_STRETCH)
        return (stretch / steepness).to(position.dtype)
    root, inverse_root = _power(steepness, 0.5), _power(steepness, -0.5)
    stretch = _power(root @ spread @ root, 0.5, most=MAX_STRETCH)
    mean = inverse_root @ stretch @ inverse_root
    return ((mean + mean.mT) / 2).to(position.dtype)


def squared_jump(start: Position, end: Position, covariance: Covariance) -> float:
    """Return `mean |L⁻¹ (y - x)|² / 2d`: 0 for walkers at rest, 1 for independent ones.

    Args:
        start: Positions `x` before some moves, `(N, d)`.
        end: Positions `y` after them, `(N, d)`.
        covariance: `C = L Lᵀ`, a matrix or a diagonal; `None` takes the variance of `x`.
    """
    assert isinstance(start, Tensor)
    assert isinstance(end, Tensor)
    assert not isinstance(covariance, dict)
    shift = (end - start).to(torch.float64)
    if covariance is None:
        covariance = start.to(torch.float64).var(0).clamp(min=torch.finfo().tiny)
    covariance = covariance.to(torch.float64)
    if covariance.ndim == 2:
        lower = torch.linalg.cholesky(covariance)
        shift = torch.linalg.solve_triangular(lower, shift.mT, upper=False).mT
    else:
        shift = shift / covariance.sqrt()
    return float(shift.square().mean() / 2)


def _covariance(values: Tensor, weight: Tensor, effective: float, *, dense: bool) -> Tensor:
    values = values.to(torch.float64)
    centred = values - weight @ values
    variance = (weight[:, None] * centred.square()).sum(0)
    floor = SMALLEST * variance.max().clamp(min=torch.finfo(torch.float64).tiny)
    variance = variance.clamp(min=floor)
    if not dense:
        return variance
    matrix = (weight[:, None] * centred).mT @ centred
    size = len(variance)
    shrunk = (effective * matrix + size * variance.diag()) / (effective + size)
    return shrunk + SMALLEST * variance.diag()


def _power(matrix: Tensor, exponent: float, most: float = math.inf) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp(min=SMALLEST * float(values[-1])) ** exponent
    return (vectors * values.clamp(max=most)) @ vectors.mT
