"""What tests of many models share: small runs, and batches of walkers of the zoo."""

import warnings
from functools import cache

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_jarzynski import AnnealedSMC
from pyro_jarzynski.errors import SlowModelWarning
from pyro_jarzynski.infer.batching import Batched, batch
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import draw_prior
from tests.infer.zoo import NUM_WALKERS, ZOO, Case

# Relative to the largest number of a cloud: rounding of sums of some hundred terms, times
# the condition number of the worst covariance, about 1e3.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}

FEW = {"num_walkers": 64, "num_chains": 2, "progress": False}


def run(model, *args, **settings):
    return AnnealedSMC(model, **{**FEW, **settings}).run(*args)


def conjugate(y):
    m = pyro.sample("m", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def observe(mean, y):
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@cache
def analysed(name: str) -> tuple[PyroModel, Tensor]:
    """Return a model of the zoo, and walkers drawn from its prior."""
    model = PyroModel(*ZOO[name][:3])
    return model, draw_prior(model, NUM_WALKERS, seed=1, purpose="test")


def batched(model: PyroModel, walkers: Tensor) -> Batched:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowModelWarning)
        return batch(model, walkers)


def in_double(case: Case) -> Case:
    """Return a model with its data in double precision."""

    def cast(x: Tensor) -> Tensor:
        return x.double() if x.is_floating_point() else x

    kwargs = {name: cast(x) for name, x in case.kwargs.items()}
    return case._replace(args=tuple(map(cast, case.args)), kwargs=kwargs)


def with_gradients(densities, walkers: Tensor) -> tuple[Tensor, ...]:
    """Return log prior, log joint and the gradients of both."""
    point = walkers.clone().requires_grad_()
    prior, joint = densities(point)
    slopes = [
        torch.autograd.grad(x.sum(), point, retain_graph=True, materialize_grads=True)[0]
        for x in (prior, joint)
    ]
    return prior.detach(), joint.detach(), *slopes


def assert_close(found: Tensor, expected: Tensor, factor: float = 1.0) -> None:
    assert found.dtype == expected.dtype
    scale = 1 + float(expected.abs().max())
    limit = factor * TOLERANCE[expected.dtype] * scale
    torch.testing.assert_close(found, expected, rtol=0, atol=limit)
