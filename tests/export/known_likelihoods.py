"""Models of many styles, with the log-likelihood of each datum written out by hand.

Data come in the precision that is tested, and latents in that of the data.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from tests.infer.zoo import noise

Values = dict[str, Tensor]


class Known(NamedTuple):
    """A model, its data, and its log-likelihood by site at one draw of its latents."""

    model: Callable[..., Any]
    args: tuple[Tensor, ...]
    by_hand: Callable[..., Values]


KNOWN: dict[str, Known] = {}
NUM_DATA = 6
X, B, Y, W = noise(6, 3), noise(6, seed=1), noise(6, seed=2) + 0.5, noise(6, seed=3) - 1
GROUP = torch.tensor([0, 2, 1, 1, 0, 2])
COUNTS = torch.tensor([2.0, 0.0, 3.0, 1.0, 0.0, 4.0])


def known(*args: Tensor, by_hand: Callable[..., Values]) -> Callable[[Callable], Callable]:
    def add(model: Any) -> Any:
        KNOWN[getattr(model, "__name__", type(model).__name__)] = Known(
            model, args, by_hand
        )
        return model

    return add


def normal(y: Tensor, mean: Any, scale: Any) -> Tensor:
    scale = torch.as_tensor(scale, dtype=y.dtype)
    return -(((y - mean) / scale) ** 2) / 2 - scale.log() - math.log(2 * math.pi) / 2


def unit(y: Tensor) -> dist.Normal:
    return dist.Normal(y.new_zeros(()), 1.0)


@known(B, Y, by_hand=lambda v, x, y: {"y": normal(y, v["a"] + v["b"] * x, v["s"])})
def regression_in_a_plate(x, y):
    a, b = pyro.sample("a", unit(y)), pyro.sample("b", unit(y))
    s = pyro.sample("s", dist.HalfNormal(y.new_ones(())))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a + b * x, s), obs=y)


@known(X, Y, by_hand=lambda v, x, y: {"y": normal(y, (x * v["b"]).sum(1), 1.0)})
def matrix_product_in_a_plate(x, y):
    b = pyro.sample("b", unit(y).expand([3]).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ b, 1.0), obs=y)


@known(X, Y, by_hand=lambda v, x, y: {"y": normal(y, (x * v["b"]).sum(1), 1.0)})
def matrix_product_without_a_plate(x, y):
    b = pyro.sample("b", unit(y).expand([3]))
    pyro.sample("y", dist.Normal(x @ b, 1.0), obs=y)


@known(X, Y, by_hand=lambda v, x, y: {"y": normal(y, (x * v["b"]).sum(1), 1.0).sum()})
def one_event(x, y):
    b = pyro.sample("b", unit(y).expand([3]).to_event(1))
    pyro.sample("y", dist.Normal(x @ b, 1.0).to_event(1), obs=y)


@known(GROUP, Y, by_hand=lambda v, g, y: {"y": normal(y, v["a"][g], v["s"])})
def groups_by_index(group, y):
    s = pyro.sample("s", dist.LogNormal(y.new_zeros(()), 0.5))
    with pyro.plate("groups", 3):
        a = pyro.sample("a", dist.Normal(y.new_zeros(()), s))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a[group], s), obs=y)


@known(X, by_hand=lambda v, y: {"y": normal(y, v["m"], 2.0).sum(-1)})
def multivariate_data(y):
    m = pyro.sample("m", unit(y).expand([3]).to_event(1))
    with pyro.plate("data", len(y)):
        cov = 4 * torch.eye(3, dtype=y.dtype)
        pyro.sample("y", dist.MultivariateNormal(m, covariance_matrix=cov), obs=y)


@known(X, by_hand=lambda v, y: {"y": normal(y, v["row"] + v["column"], 0.5)})
def nested_plates(y):
    with pyro.plate("columns", y.shape[1], dim=-1):
        column = pyro.sample("column", unit(y))
    with pyro.plate("rows", y.shape[0], dim=-2):
        row = pyro.sample("row", unit(y))
        with pyro.plate("columns_again", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(row + column, 0.5), obs=y)


def poisson(k: Tensor, rate: Tensor) -> Tensor:
    return k * rate.log() - rate - torch.lgamma(k + 1)


@known(
    Y,
    COUNTS,
    by_hand=lambda v, y, k: {
        "y": normal(y, v["m"], 1.0),
        "k": poisson(k, v["m"].exp()),
    },
)
def two_observed_sites(y, counts):
    m = pyro.sample("m", unit(y))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)
        pyro.sample("k", dist.Poisson(m.exp()), obs=counts)


def _partly(v: Values, y: Tensor) -> Values:
    return {"y_observed": normal(y, v["m"], 1.0) * (y > 0)}


@known(Y, by_hand=_partly)
def partly_observed(y):
    m = pyro.sample("m", unit(y))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y, obs_mask=y > 0)


@known(Y, by_hand=lambda v, y: {"y": normal(y, v["m"], 1.0) * (y > 0)})
def masked_data(y):
    m = pyro.sample("m", unit(y))
    with pyro.plate("data", len(y)), poutine.mask(mask=y > 0):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@known(Y, by_hand=lambda v, y: {"y": normal(y, v["m"], 1.0) * 0.25})
def scaled_data(y):
    m = pyro.sample("m", unit(y))
    with pyro.plate("data", len(y)), poutine.scale(scale=0.25):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@known(Y, by_hand=lambda v, y: {"y": normal(y, v["m"] ** 2, 1.0)})
def deterministic_and_factor(y):
    m = pyro.sample("m", unit(y))
    pyro.factor("bend", -(m**4))
    with pyro.plate("data", len(y)):
        square = pyro.deterministic("square", m**2)
        pyro.factor("each", -m.expand(len(y)))
        pyro.sample("y", dist.Normal(square, 1.0), obs=y)


@known(Y, by_hand=lambda v, y: {"y": normal(y, v["m"], 1.0 if v["m"] > 0 else 2.0)})
def branch_on_a_latent(y):
    m = pyro.sample("m", unit(y))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0 if m > 0 else 2.0), obs=y)


@known(
    Y, by_hand=lambda v, y: {f"y_{i}": normal(y[i], v["m"], 1.0) for i in range(NUM_DATA)}
)
def sites_in_a_loop(y):
    m = pyro.sample("m", unit(y))
    for i in pyro.plate("data", len(y)):
        pyro.sample(f"y_{i}", dist.Normal(m, 1.0), obs=y[i])


class Network(PyroModule):
    """A Bayesian network of one hidden layer."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            self.first = PyroModule[nn.Linear](3, 4, bias=False)
            self.last = PyroModule[nn.Linear](4, 1, bias=False)

    def forward(self, x, y):
        # Priors in the precision of the data.
        self.first.weight = PyroSample(unit(y).expand([4, 3]).to_event(2))
        self.last.weight = PyroSample(unit(y).expand([1, 4]).to_event(2))
        mean = self.last(torch.tanh(self.first(x))).squeeze(-1)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def _network(v: Values, x: Tensor, y: Tensor) -> Values:
    hidden = torch.tanh(torch.einsum("ij,nj->ni", v["first.weight"], x))
    return {"y": normal(y, torch.einsum("ki,ni->n", v["last.weight"], hidden), 0.5)}


known(X, Y, by_hand=_network)(Network())
