"""Noisy images: a linear change of variables, and its way back."""

import math

import pytest
import torch
from torch.distributions import Normal

from pyro_jarzynski import SmoothingTransform
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, DataError
from tests.seeds import seed_of

FLOAT = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed_of(seed))


def images():
    return torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)


def test_the_formula():
    transform = SmoothingTransform(0.2, 0.1, 0.5, dtype=FLOAT)
    noise = torch.empty(4, 1, 8, 8, dtype=FLOAT).normal_(generator=seeded(3))
    expected = (images() / 255 + 0.2 * noise - 0.1) / 0.5
    found = transform.forward(images(), seeded(3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    assert transform.noise_in_coordinates == 0.4


def test_levels_come_back_without_the_noise():
    transform = SmoothingTransform.fit(images())
    assert torch.equal(transform.inverse(transform.clean(images())), images().long())
    far = torch.tensor([[-50.0, 50.0]])
    assert transform.inverse(far).tolist() == [[0, 255]]


def test_fitted_coordinates_are_standardised():
    """Of 160,000 pixels; five standard errors, a false-alarm rate below 1e-6."""
    many = images().repeat(625, 1, 1, 1)
    x = SmoothingTransform.fit(many, noise=0.5).forward(many, seeded())
    assert abs(float(x.mean())) < 5 / 400
    assert abs(float(x.var()) - 1) < 5 * 2**0.5 / 400


def test_likelihood_in_grey_levels():
    """A normal law of noisy grey levels, told once in these and once in coordinates."""
    transform = SmoothingTransform(0.3, 0.2, 0.6, dtype=FLOAT)
    x = transform.forward(images(), seeded())
    grey = 255 * (x * 0.6 + 0.2)
    nll = -Normal(0.0, 2.0).log_prob(x).flatten(1).sum(1).mean()
    expected = -Normal(255 * 0.2, 2 * 255 * 0.6).log_prob(grey).flatten(1).sum(1).mean()
    assert transform.image_nll(float(nll), x) == pytest.approx(float(expected))
    bits = transform.bits_per_dimension(float(nll), x)
    assert bits == pytest.approx(float(expected) / 64 / math.log(2))
    assert transform.log_jacobian(x).shape == (4,)


def test_entropy_of_the_noise():
    transform = SmoothingTransform(0.3, 0.0, 0.6)
    expected = 10 * Normal(0.0, 0.5).entropy()
    assert transform.noise_nll(10) == pytest.approx(float(expected))


def test_what_cannot_be_transformed():
    with pytest.raises(ArgumentError, match="`noise` must be a positive"):
        SmoothingTransform(0.0)
    with pytest.raises(ArgumentError, match="`scale` must be a positive"):
        SmoothingTransform(scale=-1.0)
    with pytest.raises(ArgumentError, match="`levels` must be at least 2"):
        SmoothingTransform(levels=1)
    with pytest.raises(ArgumentTypeError, match="`dtype` must be a floating type"):
        SmoothingTransform(dtype=torch.int64)
    with pytest.raises(DataError, match=r"grey levels in 0…16, got values from 0 to 255"):
        SmoothingTransform(levels=17).clean(images())
