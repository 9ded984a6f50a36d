"""Models of Pyro's tutorials, on simulated data of the same shape."""

from functools import partial
from typing import Any

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.forecast import ForecastingModel
from pyro.infer import config_enumerate
from pyro.infer.reparam import DiscreteCosineReparam, LocScaleReparam, StableReparam
from pyro.nn import PyroModule, PyroSample
from pyro.ops.indexing import Vindex
from pyro.ops.tensor_utils import periodic_features
from pyro_example import Example
from torch import Tensor, nn

# --- forecasting_i


class Trend(ForecastingModel):
    """A line and a seasonal wave."""

    def model(self, zero_data: Tensor, covariates: Tensor) -> None:
        self.predict(*self.prediction(zero_data, covariates))

    def prediction(self, zero_data: Tensor, covariates: Tensor) -> tuple[Any, Tensor]:
        size = covariates.size(-1)
        law = dist.Normal(0, 10).expand([zero_data.size(-1)]).to_event(1)
        bias = pyro.sample("bias", law)
        weight = pyro.sample("weight", dist.Normal(0, 0.1).expand([size]).to_event(1))
        line = bias + (weight * covariates).sum(-1, keepdim=True)
        noise = pyro.sample("noise", dist.LogNormal(-5, 5).expand([1]).to_event(1))
        return dist.Normal(0, noise), line


class LocalLevel(Trend):
    """A seasonal wave and a random walk."""

    def model(self, zero_data: Tensor, covariates: Tensor) -> None:
        law = dist.LogNormal(-20, 5).expand([1]).to_event(1)
        scale = pyro.sample("drift_scale", law)
        with self.time_plate, poutine.reparam(config={"drift": LocScaleReparam()}):
            drift = pyro.sample("drift", dist.Normal(zero_data, scale).to_event(1))
        noise, line = self.prediction(zero_data, covariates)
        self.predict(noise, drift.cumsum(-2) + line)


def rides(model: Any) -> tuple[Any, tuple]:
    length = 60
    covariates = periodic_features(length, 52, 27)
    wave = 0.1 * covariates.sum(-1, keepdim=True)
    walk = 0.02 * torch.randn(length, 1).cumsum(0)
    return model(), (14 + wave + walk + 0.05 * torch.randn(length, 1), covariates)


# --- bayesian_regression, and a network of one hidden layer


class Regression(PyroModule):
    """Linear regression."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](size, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, size]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)
        return mean


def countries() -> tuple[Any, tuple]:
    africa, rugged = torch.bernoulli(torch.full((170,), 0.3)), 2 * torch.rand(170)
    x = torch.stack([africa, rugged, africa * rugged], 1)
    y = 9.2 + x @ torch.tensor([-1.9, -0.2, 0.3]) + torch.randn(170)
    return Regression(3), (x, y)


class Network(PyroModule):
    """One hidden layer of five units."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = PyroModule[nn.Sequential](
            PyroModule[nn.Linear](1, 5), nn.Tanh(), PyroModule[nn.Linear](5, 1)
        )
        for layer in (self.layers[0], self.layers[2]):
            law = dist.Normal(0.0, 1.0).expand(layer.weight.shape).to_event(2)
            layer.weight = PyroSample(law)
            layer.bias = PyroSample(
                dist.Normal(0.0, 1.0).expand(layer.bias.shape).to_event(1)
            )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean = self.layers(x[:, None]).squeeze(-1)
        sigma = pyro.sample("sigma", dist.Gamma(0.5, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, sigma * sigma), obs=y)
        return mean


def wave() -> tuple[Any, tuple]:
    x = torch.cat([torch.linspace(-2, -0.5, 20), torch.linspace(0.5, 2, 20)])
    return Network(), (x, torch.cos(2 * x) + 0.1 * torch.randn(40))


# --- gp


def gp_regression() -> tuple[Any, tuple]:
    x = torch.linspace(0, 5, 20)
    y = 0.5 * torch.sin(3 * x) + 0.2 * torch.randn(20)
    kernel = gp.kernels.RBF(input_dim=1)
    kernel.variance = PyroSample(dist.LogNormal(0.0, 1.0))
    kernel.lengthscale = PyroSample(dist.LogNormal(0.0, 1.0))
    return gp.models.GPRegression(x, y, kernel, noise=torch.tensor(0.04)).model, ()


def gp_classification() -> tuple[Any, tuple]:
    x = torch.linspace(0, 5, 20)
    y = (torch.sin(3 * x) > 0).float()
    kernel = gp.kernels.RBF(input_dim=1)
    likelihood = gp.likelihoods.Binary()
    process = gp.models.VariationalGP(x, y, kernel, likelihood, whiten=True, jitter=1e-4)
    return process.model, ()


