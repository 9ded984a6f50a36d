"""The contract of resampling, over every scheme."""

import math
from functools import partial

import pytest
import torch

from pyro_jarzynski.core import resampling
from pyro_jarzynski.core.resampling import RESAMPLERS, get_resampler, systematic
from pyro_jarzynski.errors import ArgumentError, WeightCollapseError
from tests.resampling_checks import constant
from tests.scenarios import FLOAT

schemes = pytest.mark.parametrize("scheme", RESAMPLERS.values(), ids=RESAMPLERS)


@schemes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num", [1, 7, 50])
def test_range_and_dtype(scheme, dtype, num, generator):
    log_weight = torch.randn(20, dtype=dtype, generator=generator)
    ancestors = scheme(log_weight, num, generator)
    assert ancestors.shape == (num,)
    assert ancestors.dtype == torch.int64
    assert ancestors.min() >= 0
    assert ancestors.max() < 20


@schemes
def test_one_walker(scheme, generator):
    log_weight = torch.tensor([-700.0], dtype=FLOAT)
    assert scheme(log_weight, 1, generator).tolist() == [0]


def test_systematic_counts_differ_from_their_mean_by_less_than_one(generator):
    for _ in range(500):
        log_weight = 3 * torch.randn(30, dtype=FLOAT, generator=generator)
        count = systematic(log_weight, 30, generator).bincount(minlength=30)
        assert (count - 30 * log_weight.softmax(0)).abs().max() < 1


@schemes
def test_equal_weights_keep_walkers_in_place(scheme, generator):
    if scheme is RESAMPLERS["multinomial"]:
        pytest.skip("independent draws")
    ancestors = scheme(torch.zeros(16, dtype=FLOAT), 16, generator)
    assert ancestors.tolist() == list(range(16))


@schemes
def test_weight_zero_is_never_chosen(scheme, generator):
    alive = torch.zeros(50, dtype=torch.bool)
    alive[10:40:3] = True
    log_weight = torch.randn(50, dtype=FLOAT, generator=generator)
    log_weight = torch.where(alive, log_weight, -math.inf)
    for _ in range(200):
        assert alive[scheme(log_weight, 50, generator)].all()


@schemes
@pytest.mark.parametrize("value", [0.0, math.nextafter(1.0, 0.0)])
def test_million_walkers_of_single_precision(scheme, value, generator, monkeypatch):
    """Rounding of a long cumulative sum must not leave the range."""
    size = 1_000_000
    log_weight = torch.randn(size, dtype=torch.float32, generator=generator)
    log_weight[0] = log_weight[-1] = -math.inf
    monkeypatch.setattr(resampling, "_uniform", partial(constant, value))
    ancestors = scheme(log_weight, size, generator)
    assert ancestors.min() >= 1
    assert ancestors.max() <= size - 2


@schemes
def test_same_seed_same_ancestors(scheme):
    log_weight = torch.linspace(-2, 2, 30, dtype=FLOAT)
    first, second = (
        scheme(log_weight, 30, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, second)


@schemes
def test_nan_is_refused(scheme, generator):
    log_weight = torch.tensor([0.0, math.nan, 1.0, math.nan])
    with pytest.raises(WeightCollapseError, match=r"2 of 4 .* NaN, first at walker 1"):
        scheme(log_weight, 4, generator)


@schemes
def test_all_weights_zero_is_refused(scheme, generator):
    with pytest.raises(WeightCollapseError, match="All 4 weights are zero"):
        scheme(torch.full((4,), -math.inf), 4, generator)


@schemes
def test_infinite_weight_is_refused(scheme, generator):
    with pytest.raises(WeightCollapseError, match="plus infinity"):
        scheme(torch.tensor([0.0, math.inf]), 2, generator)


def test_unknown_scheme_lists_the_known_ones():
    known = "multinomial, residual, stratified, systematic"
    with pytest.raises(ArgumentError, match=f"one of {known}, got 'best'"):
        get_resampler("best")


def test_function_is_its_own_scheme():
    assert get_resampler(systematic) is systematic
