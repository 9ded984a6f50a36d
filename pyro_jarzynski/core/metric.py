"""Preconditioners from weighted walkers.

The covariance `Σ` of the positions of a distribution measures its extent. The covariance
`F` of the gradients equals the mean Hessian and measures its steepness; for a Gaussian
`F = Σ⁻¹`. Far modes widen `Σ` and narrow places raise `F`. The preconditioner is the
geometric mean `C = Σ # F⁻¹`, which whitens positions and gradients alike. It is bounded by
a multiple of `F⁻¹`, as moves between far modes would be rejected.
"""

import math

import torch
from torch import Tensor

from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.errors import ArgumentTypeError

# Eigenvalues below this share of the largest are lifted to it.
SMALLEST = 1e-10
# Most that the preconditioner exceeds the inverse mean Hessian by, in any direction.
MAX_STRETCH = 4.0
# Deviations below this share of the largest value are those of equal numbers.
ROUNDING = 1e-13
# Most that the spread of a coordinate by itself exceeds that, so that others keep digits.
MAX_SPREAD = 1e6


def metric(walkers: Walkers, *, dense: bool = True) -> Tensor:
    """Estimate the preconditioner `C = Σ # F⁻¹` from weighted walkers.

    `Σ # F⁻¹ = F^{-½} (F^{½} Σ F^{½})^{½} F^{-½}`, and for a diagonal `√(Σ_ii / F_ii)`.
    Dense estimates are shrunk towards a diagonal by `d / (n + d)`, with `n` the effective
    sample size, each in coordinates that the other one whitens: there all directions are
    of one scale, and what is lent to a narrow one is no more than its own width.

    Coordinates are first brought to units in which positions and gradients vary by as
    much, so that no unit is too large or too small. A coordinate in which all walkers
    agree has the width of its gradients; without these, that of its positions.

    Args:
        walkers: Weighted walkers whose position is one tensor `(N, d)`.
        dense: Whether to return a matrix `(d, d)`, or its diagonal alone, `(d,)`.

    Returns:
        A positive definite matrix or positive numbers, in float64: matrices that narrow
        posteriors need have no factor in float32.

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
    spread, places = _standardised(position, weight)
    steepness, slopes = _standardised(gradient, weight)
    spread = torch.where(spread > 0, spread, 1 / steepness)
    spread = torch.where(torch.isfinite(spread), spread, 1.0)
    steepness = torch.where(steepness > 0, steepness, 1 / spread)
    width = (spread * steepness).clamp(max=MAX_SPREAD).sqrt()
    # Squares of a unit, and products of two, must be numbers as well.
    limits = torch.finfo(position.dtype)
    unit = (width / steepness).clamp(limits.tiny**0.4, limits.max**0.4)
    if not dense:
        return unit.square() * (MAX_STRETCH / width.square()).clamp(max=1)
    effective = float(1 / weight.square().sum())
    outer = width[:, None] * width
    wide, steep = (outer * _correlation(x, weight) for x in (places, slopes))
    wide, steep = (
        _shrunk_beside(wide, steep, effective),
        _shrunk_beside(steep, wide, effective),
    )
    root, inverse = _roots(steep)
    stretch, _ = _roots(root @ wide @ root, most=MAX_STRETCH)
    found = _symmetric(inverse @ stretch @ inverse)
    found = found + SMALLEST * found.diagonal().diag()
    return unit[:, None] * found * unit


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


def _standardised(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return standard deviations, `(d,)`, and values less their mean in units of these.

    Values of weight zero are left out, and may be anything.
    """
    values = torch.where((weight > 0)[:, None], values.to(torch.float64), 0.0)
    # By the largest first: squares would overflow from 1e154 on.
    largest = values.abs().amax(0).clamp(min=torch.finfo(torch.float64).tiny)
    values = values / largest
    centred = values - weight @ values
    # Once more, for the rounding of the first sum.
    centred = centred - weight @ centred
    deviation = (weight @ centred.square()).sqrt()
    # What rounding of the mean leaves of equal values is no spread.
    deviation = torch.where(deviation > ROUNDING, deviation, 0.0)
    return largest * deviation, centred / torch.where(deviation > 0, deviation, 1.0)


def _correlation(values: Tensor, weight: Tensor) -> Tensor:
    """Return the correlations of standardised values; constant ones have none."""
    return ((weight * values.mT) @ values).fill_diagonal_(1.0)


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
    floor = SMALLEST * min(float(values[-1]), most**2)
    values = values.clamp(min=floor).sqrt().clamp(max=most)
    return (vectors * values) @ vectors.mT, (vectors / values) @ vectors.mT