# --- gmm, dirichlet_process_mixture, enumeration


@config_enumerate
def gaussian_mixture(data: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        which = pyro.sample("which", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(locs[which], scale), obs=data)


def _stick_breaking(beta: Tensor) -> Tensor:
    rest = (1 - beta).cumprod(-1)
    one = torch.ones_like(rest[..., :1])
    return torch.cat([beta, one], -1) * torch.cat([one, rest], -1)


@config_enumerate
def dp_gaussian(data: Tensor, size: int, alpha: float) -> None:
    with pyro.plate("sticks", size - 1):
        beta = pyro.sample("beta", dist.Beta(1.0, alpha))
    with pyro.plate("components", size):
        law = dist.MultivariateNormal(torch.zeros(2), 5 * torch.eye(2))
        mu = pyro.sample("mu", law)
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Categorical(_stick_breaking(beta)))
        pyro.sample("y", dist.MultivariateNormal(mu[z], torch.eye(2)), obs=data)


def four_clusters() -> tuple[Any, tuple]:
    centres = torch.tensor([[-8.0, -8.0], [8.0, 8.0], [1.5, 2.0], [-0.5, 1.0]])
    data = centres.repeat_interleave(50, 0) + torch.randn(200, 2)
    return dp_gaussian, (data, 6, 0.1)


@config_enumerate
def dp_poisson(counts: Tensor, size: int, alpha: float) -> None:
    with pyro.plate("sticks", size - 1):
        beta = pyro.sample("beta", dist.Beta(1.0, alpha))
    with pyro.plate("components", size):
        rate = pyro.sample("rate", dist.Gamma(3.0, 0.05))
    with pyro.plate("data", len(counts)):
        z = pyro.sample("z", dist.Categorical(_stick_breaking(beta)))
        pyro.sample("y", dist.Poisson(rate[z]), obs=counts)


def sunspots() -> tuple[Any, tuple]:
    rates = torch.tensor([10.0, 60.0, 130.0])
    return dp_poisson, (torch.poisson(rates.repeat_interleave(50)), 8, 1.1)


@config_enumerate
def crossed_plates(data: Tensor) -> None:
    features = pyro.plate("features", 4, dim=-2)
    with features, pyro.plate("components", 4, dim=-1):
        p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", data.shape[1], dim=-1):
        c = pyro.sample("c", dist.Categorical(torch.ones(4)))
        with features as index:
            law = dist.Categorical(Vindex(p)[index[..., None], c, :])
            pyro.sample("x", law, obs=data)


# --- stable


def stable_volatility(returns: Tensor) -> None:
    h0 = pyro.sample("h0", dist.Normal(0, 1)).unsqueeze(-1)
    sigma = pyro.sample("sigma", dist.LogNormal(0, 1)).unsqueeze(-1)
    v = pyro.sample("v", dist.Normal(0, 1).expand(returns.shape).to_event(1))
    scale = ((h0 + sigma * v.cumsum(-1)) / 2).exp().clamp(min=1e-8, max=1e8)
    loc = pyro.sample("loc", dist.Normal(0, 1e-2)).unsqueeze(-1)
    skew = pyro.sample("skew", dist.Uniform(-1, 1)).unsqueeze(-1)
    stability = pyro.sample("stability", dist.Uniform(0, 2)).unsqueeze(-1)
    law = dist.Stable(stability, skew, scale, loc * scale).to_event(1)
    pyro.sample("r", law, obs=returns)


def returns(reparam: dict[str, Any]) -> tuple[Any, tuple]:
    scale = (0.1 * torch.randn(60).cumsum(0)).exp()
    data = dist.Stable(1.8, 0.0, 1.0).sample((60,)) * scale
    return poutine.reparam(stable_volatility, reparam), (data,)


# --- logistic-growth, working_memory, boosting_bbvi, and short models of the guides


def logistic_growth(counts: Tensor) -> None:
    times, lineages = counts.shape
    with pyro.plate("lineages", lineages, dim=-1):
        rate = pyro.sample("rate", dist.Normal(0, 1))
        start = pyro.sample("start", dist.Normal(0, 1))
    time = torch.arange(float(times)) * 14 / 5.5
    probs = torch.softmax(start + rate * time[:, None], -1).unsqueeze(-2)
    with pyro.plate("time", times, dim=-2):
        law = dist.Multinomial(probs=probs, validate_args=False)
        pyro.sample("counts", law, obs=counts.unsqueeze(-2))


