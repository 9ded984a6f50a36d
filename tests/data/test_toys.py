"""Point clouds in the plane: their shapes, their seeds, their independence."""

import math

import pytest
import torch
from sklearn.datasets import make_circles, make_moons

from pyro_jarzynski.data import TOYS, toy
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError

MANY = 20_000


@pytest.mark.parametrize("name", TOYS)
def test_shape_and_range(name):
    points = toy(name, MANY)
    assert points.shape == (MANY, 2)
    assert points.dtype == torch.float32
    assert 1 < points.abs().max() < 7


@pytest.mark.parametrize("name", TOYS)
def test_the_seed_decides(name):
    assert torch.equal(toy(name, 50, 3), toy(name, 50, 3))
    assert not torch.equal(toy(name, 50, 3), toy(name, 50, 4))
    assert toy(name, 1).shape == (1, 2)


@pytest.mark.parametrize("name", TOYS)
def test_any_part_is_a_sample(name):
    """False alarms: 1.3e-4 for the largest of two z of 4, for each law."""
    points = toy(name, MANY, seed=1).double()
    first, second = points.split(MANY // 2)
    z = (first.mean(0) - second.mean(0)) / points.std(0) * (MANY / 4) ** 0.5
    assert z.abs().max() < 4


def moments(points):
    """Means of x, y, x², xy, y² and of |x|⁴, with their standard errors."""
    x, y = points.double().T
    each = torch.stack([x, y, x * x, x * y, y * y, (x * x + y * y) ** 2], 1)
    return each.mean(0), each.std(0) / len(each) ** 0.5


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("moons", lambda: make_moons(MANY, noise=0.1, random_state=0)[0]),
        (
            "circles",
            lambda: 3 * make_circles(MANY, factor=0.5, noise=0.08, random_state=0)[0],
        ),
    ],
)
def test_laws_are_those_of_scikit_learn(name, reference):
    """False alarms: below 1e-3, six z of 4; spaced angles only lessen the spread."""
    found, error = moments(toy(name, MANY, seed=2))
    expected, other = moments(torch.as_tensor(reference()))
    z = (found - expected) / (error.square() + other.square()).sqrt()
    assert z.abs().max() < 4


def test_rings_have_four_radii_of_equal_mass():
    radius = toy("rings", MANY).double().norm(dim=1)
    nearest = (radius / 0.75).round()
    shares = torch.stack([(nearest == k).double().mean() for k in range(1, 5)])
    assert (shares - 0.25).abs().max() < 0.02
    assert (radius - 0.75 * nearest).std() == pytest.approx(0.08, abs=0.01)


def test_the_checkerboard_has_eight_equal_squares():
    cell = (toy("checkerboard", MANY).double() / 2).floor().long() + 2
    assert cell.min() == 0
    assert cell.max() == 3
    counts = (4 * cell[:, 0] + cell[:, 1]).bincount(minlength=16).reshape(4, 4)
    filled = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 0
    assert counts[~filled].sum() == 0
    assert (counts[filled] / MANY - 1 / 8).abs().max() < 0.02


def test_the_pinwheel_has_five_equal_blades():
    """Turned by a fifth of a circle, the law is the same: its fifth power is not zero."""
    x, y = toy("pinwheel", MANY).double().T
    phase = torch.atan2(y, x)
    turn = [torch.complex(torch.cos(k * phase), torch.sin(k * phase)) for k in (1, 5)]
    assert turn[0].mean().abs() < 4 / MANY**0.5
    assert turn[1].mean().abs() > 0.2


def test_the_spirals_are_two_arms_that_mirror_each_other():
    points = toy("spirals", MANY).double()
    assert points.mean(0).abs().max() < 4 * points.std() / MANY**0.5
    # Along an arm the radius grows with the angle, up to one and a half turns.
    assert points.norm(dim=1).max() == pytest.approx(1.5 * 2 * math.pi / 3, abs=0.7)


def test_arguments():
    with pytest.raises(ArgumentError, match="`name` must be one of checkerboard, circles"):
        toy("moon", 5)
    with pytest.raises(ArgumentError, match="`num` must be at least 1, got 0"):
        toy("moons", 0)
    with pytest.raises(ArgumentTypeError, match="`seed` must be an integer, got 0"):
        toy("moons", 5, 0.0)
