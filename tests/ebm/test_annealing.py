"""The independent check by annealing, on a model that is exactly Gaussian."""

import math

import pytest
import torch

from pyro_jarzynski import EnergyModel, annealed_walkers, normalizer_bounds
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.errors import ArgumentError, DataError
from tests.ebm.models import Bowl, network_model, standard_normal

SMALL = {"num_temperatures": 50, "num_walkers": 500, "num_moves": 2}


@pytest.fixture
def bowl():
    model = EnergyModel(Bowl(), standard_normal(4), zero_last_layer=False)
    with torch.no_grad():
        model.net.a.fill_(1.0)
    return model


def test_log_normalizer_is_exact(bowl):
    """False alarms: 6.3e-5, a z of 4."""
    walkers = annealed_walkers(bowl, **SMALL)
    error = float(walkers.log_normalizer_error)
    assert 0 < error < 0.1
    assert abs(float(walkers.log_normalizer) + 2 * math.log(2)) < 4 * error


def test_walkers_are_draws_of_the_model(bowl):
    """False alarms: below 1e-4, a z of 4.3 for four variances of 500 or fewer draws."""
    walkers = annealed_walkers(bowl, seed=1, **SMALL)
    variance = walkers.weight @ walkers.position.square().to(torch.float64)
    spread = 0.5 * math.sqrt(2 / float(walkers.ess))
    assert (variance - 0.5).abs().max() < 4.3 * spread


def test_an_untrained_model_has_log_normalizer_zero():
    walkers = annealed_walkers(network_model(), **SMALL)
    assert float(walkers.log_normalizer) == pytest.approx(0, abs=1e-5)


def test_the_seed_decides_everything(bowl):
    first, again = (annealed_walkers(bowl, seed=3, **SMALL) for _ in range(2))
    other = annealed_walkers(bowl, seed=4, **SMALL)
    assert torch.equal(first.position, again.position)
    assert torch.equal(first.log_normalizer, again.log_normalizer)
    assert not torch.equal(first.position, other.position)


def test_chunks_change_nothing(bowl):
    whole = annealed_walkers(bowl, **SMALL)
    chunked = annealed_walkers(bowl, chunk_size=64, **SMALL)
    torch.testing.assert_close(chunked.log_normalizer, whole.log_normalizer)


@pytest.mark.parametrize("name", [*SMALL, "num_pilot_walkers"])
def test_counts_must_be_positive(bowl, name):
    with pytest.raises(ArgumentError, match=f"`{name}` must be at least 1, got 0"):
        annealed_walkers(bowl, **{name: 0})


EXACT = -2 * math.log(2)


def gaussian_draws(num, variance=0.5):
    """Draws of the bowl if the variance is ½."""
    return variance**0.5 * torch.randn(num, 4, generator=stream(0, "draws"))


class TestBounds:
    def test_both_are_near_the_exact_value(self, bowl):
        """False alarms: 1.3e-4 for both, a z of 4."""
        bounds = normalizer_bounds(bowl, gaussian_draws(500), **SMALL)
        assert abs(bounds.lower - EXACT) < 4 * bounds.lower_error
        assert abs(bounds.upper - EXACT) < 4 * bounds.upper_error
        assert bounds.gap == bounds.upper - bounds.lower

    def test_too_few_temperatures_open_a_gap(self, bowl):
        """On average one is below and the other above: means over 60 runs of 4 walkers."""
        with torch.no_grad():
            bowl.net.a.fill_(8.0)
        exact = -2 * math.log(9)
        rough = {"num_temperatures": 1, "num_walkers": 4, "num_moves": 1}
        draws = gaussian_draws(240, 1 / 9).split(4)
        found = [
            normalizer_bounds(bowl, part, seed=seed, **rough)
            for seed, part in enumerate(draws)
        ]
        lower = sum(bounds.lower for bounds in found) / len(found)
        upper = sum(bounds.upper for bounds in found) / len(found)
        assert lower < exact - 0.1
        assert upper > exact + 0.1

    @pytest.mark.parametrize(
        ("draws", "told"),
        [
            (torch.zeros(0, 4), "`draws` is empty"),
            (torch.zeros(3, 5), r"`draws` must have shape \(n, 4\)"),
            (torch.full((3, 4), math.nan), "`draws`"),
        ],
    )
    def test_draws_that_cannot_be(self, bowl, draws, told):
        with pytest.raises(DataError, match=told):
            normalizer_bounds(bowl, draws, **SMALL)
