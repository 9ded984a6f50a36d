"""Hierarchies, plates and regressions."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam

from tests.infer.zoo.case import (
    COUNT,
    GROUP,
    KIND,
    LABEL,
    LINE,
    SCHOOLS,
    SCHOOLS_ERROR,
    X,
    Y,
    case,
)

# Hierarchies and plates.


@case(SCHOOLS, SCHOOLS_ERROR)
def centred_hierarchy(y, error):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, error), obs=y)


@case(SCHOOLS, SCHOOLS_ERROR)
def non_centred_hierarchy(y, error):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * z)
        pyro.sample("y", dist.Normal(theta, error), obs=y)


@case(Y)
def hierarchy_by_reparam(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    config = {"theta": LocScaleReparam(0.0)}
    with pyro.plate("groups", len(y)), poutine.reparam(config=config):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


@case(X)
def nested_plates(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("columns", y.shape[1]):
        column = pyro.sample("column", dist.Normal(mu, 1.0))
        with pyro.plate("rows", y.shape[0]):
            cell = pyro.sample("cell", dist.Normal(column, 0.5))
            pyro.sample("y", dist.Normal(cell, 1.0), obs=y)


@case(X)
def crossed_plates(y):
    rows = pyro.plate("rows", y.shape[0], dim=-2)
    columns = pyro.plate("columns", y.shape[1], dim=-1)
    with rows:
        row = pyro.sample("row", dist.Normal(0.0, 1.0))
    with columns:
        column = pyro.sample("column", dist.Normal(0.0, 1.0))
    with rows, columns:
        pyro.sample("y", dist.Normal(row + column, 1.0), obs=y)


@case(X)
def sequential_plate(y):
    for j in pyro.plate("columns", y.shape[1]):
        mean = pyro.sample(f"mean_{j}", dist.Normal(0.0, 1.0))
        with pyro.plate(f"rows_{j}", len(y)):
            pyro.sample(f"y_{j}", dist.Normal(mean, 1.0), obs=y[:, j])


@case(Y, GROUP)
def groups_by_plain_index(y, group):
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    with pyro.plate("groups", 4):
        a = pyro.sample("a", dist.Normal(0.0, spread))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a[group], 1.0), obs=y)


@case(Y, GROUP)
def groups_by_last_index(y, group):
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    with pyro.plate("groups", 4):
        a = pyro.sample("a", dist.Normal(0.0, spread))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a[..., group], 1.0), obs=y)


@case(Y, GROUP)
def differences_from_the_mean(y, group):
    """Written for a plate of particles, the mean would be that of all walkers."""
    with pyro.plate("groups", 4):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    a = a - a.mean()
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a[..., group], 1.0), obs=y)


@case(Y, GROUP)
def softmax_of_a_plate(y, group):
    """Written for a plate of particles, the sum would be that of all walkers."""
    with pyro.plate("groups", 4):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    share = a.exp() / a.exp().sum()
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(share[..., group], 1.0), obs=y)


@case(Y)
def boolean_index(y):
    with pyro.plate("all", len(y)):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
    high = y > 0
    with pyro.plate("high", int(high.sum())):
        pyro.sample("y", dist.Normal(m[high], 1.0), obs=y[high])


# Regressions.


@case(X, LABEL)
def logistic_by_elements(x, label):
    b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with pyro.plate("data", len(label)):
        pyro.sample("label", dist.Bernoulli(logits=(x * b).sum(-1)), obs=label)


@case(X, LABEL)
def logistic_by_matrix(x, label):
    b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with pyro.plate("data", len(label)):
        pyro.sample("label", dist.Bernoulli(logits=x @ b), obs=label)


@case(X, LABEL)
def logistic_of_undeclared_batches(x, label):
    b = pyro.sample("b", dist.Normal(torch.zeros(3), torch.ones(3)))
    pyro.sample("label", dist.Bernoulli(logits=x @ b), obs=label)


@case(X, LABEL)
def logistic_of_events(x, label):
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 2.0).to_event(1))
    pyro.sample("label", dist.Bernoulli(logits=x @ b).to_event(1), obs=label)


@case(X, KIND)
def ordered_logistic(x, kind):
    """Pyro's distribution fills a tensor in place."""
    normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    ordered = dist.transforms.OrderedTransform()
    cut = pyro.sample("cut", dist.TransformedDistribution(normal, ordered))
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(kind)):
        pyro.sample("kind", dist.OrderedLogistic(x @ b, cut), obs=kind)


@case(x=LINE, y=Y)
def keywords_only(*, x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


@case(torch.empty(0))
def no_data(y):
    m = pyro.sample("m", dist.Normal(1.0, 2.0))
    pyro.sample("y", dist.Normal(m, 1.0).expand([len(y)]).to_event(1), obs=y)


@case(Y)
def conjugate_mean(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@case(COUNT)
def gamma_and_poisson(count):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(count)):
        pyro.sample("count", dist.Poisson(rate), obs=count)
