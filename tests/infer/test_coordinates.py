"""Densities of latents whose values under- or overflow, and evidences that rest on them."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import kstest

from pyro_jarzynski import AnnealedSMC
from pyro_jarzynski.distributions.coordinates import Coordinate, LogGamma
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import draw_prior
from tests.infer.test_zoo_evidence import grid, log_integral

T = dist.transforms
DTYPES = [torch.float32, torch.float64]
POINTS = torch.tensor([-3000.0, -150.0, -20.0, 0.5, 4.0])


def normal(u, scale):
    return -((u / scale) ** 2) / 2 - math.log(scale) - math.log(2 * math.pi) / 2


def log_gamma(u, a, b):
    return a * math.log(b) - math.lgamma(a) + a * u - b * u.exp()


# Distributions of positive numbers, and the densities of their logarithms.
POSITIVE = {
    "lognormal": (lambda c: dist.LogNormal(c(0), c(50)), lambda u: normal(u, 50.0)),
    "exp of a normal": (
        lambda c: dist.TransformedDistribution(dist.Normal(c(0), c(50)), T.ExpTransform()),
        lambda u: normal(u, 50.0),
    ),
    "gamma": (lambda c: dist.Gamma(c(0.1), c(2)), lambda u: log_gamma(u, 0.1, 2.0)),
    "chi2": (lambda c: dist.Chi2(c(0.2)), lambda u: log_gamma(u, 0.1, 0.5)),
    "inverse gamma": (
        lambda c: dist.InverseGamma(c(0.1), c(2)),
        lambda u: log_gamma(-u, 0.1, 2.0),
    ),
}


def wrapped(fn, how):
    fn = fn.expand(torch.Size([len(POINTS)]))
    return {"batch": fn, "event": fn.to_event(1), "masked": fn.mask(True)}[how]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("how", ["batch", "event", "masked"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("make", "log_density"), POSITIVE.values(), ids=POSITIVE)
def test_density_of_numbers_that_their_type_has_not(make, log_density, dtype, how, sign):
    """Exact in the logarithm, above and below what numbers can be, with its slope."""
    latent = Coordinate(wrapped(make(lambda x: torch.tensor(x, dtype=dtype)), how))
    assert latent.exact
    u = (sign * POINTS).to(dtype).requires_grad_()
    value = latent.constrain(u)
    assert (value > 0).all()
    jacobian = latent.transform.log_abs_det_jacobian(u, value)
    found = latent.fn.log_prob(value) + jacobian
    exact = (sign * POINTS).double().requires_grad_()
    expected = log_density(exact)
    dense = expected > -torch.finfo(dtype).max
    (slope,) = torch.autograd.grad(found.sum(), u)
    (known,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(slope.double()[dense], known[dense], rtol=1e-5, atol=1e-5)
    if how == "event":
        expected, dense = expected.sum(), dense.all()
    assert (found[~dense] == -math.inf).all()
    torch.testing.assert_close(found.double()[dense], expected[dense], rtol=1e-5, atol=1e-3)


ORDERED = {
    "ordered": T.OrderedTransform(),
    "chain": T.ComposeTransform([T.OrderedTransform(), T.AffineTransform(1.0, 0.5)]),
}


@pytest.mark.parametrize("link", ORDERED.values(), ids=ORDERED)
def test_density_of_ordered_numbers_that_are_equal_by_rounding(link):
    """The second and the third are as the first, up to 1e-11."""
    base = dist.Normal(0.0, 10.0).expand([3]).to_event(1)
    latent = Coordinate(dist.TransformedDistribution(base, link, validate_args=False))
    u = torch.tensor([1.3, -25.0, -40.0])
    value = latent.constrain(u)
    assert value[0] == value[1] == value[2]
    jacobian = latent.transform.log_abs_det_jacobian(u, value)
    found = latent.fn.log_prob(value) + jacobian
    torch.testing.assert_close(found, base.log_prob(u), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rate", [0.001, 1.0, 100.0])
@pytest.mark.parametrize("concentration", [0.0005, 0.02, 0.5, 3.0])
def test_draws_of_logarithms_of_gamma_numbers(concentration, rate, dtype, generator):
    """By Kolmogorov and Smirnov; false alarms 1e-6 each. Many are below all numbers."""
    law = LogGamma(
        dist.Gamma(*(torch.tensor(x, dtype=dtype) for x in (concentration, rate)))
    )
    with torch.random.fork_rng():
        torch.manual_seed(generator.initial_seed())
        drawn = law.sample(torch.Size([20_000])).double()
    scaled = drawn + math.log(rate)
    a = torch.tensor(concentration, dtype=torch.float64)
    far = (a * scaled - torch.lgamma(1 + a)).exp()
    near = torch.special.gammainc(a, scaled.exp())
    share = torch.where(scaled < -30, far, near)
    assert torch.isfinite(drawn).all()
    assert kstest(share.numpy(), "uniform").pvalue > 1e-6


def test_values_on_an_edge_are_moved_to_the_next_number_inside():
    for fn, u, inside in (
        (dist.Gamma(0.5, 1.0), -1e4, torch.finfo(torch.float32).tiny),
        (dist.HalfCauchy(1.0), -1e4, torch.finfo(torch.float32).tiny),
        (dist.Uniform(2.0, 3.0), -1e4, 2 + 2**-22),
        (dist.Uniform(2.0, 3.0), 1e4, 3 - 2**-22),
        (dist.Pareto(torch.tensor(2.0), 1.0), -1e4, 2 + 2**-22),
    ):
        value = Coordinate(fn).constrain(torch.tensor(u))
        assert float(value) == pytest.approx(inside, abs=1e-9)
        assert math.isfinite(float(fn.log_prob(value)))
    many = Coordinate(dist.Dirichlet(0.1 * torch.ones(9))).constrain(torch.full((8,), 80.0))
    assert (many > 0).all()


def test_draws_keep_coordinates_that_their_values_have_lost():
    """In a plate, and one walker at a time; no draw is lost or moved to an edge."""

    def model(branches=False):
        s = pyro.sample("s", dist.HalfCauchy(200.0))
        with pyro.plate("items", 3):
            a = pyro.sample("a", dist.LogNormal(0.0, s))
            g = pyro.sample("g", dist.Gamma(0.01, 1.0))
        if branches:
            s.item()
        pyro.sample(
            "y", dist.Normal(0.0, 1.0 + a.sum() * 0 + g.sum() * 0), obs=torch.ones(())
        )

    found = [
        draw_prior(PyroModel(model, (x,), {}), 300, seed=1, purpose="test")
        for x in (False, True)
    ]
    for drawn in found:
        assert torch.isfinite(drawn).all()
        a, g = drawn[:, 1:4], drawn[:, 4:]
        assert float(a.abs().max()) > 1000
        assert float((g < -90).double().mean()) > 0.3


# Evidences: beyond 5.5 errors of 16 islands with probability 6e-5 each.

Y = torch.tensor([0.5, 1.2, -0.3, 0.8])
ISLANDS = {"num_walkers": 128, "num_chains": 16, "progress": False}


def check(result, truth):
    assert abs(result.log_evidence - truth) < 5.5 * result.log_evidence_error


def precision(y, a):
    tau = pyro.sample("tau", dist.Gamma(a, a))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(0.0, tau.rsqrt()), obs=y)


def variance(y, a):
    v = pyro.sample("v", dist.InverseGamma(a, a))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(0.0, v.sqrt()), obs=y)


def conjugate_evidence(a):
    half, num = float(Y.double().square().sum()) / 2, len(Y)
    gammas = math.lgamma(a + num / 2) - math.lgamma(a)
    return (
        gammas
        + a * math.log(a)
        - (a + num / 2) * math.log(a + half)
        - num / 2 * math.log(2 * math.pi)
    )


@pytest.mark.global_state
@pytest.mark.filterwarnings("ignore:The density is zero at:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("a", [0.1, 0.001])
@pytest.mark.parametrize("model", [precision, variance])
def test_evidence_under_vague_priors_of_scales(model, a, dtype):
    """Most of these priors is beyond all numbers, and one in a hundred draws is near."""
    torch.set_default_dtype(dtype)
    check(AnnealedSMC(model, seed=2, **ISLANDS).run(Y.to(dtype), a), conjugate_evidence(a))


@pytest.mark.global_state
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_evidence_of_sparse_rates(dtype):
    torch.set_default_dtype(dtype)
    counts = torch.tensor([0.0, 3, 0, 7], dtype=dtype)

    def model(counts):
        with pyro.plate("data", len(counts)):
            z = pyro.sample("z", dist.Gamma(0.1, 0.1))
            pyro.sample("y", dist.Poisson(z + 1e-3), obs=counts)

    u = grid(-400, 8, 200_001)
    prior = log_gamma(u, 0.1, 0.1)
    each = [dist.Poisson(u.exp() + 1e-3).log_prob(k.double()) for k in counts]
    truth = sum(log_integral(prior + likelihood, u) for likelihood in each)
    check(AnnealedSMC(model, **ISLANDS).run(counts), truth)


def test_evidence_of_ordered_cutpoints():
    def model():
        base = dist.Normal(0.0, 1.0).expand([3]).to_event(1)
        cut = dist.TransformedDistribution(base, T.OrderedTransform())
        x = pyro.sample("x", cut)
        pyro.sample("y", dist.Normal(x[..., 1], 0.5), obs=torch.tensor(0.7))

    a, b = grid(-8, 8, 801)[:, None], grid(-8, 8, 801)
    data = dist.Normal(a + b.exp(), 0.5).log_prob(torch.tensor(0.7, dtype=torch.float64))
    truth = log_integral(normal(a, 1.0) + normal(b, 1.0) + data, a[:, 0], b)
    result = AnnealedSMC(model, **ISLANDS).run()
    check(result, truth)
    assert result.doubts == []
