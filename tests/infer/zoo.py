"""A zoo of small Pyro models, one for every way of writing that people have.

`ZOO` maps a name to a `Case`: the model, its arguments, and what is expected of it. All
data are arguments, so that a model can be run in another precision.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

# Walkers at which the tests look; two models have as many data or latents.
NUM_WALKERS = 17


class Case(NamedTuple):
    """A model and what is expected of it.

    Attributes:
        model: The model.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        method: How many walkers are evaluated at once.
        no_potential: Why Pyro's own potential is no reference; empty if it is one.
    """

    model: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    method: str
    no_potential: str


ZOO: dict[str, Case] = {}


def case(
    *args: Any, method: str = "vmap", no_potential: str = "", **kwargs: Any
) -> Callable[[Callable], Callable]:
    """Add a model with its arguments to the zoo."""

    def add(model: Callable) -> Callable:
        ZOO[model.__name__] = Case(model, args, kwargs, method, no_potential)
        return model

    return add


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Y = noise(12) + 0.5
LINE = noise(12, seed=1)
X = noise(12, 3, seed=2)
LABEL = (X.sum(1) > 0).float()
COUNT = torch.tensor([2.0, 0.0, 3.0, 5.0, 1.0, 2.0, 4.0, 1.0])
KIND = torch.tensor([0, 2, 1, 1, 0, 1, 2, 1, 0, 1, 1, 2])
GROUP = torch.arange(12) % 4
TWO_HUMPS = torch.cat([noise(6, seed=3) - 2, noise(6, seed=4) + 2])
PATH = torch.cat([noise(3, seed=5), noise(3, seed=6) + 2])
SCHOOLS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SCHOOLS_ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


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


@case(X, KIND, method="loop")
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


# Discrete latents, summed out.


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


@case(Y)
def masked_latent(y):
    """The latent has no density in the posterior, only at its start."""
    m = pyro.sample("m", dist.Normal(0.0, 3.0).mask(False))
    with pyro.plate("data", len(y)):
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
