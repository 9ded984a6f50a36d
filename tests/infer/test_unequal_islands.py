"""Islands of unequal evidence count alike in all that is told of the posterior."""

import math
from copy import copy

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.infer.summary import largest_r_hat, largest_shift
from tests.diagnostics.trees import dataset
from tests.infer.batches import run
from tests.scenarios import FLOAT

# Weights in eighths, by which eight walkers can be drawn exactly.
EIGHTHS = torch.tensor([[4, 2, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 2, 2]], dtype=FLOAT)
VALUES = torch.arange(16, dtype=FLOAT).view(2, 8).sqrt() - 1
LOG_EVIDENCES = torch.tensor([-3.0, -3.6], dtype=FLOAT)
OF_ISLANDS = (EIGHTHS * VALUES).sum(1) / 8
MEAN = float(OF_ISLANDS.mean())
SHARE = float((EIGHTHS * (VALUES > 1)).sum() / 16)


@pytest.fixture(scope="module")
def result():
    """A run whose walkers are put where all is known."""
    normal = dist.Normal(torch.zeros((), dtype=FLOAT), 1.0)
    target = pj.Target(
        lambda x: normal.log_prob(x).sum(1),
        lambda x: normal.log_prob(x - 1).sum(1),
        lambda num, g: torch.randn(num, 1, dtype=FLOAT, generator=g),
    )
    found = copy(run(target, num_walkers=8, num_chains=2, learn_base=False))
    found.walkers = found.walkers._replace(
        position=VALUES.view(16, 1),
        log_weight=(EIGHTHS / 8).log().flatten(),
        log_banked=LOG_EVIDENCES + math.log(8),
        ancestor=torch.arange(16),
    )
    for name in ("draw_index", "values", "_latent_values", "new_doubts"):
        found.__dict__.pop(name, None)
    return found


def weighted_mean(result, log_weights):
    return float(log_weights.softmax(0) @ result.weighted_samples()[0]["x"].flatten())


pytestmark = pytest.mark.filterwarnings("ignore::pyro_jarzynski.EvidenceWarning")


def test_all_means_are_those_of_islands_that_count_alike(result):
    means = {
        "weighted": weighted_mean(result, result.weighted_samples()[1]),
        "draws": float(result.get_samples()["x"].mean()),
        "grouped": float(result.get_samples(group_by_chain=True)["x"].mean(1).mean()),
        "summary": float(result.summary().table.loc["x[0]", "mean"]),
        "table": float(pj.weighted_summary(*result.weighted_samples()).loc["x[0]", "mean"]),
    }
    assert means == pytest.approx(dict.fromkeys(means, MEAN), abs=1e-12)


def test_exports_are_of_islands_that_count_alike(result):
    tree = result.to_arviz(log_likelihood=False)
    assert float(dataset(tree)["x"].mean()) == pytest.approx(MEAN, abs=1e-12)
    of_chains = dataset(tree)["x"].mean("draw").to_numpy()[:, 0]
    np.testing.assert_allclose(of_chains, OF_ISLANDS, atol=1e-12)
    raw = result.to_arviz(weighted=True, log_likelihood=False)
    weighted = dataset(raw)["x"], dataset(raw, "sample_stats")["log_weight"]
    whole = dataset(tree, "weighted_posterior")
    for values, weights in (weighted, (whole["x"], whole["log_weight"])):
        total = float((values[..., 0] * np.exp(weights)).sum())
        assert total == pytest.approx(MEAN, abs=1e-12)


def test_mode_masses_are_of_islands_that_count_alike(result):
    masses, _ = pj.mode_masses(result, lambda sites: sites["x"][:, 0] > 1)
    assert float(masses[1]) == pytest.approx(SHARE, abs=1e-12)


def test_mean_weight_of_each_island_is_the_evidence(result):
    truth = float(LOG_EVIDENCES.logsumexp(0)) - math.log(2)
    assert result.log_evidence == pytest.approx(truth, abs=1e-12)
    found = result.log_weights.view(2, 8).logsumexp(1) - math.log(8)
    torch.testing.assert_close(found, torch.full((2,), truth, dtype=FLOAT))
    assert float(result.get_log_normalizer()) == pytest.approx(truth, abs=1e-5)


def test_weights_by_the_evidences_are_as_documented(result):
    shift = result.log_evidence_per_chain - result.log_evidence
    log_weights = result.log_weights + shift.repeat_interleave(8)
    expected = float((LOG_EVIDENCES.exp() * OF_ISLANDS).sum() / LOG_EVIDENCES.exp().sum())
    assert weighted_mean(result, log_weights) == pytest.approx(expected, abs=1e-12)


def test_islands_whose_weighting_matters_are_doubted(result):
    """Islands 0.6 nats apart, of which one is elsewhere by half a standard deviation."""
    draws = result.get_samples()["x"]
    by_evidence = (LOG_EVIDENCES.softmax(0) * OF_ISLANDS).sum()
    shift = float((by_evidence - MEAN).abs() / draws.std())
    (doubt,) = [text for text in result.doubts if "counted by their evidences" in text]
    assert f"would be {shift:.2g} standard deviations from where it is" in doubt
    alike = copy(result)
    alike.__dict__.pop("new_doubts")
    banked = torch.full((2,), -3.0 + math.log(8), dtype=FLOAT)
    alike.walkers = result.walkers._replace(log_banked=banked)
    assert not any("counted by their evidences" in text for text in alike.doubts)


@pytest.mark.parametrize("num_islands", [3, 5])
@pytest.mark.parametrize("value", [1.0, 0.1])
def test_constant_entries_have_no_shift_and_no_r_hat(num_islands, value):
    """Such as the first entry of a Cholesky factor of correlations."""
    draws = {"x": torch.full((num_islands, 37, 1), value, dtype=FLOAT)}
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        evidences = torch.randn(num_islands, generator=generator, dtype=FLOAT)
        assert largest_shift(draws, evidences) == ("x", 0.0)
    assert largest_r_hat(draws) == ("x", 1.0)
