"""A small trained energy, and a density of the same data beside it."""

from functools import cache
from typing import Any

import pyro
import pyro.distributions as dist
import torch

from pyro_jarzynski import JarzynskiLearner
from pyro_jarzynski.diagnostics.inference_data import Group, build
from tests.diagnostics.trees import dataset
from tests.ebm.models import mixture_data, mixture_learner, start_mixture
from tests.export.exports import FLOAT, run
from tests.export.known_likelihoods import normal

TRAIN, HELD_OUT = mixture_data(300, 2), mixture_data(60, 2, seed=1)
WALKERS, AUDIT = 256, 200


@cache
def trained() -> JarzynskiLearner:
    learner = mixture_learner(
        model=start_mixture(2),
        learning_rate=0.3,
        num_walkers=WALKERS,
        audit_walkers=AUDIT,
    )
    learner.fit(TRAIN, 60, batch_size=None)
    assert isinstance(learner, JarzynskiLearner)
    return learner


@cache
def tree_of_energy() -> Any:
    return trained().to_arviz(data=HELD_OUT)


def gaussian(x):
    zero = torch.zeros((), dtype=FLOAT)
    mean = pyro.sample("mean", dist.Normal(zero, 5.0).expand([2]).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(zero + 5).expand([2]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)


@cache
def tree_of_gaussian() -> Any:
    """A Gaussian fitted to the same data, with the likelihood of the same others."""
    posterior = dataset(run(gaussian, TRAIN).to_arviz(log_likelihood=False))
    draws = {n: torch.tensor(v.to_numpy())[:, :, None] for n, v in posterior.items()}
    rows = normal((HELD_OUT - draws["mean"]) / draws["scale"], 0.0, 1.0)
    rows = (rows - draws["scale"].log()).sum(-1)
    return build(
        {
            "posterior": Group({n: v.to_numpy() for n, v in posterior.items()}),
            "log_likelihood": Group({"x": rows.numpy()}, dims={"x": ["datum"]}),
        }
    )
