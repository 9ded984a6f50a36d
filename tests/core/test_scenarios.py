"""The truths themselves, against other ways to compute them."""

import math

import pytest
import torch

from tests.scenarios import (
    FLOAT,
    PLANE_TARGETS,
    gaussian_bernoulli_rbm,
    gaussian_path,
    log_moment,
    mild_path,
    steep_path,
)


@pytest.mark.parametrize("step_size", [0.01, 0.2, 0.6])
@pytest.mark.parametrize("path", [steep_path(), mild_path()])
def test_first_moment_is_the_ratio_of_normalisers(path, step_size):
    if step_size == 0.6 and path.precisions.max() == 4:
        pytest.skip("the weights have infinite variance, and no mean by this route")
    assert log_moment(1, path, step_size) == pytest.approx(path.log_ratio, abs=1e-12)


def test_zeroth_moment_is_one():
    assert log_moment(0, steep_path(), 0.2) == pytest.approx(0, abs=1e-12)


def test_variance_of_the_steep_path():
    path = steep_path()
    second = log_moment(2, path, 0.2) - 2 * path.log_ratio
    assert math.expm1(second) == pytest.approx(1.8194747777, abs=1e-9)


def test_variance_is_infinite_from_the_stability_limit_on():
    assert math.isfinite(log_moment(2, steep_path(), 0.45))
    assert log_moment(2, steep_path(), 0.51) == math.inf


def test_moment_of_one_step_by_quadrature():
    path, step = gaussian_path((2.0,), (0.5,), 1), 0.3
    grid = torch.linspace(-9, 9, 3001, dtype=FLOAT)
    x, y = grid[:, None], grid[None, :]
    ahead = _log_joint(x, y, *path.precisions[0], *path.means[0], step)
    behind = _log_joint(y, x, *path.precisions[1], *path.means[1], step)
    cell = 2 * torch.log(grid[1] - grid[0]) - math.log(2 * math.pi) / 2
    # e^{2A} under the law of the first walkers and their move.
    integral = (2 * behind - ahead).flatten().logsumexp(0) + cell
    assert log_moment(2, path, step) == pytest.approx(integral.item(), abs=1e-8)


def _log_joint(x, y, precision, mean, step):
    move = y - x + step * precision * (x - mean)
    energy = precision * (x - mean) ** 2 / 2
    return -energy - move**2 / (4 * step) - math.log(4 * math.pi * step) / 2


def test_rbm_log_normalizer():
    rbm = gaussian_bernoulli_rbm()
    assert rbm.log_normalizer.item() == pytest.approx(14.643486558594590, abs=1e-12)
    assert rbm.gradients()[1][0].item() == pytest.approx(0.8483051659019659, abs=1e-12)
    assert rbm.gradients()[2][0].item() == pytest.approx(0.7162575074620918, abs=1e-12)


def test_rbm_gradients_are_those_of_the_log_normalizer():
    rbm = gaussian_bernoulli_rbm()
    inputs = [rbm.weight, rbm.bias, rbm.hidden_bias]
    leaves = [x.clone().requires_grad_() for x in inputs]
    slopes = torch.autograd.grad(type(rbm)(*leaves).log_normalizer, leaves)
    for found, expected in zip(slopes, rbm.gradients(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PLANE_TARGETS)
def test_plane_targets_by_quadrature(name):
    target = PLANE_TARGETS[name]
    axis = torch.linspace(-16, 16, 1601, dtype=FLOAT)
    # The banana's tail is long in its second coordinate.
    tall = torch.linspace(-20, 80, 2501, dtype=FLOAT)
    grid = torch.cartesian_prod(axis, tall)
    cell = math.log((axis[1] - axis[0]) * (tall[1] - tall[0]))
    log_density = -target.energy(grid)
    assert (log_density.logsumexp(0) + cell).item() == pytest.approx(
        target.log_normalizer, abs=1e-6
    )
    second = log_density.softmax(0) @ grid.square()
    assert second.tolist() == pytest.approx(target.second_moment, rel=1e-5)
