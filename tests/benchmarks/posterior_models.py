"""Posteriors whose evidence and moments are known, as Pyro models and targets.

Data and truths come from two files in the folder `shared/truth` beside the repository:
posteriors of posteriordb (stan-dev/posteriordb, BSD-3-Clause), written here after their
Stan programs with normalised priors, and posteriors that have a closed form.
"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

import pyro_jarzynski as pj

TRUTH = Path(__file__).parents[3] / "shared" / "truth"

Samples = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A posterior and what is known of it.

    Attributes:
        name: Short name.
        model: Pyro model, or `Target`.
        log_evidence: True log evidence, nats.
        evidence_error: Standard error of that truth.
        moments: True mean and standard deviation by parameter, `beta[1]` for an entry of
            a vector; `None` for a standard deviation that cannot be estimated.
        args: Arguments of the model.
        parameters: Makes the parameters of `moments` from the sites of the model.
        hard: Whether its evidence may be off by 0.1 nat rather than 0.05.
        chunk_size: Walkers at once, so that many data do not fill the caches.
    """

    name: str
    model: Any
    log_evidence: float
    moments: dict[str, tuple[float, float | None]]
    args: tuple = ()
    evidence_error: float = 0.0
    parameters: Callable[[Samples], Samples] = field(default=lambda samples: samples)
    hard: bool = False
    chunk_size: int | None = None

    def flat(self, samples: Samples) -> Samples:
        """Return draws of scalar parameters, `{"beta[1]": (n,), ...}`."""
        flat = {}
        for name, value in self.parameters(samples).items():
            rows = value.reshape(len(value), -1)
            if value.ndim == 1:
                flat[name] = value
            else:
                flat.update({f"{name}[{i + 1}]": rows[:, i] for i in range(rows.shape[1])})
        return {name: flat[name] for name in self.moments}


def load(name: str) -> dict[str, Any]:
    """Return a file of the folder of truths, or stop."""
    path = TRUTH / name
    if not path.exists():
        sys.exit(
            "This benchmark needs the truths that lie beside the repository, in the "
            f"folder shared/truth; there is no {name} in it."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def cases() -> list[Case]:
    """Return all posteriors."""
    return [*posteriordb_cases(), *analytic_cases()]


def _tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.get_default_dtype())


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
        return tuple(_tensor(truths[name]["data"][key]) for key in keys)

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
        case(mixed, mixture, *data(mixed, "y"), parameters=ordered, chunk_size=256),
        case(poisson, poisson_regression, *data(poisson, "year", "C")),
        case(gp, gaussian_process, *data(gp, "x", "y")),
        case(coin, rate, *data(coin, "k"), truths[coin]["data"]["n"]),
        case(
            "wells_data-wells_interaction_model__normal5",
            logistic_regression,
            wells,
            switched,
            chunk_size=128,
        ),
        case("arma-arma11", arma, *data("arma-arma11", "y")),
        case(hmm, hidden_markov, *data(hmm, "y")),
    ]


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


def energy_target(energy: Callable[[Tensor], Tensor], scales: list[float]) -> pj.Target:
    """Return the target `e^{-U}` with a Gaussian base of given standard deviations."""
    scale = _tensor(scales)
    base = dist.Normal(torch.zeros(len(scale)), scale).to_event(1)

    def draw(num: int, generator: torch.Generator) -> Tensor:
        return scale * torch.randn(num, len(scale), generator=generator)

    return pj.Target(base.log_prob, lambda x: -energy(x) - base.log_prob(x), draw)


def mixture_energy(masses: Tensor, centres: Tensor) -> Callable[[Tensor], Tensor]:
    """Return `-log Σ_i w_i e^{-|x - c_i e_1|² / 2}`."""

    def energy(x: Tensor) -> Tensor:
        first = (x[:, :1] - centres) ** 2 / 2
        rest = (x[:, 1:] ** 2).sum(1) / 2
        return rest - (masses.log() - first).logsumexp(1)

    return energy


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
            vector("x", gauss["mean"], roots(_tensor(gauss["cov"]).diag().tolist())),
            tuple(_tensor(gauss[key]) for key in ("S0", "lik_cov", "y")),
        ),
        Case(
            "nig_linear_regression",
            normal_inverse_gamma,
            nig["log_evidence"],
            {
                **vector("beta", nig["beta_mean"], _diagonal_sd(nig["beta_cov"])),
                "sigma2": (nig["sigma2_mean"], nig["sigma2_sd"]),
            },
            (_tensor(nig["x"]), _tensor(nig["y"])),
        ),
        Case(
            "beta_binomial",
            beta_binomial,
            coin["log_evidence"],
            {"p": (coin["p_mean"], coin["p_sd"])},
            (_tensor(coin["k"]),),
        ),
        Case(
            "gamma_poisson",
            gamma_poisson,
            counts["log_evidence"],
            {"rate": (counts["rate_mean"], counts["rate_sd"])},
            (_tensor(counts["counts"]),),
        ),
        Case(
            "dirichlet_multinomial",
            dirichlet_multinomial,
            simplex["log_evidence"],
            vector("p", simplex["p_mean"], simplex["p_sd"]),
            (_tensor(simplex["alpha"]), _tensor(simplex["counts"])),
        ),
        Case(
            "uniform_normal",
            uniform_normal,
            uniform["log_evidence"],
            {"theta": (uniform["mean"], uniform["sd"])},
            (_tensor(1.0),),
        ),
        Case(
            "hierarchical_normal",
            hierarchical_normal,
            levels["log_evidence"],
            _hierarchical_moments(_tensor(levels["y"])),
            (_tensor(levels["y"]),),
        ),
        Case(
            "observed_funnel",
            observed_funnel,
            funnel["log_evidence"],
            {
                "v": (funnel["v_mean"], funnel["v_sd"]),
                **vector("x", funnel["x_mean"], funnel["x_sd"]),
            },
            (_tensor(funnel["y"]),),
        ),
    ]
    return [*found, *_target_cases(truths, vector, roots)]


def _target_cases(truths: dict, vector: Callable, roots: Callable) -> list[Case]:
    mixed, funnel = truths["gauss_mixture_d10"], truths["prior_funnel"]
    masses, centres = _tensor(mixed["masses"]), _tensor(mixed["centres_first_coord"])

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
    return _tensor(covariance).diag().sqrt().tolist()


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
