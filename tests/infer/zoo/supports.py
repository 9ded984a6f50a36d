"""Supports of latents, and effects on log-densities."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

from tests.infer.zoo.case import COUNT, KIND, TWO_HUMPS, X, Y, case

# Supports.


@case(KIND)
def simplex(kind):
    share = pyro.sample("share", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    with pyro.plate("data", len(kind)):
        pyro.sample("kind", dist.Categorical(share), obs=kind)


@case(COUNT)
def positive_half_lines(count):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    late = pyro.sample("late", dist.InverseGamma(3.0, 2.0))
    tail = pyro.sample("tail", dist.Exponential(1.0))
    wide = pyro.sample("wide", dist.Weibull(1.0, 2.0))
    with pyro.plate("data", len(count)):
        pyro.sample("count", dist.Poisson(rate + late + tail + wide), obs=count)


@case(Y)
def half_distributions(y):
    normal = pyro.sample("normal", dist.HalfNormal(2.0))
    cauchy = pyro.sample("cauchy", dist.HalfCauchy(1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.StudentT(4.0, 0.0, normal + cauchy), obs=y)


@case(COUNT)
def intervals(count):
    chance = pyro.sample("chance", dist.Beta(2.0, 2.0))
    where = pyro.sample("where", dist.Uniform(-1.0, 3.0))
    tail = pyro.sample("tail", dist.Pareto(1.0, 3.0))
    with pyro.plate("data", len(count)):
        logits = where + torch.logit(chance) - tail
        pyro.sample("count", dist.Binomial(8, logits=logits), obs=count)


@case(X)
def correlations(y):
    corr = pyro.sample("corr", dist.LKJCholesky(3, 2.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0).expand([3]).to_event(1))
    tril = scale.unsqueeze(-1) * corr
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(3), scale_tril=tril), obs=y)


@case(TWO_HUMPS)
def ordered_means(y):
    normal = dist.Normal(torch.zeros(2), 2.0).to_event(1)
    ordered = dist.transforms.OrderedTransform()
    mean = pyro.sample("mean", dist.TransformedDistribution(normal, ordered))
    with pyro.plate("data", len(y)):
        halves = dist.Categorical(torch.tensor([0.5, 0.5]))
        mixture = dist.MixtureSameFamily(halves, dist.Normal(mean, torch.ones(2)))
        pyro.sample("y", mixture, obs=y)


@case(Y, no_potential="to Pyro the angle lies on the whole line, where it has no law")
def angles(y):
    angle = pyro.sample("angle", dist.VonMises(0.0, 12.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.VonMises(angle, 2.0), obs=y.sin())


@case(Y)
def heavy_tails(y):
    centre = pyro.sample("centre", dist.Cauchy(0.0, 1.0))
    shape = pyro.sample("shape", dist.StudentT(3.0, 0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Laplace(centre + shape, 1.0), obs=y)


FROZEN = "Pyro freezes the bijection of a support that depends on a latent"


@case(Y, no_potential=FROZEN)
def interval_up_to_a_latent(y):
    top = pyro.sample("top", dist.Gamma(4.0, 2.0))
    part = pyro.sample("part", dist.Uniform(0.0, top))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(part, 1.0), obs=y)


@case(Y, no_potential=FROZEN)
def pareto_above_a_latent(y):
    least = pyro.sample("least", dist.LogNormal(0.0, 0.3))
    with pyro.plate("groups", 3):
        size = pyro.sample("size", dist.Pareto(least, 3.0))
    pyro.sample("y", dist.Normal(size.sum(-1), 1.0).expand([len(y)]).to_event(1), obs=y)


# Effects on log-densities.


@case(Y)
def factor(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.factor("bend", -((m - 1) ** 2))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@case(Y)
def scaled_likelihood(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)), poutine.scale(scale=0.5):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@case(Y)
def scaled_latent(y):
    with poutine.scale(scale=0.5):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@case(Y)
def masked_data(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)), poutine.mask(mask=y > 0):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@case(Y, no_potential="Pyro leaves the imputed entries that were observed improper")
def partly_observed(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    seen = torch.arange(len(y)) % 3 > 0
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y, obs_mask=seen)


MASKED = "Pyro gives a masked latent no density, which leaves it improper"


@case(Y, no_potential=MASKED)
def masked_latent(y):
    m = pyro.sample("m", dist.Normal(0.0, 3.0).mask(False))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@case(Y, no_potential=MASKED)
def latents_and_data_under_a_mask(y):
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    with pyro.plate("data", len(y)), poutine.mask(mask=y > 0):
        m = pyro.sample("m", dist.LogNormal(0.0, spread))
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@case(Y)
def learnt_parameter(y):
    positive = dist.constraints.positive
    scale = pyro.param("zoo_scale", lambda: torch.tensor(1.5), constraint=positive)
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, scale), obs=y)


@case(Y)
def validates_its_arguments(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, s, validate_args=True), obs=y)
