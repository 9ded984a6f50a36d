"""Small inference runs of which pictures and reports are made."""

import math
import warnings
from functools import cache

import pyro
import pyro.distributions as dist
import torch

from pyro_jarzynski import AnnealedSMC, DataTempering, SMCResult, Target
from pyro_jarzynski.errors import EvidenceWarning
from tests.scenarios import FLOAT

ZERO = torch.zeros((), dtype=FLOAT)
DATA = torch.tensor([1.2, 0.3, 2.1, 0.8, 1.7, 1.1, 0.2, 1.9], dtype=FLOAT)
MASSES = (0.25, 0.75)
SIZE, ISLANDS = 64, 2


def two_modes():
    """Masses ¼ and ¾ at (-4, -4) and (4, 4), normalised, from a wide Gaussian."""
    prior = dist.Normal(ZERO, 5.0)

    def log_prior(x):
        return prior.log_prob(x).sum(1)

    def log_likelihood(x):
        left, right = (
            math.log(mass) - (x - place).square().sum(1) / 2
            for mass, place in zip(MASSES, (-4, 4), strict=True)
        )
        return torch.logaddexp(left, right) - math.log(2 * math.pi) - log_prior(x)

    def draw(num, generator):
        return 5 * torch.randn(num, 2, dtype=FLOAT, generator=generator)

    return Target(log_prior, log_likelihood, draw)


def mean_of_normal(data):
    x = pyro.sample("x", dist.Normal(ZERO, 1.0))
    with pyro.plate("data", len(data)):
        pyro.sample("y", dist.Normal(x, 1.0), obs=data)


def without_latents(data):
    with pyro.plate("data", len(data)):
        pyro.sample("y", dist.Normal(ZERO, 1.0), obs=data)


def annealed(model, *args, **settings) -> SMCResult:
    """Run with few walkers; that these are doubted, or none, is not the point."""
    usual = {"num_walkers": SIZE, "num_chains": ISLANDS, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EvidenceWarning)
        warnings.filterwarnings("ignore", "The model has no latents")
        return AnnealedSMC(model, **{**usual, **settings}).run(*args)


@cache
def mixture_run(**settings) -> SMCResult:
    return annealed(two_modes(), **{"learn_base": False, **settings})


@cache
def stream_run() -> SMCResult:
    return annealed(mean_of_normal, DATA, schedule=DataTempering([2, 4, 8]))


@cache
def partial_run() -> SMCResult:
    return annealed(two_modes(), learn_base=False, max_seconds=1e-6)


@cache
def exact_run() -> SMCResult:
    return annealed(without_latents, DATA)
