"""What a result tells: draws, evidence with its error, history, summary and doubts."""

import math
import os
import signal
from copy import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from scipy.stats import t

from pyro_jarzynski import ULA, AnnealedSMC, Target
from pyro_jarzynski.errors import ArgumentError, EvidenceWarning
from tests.identities import z_score
from tests.infer.test_annealed_smc import (
    CHAINS,
    DATA,
    STREAM,
    annealed,
    arriving,
    conjugate,
    conjugate_truth,
    log_evidence_of_stream,
    normal_of_unknown_scale,
)
from tests.scenarios import FLOAT

ZERO = torch.zeros((), dtype=FLOAT)


def regression(x, y=None):
    """A vector, a positive latent and two deterministic sites."""
    slope = pyro.sample("slope", dist.Normal(ZERO, 1.0).expand([2]).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(ZERO + 1))
    pyro.deterministic("variance", scale**2)
    line = pyro.deterministic("line", x @ slope)
    with pyro.plate("data", len(x)):
        return pyro.sample("y", dist.Normal(line, scale), obs=y)


X = torch.stack([torch.ones(8, dtype=FLOAT), torch.linspace(-1, 1, 8, dtype=FLOAT)], 1)


@pytest.fixture(scope="module")
def result():
    return annealed(regression, X, STREAM, num_walkers=500, num_chains=3)


def test_draws_have_the_shapes_of_the_sites(result):
    draws = result.get_samples()
    assert {k: v.shape for k, v in draws.items()} == {"slope": (1500, 2), "scale": (1500,)}
    grouped = result.get_samples(group_by_chain=True)
    assert grouped["slope"].shape == (3, 500, 2)
    assert torch.equal(grouped["slope"].flatten(0, 1), draws["slope"])
    assert (draws["scale"] > 0).all()


def test_number_of_draws_is_what_was_asked(result):
    assert result.get_samples(10)["slope"].shape == (10, 2)
    assert result.get_samples(10, group_by_chain=True)["scale"].shape == (3, 10)
    grouped = result.get_samples(4, group_by_chain=True)["scale"]
    # A few draws are of all islands in turn.
    assert torch.equal(result.get_samples(12)["scale"], grouped.T.flatten())


@pytest.mark.parametrize(("number", "grouped"), [(1501, False), (501, True), (0, False)])
def test_draws_are_never_repeated_to_make_up_the_number(result, number, grouped):
    with pytest.raises(ArgumentError, match="num_samples"):
        result.get_samples(number, group_by_chain=grouped)


def test_deterministic_sites_follow_their_draws(result):
    draws = result.get_samples(deterministic=True)
    assert set(draws) == {"slope", "scale", "variance", "line"}
    torch.testing.assert_close(draws["variance"], draws["scale"] ** 2)
    torch.testing.assert_close(draws["line"], draws["slope"] @ X.T)


@pytest.mark.global_state
def test_draws_feed_the_posterior_predictive(result):
    predicted = Predictive(regression, result.get_samples())(X)
    assert predicted["y"].shape == (1500, 8)
    # The mean of 1,500 predictions is known to 0.03, that of the data to a prior's pull.
    assert abs(float(predicted["y"].mean() - STREAM.mean())) < 0.3


def test_draws_follow_weights_that_are_uneven():
    """To 0.15 of spreads of 0.6 and less: five standard errors, at half of the walkers."""
    settings = {"adapt": "off", "schedule": [0, 0.02, 0.1, 0.4, 1], "ess_threshold": 0.0}
    settings |= {"num_walkers": 4096, "num_chains": 1, "kernel": ULA(0.01)}
    result, truth = annealed(conjugate, DATA, **settings), conjugate_truth()[1]
    samples, log_weights = result.weighted_samples()
    unweighted, weighted = samples["x"].mean(0), log_weights.softmax(0) @ samples["x"]
    assert (unweighted - truth).abs().max() > 0.3
    for mean in (weighted, result.get_samples()["x"].mean(0)):
        torch.testing.assert_close(mean, truth, rtol=0, atol=0.15)


def test_pyro_methods_of_log_weights(result):
    log_weights = result.log_weights
    mean = log_weights.logsumexp(0) - math.log(1500)
    assert float(mean) == pytest.approx(result.log_evidence, abs=1e-10)
    assert float(result.get_log_normalizer()) == pytest.approx(float(mean), abs=1e-5)
    weight = result.get_normalized_weights()
    assert float(result.get_ESS()) == pytest.approx(float(1 / weight.square().sum()))


def test_interval_is_that_of_student_over_the_islands(result):
    per_chain = result.log_evidence_per_chain
    error = float(per_chain.std()) / math.sqrt(3)
    assert result.log_evidence_error == pytest.approx(error)
    for probability in (0.5, 0.9, 0.99):
        low, high = result.log_evidence_interval(probability)
        assert (low + high) / 2 == pytest.approx(result.log_evidence)
        half = t.ppf((1 + probability) / 2, 2) * error
        assert (high - low) / 2 == pytest.approx(half)