def lineages() -> tuple[Any, tuple]:
    time = torch.arange(20.0) * 14 / 5.5
    share = torch.sigmoid(0.4 * time - 8)
    second = dist.Binomial(100.0, share).sample()
    return logistic_growth, (torch.stack([100 - second, second], 1),)


def regional_growth(counts: Tensor) -> None:
    times, regions, lineages = counts.shape
    plate = pyro.plate("lineages", lineages, dim=-1)
    places = pyro.plate("regions", regions, dim=-2)
    rate_scale = pyro.sample("rate_scale", dist.LogNormal(-4, 2))
    start_scale = pyro.sample("start_scale", dist.LogNormal(0, 2))
    with plate:
        rate_loc = pyro.sample("rate_loc", dist.Normal(0, 1))
    with places, plate:
        rate = pyro.sample("rate", dist.Normal(rate_loc, rate_scale))
        start = pyro.sample("start", dist.Normal(0, start_scale))
    time = torch.arange(float(times)) * 14 / 5.5
    logits = (start + rate * time[:, None, None]).unsqueeze(-2)
    with pyro.plate("time", times, dim=-3), places:
        law = dist.Multinomial(logits=logits, validate_args=False)
        pyro.sample("counts", law, obs=counts.unsqueeze(-2))


def regions() -> tuple[Any, tuple]:
    time = torch.arange(20.0)[:, None] * 14 / 5.5
    share = torch.sigmoid(0.4 * time - 8 + torch.randn(8))
    second = dist.Binomial(100.0, share).sample()
    return regional_growth, (torch.stack([100 - second, second], -1),)


def working_memory(lengths: Tensor, remembered: Tensor) -> None:
    theta = pyro.sample("theta", dist.Normal(7.0, 2.0)).unsqueeze(-1)
    law = dist.Bernoulli(logits=theta - lengths).to_event(1)
    pyro.sample("y", law, obs=remembered)


def two_roots(data: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(data)):
        pyro.sample("x", dist.Normal(z * z, 0.1), obs=data)


def missing_data(y: Tensor, observed: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=observed)


def with_parameter(y: Tensor) -> None:
    scale = pyro.param("scale", torch.tensor(1.5), constraint=dist.constraints.positive)
    rate = pyro.sample("rate", dist.Gamma(2.0, scale))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Gamma(2.0, rate), obs=y)


def horseshoe(x: Tensor, y: Tensor) -> None:
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("features", x.shape[1]):
        scale = pyro.sample("lambda", dist.HalfCauchy(1.0))
        beta = pyro.sample("beta", dist.Normal(0.0, 1.0)) * scale * tau
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def sparse_signal() -> tuple[Any, tuple]:
    x = torch.randn(60, 20)
    return horseshoe, (x, 2 * x[:, 0] - 1.5 * x[:, 1] + torch.randn(60) / 2)


def pyro_tutorials() -> list[Example]:
    """Return the models of the tutorials."""
    cosine, both = {"v": DiscreteCosineReparam()}, {"r": StableReparam()}
    both = both | cosine
    remembered = (torch.tensor([5.0, 7.0, 9.0]), torch.tensor([1.0, 1.0, 0.0]))
    categories = partial(torch.randint, 3)
    return [
        Example("forecasting, trend", partial(rides, Trend)),
        Example(
            "forecasting, local level", partial(rides, LocalLevel), log_evidence=62.525
        ),
        Example("bayesian regression", countries),
        Example("bayesian network", wave),
        Example("gp regression", gp_regression),
        Example("gp classification", gp_classification, refusal="random numbers"),
        Example("gmm", lambda: (gaussian_mixture, (torch.tensor([0.0, 1, 10, 11, 12]),))),
        Example("dirichlet process", four_clusters),
        Example("dirichlet process, counts", sunspots),
        Example("enumeration", lambda: (crossed_plates, (categories((4, 6)),))),
        Example("stable", partial(returns, {})),
        Example("stable, cosine", partial(returns, cosine)),
        Example("stable, both", partial(returns, both)),
        Example("logistic growth", lineages),
        Example("logistic growth, regions", regions),
        Example("working memory", lambda: (working_memory, remembered)),
        Example("two roots", lambda: (two_roots, (4 + 0.1 * torch.randn(100),))),
        Example(
            "missing data",
            lambda: (missing_data, (1 + torch.randn(10), torch.arange(10) > 1)),
        ),
        Example(
            "parameter", lambda: (with_parameter, (dist.Gamma(2.0, 3.0).sample((50,)),))
        ),
        Example("horseshoe", sparse_signal),
    ]
