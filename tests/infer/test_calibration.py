"""Simulation-based calibration: posteriors of simulated data cover what made the data.

A thousand data sets are islands of one batch. Per parameter, the share of draws below the
true value is uniform if the posterior is right (Talts and others 2018, arXiv:1804.06788),
so its normal score has mean 0 and variance 1. With a false alarm of 1e-4 over all scores
of a model, 1,000 simulations find a shift of 0.17 posterior sd, or a scale that is wrong
by 12 %, with probability 0.9. The log-likelihood at the truth is scored too, because
marginal scores alone are blind to a posterior that equals the prior.
"""

import math

import pytest
import torch
from scipy.stats import binom, chi2, norm

import pyro_jarzynski as pj
from tests.infer import simulated
from tests.infer.simulated import CASES
from tests.seeds import seed_of, seeded

NUM_SIMULATIONS, NUM_WALKERS, FALSE_ALARM = 1000, 512, 1e-4


class Poisson:
    """Counts with a log-rate and a slope."""

    slopes = torch.linspace(-1, 1, 6)

    def log_prior(self, x):
        return -x.square().sum(1) / 2 - x.shape[1] / 2 * math.log(2 * math.pi)

    def draw(self, num, generator):
        return torch.randn(num, 2, generator=generator)

    def log_rate(self, x):
        return 1 + x[:, :1] + x[:, 1:] * self.slopes

    def simulate(self, x, generator):
        return torch.poisson(self.log_rate(x).exp(), generator=generator)

    def log_likelihood(self, x, data):
        rate = self.log_rate(x)
        return (data * rate - rate.exp() - torch.lgamma(data + 1)).sum(1)


class Scale(Poisson):
    """Normal data of unknown mean and logarithm of the scale."""

    def simulate(self, x, generator):
        noise = torch.randn(len(x), 8, generator=generator)
        return x[:, :1] + x[:, 1:].exp() * noise

    def log_likelihood(self, x, data):
        white = (data - x[:, :1]) / x[:, 1:].exp()
        return (-white.square() / 2 - x[:, 1:] - math.log(2 * math.pi) / 2).sum(1)


class Effects(Poisson):
    """A mean, and five effects around it, each seen once: strongly correlated."""

    def draw(self, num, generator):
        return torch.randn(num, 6, generator=generator)

    def simulate(self, x, generator):
        noise = torch.randn(len(x), 5, generator=generator)
        return 3 * x[:, :1] + x[:, 1:] + 0.3 * noise

    def log_likelihood(self, x, data):
        white = (data - 3 * x[:, :1] - x[:, 1:]) / 0.3
        return -white.square().sum(1) / 2


def scores(model, *, shift=0.0, size=NUM_SIMULATIONS, num_walkers=NUM_WALKERS):
    """Normal scores of parameters and log-likelihood, `(size, d + 1)`."""
    generator = seeded(7)
    truth = model.draw(size, generator)
    data = model.simulate(truth, generator)
    repeated = data.repeat_interleave(num_walkers, 0)
    target = pj.Target(
        model.log_prior,
        lambda x: model.log_likelihood(x - shift, repeated),
        lambda num, generator: model.draw(num, generator),
    )
    # Walkers of a thousand islands choose together: their bias is of order 1e-6.
    sampler = pj.AnnealedSMC(
        target,
        num_walkers=num_walkers,
        num_chains=size,
        adapt="online",
        num_moves=10,
        # Every walker has its own data, so that no fewer can be asked for an energy.
        chunk_size=None,
        seed=seed_of(0),
        progress=False,
    )
    result = run(sampler)
    draws = result.get_samples(group_by_chain=True)["x"]
    flat = draws.flatten(0, 1)
    likelihood = model.log_likelihood(flat, repeated).reshape(size, -1, 1)
    at_truth = model.log_likelihood(truth, data)[:, None]
    values = torch.cat([draws, likelihood], 2)
    actual = torch.cat([truth, at_truth], 1)[:, None]
    below = (values < actual).sum(1).double()
    jitter = torch.rand(below.shape, generator=generator, dtype=torch.float64)
    rank = (below + jitter) / (num_walkers + 1)
    return torch.as_tensor(norm.ppf(rank.numpy()))


def run(sampler):
    """Run where islands hold different data, so that they may well differ."""
    with pytest.warns(pj.EvidenceWarning):
        return sampler.run()


def smallest_p_value(score):
    """The smallest p-value of mean and variance over all columns, times their number."""
    size, columns = score.shape
    means = score.mean(0) * math.sqrt(size)
    variances = torch.as_tensor(score.var(0) * (size - 1))
    p_values = [2 * norm.sf(abs(float(z))) for z in means]
    for value in variances.tolist():
        tail = chi2.sf(value, size - 1)
        p_values.append(2 * min(tail, 1 - tail))
    return min(p_values) * 2 * columns


@pytest.mark.slow
@pytest.mark.parametrize("model", [Poisson, Scale, Effects])
def test_posteriors_are_calibrated(model):
    assert smallest_p_value(scores(model())) > FALSE_ALARM


@pytest.mark.slow
def test_a_shifted_posterior_is_found():
    assert smallest_p_value(scores(Scale(), shift=0.1)) < FALSE_ALARM


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_pyro_models_are_calibrated(name):
    """Constrained, hierarchical and discrete latents: 200 simulations of each.

    They find a shift of 0.4 posterior sd with probability 0.9.
    """
    assert smallest_p_value(simulated.scores(CASES[name], 200)) > FALSE_ALARM


@pytest.mark.slow
def test_a_pyro_model_that_is_not_that_of_the_data_is_found():
    found = simulated.scores(CASES["scales"], 200, spread=1.5 * simulated.SPREAD)
    assert smallest_p_value(found) < FALSE_ALARM


@pytest.mark.slow
def test_evidence_intervals_cover():
    """At 90 % not more miss than by chance at 20 %: Student's law is of four islands."""
    missed = 0
    for each in simulated.simulations(CASES["coin"], 200):
        low, high = each.result.log_evidence_interval(0.9)
        missed += not low <= simulated.evidence_of_coin(each.y) <= high
    assert binom.sf(missed - 1, 200, 0.2) > FALSE_ALARM
