"""The learned base: fewer temperatures, and an evidence that stays unbiased."""

import math

import pytest
import torch
from scipy.stats import norm

import pyro_jarzynski as pj
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.walkers import init
from pyro_jarzynski.infer.annealing import anneal
from pyro_jarzynski.infer.learned import FIRST_SHARE, LearnedPosterior, _fit
from pyro_jarzynski.infer.legs import prepare
from pyro_jarzynski.infer.posterior import TorchPosterior
from pyro_jarzynski.infer.settings import Settings
from pyro_jarzynski.infer.time_limit import TimeLimit
from tests.core.test_pilot import gaussian_cloud, noise, slanted

FALSE_ALARM = 1e-4
X = torch.linspace(-1, 1, 40, dtype=torch.float64)
Y = 2 * X + 0.02 * torch.sin(37 * X)


def regression_target():
    """A line through precise data, whose noise is unknown: a funnel on the way."""

    def log_prior(u):
        slope = -(u[:, 0] / 10).square() / 2 - math.log(10) - math.log(2 * math.pi) / 2
        scale = u[:, 1].exp()
        noise = math.log(2) - (scale / 10).square() / 2 - math.log(10) + u[:, 1]
        return slope + noise - math.log(2 * math.pi) / 2

    def log_likelihood(u):
        white = (Y - u[:, :1] * X) / u[:, 1:].exp()
        return (-white.square() / 2 - u[:, 1:] - math.log(2 * math.pi) / 2).sum(1)

    def draw(num, generator):
        noise = torch.randn(num, 2, dtype=torch.float64, generator=generator)
        return torch.stack([10 * noise[:, 0], (10 * noise[:, 1]).abs().log()], 1)

    return pj.Target(log_prior, log_likelihood, draw)


def log_evidence():
    """Integrate the slope by hand and the scale by quadrature."""
    log_scale = torch.linspace(-9, 4, 200_001, dtype=torch.float64)
    variance = (2 * log_scale).exp()
    precision = X.square().sum() / variance + 1 / 100
    fit = (X * Y).sum() / variance
    quadratic = Y.square().sum() / variance - fit.square() / precision
    line = -len(X) * log_scale - quadratic / 2 - precision.log() / 2 - math.log(10)
    line = line - len(X) / 2 * math.log(2 * math.pi)
    prior = math.log(2) - variance / 200 - math.log(10) + log_scale
    prior = prior - math.log(2 * math.pi) / 2
    step = float(log_scale[1] - log_scale[0])
    return float(torch.logsumexp(line + prior, 0)) + math.log(step)


def test_funnel_on_the_way_is_avoided():
    """False alarm: the interval of probability 1 - 1e-4 over eight islands."""
    truth = log_evidence()
    result = pj.AnnealedSMC(
        regression_target(), num_walkers=512, num_chains=8, progress=False
    ).run()
    low, high = result.log_evidence_interval(1 - FALSE_ALARM)
    assert low < truth < high
    assert result.log_evidence_error < 0.05


def test_a_learned_base_needs_fewer_temperatures():
    stages = [
        len(
            pj.AnnealedSMC(
                gaussian_target(6), num_walkers=256, learn_base=learn, progress=False
            )
            .run()
            .history["beta"]
        )
        for learn in (True, False)
    ]
    assert stages[0] < stages[1] / 2


def test_a_short_path_is_left_as_it_is():
    settings = Settings(num_walkers=256, num_chains=1)
    legs, settings = prepare(gaussian_target(1, precision=2.0), (), {}, settings)
    last = [reached for reached in anneal(legs, settings) if reached.counts][-1]
    assert isinstance(last.leg.posterior, TorchPosterior)


def test_evidence_is_unbiased_for_few_walkers_and_a_poor_scout():
    """Every base gives `E[Ẑ] = Z`: here one learned from 16 walkers, for 4,000 islands."""
    settings = Settings(num_walkers=16, num_chains=4000, seed=3)
    legs, settings = prepare(gaussian_target(3), (), {}, settings)
    last = [reached for reached in anneal(legs, settings) if reached.counts][-1]
    assert isinstance(last.leg.posterior, LearnedPosterior)
    ratio = last.walkers.log_normalizer.exp()
    z = float((ratio.mean() - 1) / (ratio.std() / math.sqrt(len(ratio))))
    assert abs(z) < norm.isf(FALSE_ALARM / 2)


def test_the_mixture_is_normalised():
    """`E_q[p / q] = 1` for the first base `p`: it never exceeds 1 / ε."""
    posterior = learned()
    walkers = posterior.draw(20_000, seed=0, purpose="test")
    mixture, _ = posterior.terms(walkers)
    first, _ = posterior.posterior.terms(walkers)
    ratio = (mixture - first).exp()
    assert float(ratio.max()) <= 1 / FIRST_SHARE * (1 + 1e-9)
    z = float((ratio.mean() - 1) / (ratio.std() / math.sqrt(len(ratio))))
    assert abs(z) < norm.isf(FALSE_ALARM / 2)


def test_the_gaussian_is_as_narrow_as_a_slanted_scout():
    """Its widened covariance, in the coordinates that whiten the law's: all near 1.5."""
    covariance = slanted()
    scout = gaussian_cloud(covariance, noise(1000, 50))
    lower = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), _fit(scout).lower, upper=False
    )
    values = torch.linalg.svdvals(lower).square()
    assert 0.7 < float(values.min()) < float(values.max()) < 3


def test_draws_are_reproducible_and_follow_the_scout():
    posterior = learned()
    one = posterior.draw(4000, seed=1, purpose="a")
    assert torch.equal(one, posterior.draw(4000, seed=1, purpose="a"))
    assert not torch.equal(one, posterior.draw(4000, seed=1, purpose="b"))
    assert one.median(0).values.tolist() == pytest.approx([5.0, 5.0], abs=0.5)


def test_time_that_runs_out_while_scouting_leaves_the_first_path():
    settings = Settings(num_walkers=64, num_chains=1)
    legs, settings = prepare(gaussian_target(6), (), {}, settings)
    reached = list(anneal(legs, settings, limit=TimeLimit(1e-9)))
    assert [r.counts for r in reached][:2] == [False, True]
    assert isinstance(reached[-1].leg.posterior, TorchPosterior)


def gaussian_target(size, precision=400.0):
    """A narrow Gaussian under a wide one, normalised: `Z = 1`."""
    wide = -size / 2 * math.log(2 * math.pi)

    def log_prior(x):
        return wide - x.square().sum(1) / 2

    def log_likelihood(x):
        narrow = size / 2 * math.log(precision) + wide
        return narrow - precision * (x - 1).square().sum(1) / 2 - log_prior(x)

    def draw(num, generator):
        return torch.randn(num, size, dtype=torch.float64, generator=generator)

    return pj.Target(log_prior, log_likelihood, draw)


def learned():
    """A posterior whose scout is at 5, four standard deviations from the first base."""
    posterior = TorchPosterior(gaussian_target(2))
    position = 5 + torch.randn(500, 2, dtype=torch.float64, generator=stream(0, "scout"))
    scout = init(position, lambda x: x.square().sum(1))
    return LearnedPosterior(posterior, scout)
