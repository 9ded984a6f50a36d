"""Discrete latents, summed out."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.ops.indexing import Vindex

from tests.infer.zoo.case import PATH, TWO_HUMPS, Y, case


@case(TWO_HUMPS)
def mixture_by_vindex(y):
    share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("components", 2):
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("y", dist.Normal(Vindex(mean)[..., z], Vindex(scale)[..., z]), obs=y)


@case(TWO_HUMPS)
def mixture_by_plain_index(y):
    share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("components", 2):
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("y", dist.Normal(mean[z], 1.0), obs=y)


@case(TWO_HUMPS)
def mixture_by_hand(y):
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0).expand([3]).to_event(1))
    with pyro.plate("data", len(y)):
        components = dist.Normal(mean, torch.ones(3))
        mixture = dist.MixtureSameFamily(dist.Categorical(share), components)
        pyro.sample("y", mixture, obs=y)


@case(TWO_HUMPS)
def outliers_by_bernoulli(y):
    rate = pyro.sample("rate", dist.Beta(1.0, 4.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", len(y)):
        odd = pyro.sample("odd", dist.Bernoulli(rate))
        pyro.sample("y", dist.Normal(0.0, torch.where(odd > 0, 5.0, scale)), obs=y)


@case(Y)
def two_enumerated_latents(y):
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    a = pyro.sample("a", dist.Bernoulli(0.3))
    with pyro.plate("data", len(y)):
        b = pyro.sample("b", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
        pyro.sample("y", dist.Normal(shift * b + a, 1.0), obs=y)


BELOW = "Pyro takes the shape of the continuous latent from an enumerated run"


@case(Y, no_potential=BELOW)
def continuous_below_enumerated(y):
    z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
    m = pyro.sample("m", dist.Normal(torch.tensor([-2.0, 2.0])[z], 0.5))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@case(Y, no_potential=BELOW)
def continuous_plate_below_enumerated(y):
    scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.4))
        m = pyro.sample("m", dist.Normal(2 * z, scale))
        pyro.sample("y", dist.Normal(m, 0.5), obs=y)


@case(PATH)
def markov_by_vindex(y):
    with pyro.plate("states", 2):
        step = pyro.sample("step", dist.Dirichlet(torch.ones(2)))
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    z = 0
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(Vindex(step)[..., z, :]))
        pyro.sample(f"y{t}", dist.Normal(Vindex(mean)[..., z], 1.0), obs=y[t])


@case(PATH)
def markov_by_plain_index(y):
    rows = dist.Dirichlet(torch.ones(2, 2)).to_event(1)
    step = pyro.sample("step", rows)
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    z = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(step[z]))
        pyro.sample(f"y{t}", dist.Normal(mean[z], 1.0), obs=y[t])


PADDED = "Pyro counts the values of a masked state: log 2 for each"


@case(PATH.reshape(2, 3), torch.tensor([3, 2]), no_potential=PADDED)
def padded_markov(y, length):
    """Sequences of several lengths, as Pyro's tutorial on hidden Markov models has them."""
    rows = dist.Dirichlet(torch.ones(2, 2)).to_event(1)
    step = pyro.sample("step", rows)
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with pyro.plate("sequences", len(y)):
        z = torch.tensor(0)
        for t in pyro.markov(range(y.shape[1])):
            with poutine.mask(mask=t < length):
                z = pyro.sample(f"z{t}", dist.Categorical(step[z]))
                pyro.sample(f"y{t}", dist.Normal(mean[z], 1.0), obs=y[:, t])
