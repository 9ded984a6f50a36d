"""Styles of models whose evidence is known have that evidence."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_jarzynski import AnnealedSMC, SMCResult
from tests.infer.batches import in_double
from tests.infer.zoo import COUNT, KIND, ZOO, Y
from tests.seeds import seed_of

# Evidence of styles for which it is known. With 8 islands, the error that is reported
# makes a Student's statistic of 7 degrees of freedom: beyond 5 with probability 1.6e-3.
FLOOR = 5e-3


def result_of(name: str) -> SMCResult:
    case = ZOO[name]
    settings = {"num_walkers": 512, "num_chains": 8, "progress": False}
    sampler = AnnealedSMC(case.model, seed=seed_of(0), **settings)
    return sampler.run(*case.args, **case.kwargs)


def evidence_of(name: str) -> tuple[float, float]:
    result = result_of(name)
    return result.log_evidence, result.log_evidence_error


def log_integral(log_density: Tensor, *grids: Tensor) -> float:
    """Return the logarithm of an integral by the trapezoidal rule on fine grids."""
    top = log_density.max()
    values = (log_density - top).exp()
    for grid in reversed(grids):
        values = torch.trapezoid(values, grid, dim=-1)
    return float(top + values.log())


def grid(low: float, high: float, num: int = 4001) -> Tensor:
    return torch.linspace(low, high, num, dtype=torch.float64)


def normal_data(mean: Tensor) -> Tensor:
    """Return the log-likelihood of the common data at means."""
    return dist.Normal(mean[..., None], 1.0).log_prob(Y.double()).sum(-1)


def normal_evidence(data: Tensor, mean: float, variance: float) -> float:
    """Return the evidence of a normal mean that has a normal prior."""
    num = len(data)
    cov = torch.eye(num, dtype=torch.float64) + variance
    centre = torch.full((num,), mean, dtype=torch.float64)
    return float(dist.MultivariateNormal(centre, cov).log_prob(data.double()))


def evidence_of_scaled_latent() -> float:
    m = grid(-8, 8)
    return log_integral(0.5 * dist.Normal(0.0, 1.0).log_prob(m) + normal_data(m), m)


def evidence_of_scaled_likelihood() -> float:
    m = grid(-8, 8)
    return log_integral(dist.Normal(0.0, 1.0).log_prob(m) + 0.5 * normal_data(m), m)


def evidence_of_factor() -> float:
    m = grid(-8, 8)
    log_prior = dist.Normal(0.0, 1.0).log_prob(m)
    return log_integral(log_prior - (m - 1) ** 2 + normal_data(m), m)


def evidence_of_continuous_below_enumerated() -> float:
    parts = [0.3, 0.7], [normal_evidence(Y, mean, 0.25) for mean in (-2.0, 2.0)]
    share, part = torch.tensor(parts, dtype=torch.float64)
    return float((share.log() + part).logsumexp(0))


def evidence_of_two_enumerated_latents() -> float:
    shift = grid(-8, 8)[:, None, None]
    a = torch.tensor([0.0, 1.0])
    means = shift[..., None] * torch.arange(3) + a[:, None, None]
    shares = torch.tensor([0.5, 0.3, 0.2]).log()
    data = dist.Normal(means, 1.0).log_prob(Y.double()[:, None]) + shares
    given_a = data.logsumexp(-1).sum(-1) + torch.tensor([0.7, 0.3]).log()
    shift = shift[:, 0, 0]
    log_prior = dist.Normal(0.0, 1.0).log_prob(shift)
    return log_integral(log_prior + given_a.logsumexp(-1), shift)


def evidence_of_simplex() -> float:
    prior = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    posterior = prior + torch.bincount(KIND, minlength=3)

    def log_beta(x: Tensor) -> Tensor:
        return x.lgamma().sum() - x.sum().lgamma()

    return float(log_beta(posterior) - log_beta(prior))


def evidence_of_interval_up_to_a_latent() -> float:
    top = grid(1e-4, 16, 1601)[:, None]
    share = grid(0, 1, 801)
    log_density = dist.Gamma(4.0, 2.0).log_prob(top) + normal_data(share * top)
    return log_integral(log_density, top[:, 0], share)


def evidence_of_gamma_and_poisson() -> float:
    count = COUNT.double()
    alpha, beta = 2 + count.sum(), torch.tensor(1.0 + len(count))
    log_gammas = alpha.lgamma() - (count + 1).lgamma().sum()
    return float(log_gammas - alpha * beta.log())


EVIDENCE = {
    "scaled_latent": evidence_of_scaled_latent(),
    "scaled_likelihood": evidence_of_scaled_likelihood(),
    "factor": evidence_of_factor(),
    "masked_latent": normal_evidence(Y, 0.0, 9.0),
    "masked_data": normal_evidence(Y[Y > 0], 0.0, 1.0),
    "partly_observed": normal_evidence(Y[torch.arange(len(Y)) % 3 > 0], 0.0, 1.0),
    "continuous_below_enumerated": evidence_of_continuous_below_enumerated(),
    "two_enumerated_latents": evidence_of_two_enumerated_latents(),
    "simplex": evidence_of_simplex(),
    "interval_up_to_a_latent": evidence_of_interval_up_to_a_latent(),
    "conjugate_mean": normal_evidence(Y, 0.0, 1.0),
    "gamma_and_poisson": evidence_of_gamma_and_poisson(),
}


@pytest.mark.parametrize("name", EVIDENCE)
@pytest.mark.filterwarnings("ignore:The latent 'm' is under a scale")
def test_evidence_is_the_one_known(name):
    found, error = evidence_of(name)
    assert error < 0.1
    assert abs(found - EVIDENCE[name]) < 5 * error + FLOOR


def test_evidence_without_data_is_one():
    found, error = evidence_of("no_data")
    assert abs(found) < 5 * error + FLOOR


def test_evidence_without_latents_is_the_likelihood():
    def model(y):
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(0.5, 1.0), obs=y)

    sampler = AnnealedSMC(model, num_walkers=16, progress=False)
    with pytest.warns(UserWarning, match="no latents: its evidence is the likelihood"):
        result = sampler.run(Y)
    assert result.status == "ok"
    expected = dist.Normal(0.5, 1.0).log_prob(Y).sum()
    assert result.log_evidence == pytest.approx(float(expected), rel=1e-6)
    assert result.log_evidence_error == 0
    assert result.get_samples(deterministic=True) == {}


@pytest.mark.filterwarnings("ignore:The model has no latents:UserWarning")
def test_deterministic_sites_without_latents_are_draws_like_others():
    def model(y):
        pyro.deterministic("total", y.sum())
        pyro.sample("y", dist.Normal(0.0, 1.0).expand(y.shape).to_event(1), obs=y)

    result = AnnealedSMC(model, num_walkers=16, num_chains=2, progress=False).run(Y)
    assert result.get_samples() == {}
    draws = result.get_samples(group_by_chain=True, deterministic=True)
    assert torch.equal(draws["total"], Y.sum().expand(2, 16))


def test_discrete_latents_alone_are_drawn():
    """By Bayes' rule, to five standard errors of 4,000 draws: false alarm 6e-7."""

    def model(y):
        heads = pyro.sample("heads", dist.Bernoulli(0.3))
        pyro.deterministic("mean", 2 * heads)
        pyro.sample("y", dist.Normal(2 * heads, 1.0), obs=y)

    settings = {"num_walkers": 2000, "num_chains": 2, "progress": False}
    sampler = AnnealedSMC(model, seed=seed_of(0), **settings)
    draws = sampler.run(torch.tensor(1.3)).get_samples(deterministic=True)
    odds = 0.3 / 0.7 * math.exp(2 * 1.3 - 2)
    share = odds / (1 + odds)
    error = math.sqrt(share * (1 - share) / 4000)
    assert abs(float(draws["heads"].mean()) - share) < 5 * error
    assert torch.equal(draws["mean"], 2 * draws["heads"])


