"""Supports, bijections and draws of our own are where the parameters are."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski.infer.batching import batch
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import draw_prior
from tests.distributions import ARRAYS, COUNT_ARRAYS, SCALARS, affine, mixture, n, v

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LATENTS = {
    name: entry.make
    for name, entry in {**SCALARS, **ARRAYS}.items()
    if name
    in {
        "GeneralizedPareto",
        "LKJ",
        "MaskedMixture",
        "SineBivariateVonMises",
        "TruncatedPolyaGamma",
        "Wishart",
    }
} | {
    "affine image": lambda: affine(dist.Beta(n(2.0), n(2.0)), n(1.0), n(-2.0)),
    "mixture of images": lambda: mixture(
        affine(dist.Exponential(n(1.0)), v(0.0, 2.0), v(1.0, 0.5))
    ),
}
# How far data are moved out of their supports.
DATA = {
    "CoalescentTimes": 7,
    "Dirichlet": 7,
    "OneTwoMatching": 7,
    "SpanningTree": 7,
    "Wishart": -99,
}


def densities(make, walkers):
    model = PyroModel(lambda: pyro.sample("x", make()), (), {})
    return batch(model, walkers).densities(walkers)


@pytest.mark.parametrize("name", LATENTS)
def test_latents(device, name):
    make = LATENTS[name]
    with device:
        model = PyroModel(lambda: pyro.sample("x", make()), (), {})
        walkers = draw_prior(model, 8, seed=0, purpose="test")
        found = densities(make, walkers)
    assert walkers.device == found[0].device == device
    for a, b in zip(found, densities(make, walkers.cpu()), strict=True):
        torch.testing.assert_close(a.cpu(), b)


@pytest.mark.parametrize("name", DATA)
def test_data(device, name):
    """At the last of two walkers they are outside of the support."""
    make = {**ARRAYS, **COUNT_ARRAYS}[name].make
    shift = torch.tensor([[0.0], [DATA[name]]])

    def model(y):
        t = pyro.sample("t", dist.Normal(n(0.0), n(5.0)))
        y = y + t.to(y.dtype) if y.is_floating_point() else y + t.long()
        pyro.sample("x", make(), obs=y)

    with torch.random.fork_rng(devices=[]):
        y = make().sample()
    with device:
        analysed = PyroModel(model, (y.to(device),), {})
        found = [analysed.log_densities(walker)[1] for walker in shift.to(device)]
    assert {x.device for x in found} == {device}
    assert [bool(torch.isfinite(x)) for x in found] == [True, False]