def test_error_of_one_island_is_that_of_many():
    """Estimated by genealogies, within a factor of two of the spread of 256 islands.

    False alarms: the variance of so many is known to 10 %, so that this is beyond six
    standard errors.
    """
    result = annealed(conjugate, DATA, num_chains=256)
    estimate = result.walkers.log_normalizer_error.square().mean()
    assert 0.5 < float(estimate / result.log_evidence_per_chain.var()) < 2
    alone = annealed(conjugate, DATA, num_walkers=500, num_chains=1)
    assert alone.log_evidence_error == float(alone.walkers.log_normalizer_error)
    low, high = alone.log_evidence_interval(0.6826895)
    assert (high - low) / 2 == pytest.approx(alone.log_evidence_error, rel=1e-6)


def test_the_model_runs_once_for_draws_summary_and_doubts(result, monkeypatch):
    fresh = copy(result)
    for name in ("_latent_values", "values", "new_doubts"):
        fresh.__dict__.pop(name, None)
    calls = []
    constrain = result.posterior.constrain

    def counted(walkers, **options):
        calls.append(options)
        return constrain(walkers, **options)

    monkeypatch.setattr(result.posterior, "constrain", counted)
    fresh.get_samples()
    fresh.get_samples(group_by_chain=True)
    fresh.summary()
    fresh.weighted_samples()
    assert fresh.doubts == result.doubts
    assert len(calls) == 1


def test_history_is_a_table(result):
    history = result.history
    stages = len(history["beta"])
    alone = {"beta", "step_size", "num_moves", "num_leapfrog", "repeated", "seconds"}
    for name, column in history.items():
        assert column.shape == ((stages,) if name in alone else (stages, 3))
    assert history.keys() - alone >= {"ess", "conditional_ess", "acceptance_rate"}
    assert (history["beta"].diff() > 0).all()
    assert (history["seconds"].diff() >= 0).all()
    assert torch.equal(history["log_evidence"][-1], result.log_evidence_per_chain)
    assert ((history["ess"] >= 1) & (history["ess"] <= 500)).all()
    assert result.pareto_k.shape == (stages,)
    assert result.num_gradients > 4 * 500 * stages


def test_summary_has_a_row_for_every_number(result):
    summary = result.summary(0.8)
    table = summary.table
    assert list(table.index) == ["slope[0]", "slope[1]", "scale"]
    assert list(table.columns) == ["mean", "sd", "10%", "50%", "90%", "mcse", "r_hat"]
    draws = result.get_samples()
    assert table.loc["scale", "mean"] == pytest.approx(float(draws["scale"].mean()))
    assert table.loc["slope[1]", "sd"] == pytest.approx(float(draws["slope"][:, 1].std()))
    assert (table["mcse"] > table["sd"] / math.sqrt(1500) / 2).all()
    assert (table["r_hat"] < 1.1).all()
    assert f"log evidence {result.log_evidence:.3f}" in str(summary)
    assert "1500 walkers on 3 islands" in str(summary)
    assert f"log_evidence={result.log_evidence:.3f}" in repr(result)
    assert "3 chains of 500 walkers" in repr(result)


def test_standard_error_of_the_summary_covers_the_truth():
    """False alarms: 1e-4 by a normal law for the largest of three, at six."""
    result = annealed(conjugate, DATA, num_walkers=1024, num_chains=4)
    table = result.summary().table
    gaps = (torch.tensor(table["mean"].to_numpy()) - conjugate_truth()[1]).abs()
    assert (gaps < 6 * torch.tensor(table["mcse"].to_numpy())).all()
    assert result.doubts == []
    assert result.status == "ok"


def test_time_limit_leaves_the_evidence_of_the_temperature_reached():
    """False alarms: 1e-4, by Student's law."""
    with pytest.warns(EvidenceWarning, match="run ended"):
        result = annealed(arriving, STREAM, max_seconds=1e-6, learn_base=False)
    assert not result.complete
    assert result.status == "partial"
    beta = float(result.history["beta"][-1])
    assert 0 < beta < 1
    truth = log_evidence_of_stream(STREAM, beta)
    ratio = (result.log_evidence_per_chain - truth).exp()
    assert abs(z_score(ratio, 1)) < t.ppf(1 - 5e-5, CHAINS - 1)


def test_interrupt_leaves_a_partial_result():
    target, _, _ = normal_of_unknown_scale()
    calls = []

    def log_likelihood(x):
        calls.append(len(x))
        # The third stage is under way.
        if len(calls) == 22:
            os.kill(os.getpid(), signal.SIGINT)
        return target.log_likelihood(x)

    interrupted = Target(target.log_prior, log_likelihood, target.prior_sample)
    settings = {"num_walkers": 64, "num_chains": 2, "learn_base": False}
    smc = AnnealedSMC(interrupted, progress=False, **settings)
    with pytest.raises(KeyboardInterrupt):
        smc.run()
    assert smc.result.complete is False
    assert len(smc.result.history["beta"]) == 2
    assert len(calls) == 22
    assert math.isfinite(smc.result.log_evidence)
    assert smc.result.get_samples()["x"].shape == (128, 2)


@pytest.mark.parametrize("progress", [True, False])
def test_progress_goes_to_stderr_or_nowhere(progress, capsys):
    annealed(conjugate, DATA, num_chains=2, progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("100%" in err and "log Z" in err) if progress else err == ""
