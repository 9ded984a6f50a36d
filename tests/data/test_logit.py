"""The logit of dequantised images: a change of variables, and its way back."""

import math

import pytest
import torch
from torch.distributions import Normal

from pyro_jarzynski.data import LogitTransform, Whitening, load_digits
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, DataError
from tests.seeds import seed_of

FLOAT = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed_of(seed))


def all_levels(num=20):
    return torch.arange(256, dtype=torch.uint8).repeat(num).reshape(num, 1, 16, 16)


def test_the_formula():
    grey = torch.tensor([[0, 16], [3, 9]], dtype=torch.uint8)
    noise = torch.rand((2, 2), dtype=FLOAT, generator=seeded(2))
    expected = torch.logit(0.1 + 0.8 * (grey + noise) / 17)
    found = LogitTransform(17, 0.1, FLOAT).forward(grey, seeded(2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_coordinates_have_the_shape_of_the_images_and_the_type_asked_for():
    x = LogitTransform().forward(all_levels(), seeded())
    assert x.shape == (20, 1, 16, 16)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("alpha", [1e-6, 0.05, 0.4])
def test_all_levels_come_back(alpha):
    grey = all_levels()
    logit = LogitTransform(256, alpha, FLOAT)
    assert torch.equal(logit.inverse(logit.forward(grey, seeded())), grey.long())


def test_single_precision_loses_few_levels():
    grey = all_levels(400)
    logit = LogitTransform()
    off = (logit.inverse(logit.forward(grey, seeded())) - grey.long()).abs()
    assert off.max() <= 1
    assert off.double().mean() < 1e-4


def test_the_way_back_stays_within_the_levels():
    found = LogitTransform(17).inverse(torch.tensor([[-50.0, 50.0]]))
    assert found.tolist() == [[0, 16]]


@pytest.mark.parametrize("levels", [2, 256])
def test_log_jacobian_agrees_with_finite_differences(levels):
    """Central differences of `x(v)` in one dimension, of error `O(h²)`."""
    alpha, h = 0.05, 1e-4
    v = torch.linspace(0.01, levels - 0.01, 50, dtype=FLOAT)

    def coordinate(v):
        return torch.logit(alpha + (1 - 2 * alpha) * v / levels)

    slope = (coordinate(v + h) - coordinate(v - h)) / (2 * h)
    found = LogitTransform(levels, alpha).log_jacobian(coordinate(v)[:, None])
    torch.testing.assert_close(found, slope.log(), rtol=0, atol=1e-6)


def test_log_jacobian_is_a_sum_over_pixels():
    logit = LogitTransform()
    x = logit.forward(all_levels(3), seeded())
    each = logit.log_jacobian(x.reshape(-1, 1)).reshape(3, -1)
    torch.testing.assert_close(logit.log_jacobian(x), each.sum(1))


def test_a_density_of_coordinates_becomes_one_of_levels():
    """Integrated over `v`, `p(x(v)) |dx/dv|` is the mass of the range of `x`."""
    logit, levels, num = LogitTransform(8, 0.05, FLOAT), 8, 40_000
    v = (torch.arange(num, dtype=FLOAT) + 0.5) * levels / num
    x = torch.logit(0.05 + 0.9 * v / levels)[:, None]
    law = Normal(torch.tensor(0.3, dtype=FLOAT), 1.2)
    mass = (law.log_prob(x[:, 0]) + logit.log_jacobian(x)).exp().mean() * levels
    end = math.log(0.95 / 0.05)
    ends = law.cdf(torch.tensor([-end, end], dtype=FLOAT))
    assert float(mass) == pytest.approx(float(ends[1] - ends[0]), abs=1e-8)


def test_uniform_levels_cost_their_logarithm():
    """Where `v` is uniform, `p(x) = |dv/dx| / 256`, and 256 levels are 8 bits each."""
    logit = LogitTransform(256, 0.05, FLOAT)
    x = logit.forward(all_levels(), seeded())
    nll = float((256 * math.log(256) + logit.log_jacobian(x)).mean())
    assert logit.image_nll(nll, x) == pytest.approx(256 * math.log(256))
    assert logit.bits_per_dimension(nll, x) == pytest.approx(8)


def test_whitening_uses_the_same_logits():
    grey = load_digits().train[:50]
    plain = Whitening(
        torch.zeros(64, dtype=FLOAT), torch.eye(64).double(), torch.eye(64), 17, (8, 8)
    )
    expected = LogitTransform(17, 0.05, FLOAT).forward(grey, seeded(4))
    torch.testing.assert_close(plain.to_coordinates(grey, seeded(4)), expected)


@pytest.mark.parametrize("image", [[[17.0]], [[-1.0]], [[math.nan]]])
def test_levels_outside_are_refused(image):
    with pytest.raises(DataError, match=r"`images` must hold grey levels in 0…16, got"):
        LogitTransform(17).forward(torch.tensor(image), seeded())


def test_no_images_and_black_and_white_ones():
    logit = LogitTransform(2)
    assert logit.forward(torch.empty(0, 3), seeded()).shape == (0, 3)
    images = torch.tensor([[True, False]])
    assert logit.inverse(logit.forward(images, seeded())).tolist() == [[1, 0]]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1, math.nan])
def test_alpha_leaves_a_finite_logit(alpha):
    with pytest.raises(ArgumentError, match="`alpha` must be a float above 0"):
        LogitTransform(alpha=alpha)


def test_other_settings():
    with pytest.raises(ArgumentError, match="`levels` must be at least 2, got 1"):
        LogitTransform(1)
    with pytest.raises(ArgumentTypeError, match="`dtype` must be a floating type"):
        LogitTransform(dtype=torch.uint8)
