"""Posteriors that have a closed form, as Pyro models and targets."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from posterior_models import Case, energy_target, load, mixture_energy, tensor
from torch import Tensor


def conjugate_gaussian(prior: Tensor, noise: Tensor, y: Tensor) -> None:
    x = pyro.sample("x", dist.MultivariateNormal(torch.zeros(len(prior)), prior))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MultivariateNormal(x, noise), obs=y)


def normal_inverse_gamma(x: Tensor, y: Tensor) -> None:
    variance = pyro.sample("sigma2", dist.InverseGamma(2.0, 2.0))
    with pyro.plate("coefficients", 2):
        beta = pyro.sample("beta", dist.Normal(0.0, 2 * variance.sqrt()))
    mean = beta[..., :1] + beta[..., 1:] * x
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, variance.sqrt()), obs=y)


def beta_binomial(k: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    pyro.sample("k", dist.Binomial(10, p), obs=k)


def gamma_poisson(counts: Tensor) -> None:
    value = pyro.sample("rate", dist.Gamma(3.0, 2.0))
    with pyro.plate("data", len(counts)):
        pyro.sample("c", dist.Poisson(value), obs=counts)


def dirichlet_multinomial(alpha: Tensor, counts: Tensor) -> None:
    p = pyro.sample("p", dist.Dirichlet(alpha))
    total = int(counts.sum())
    pyro.sample("c", dist.Multinomial(total, p), obs=counts)


def uniform_normal(y: Tensor) -> None:
    theta = pyro.sample("theta", dist.Uniform(0.0, 3.0))
    pyro.sample("y", dist.Normal(theta, 2.0), obs=y)


def hierarchical_normal(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, math.sqrt(1.5)))
        pyro.sample("y", dist.Normal(theta, math.sqrt(0.7)), obs=y)


def observed_funnel(y: Tensor) -> None:
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(y)):
        x = pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))
        pyro.sample("y", dist.Normal(x, 0.5), obs=y)


def prior_funnel(size: int) -> None:
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    with pyro.plate("data", size):
        pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))


def funnel_energy(x: Tensor) -> Tensor:
    v, rest = x[:, 0], x[:, 1:]
    size = rest.shape[1]
    normaliser = (size + 1) * math.log(2 * math.pi) / 2 + math.log(3) + size * v / 2
    return v**2 / 18 + (rest**2).sum(1) * torch.exp(-v) / 2 + normaliser


def analytic_cases() -> list[Case]:
    """Return the posteriors that have a closed form."""
    truths = load("analytic_truth.json")

    def vector(name: str, means: list[float], sds: list[float | None]) -> dict:
        pairs = zip(means, sds, strict=True)
        return {f"{name}[{i}]": pair for i, pair in enumerate(pairs, 1)}

    def roots(values: list[float]) -> list[float]:
        return [math.sqrt(value) for value in values]

    gauss, nig = truths["conjugate_gaussian_d3"], truths["nig_linear_regression"]
    coin, counts = truths["beta_binomial_logit"], truths["gamma_poisson_exp"]
    simplex, funnel = truths["dirichlet_multinomial"], truths["observed_funnel"]
    uniform, levels = truths["uniform_normal"], truths["hierarchical_normal"]
    found = [
        Case(
            "conjugate_gaussian_d3",
            conjugate_gaussian,
            gauss["log_evidence"],
            vector("x", gauss["mean"], roots(tensor(gauss["cov"]).diag().tolist())),
            tuple(tensor(gauss[key]) for key in ("S0", "lik_cov", "y")),
        ),
        Case(
            "nig_linear_regression",
            normal_inverse_gamma,
            nig["log_evidence"],
            {
                **vector("beta", nig["beta_mean"], _diagonal_sd(nig["beta_cov"])),
                "sigma2": (nig["sigma2_mean"], nig["sigma2_sd"]),
            },
            (tensor(nig["x"]), tensor(nig["y"])),
        ),
        Case(
            "beta_binomial",
            beta_binomial,
            coin["log_evidence"],
            {"p": (coin["p_mean"], coin["p_sd"])},
            (tensor(coin["k"]),),
        ),
        Case(
            "gamma_poisson",
            gamma_poisson,
            counts["log_evidence"],
            {"rate": (counts["rate_mean"], counts["rate_sd"])},
            (tensor(counts["counts"]),),
        ),
        Case(
            "dirichlet_multinomial",
            dirichlet_multinomial,
            simplex["log_evidence"],
            vector("p", simplex["p_mean"], simplex["p_sd"]),
            (tensor(simplex["alpha"]), tensor(simplex["counts"])),
        ),
        Case(
            "uniform_normal",
            uniform_normal,
            uniform["log_evidence"],
            {"theta": (uniform["mean"], uniform["sd"])},
            (tensor(1.0),),
        ),
        Case(
            "hierarchical_normal",
            hierarchical_normal,
            levels["log_evidence"],
            _hierarchical_moments(tensor(levels["y"])),
            (tensor(levels["y"]),),
        ),
        Case(
            "observed_funnel",
            observed_funnel,
            funnel["log_evidence"],
            {
                "v": (funnel["v_mean"], funnel["v_sd"]),
                **vector("x", funnel["x_mean"], funnel["x_sd"]),
            },
            (tensor(funnel["y"]),),
        ),
    ]
    return [*found, *_target_cases(truths, vector, roots)]


def _target_cases(truths: dict, vector: Callable, roots: Callable) -> list[Case]:
    mixed, funnel = truths["gauss_mixture_d10"], truths["prior_funnel"]
    masses, centres = tensor(mixed["masses"]), tensor(mixed["centres_first_coord"])

    def plane(name: str, energy: Callable[[Tensor], Tensor], scales: list[float]) -> Case:
        truth = truths[name]
        moments = vector("x", truth["mean"], roots(truth["var"]))
        return Case(name, energy_target(energy, scales), truth["log_Z"], moments)

    return [
        plane(
            "banana",
            lambda x: x[:, 0] ** 2 / 8 + 2 * (x[:, 1] - 0.25 * (x[:, 0] ** 2 - 4)) ** 2,
            [4.0, 6.0],
        ),
        plane("ring", lambda x: 2 * (x.norm(dim=1) - 3) ** 2, [4.0, 4.0]),
        plane(
            "double_well",
            lambda x: (x[:, 0] ** 2 - 4) ** 2 / 4 + x[:, 1] ** 2 / 2 + 0.3 * x[:, 0],
            [3.0, 2.0],
        ),
        Case(
            "student_t3",
            energy_target(lambda x: 2 * torch.log1p(x[:, 0] ** 2 / 3), [10.0]),
            truths["student_t3_1d"]["log_Z"],
            # The fourth moment is infinite, hence the error of the standard deviation.
            {"x[1]": (0.0, None)},
        ),
        Case(
            "gauss_mixture_d10",
            energy_target(mixture_energy(masses, centres), [10.0] + 9 * [2.0]),
            mixed["log_Z"],
            vector(
                "x",
                [mixed["mean_first"], *9 * [0.0]],
                roots([mixed["var_first"], *9 * [1.0]]),
            ),
        ),
        # x has a tail of all scales; v alone tells whether the neck was found.
        Case(
            "prior_funnel",
            prior_funnel,
            funnel["log_Z_normalised"],
            {"v": (funnel["v_mean"], funnel["v_sd"])},
            (9,),
        ),
        # The same law from a base that does not know its shape.
        Case(
            "prior_funnel, Gaussian base",
            energy_target(funnel_energy, [4.0] + 9 * [10.0]),
            funnel["log_Z_normalised"],
            {"x[1]": (funnel["v_mean"], funnel["v_sd"])},
            hard=True,
        ),
    ]


def _diagonal_sd(covariance: list[list[float]]) -> list[float]:
    return tensor(covariance).diag().sqrt().tolist()


def _hierarchical_moments(y: Tensor) -> dict[str, tuple[float, float]]:
    """Return the moments of (mu, theta), which are Gaussian with the data."""
    size = len(y)
    load_mu = torch.ones(size + 1, 1)
    effects = torch.cat([torch.zeros(1, size), torch.eye(size)])
    prior = 4.0 * load_mu @ load_mu.T + 1.5 * effects @ effects.T
    gain = prior[:, 1:] @ torch.linalg.inv(prior[1:, 1:] + 0.7 * torch.eye(size))
    mean, sd = gain @ y, (prior - gain @ prior[1:]).diag().sqrt()
    names = ["mu", *(f"theta[{i}]" for i in range(1, size + 1))]
    return dict(zip(names, zip(mean.tolist(), sd.tolist(), strict=True), strict=True))
