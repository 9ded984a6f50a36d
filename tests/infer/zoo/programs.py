"""Networks, processes and time, and programs that are hard to batch."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import nn

from tests.infer.zoo.case import (
    GROUP,
    LINE,
    NUM_WALKERS,
    PATH,
    ZOO,
    Case,
    X,
    Y,
    case,
    noise,
)

# Networks, processes and time.


class BayesianNetwork(PyroModule):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            self.first = PyroModule[nn.Linear](3, 4)
            self.last = PyroModule[nn.Linear](4, 1, bias=False)
        self.first.weight = PyroSample(lambda _: unit_normal(4, 3))
        self.first.bias = PyroSample(lambda _: unit_normal(4))
        self.last.weight = PyroSample(lambda _: unit_normal(1, 4))

    def forward(self, x, y):
        mean = self.last(torch.tanh(self.first(x))).squeeze(-1)
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, scale), obs=y)


def unit_normal(*shape: int) -> dist.TorchDistribution:
    return dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))


ZOO["bayesian_network"] = Case(BayesianNetwork(), (X, Y), {}, "vmap", "")


@case(LINE, Y)
def gaussian_process(x, y):
    length = pyro.sample("length", dist.LogNormal(0.0, 0.5))
    noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
    distance = (x[:, None] - x) / length
    cov = (-(distance**2) / 2).exp() + (noise**2 + 1e-2) * torch.eye(len(x))
    law = dist.MultivariateNormal(torch.zeros(len(x)), covariance_matrix=cov)
    pyro.sample("y", law, obs=y)


@case(X)
def multivariate_normal_latent(y):
    cov = torch.eye(3) + 0.5
    mean = pyro.sample("mean", dist.MultivariateNormal(torch.zeros(3), cov))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MultivariateNormal(mean, torch.eye(3)), obs=y)


@case(Y)
def gaussian_hmm(y):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    start = dist.Normal(0.0, 1.0).expand([1]).to_event(1)
    step = dist.Normal(0.0, scale).expand([1]).to_event(1)
    eye = torch.eye(1)
    law = dist.GaussianHMM(start, eye, step, eye, start, duration=len(y))
    pyro.sample("y", law, obs=y[:, None])


@case(Y)
def differential_equation(y):
    rate = pyro.sample("rate", dist.LogNormal(0.0, 0.5))
    state, path = torch.tensor(1.0), []
    for _ in range(len(y)):
        state = state - 0.1 * rate * state
        path.append(state)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(torch.stack(path), 0.5), obs=y)


@case(Y)
def stochastic_volatility(y):
    scale = pyro.sample("scale", dist.LogNormal(-1.0, 0.5))
    steps = dist.Normal(torch.zeros(len(y)), scale).to_event(1)
    log_variance = pyro.sample("steps", steps).cumsum(-1)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(0.0, (log_variance / 2).exp()), obs=y)


@case(PATH)
def autoregression_of_scalars(y):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    state = 0.0
    for t in range(len(y)):
        state = pyro.sample(f"state_{t}", dist.Normal(0.9 * state, scale))
        pyro.sample(f"y_{t}", dist.Normal(state, 1.0), obs=y[t])


# Programs that only one walker at a time, or only a plate, can run.


@case(Y, method="loop")
def branch_on_a_latent(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    scale = 1.0 if m > 0 else 2.0
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, scale), obs=y)


@case(Y, method="loop")
def writes_in_place(y):
    with pyro.plate("steps", len(y)):
        step = pyro.sample("step", dist.Normal(0.0, 1.0))
    state = torch.zeros(len(y))
    for t in range(1, len(y)):
        state[t] = 0.5 * state[t - 1] + step[t]
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(state, 1.0), obs=y)


class Cube(torch.autograd.Function):
    """A function for which `vmap` has no rule."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * grad * x**2


@case(Y, method="plate")
def function_without_vmap(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(Cube.apply(m), 1.0), obs=y)


@case(Y, GROUP, method="loop")
def function_without_vmap_and_a_mean(y, group):
    """Neither `vmap` nor a plate: shapes are right there, numbers are not."""
    with pyro.plate("groups", 4):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    a = Cube.apply(a - a.mean())
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a[..., group], 1.0), obs=y)


@case(noise(NUM_WALKERS, seed=7), method="loop")
def as_many_data_as_walkers(y):
    """In a plate, walkers and data would pair up one to one."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(Cube.apply(m), 1.0), obs=y)


@case(noise(NUM_WALKERS, seed=8))
def as_many_latents_as_walkers(y):
    m = pyro.sample("m", dist.Normal(torch.zeros(len(y)), torch.ones(len(y))))
    pyro.sample("y", dist.Normal(m, 1.0), obs=y)