def test_evidence_of_discrete_latents_alone_is_their_sum():
    def model(y):
        a = pyro.sample("a", dist.Bernoulli(0.3))
        with pyro.plate("data", len(y)):
            b = pyro.sample("b", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
            pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    result = AnnealedSMC(model, num_walkers=16, progress=False).run(Y)
    total = 0.0
    for a, share in ((0, 0.7), (1, 0.3)):
        parts = dist.Normal(torch.tensor([a, a + 1.0, a + 2.0]), 1.0).log_prob(Y[:, None])
        mixed = parts.exp() @ torch.tensor([0.5, 0.3, 0.2])
        total += share * float(mixed.log().sum().exp())
    assert result.log_evidence == pytest.approx(math.log(total), abs=1e-5)


@pytest.mark.global_state
def test_evidence_in_double_precision():
    torch.set_default_dtype(torch.float64)
    case = in_double(ZOO["conjugate_mean"])
    sampler = AnnealedSMC(case.model, num_walkers=512, num_chains=8, progress=False)
    result = sampler.run(*case.args)
    assert result.get_samples()["m"].dtype == torch.float64
    limit = 5 * result.log_evidence_error + FLOOR
    assert abs(result.log_evidence - EVIDENCE["conjugate_mean"]) < limit


def single_correlation(y):
    corr = pyro.sample("corr", dist.LKJCholesky(3, 2.0))
    pyro.sample("y", dist.Normal((corr @ corr.mT)[..., 1, 2], 0.1), obs=y)


def test_evidence_of_a_correlation():
    """A correlation `r` of three variables has `(r + 1) / 2 ~ Beta(5/2, 5/2)`."""
    r = grid(-1, 1)[1:-1]
    half = torch.tensor(2.5, dtype=torch.float64)
    prior = dist.Beta(half, half).log_prob((r + 1) / 2) - math.log(2)
    truth = log_integral(prior + dist.Normal(r, 0.1).log_prob(torch.tensor(0.9)), r)
    # Without moves between the draws and the posterior, an error of the draws stays.
    sampler = AnnealedSMC(
        single_correlation,
        num_walkers=2000,
        num_chains=8,
        schedule=[0.0, 1.0],
        progress=False,
    )
    result = sampler.run(torch.tensor(0.9))
    assert abs(result.log_evidence - truth) < 5 * result.log_evidence_error + FLOOR


def test_latent_with_a_mixture_as_prior():
    def model(y):
        halves = dist.Categorical(torch.tensor([0.3, 0.7]))
        normals = dist.Normal(torch.tensor([-2.0, 2.0]), 0.5)
        m = pyro.sample("m", dist.MixtureSameFamily(halves, normals))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    sampler = AnnealedSMC(model, num_walkers=512, num_chains=8, progress=False)
    result = sampler.run(Y)
    limit = 5 * result.log_evidence_error + FLOOR
    assert abs(result.log_evidence - EVIDENCE["continuous_below_enumerated"]) < limit


def test_evidence_of_an_angle_that_is_no_circle_to_the_data():
    def model(y):
        angle = pyro.sample("angle", dist.VonMises(0.0, 0.3))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(angle, 1.0), obs=y)

    angle = grid(-math.pi, math.pi)
    kappa = torch.tensor(0.3, dtype=torch.float64)
    prior = kappa * angle.cos() - torch.special.i0(kappa).log() - math.log(2 * math.pi)
    data = dist.Normal(angle[:, None], 1.0).log_prob(Y[:3].double() + 2).sum(-1)
    sampler = AnnealedSMC(model, num_walkers=512, num_chains=8, progress=False)
    result = sampler.run(Y[:3] + 2)
    truth = log_integral(prior + data, angle)
    assert abs(result.log_evidence - truth) < 5 * result.log_evidence_error + FLOOR
    assert (result.get_samples()["angle"].abs() <= math.pi).all()
