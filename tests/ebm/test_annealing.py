"""The independent check by annealing, on a model that is exactly Gaussian."""

import math

import pytest
import torch

from pyro_jarzynski import EnergyModel, annealed_walkers
from pyro_jarzynski.errors import ArgumentError
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
