"""Distances between two samples, such as the features of draws and of data.

Such features are those of a classifier that was trained on the data:

    fake, real = classifier.features(draws), classifier.features(images)
    mmd(fake, real)                  # with its error; 0 for equal laws
    frechet_distance(fake, real)

Draws have equal weights: those of a learner's `sample`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.errors import DataError, one_of, positive

KERNELS = ("gaussian", "polynomial")


class Discrepancy(NamedTuple):
    """An estimate of a squared distance, and its standard error.

    Attributes:
        value: Unbiased estimate, which may be below 0 when the laws are equal.
        error: Standard error of it, from leaving out one pair of draws at a time.
    """

    value: float
    error: float


@standard_modes()
def mmd(
    x: Tensor, y: Tensor, *, kernel: str = "gaussian", bandwidth: float | None = None
) -> Discrepancy:
    """Return the squared maximum mean discrepancy of two laws, without bias.

    `E k(x, x') + E k(y, y') - 2 E k(x, y)`, estimated over the pairs of different draws.
    The polynomial kernel `(x·y / d + 1)³` on features is the kernel distance (KID).

    Args:
        x: Independent draws of the one law, `(n, *event)`.
        y: Draws of the other, `(m, *event)`. The first `min(n, m)` of both are used.
        kernel: `gaussian`, `exp(-½|x - y|² / b²)`, or `polynomial`.
        bandwidth: `b` of the Gaussian kernel; `None` is the median distance between all
            draws.

    Returns:
        The estimate and its standard error.

    Raises:
        ArgumentError: The kernel is not known, or the bandwidth not positive.
        DataError: There are fewer than three draws of a law, of different size, or they
            are not finite.

    Source:
        Gretton and others (2012), J. Mach. Learn. Res. 13, eq. (4); Bińkowski and others
        (2018), ICLR, for KID. The error is the jackknife's.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y, far = torch.randn(3, 500, 2, generator=generator)
        >>> same, other = pj.mmd(x, y), pj.mmd(x, far + 1)
        >>> abs(same.value) < 4 * same.error, other.value > 10 * other.error
        (True, True)
    """
    one_of("kernel", kernel, KERNELS)
    x, y = _checked(x, y)
    size = min(len(x), len(y))
    both = torch.cat([x[:size], y[:size]])
    if kernel == "polynomial":
        gram = (both @ both.T / both.shape[1] + 1) ** 3
    else:
        squares = torch.cdist(both, both).square()
        gram = (-squares / (2 * _square_of(bandwidth, squares))).exp()
    within_x, across, within_y = gram[:size, :size], gram[:size, size:], gram[size:, size:]
    pairs = within_x + within_y - across - across.T
    rows = pairs.sum(1) - pairs.diagonal()
    value = rows.sum() / (size * (size - 1))
    without = (rows.sum() - 2 * rows) / ((size - 1) * (size - 2))
    variance = (size - 1) / size * (without - without.mean()).square().sum()
    return Discrepancy(float(value), float(variance.sqrt()))


@standard_modes()
def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return the squared Fréchet distance of two samples, as if they were Gaussian.

    `|μ_x - μ_y|² + tr(C_x + C_y - 2 (C_x^½ C_y C_x^½)^½)` with means and covariances of
    the draws. It is above zero for finite samples of equal laws; compare it with that
    between two halves of the data.

    Args:
        x: Draws of the one law, `(n, *event)`.
        y: Draws of the other, `(m, *event)`.

    Returns:
        The distance, in squared units of the draws.

    Raises:
        DataError: There are fewer than three draws of a law, of different size, or they
            are not finite.

    Source:
        Dowson, Landau (1982), J. Multivariate Analysis 12(3); on features of images
        Heusel and others (2017), NeurIPS.

    Example:
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> round(pj.frechet_distance(x, x + 3), 3)  # |shift|² = 9 + 9
        18.0
    """
    x, y = _checked(x, y)
    first, second = torch.cov(x.T), torch.cov(y.T)
    first, second = (c.reshape(x.shape[1], -1) for c in (first, second))
    variances, axes = torch.linalg.eigh(first)
    root = (axes * variances.clamp(min=0).sqrt()) @ axes.T
    overlap = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    shift = (x.mean(0) - y.mean(0)).square().sum()
    return float(shift + first.trace() + second.trace() - 2 * overlap)


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    for name, draws in (("x", x), ("y", y)):
        if draws.ndim < 2 or len(draws) < 3 or draws.shape[1:] != x.shape[1:]:
            raise DataError(
                f"`{name}` must hold at least three draws (n, *event) of one size, got "
                f"{tuple(draws.shape)} with `x` {tuple(x.shape)}."
            )
        if not torch.isfinite(draws).all():
            raise DataError(f"`{name}` has NaN or infinity; leave such draws out.")
    return x.double().flatten(1), y.double().flatten(1)


def _square_of(bandwidth: float | None, squares: Tensor) -> float:
    if bandwidth is not None:
        return positive("bandwidth", bandwidth) ** 2
    apart = squares[torch.ones_like(squares, dtype=torch.bool).triu(1)]
    median = float(apart.median())
    if median == 0:
        raise DataError(
            "Half of the draws are equal, so that their median distance is 0; pass "
            "`bandwidth`."
        )
    return median
