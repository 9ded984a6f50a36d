"""Posteriors of posteriordb (stan-dev/posteriordb, BSD-3-Clause), as Pyro models.

They are written after their Stan programs, with normalised priors.
"""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from posterior_models import Case, Samples, load, tensor
from torch import Tensor
from torch.nn.functional import softplus


def _normal(scale: float, size: int) -> Any:
    return dist.Normal(0.0, scale).expand([size]).to_event(1)


def eight_schools_centered(y: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_noncentered(y: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    raw = pyro.sample("theta_trans", _normal(1.0, len(y)))
    theta = pyro.deterministic("theta", mu + tau * raw)
    pyro.sample("y", dist.Normal(theta, sigma).to_event(1), obs=y)


def autoregression(lagged: Tensor, y: Tensor) -> None:
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", _normal(10.0, lagged.shape[1]))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    pyro.sample("y", dist.Normal(alpha + lagged @ beta, sigma).to_event(1), obs=y)


def linear_regression(x: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", _normal(10.0, x.shape[1]))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    pyro.sample("y", dist.Normal(x @ beta, sigma).to_event(1), obs=y)


def mixture(y: Tensor) -> None:
    """Two components without an order: two label modes, each of mass 1/2."""
    mu = pyro.sample("mu", _normal(2.0, 2))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    # Both log-densities are quadratic in y: products of matrices, no arrays of terms.
    powers = torch.stack([y**2, y, torch.ones_like(y)], 1)
    constant = torch.stack([theta, 1 - theta]).log() - sigma.log()
    constant = constant - (mu / sigma) ** 2 / 2 - math.log(2 * math.pi) / 2
    weight = torch.stack([-0.5 / sigma**2, mu / sigma**2, constant])
    gap = powers @ (weight[:, 0] - weight[:, 1])
    pyro.factor("y", powers.sum(0) @ weight[:, 1] + softplus(gap).sum())


def ordered(samples: Samples) -> Samples:
    """Name the components of a mixture by the order of their means."""
    swap = samples["mu"][:, 0] > samples["mu"][:, 1]

    def sorted_pairs(pairs: Tensor) -> Tensor:
        return torch.where(swap[:, None], pairs.flip(1), pairs)

    theta = samples["theta"]
    return {
        "mu": sorted_pairs(samples["mu"]),
        "sigma": sorted_pairs(samples["sigma"]),
        "theta": torch.where(swap, 1 - theta, theta),
    }


def poisson_regression(year: Tensor, count: Tensor) -> None:
    alpha = pyro.sample("alpha", dist.Uniform(-20.0, 20.0))
    beta = [pyro.sample(f"beta{i}", dist.Uniform(-10.0, 10.0)) for i in (1, 2, 3)]
    log_rate = alpha + sum(b * year**i for i, b in enumerate(beta, 1))
    pyro.sample("C", dist.Poisson(log_rate.exp()).to_event(1), obs=count)


def gaussian_process(x: Tensor, y: Tensor) -> None:
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    distance = (x[:, None] - x) / rho
    # The jitter is for proposals of tiny sigma, whose matrix has no Cholesky factor.
    smooth = torch.exp(-(distance**2) / 2) + 1e-10 * torch.eye(len(x))
    # As in the Stan program, sigma is the variance of the noise.
    covariance = alpha**2 * smooth + sigma * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)


def rate(k: Tensor, n: int) -> None:
    theta = pyro.sample("theta", dist.Beta(1.0, 1.0))
    pyro.sample("k", dist.Binomial(n, theta), obs=k)


def logistic_regression(x: Tensor, y: Tensor) -> None:
    alpha = pyro.sample("alpha", dist.Normal(0.0, 5.0))
    beta = pyro.sample("beta", _normal(5.0, x.shape[1]))
    pyro.sample("y", dist.Bernoulli(logits=alpha + x @ beta).to_event(1), obs=y)


def arma(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    phi = pyro.sample("phi", dist.Normal(0.0, 2.0))
    theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    error = y - mu - phi * torch.cat([mu[None], y[:-1]])
    # error_t = residual_t - theta error_{t-1}, all at once by doubling the reach.
    factor, reach = -theta, 1
    while reach < len(y):
        error = error + factor * torch.cat([torch.zeros(reach), error[:-reach]])
        factor, reach = factor**2, 2 * reach
    # Where the series explodes, and its gradient overflows, the likelihood is zero.
    exploded = ~(error.abs() < 1e50)
    pyro.factor("exploded", torch.where(exploded.any(), -math.inf, 0.0))
    error = torch.where(exploded, 0.0, error)
    pyro.sample("y", dist.Normal(error, sigma).to_event(1), obs=torch.zeros(len(y)))


def hidden_markov(y: Tensor) -> None:
    theta1 = pyro.sample("theta1", dist.Dirichlet(torch.ones(2)))
    theta2 = pyro.sample("theta2", dist.Dirichlet(torch.ones(2)))
    mu = pyro.sample("mu", dist.Normal(torch.tensor([3.0, 10.0]), 1.0).to_event(1))
    # The prior is cut to 0 < mu_1 < mu_2 and not normalised again.
    inside = (mu[0] > 0) & (mu[0] < mu[1])
    pyro.factor("order", torch.where(inside, 0.0, -math.inf))
    # The forward algorithm; the two states begin with weight 1 each.
    transition = torch.stack([theta1, theta2]).log()
    emission = dist.Normal(mu, 1.0).log_prob(y[:, None])
    forward = emission[0]
    for here in emission[1:]:
        forward = torch.logsumexp(forward[:, None] + transition, 0) + here
    pyro.factor("y", forward.logsumexp(0))


def posteriordb_cases() -> list[Case]:
    """Return the posteriors of posteriordb that have a proper prior."""
    truths = load("posteriordb_truth.json")

    def case(name: str, model: Any, *args: Any, **options: Any) -> Case:
        exact = truths[name]["exact"]
        moments = {k: (m["mean"], m["sd"]) for k, m in exact["moments"].items()}
        return Case(
            name.split("-", 1)[1],
            model,
            exact["log_evidence"],
            moments,
            args,
            exact["log_evidence_se"],
            **options,
        )

    def data(name: str, *keys: str) -> tuple[Tensor, ...]:
        return tuple(tensor(truths[name]["data"][key]) for key in keys)

    schools = "eight_schools-eight_schools_centered"
    (series,) = data("arK-arK", "y")
    lagged = torch.stack([series[5 - k : -k] for k in range(1, 6)], 1)
    distance, arsenic, switched = data(
        "wells_data-wells_dist100_model", "dist", "arsenic", "switched"
    )
    wells = torch.stack([distance / 100, arsenic, distance / 100 * arsenic], 1)
    mixed, coin = "low_dim_gauss_mix-low_dim_gauss_mix", "Rate_1_data-Rate_1_model"
    poisson, gp = "GLM_Poisson_Data-GLM_Poisson_model", "gp_pois_regr-gp_regr"
    hmm = "hmm_example-hmm_example"
    return [
        case(schools, eight_schools_centered, *data(schools, "y", "sigma"), hard=True),
        case(
            "eight_schools-eight_schools_noncentered",
            eight_schools_noncentered,
            *data(schools, "y", "sigma"),
        ),
        case("arK-arK", autoregression, lagged, series[5:]),
        case("sblri-blr", linear_regression, *data("sblri-blr", "X", "y")),
        case(mixed, mixture, *data(mixed, "y"), parameters=ordered),
        case(poisson, poisson_regression, *data(poisson, "year", "C")),
        case(gp, gaussian_process, *data(gp, "x", "y")),
        case(coin, rate, *data(coin, "k"), truths[coin]["data"]["n"]),
        case(
            "wells_data-wells_interaction_model__normal5",
            logistic_regression,
            wells,
            switched,
        ),
        case("arma-arma11", arma, *data("arma-arma11", "y")),
        case(hmm, hidden_markov, *data(hmm, "y")),
    ]
