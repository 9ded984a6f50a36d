"""Weights against brute force in Python's own arithmetic."""

import math

import pytest
import torch

from pyro_jarzynski.core import weights
from pyro_jarzynski.errors import WeightCollapseError
from tests.scenarios import FLOAT


@pytest.fixture(params=["all alive", "some dead"])
def log_weight(request, generator):
    values = 2 * torch.randn(50, dtype=FLOAT, generator=generator)
    if request.param == "some dead":
        values[::7] = -math.inf
    return values


def brute(log_weight):
    return [math.exp(a) for a in log_weight.tolist()]


def test_normalise(log_weight):
    w = brute(log_weight)
    expected = [x / sum(w) for x in w]
    assert weights.normalise(log_weight).tolist() == pytest.approx(expected, rel=1e-12)


def test_log_mean_exp(log_weight):
    w = brute(log_weight)
    expected = math.log(sum(w) / len(w))
    assert weights.log_mean_exp(log_weight).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shift", [-5000.0, 0.0, 5000.0])
def test_shift_of_all_log_weights(log_weight, shift):
    moved = log_weight + shift
    expected = weights.log_mean_exp(log_weight) + shift
    torch.testing.assert_close(weights.log_mean_exp(moved), expected)
    torch.testing.assert_close(weights.ess(moved), weights.ess(log_weight))


def test_ess(log_weight):
    w = brute(log_weight)
    expected = sum(w) ** 2 / sum(x * x for x in w)
    assert weights.ess(log_weight).item() == pytest.approx(expected, rel=1e-12)


def test_ess_bounds():
    one = torch.full((9,), -math.inf, dtype=FLOAT)
    one[4] = 3.0
    assert weights.ess(one) == 1
    assert weights.ess(torch.zeros(9, dtype=FLOAT)).item() == pytest.approx(9)


def test_conditional_ess(log_weight, generator):
    after = log_weight + torch.randn(50, dtype=FLOAT, generator=generator)
    after[3] = -math.inf
    old = brute(log_weight)
    increment = [
        new / before if before else 0.0
        for new, before in zip(brute(after), old, strict=True)
    ]
    share = [x / sum(old) for x in old]
    first = sum(w * v for w, v in zip(share, increment, strict=True))
    second = sum(w * v * v for w, v in zip(share, increment, strict=True))
    found = weights.conditional_ess(log_weight, after).item()
    assert found == pytest.approx(50 * first**2 / second, rel=1e-12)


def test_conditional_ess_of_equal_increments(log_weight):
    found = weights.conditional_ess(log_weight, log_weight + 4.0)
    assert found.item() == pytest.approx(50)


def test_relative_variance_without_resampling(log_weight):
    w = torch.tensor(brute(log_weight), dtype=FLOAT)
    expected = w.var() / 50 / w.mean() ** 2
    found = weights.relative_variance(log_weight, torch.arange(50))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_relative_variance_of_families(log_weight, generator):
    ancestor = torch.randint(50, (50,), generator=generator)
    w = brute(log_weight)
    family = [0.0] * 50
    for weight, parent in zip(w, ancestor.tolist(), strict=True):
        family[parent] += weight / sum(w)
    expected = (50 * sum(f * f for f in family) - 1) / 49
    found = weights.relative_variance(log_weight, ancestor).item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_relative_variance_limits():
    zero = torch.zeros(8, dtype=FLOAT)
    assert weights.relative_variance(zero, torch.arange(8)).item() == pytest.approx(0)
    family = torch.full((8,), 3)
    assert weights.relative_variance(zero, family).item() == pytest.approx(1)
    assert weights.relative_variance(zero[:1], family[:1] * 0).item() == 1


def test_weight_zero_stays_zero():
    log_weight = torch.tensor([-math.inf, 1.0], dtype=FLOAT)
    moved = weights.add(log_weight, torch.tensor([math.inf, 0.5]))
    assert moved.tolist() == [-math.inf, 1.5]


def test_merge():
    total, part = torch.tensor([2.0, 5.0], dtype=FLOAT).log()
    log_sum, old, new = weights.merge(total, part)
    assert log_sum.exp().item() == pytest.approx(7)
    assert (old.item(), new.item()) == pytest.approx((2 / 7, 5 / 7))


@pytest.mark.parametrize(
    "function", [weights.normalise, weights.log_sum_exp, weights.log_mean_exp, weights.ess]
)
def test_single_precision_is_summed_in_double(function):
    log_weight = torch.linspace(-3, 3, 1001, dtype=torch.float32)
    found = function(log_weight)
    assert found.dtype == FLOAT
    torch.testing.assert_close(found, function(log_weight.to(FLOAT)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, math.nan], "1 of 2 log-weights are NaN, first at walker 1"),
        ([0.0, math.inf], "plus infinity"),
        ([-math.inf, -math.inf], "All 2 weights are zero"),
    ],
)
def test_no_weights(values, message):
    with pytest.raises(WeightCollapseError, match=message):
        weights.ess(torch.tensor(values))
