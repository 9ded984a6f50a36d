"""Distances between samples: Gaussians, of which all are known in closed form."""

import math

import pytest
import torch

from pyro_jarzynski.diagnostics.distances import frechet_distance, mmd
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, DataError
from tests.seeds import seeded

FLOAT = torch.float64
SIZE, DIMENSION = 400, 5
# Standard errors for a false-alarm rate of 6e-5, by the normal law; the jackknife errs to
# the safe side where both laws are equal.
LIMIT = 4.0


def normal(seed, num=SIZE, dimension=DIMENSION, shift=0.0):
    generator = seeded(seed)
    x = torch.randn(num, dimension, dtype=FLOAT, generator=generator)
    return x + shift / dimension**0.5


def gaussian_truth(shift, bandwidth, dimension=DIMENSION):
    """The integrals of the kernel over two normal laws a distance `shift` apart."""
    width = bandwidth**2 + 2
    scale = (bandwidth**2 / width) ** (dimension / 2)
    return 2 * scale * (1 - math.exp(-(shift**2) / (2 * width)))


def polynomial_truth(shift, dimension=DIMENSION):
    """Third moments of `1 + x·y / d`; the third cumulant of `y·y'` is `6 |μ|²`."""
    square = shift**2

    def cubed(mean, variance, cumulant):
        base = 1 + mean / dimension
        return base**3 + 3 * base * variance / dimension**2 + cumulant / dimension**3

    within = cubed(square, dimension + 2 * square, 6 * square)
    return cubed(0, dimension, 0) + within - 2 * cubed(0, dimension + square, 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_gaussian_kernel(shift, seed):
    """False alarms: below 6e-5 for each of fifteen."""
    found = mmd(normal(2 * seed), normal(2 * seed + 1, shift=shift), bandwidth=2.0)
    assert abs(found.value - gaussian_truth(shift, 2.0)) < LIMIT * found.error
    assert 0 < found.error < 0.02


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_polynomial_kernel(shift, seed):
    """False alarms: below 6e-5 for each of ten."""
    there = normal(2 * seed + 1, shift=shift)
    found = mmd(normal(2 * seed), there, kernel="polynomial")
    assert abs(found.value - polynomial_truth(shift)) < LIMIT * found.error
    assert found.error < 0.4


def test_mean_over_equal_laws_is_zero():
    """Pairs of a draw with itself would add `2/n` = 0.1. False alarms: 6e-5."""
    values = torch.tensor(
        [mmd(normal(2 * s, 20), normal(2 * s + 1, 20)).value for s in range(200)]
    )
    assert abs(float(values.mean())) < LIMIT * float(values.std()) / len(values) ** 0.5
    assert float(values.std()) < 0.05


def test_the_error_is_the_spread_of_estimates():
    """Of forty; the spread of a spread is 11 %. False alarms: below 1e-5."""
    found = [
        mmd(normal(2 * s), normal(2 * s + 1, shift=1.0), bandwidth=2.0) for s in range(40)
    ]
    spread = float(torch.tensor([f.value for f in found]).std())
    stated = sum(f.error for f in found) / len(found)
    assert 0.5 < stated / spread < 2


def test_the_median_is_the_bandwidth():
    x, y = normal(0), normal(1, shift=0.5)
    both = torch.cat([x, y])
    median = float(torch.pdist(both).median())
    assert mmd(x, y).value == pytest.approx(mmd(x, y, bandwidth=median).value, rel=1e-9)


def with_moments(mean, covariance, seed, num=60):
    """Draws whose mean and covariance are exactly these."""
    x = normal(seed, num, len(mean))
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return x @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_known_moments():
    scales = torch.tensor([0.5, 1.0, 3.0], dtype=FLOAT)
    other = torch.tensor([2.0, 1.0, 0.1], dtype=FLOAT)
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=FLOAT)
    # Of covariances with the same axes, the root of the product is a product of roots.
    turn = torch.linalg.qr(normal(7, 3, 3)).Q
    x = with_moments(mean, turn @ scales.square().diag() @ turn.T, 1)
    y = with_moments(0 * mean, turn @ other.square().diag() @ turn.T, 2)
    expected = float(mean.square().sum() + (scales - other).square().sum())
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute():
    """In the plane `tr (AB)^½ = √(tr AB + 2 √det AB)`."""
    first = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=FLOAT)
    second = torch.tensor([[1.0, -0.6], [-0.6, 3.0]], dtype=FLOAT)
    zero = torch.zeros(2, dtype=FLOAT)
    product = first @ second
    overlap = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    expected = float(first.trace() + second.trace() - 2 * overlap)
    found = frechet_distance(with_moments(zero, first, 1), with_moments(zero, second, 2))
    assert found == pytest.approx(expected, rel=1e-9)


def test_images_are_flattened():
    x, y = normal(0, 30, 12), normal(1, 40, 12)
    shaped = x.reshape(30, 3, 4).float(), y.reshape(40, 3, 4).float()
    assert mmd(*shaped).value == pytest.approx(mmd(x, y).value, abs=1e-6)
    assert frechet_distance(*shaped) == pytest.approx(frechet_distance(x, y), rel=1e-5)


def test_what_cannot_be_compared():
    x = normal(0, 10)
    with pytest.raises(ArgumentError, match="one of gaussian, polynomial, got 'laplace'"):
        mmd(x, x, kernel="laplace")
    with pytest.raises(ArgumentError, match="`bandwidth` must be a positive"):
        mmd(x, x, bandwidth=0.0)
    with pytest.raises(ArgumentTypeError, match="`bandwidth` must be"):
        mmd(x, x, bandwidth="wide")
    with pytest.raises(DataError, match="their median distance is 0; pass `bandwidth`"):
        mmd(torch.zeros(9, 2), torch.zeros(9, 2))
    for distance in (mmd, frechet_distance):
        with pytest.raises(DataError, match=r"`y` must hold at least three .* \(2, 5\)"):
            distance(x, x[:2])
        with pytest.raises(DataError, match=r"of one size, got \(10, 4\) with"):
            distance(x, x[:, :4])
        with pytest.raises(DataError, match="`y` has NaN or infinity"):
            distance(x, x.log())
