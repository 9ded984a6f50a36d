"""The evidence of walkers in shards against a closed form, with and without travel."""

from unittest.mock import patch

import pytest
import torch

from pyro_jarzynski import MALA
from pyro_jarzynski.core import shards
from pyro_jarzynski.core.sharing import sharing
from tests.infer.test_annealed_smc import (
    CHAINS,
    DATA,
    annealed,
    assert_exact,
    conjugate,
    conjugate_moments,
    conjugate_truth,
)

# Few walkers that remember their weights, as they hardly move, and resample every time.
NUM_SHARDS = 4 * CHAINS
HARD = {
    "learn_base": False,
    "schedule": [0, 0.1, 0.4, 1],
    "adapt": "off",
    "kernel": MALA(0.02),
    "num_walkers": 16,
    "ess_threshold": 1.0,
}

pytestmark = pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.EvidenceWarning")


def assert_sharded_is_exact(*, local):
    """Of four shards on each of `CHAINS` islands; false alarms 1e-4, by Student's law."""
    with sharing(NUM_SHARDS, local=local):
        result = annealed(conjugate, DATA, **HARD)
    assert result.history["resampled"].all()
    assert_exact(result, conjugate_truth()[0], conjugate_moments)


@pytest.mark.parametrize("local", [False, True])
def test_evidence_and_moments_are_exact(local):
    assert_sharded_is_exact(local=local)


@pytest.mark.slow
def test_children_that_stay_away_are_found_out():
    """Weights are made equal, but all walkers stay where they are."""

    def stay(ancestors, sizes):
        return torch.arange(len(ancestors))

    with patch.object(shards, "arrange", stay), pytest.raises(AssertionError):
        assert_sharded_is_exact(local=False)


@pytest.mark.slow
def test_weights_of_shards_that_are_forgotten_are_found_out():
    """After a local resampling each shard has as much weight as any other."""
    apart = shards.Shards._resample_apart

    def forgetful(self, walkers, *others):
        found = apart(self, walkers, *others)
        level = shards.weights.log_mean_exp(walkers.by_island(walkers.log_weight))
        each = walkers.num_walkers // len(level)
        return found._replace(log_weight=level.repeat_interleave(each))

    with (
        patch.object(shards.Shards, "_resample_apart", forgetful),
        pytest.raises(AssertionError),
    ):
        assert_sharded_is_exact(local=True)
