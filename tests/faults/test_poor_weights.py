"""Weights that say little: what a result tells of them."""

import math

import pytest
import torch
from torch.distributions import Normal, StudentT

from pyro_jarzynski import MALA, ULA, Target, Tempering, init, weighted_mean
from pyro_jarzynski import run as run_walkers
from pyro_jarzynski.errors import (
    EvidenceWarning,
    JarzynskiError,
    StepSizeWarning,
    SupportWarning,
    WeightCollapseError,
)
from tests.infer.batches import run

AT_ONCE = {"schedule": [0.0, 1.0], "adapt": "off", "num_walkers": 1000}


def target(log_likelihood, scale=1.0):
    base = Normal(0.0, scale)
    return Target(
        lambda x: base.log_prob(x).sum(1),
        log_likelihood,
        lambda num, generator: scale * torch.randn(num, 1, generator=generator),
    )


def test_one_weight_with_all_the_mass():
    """The run ends, and is doubted with remedies."""
    narrow = target(lambda x: -1e6 * (x - 1).square().sum(1))
    with pytest.warns(EvidenceWarning, match=r"A step left 0.\d% .* Use more temperatures"):
        result = run(narrow, kernel=MALA(1e-3), **AT_ONCE)
    assert result.status == "doubtful"
    assert math.isfinite(result.log_evidence)
    assert result.history["ess"].min() < 2


def test_walkers_that_run_away_are_told_of_before_and_after():
    """A step far too long: the warning names one that is not, the error says what to do."""

    def quartic(x):
        return (x**4).sum(1)

    generator = torch.Generator().manual_seed(0)
    walkers = init(torch.randn(100, 5, generator=generator), quartic)
    with (
        pytest.warns(SupportWarning, match="100 of 100 walkers left the support"),
        pytest.warns(StepSizeWarning, match=r"Step size 5 .*step size of at most 0\.\d+"),
        pytest.raises(WeightCollapseError, match="smaller step size"),
    ):
        run_walkers(walkers, [quartic] * 20, ULA(5.0), generator=generator)


def heavy_tails():
    """Student's law from a narrow Gaussian; `log Z = 0`."""
    law, narrow = StudentT(3.0), Normal(0.0, 0.25)
    return target(lambda x: (law.log_prob(x) - narrow.log_prob(x)).sum(1), scale=0.25)


@pytest.mark.parametrize("seed", range(6))
def test_weights_of_infinite_variance_are_doubted(seed):
    """The islands agree on evidences that are too low by half a nat: tails tell."""
    with pytest.warns(EvidenceWarning, match=r"weights of Pareto shape .* temperatures"):
        result = run(heavy_tails(), kernel=MALA(0.05), seed=seed, **AT_ONCE)
    assert result.pareto_k.max() > 0.5
    assert result.status == "doubtful"


def test_temperatures_between_help():
    result = run(heavy_tails(), num_walkers=1000)
    assert result.pareto_k.max() < 0.7
    assert result.status == "ok"


@pytest.mark.parametrize(
    "log_weight",
    [torch.full((4,), -math.inf), torch.tensor([0.0, math.nan, 0.0, 0.0])],
    ids=["zero", "nan"],
)
def test_weights_that_are_none_are_refused(log_weight):
    with pytest.raises(WeightCollapseError):
        weighted_mean(torch.zeros(4), log_weight)
    position = torch.zeros(4, 1, dtype=torch.float64)
    with pytest.raises(JarzynskiError, match=r"weights are zero|log-weights are NaN"):
        run_walkers(
            init(position, lambda x: x.square().sum(1), log_weight=log_weight),
            Tempering(lambda x: x.square().sum(1), lambda x: x.square().sum(1), [0, 1]),
            MALA(0.1),
        )
