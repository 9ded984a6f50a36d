"""Models that tests of the export share, each run once."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_jarzynski import AnnealedSMC, SMCResult
from pyro_jarzynski.errors import EvidenceWarning
from tests.infer.zoo import noise
from tests.infer.zoo.case import SCHOOLS, SCHOOLS_ERROR

CHAINS, WALKERS = 2, 128
FLOAT = torch.float64
NAMES = list("ABCDEFGH")


class Export(NamedTuple):
    """A model, its data, and what is asked of `to_arviz`."""

    model: Callable[..., Any]
    args: tuple[Tensor, ...]
    options: dict[str, Any]


def eight_schools(y, error):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * z)
        pyro.sample("y", dist.Normal(theta, error), obs=y)


def regression(x, group, y):
    """A hierarchy with a group of each datum, and a vector of coefficients."""
    zero = x.new_zeros(())
    spread = pyro.sample("spread", dist.HalfNormal(zero + 1))
    slope = pyro.sample("slope", dist.Normal(zero, 1.0).expand([2]).to_event(1))
    with pyro.plate("groups", 3):
        a = pyro.sample("a", dist.Normal(zero, spread))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a[group] + x @ slope, 1.0), obs=y)


def mixture(y):
    share = pyro.sample("share", dist.Dirichlet(y.new_ones(2) * 2))
    with pyro.plate("components", 2):
        mean = pyro.sample("mean", dist.Normal(y.new_zeros(()), 3.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(share))
        centre = pyro.deterministic("centre", mean[z])
        pyro.sample("y", dist.Normal(centre, 1.0), obs=y)


def pooled(y, error):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("school", len(y)):
        pyro.sample("y", dist.Normal(mu, error), obs=y)


def one_line(x, group, y):
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(()), 1.0).expand([2]).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ slope, 1.0), obs=y)


def one_hump(y):
    m = pyro.sample("m", dist.Normal(y.new_zeros(()), 3.0))
    s = pyro.sample("s", dist.HalfNormal(y.new_ones(()) * 3))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, s), obs=y)


OTHERS = {"eight_schools": pooled, "regression": one_line, "mixture": one_hump}
GROUP = torch.arange(12) % 3
X = noise(12, 2, seed=11).double()
Y = (X @ torch.tensor([1.0, -0.5]).double()) + GROUP + noise(12, seed=12)
HUMPS = torch.cat([noise(5, seed=3) - 2, noise(5, seed=4) + 2]).double()

EXPORTS = {
    "eight_schools": Export(
        eight_schools, (SCHOOLS, SCHOOLS_ERROR), {"coords": {"school": NAMES}}
    ),
    "regression": Export(
        regression,
        (X, GROUP, Y),
        {"dims": {"slope": ["feature"]}, "coords": {"feature": ["dose", "age"]}},
    ),
    "mixture": Export(mixture, (HUMPS,), {}),
}


def run(model: Any, *args: Any, **settings: Any) -> SMCResult:
    """Run a small cloud, of which one need not be told that it is small."""
    small = {"num_walkers": WALKERS, "num_chains": CHAINS, "seed": 1, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EvidenceWarning)
        return AnnealedSMC(model, **{**small, **settings}).run(*args)


@cache
def result_of(name: str) -> SMCResult:
    return run(EXPORTS[name].model, *EXPORTS[name].args)


@cache
def tree_of(name: str) -> Any:
    predictions = {"posterior_predictive": True, "prior_predictive": True}
    return result_of(name).to_arviz(**EXPORTS[name].options, **predictions)
