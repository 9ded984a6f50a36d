"""Checks of the evidence pass on what is right, and fail on what is broken."""

import math
from unittest.mock import patch

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2, t

from pyro_jarzynski import (
    HMC,
    MALA,
    ULA,
    AnnealedSMC,
    DataTempering,
    Target,
    UnderdampedLangevin,
    evidence_bounds,
    self_test,
)
from pyro_jarzynski.core import langevin
from pyro_jarzynski.errors import ArgumentError, ModelError
from tests.infer.test_annealed_smc import (
    DATA,
    STREAM,
    arriving,
    conjugate,
    log_evidence_of_stream,
)
from tests.scenarios import FLOAT

KERNELS = {
    "MALA": MALA(),
    "HMC": HMC(),
    "ULA": ULA(),
    "underdamped": UnderdampedLangevin(),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


def sampler(model, **settings):
    defaults = {"num_walkers": 512, "num_chains": 2, "seed": 3, "progress": False}
    return AnnealedSMC(model, **{**defaults, **settings})


def drawn_too_wide(factor, centre=0.0):
    """A prior in four dimensions whose draws are too wide by a factor."""
    unit = dist.Normal(torch.zeros((), dtype=FLOAT), 1.0)
    return Target(
        lambda x: unit.log_prob(x).sum(1),
        lambda x: -(x - centre).square().sum(1) / 2,
        lambda n, g: factor * torch.randn(n, 4, dtype=FLOAT, generator=g),
    )


@every_kernel
def test_self_test_passes(kernel):
    """False alarms: 1e-4."""
    found = self_test(sampler(conjugate, kernel=kernel), DATA)
    assert found.verdict == "passed"
    assert found.p_value > 1e-4
    assert found.information > 10


@every_kernel
def test_self_test_of_a_single_step_passes(kernel):
    """The noise of the only move must not be that of the draws; false alarms: 1e-4."""
    settings = {"adapt": "off", "schedule": [0, 1], "num_walkers": 4000}
    target = drawn_too_wide(1.0, centre=1.0)
    assert self_test(sampler(target, kernel=kernel, **settings)).p_value > 1e-4


@pytest.mark.parametrize("factor", [1.3, 0.77])
@pytest.mark.parametrize("kernel", [MALA(0.1), ULA(0.05)], ids=["MALA", "ULA"])
def test_self_test_sees_draws_that_are_not_of_the_prior(kernel, factor):
    """At 12 standard errors; the same law drawn right passes. False alarms: 1e-4."""
    settings = {"adapt": "off", "schedule": [0, 0.3, 1], "num_walkers": 4000}
    right, wrong = (
        self_test(sampler(drawn_too_wide(f), kernel=kernel, **settings))
        for f in (1.0, factor)
    )
    assert right.verdict == "passed"
    assert wrong.verdict == "failed"
    assert wrong.p_value < 1e-4


def uncorrected(x, here, y, there, step_size, factor, **known):
    """The weight of annealed importance sampling, for a kernel that is not invariant."""
    del known
    return here.energy - there.energy


def test_self_test_sees_unadjusted_moves_that_are_not_corrected():
    """Steps are coarse, so that the missing term matters; false alarms: 1e-4."""
    settings = {"adapt": "off", "schedule": [0, 0.2, 0.5, 1], "kernel": ULA(0.2)}
    smc = sampler(arriving, num_walkers=4000, **settings)
    assert self_test(smc, STREAM[:3]).verdict == "passed"
    with patch.object(langevin, "log_ratio", uncorrected):
        assert self_test(smc, STREAM[:3]).verdict == "failed"


def test_self_test_sees_metropolis_steps_that_are_never_refused():
    """False alarms: 1e-4."""
    settings = {"adapt": "off", "schedule": [0, 0.2, 0.5, 1], "kernel": MALA(0.3)}
    smc = sampler(arriving, num_walkers=4000, num_moves=5, **settings)
    assert self_test(smc, STREAM[:3]).verdict == "passed"
    with patch.object(langevin, "log_ratio", lambda x, *_, **known: x.new_zeros(len(x))):
        assert self_test(smc, STREAM[:3]).verdict == "failed"


def test_hopeless_schedule_gives_no_information():
    """There and back in one step, nothing comes back near where it was."""
    far = 100 + 0.01 * STREAM
    smc = sampler(arriving, schedule=[0, 1], adapt="off", kernel=ULA(1e-4), num_walkers=16)
    found = self_test(smc, far)
    assert found.verdict == "no information"
    assert found.information < 10
    assert found.p_value == 1


def test_self_test_takes_models_and_refuses_data_tempering():
    """False alarms: 1e-4."""
    assert self_test(drawn_too_wide(1.0)).verdict == "passed"
    with pytest.raises(ArgumentError, match="needs tempering"):
        self_test(sampler(arriving, schedule=DataTempering([2, 8])), STREAM)


class Recording:
    """The model of data that arrive, keeping what it was given to observe."""

    def __init__(self):
        self.data = []

    def __call__(self, data):
        x = pyro.sample("x", dist.Normal(torch.zeros((), dtype=FLOAT), 1.0))
        with pyro.plate("data", len(data)):
            seen = pyro.sample("y", dist.Normal(x, 1.0), obs=data)
        if not any(seen is known for known in self.data):
            self.data.append(seen)


def bounds_and_truths(num_simulations, **settings):
    model = Recording()
    found = evidence_bounds(
        sampler(model, **settings), STREAM, num_simulations=num_simulations
    )
    assert len(model.data) == num_simulations
    truths = [log_evidence_of_stream(data) for data in model.data]
    return found, torch.tensor(truths, dtype=FLOAT)


@every_kernel
def test_bounds_enclose_the_evidence_of_the_simulated_data(kernel):
    """On average, and Bennett's estimate lies at it.

    False alarms: 1e-4 for each of three means, by Student's law for six data sets.
    """
    limit = t.ppf(1 - 5e-5, 5) / math.sqrt(6)
    settings = {"kernel": kernel, "num_walkers": 64, "num_moves": 2}
    found, truth = bounds_and_truths(6, **settings)
    for gap in (truth - found.lower, found.upper - truth):
        assert float(gap.mean()) > -limit * float(gap.std())
    gap = found.bennett - truth
    assert abs(float(gap.mean())) < limit * float(gap.std())
    assert float(gap.abs().max()) < 1
    widths = found.upper - found.lower
    assert found.gap == pytest.approx(float(widths.mean()))
    assert found.gap_error == pytest.approx(float(widths.std()) / math.sqrt(6))


def test_simulated_data_differ_and_are_those_of_the_model():
    """Shared by a data set, the latent has variance 1; so has each datum beside it.

    False alarms: 1e-4, of the chi-squared law of 40 means of variance 9/8.
    """
    model = Recording()
    settings = {"num_walkers": 8, "num_chains": 1, "schedule": [0, 1], "adapt": "off"}
    evidence_bounds(sampler(model, **settings), STREAM, num_simulations=40)
    data = torch.stack(model.data)
    assert len(data.unique(dim=0)) == 40
    total = float(data.mean(1).square().sum() / (9 / 8))
    assert chi2.ppf(5e-5, 40) < total < chi2.isf(5e-5, 40)


def test_gap_shrinks_with_the_number_of_walkers():
    """By 0.3 nats with an error of 0.05, more than five of which are a false alarm."""
    settings = {"num_moves": 3, "learn_base": False}
    few, _ = bounds_and_truths(12, num_walkers=16, **settings)
    many, _ = bounds_and_truths(12, num_walkers=512, **settings)
    assert few.gap > many.gap


def test_gap_of_a_single_data_set_has_no_error():
    found, _ = bounds_and_truths(1)
    assert math.isnan(found.gap_error)
    assert found.lower.shape == found.upper.shape == found.bennett.shape == (1,)


def test_factors_cannot_be_simulated():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("likelihood", -(x**2))

    with pytest.raises(ModelError, match="'likelihood'"):
        evidence_bounds(sampler(model))


def test_bounds_refuse_what_they_cannot_use():
    with pytest.raises(ArgumentError, match="tempering"):
        evidence_bounds(sampler(arriving, schedule=DataTempering([2, 8])), STREAM)
    with pytest.raises(ArgumentError, match="start from the prior"):
        evidence_bounds(sampler(arriving, base="normal"), STREAM)
    with pytest.raises(ArgumentError, match="num_simulations"):
        evidence_bounds(sampler(arriving), STREAM, num_simulations=0)


def test_bounds_refuse_a_model_that_fails_at_some_draws_of_its_prior():
    """A failed run leaves data behind that belong to other latents than the next run's."""

    def model(y):
        scale = pyro.sample("scale", dist.Normal(torch.zeros((), dtype=FLOAT), 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(torch.zeros((), dtype=FLOAT), scale), obs=y)

    with pytest.raises(ModelError, match="fails at some draws of its prior"):
        evidence_bounds(sampler(model, num_walkers=64, seed=0), DATA)


@pytest.mark.parametrize("seed", range(2))
def test_bounds_of_a_model_with_likelihoods_of_zero(seed):
    """Data have no density at most draws of the prior, which are walkers of weight zero."""

    def model(y):
        top = pyro.sample("top", dist.Uniform(torch.zeros((), dtype=FLOAT), 100.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Uniform(torch.zeros((), dtype=FLOAT), top), obs=y)

    data = torch.ones(3, dtype=FLOAT)
    few = sampler(model, num_walkers=128, seed=seed)
    bounds = evidence_bounds(few, data, num_simulations=2)
    assert (bounds.forward == -math.inf).any()
    # A wall of the likelihood is at the largest datum: the way back is far from exact.
    assert ((bounds.bennett - bounds.lower).abs() < 2).all()
    assert math.isfinite(bounds.gap)


def test_self_test_needs_latents():
    def known():
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(0.3))

    with pytest.raises(ModelError, match=r"no continuous latents.* nothing to test"):
        self_test(sampler(known))
