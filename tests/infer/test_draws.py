"""Draws of each distribution of Pyro and torch are distributed as its density says."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_jarzynski.distributions.draws import with_exact_draws
from pyro_jarzynski.distributions.supports import bijection, within_support
from pyro_jarzynski.errors import ModelError
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import draw_prior
from pyro_jarzynski.infer.sites import Simulate, seeded
from tests.distributions import ARRAYS, COUNT_ARRAYS, COUNTS, SCALARS, default_dtype

NUM = 20_000
U = torch.sinh(torch.linspace(-12, 12, 4001, dtype=torch.float64))

# Of Pyro or torch, another distribution than its density.
WRONG = [
    "LKJ",
    "LKJCholesky",
    "RelaxedBernoulliStraightThrough",
    "RelaxedOneHotCategoricalStraightThrough",
    "SineBivariateVonMises",
    "TruncatedPolyaGamma",
]
# Pyro cannot draw them, or their values are no open set.
LEFT_OUT = [
    "CoalescentTimes",
    "CoalescentTimesWithRate",
    "ExpRelaxedCategorical",
    "GammaGaussianHMM",
    "GaussianMRF",
    "GaussianScaleMixture",
    "GroupedNormalNormal",
    "LinearHMM",
    "LogNormalNegativeBinomial",
    "VonMises3D",
]


def drawn(fn, num: int) -> Tensor:
    with pyro.validation_enabled(is_validate=False), seeded(0, "draws"):
        draw = fn.rsample if fn.has_rsample else fn.sample
        return draw(torch.Size([num])).detach()


def deviation(name: str, fn) -> float:
    """Return the largest deviation of a statistic of draws, in standard errors.

    Numbers: 2.2 times Kolmogorov's statistic, beyond 6 with probability 7e-7.
    """
    with pyro.validation_enabled(is_validate=False):
        draws = drawn(fn, NUM)
        if name in SCALARS:
            return 2.2 * kolmogorov(fn, draws)
        if name in {**COUNTS, **COUNT_ARRAYS}:
            return of_shares(fn, draws)
        if name == "ProjectedNormal":
            return of_directions(fn, draws)
        return of_slopes(fn, draws)


def kolmogorov(fn, draws: Tensor) -> float:
    transform = bijection(fn)
    x = transform(U)
    log_prob = within_support(fn, inside=True).log_prob(x)
    density = (log_prob + transform.log_abs_det_jacobian(U, x)).exp()
    distribution = torch.cumulative_trapezoid(torch.nan_to_num(density), U)
    u = transform.inv(draws).contiguous()
    place = torch.searchsorted(U, u).clamp(1, len(U) - 1)
    part = ((u - U[place - 1]) / (U[place] - U[place - 1])).clamp(0, 1)
    ends = torch.cat([torch.zeros(1), distribution])
    uniform = torch.lerp(ends[place - 1], ends[place], part).sort().values
    rank = torch.arange(NUM + 1) / NUM
    gap = torch.maximum(uniform - rank[:-1], rank[1:] - uniform).max()
    return float(gap) * math.sqrt(NUM)


def of_shares(fn, draws: Tensor) -> float:
    values, counts = draws.unique(dim=0, return_counts=True)
    shares = torch.stack([fn.log_prob(value).reshape(()) for value in values]).exp()
    frequent = shares > 20 / NUM
    error = (shares * (1 - shares) / NUM).sqrt()
    return float(((counts / NUM - shares).abs() / error)[frequent].max())


def of_directions(fn, draws: Tensor) -> float:
    angle = torch.linspace(-math.pi, math.pi, 2001)[:-1]
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    mean = (fn.log_prob(circle).exp()[:, None] * circle).sum(0) * 2 * math.pi / 2000
    return float(((draws.mean(0) - mean).abs() / draws.std(0) * math.sqrt(NUM)).max())


def of_slopes(fn, draws: Tensor) -> float:
    """Integration by parts: `E[∂ᵢ log q] = 0` and `E[uᵢ ∂ᵢ log q] = -1` for all `i`."""
    transform = bijection(fn)
    u = transform.inv(draws).detach().requires_grad_()
    x = transform(u)
    jacobian = transform.log_abs_det_jacobian(u, x)
    total = fn.log_prob(x).sum() + jacobian.sum()
    (slope,) = torch.autograd.grad(total, u)
    u, slope = u.detach().reshape(NUM, -1), slope.reshape(NUM, -1)
    parts = torch.cat([slope, 1 + u * slope], 1)
    return float((parts.mean(0).abs() / (parts.std(0) / math.sqrt(NUM) + 1e-9)).max())


EVERY = {**SCALARS, **ARRAYS, **COUNTS, **COUNT_ARRAYS}


@pytest.mark.global_state
@pytest.mark.filterwarnings("ignore:Singular sample:UserWarning")
@pytest.mark.parametrize("name", [name for name in EVERY if name not in LEFT_OUT])
def test_draws_are_of_the_density(name):
    """About 400 statistics, each beyond 6 with probability 7e-7 at most."""
    if name == "SpanningTree":
        pytest.skip("Pyro draws one tree at a time, approximately")
    with default_dtype(torch.float64):
        assert deviation(name, with_exact_draws(EVERY[name].make())) < 6


@pytest.mark.global_state
@pytest.mark.parametrize("name", WRONG)
def test_own_draws_are_not(name):
    with default_dtype(torch.float64):
        assert not deviation(name, EVERY[name].make()) < 7


def wrapped(fn):
    """Return a distribution in wrappings, each with one correlation matrix or two."""
    scaled = dist.transforms.AffineTransform(0.0, 2.0, event_dim=2)
    return {
        "expanded": fn.expand(torch.Size([2])),
        "event": fn.expand(torch.Size([2])).to_event(1),
        "masked": dist.MaskedDistribution(fn, torch.tensor([True, False])),
        "transformed": dist.TransformedDistribution(fn, [scaled]),
        "mixture": dist.MixtureSameFamily(
            dist.Categorical(torch.ones(1)), fn.expand(torch.Size([1]))
        ),
    }


@pytest.mark.parametrize("form", wrapped(dist.LKJCholesky(4, 1.0)))
def test_correlations_are_uniform_in_each_wrapping(form):
    """`r_34` of four variables has variance 1/5, to five of its standard errors, 6e-7."""
    fn = wrapped(dist.LKJCholesky(4, 1.0))[form]
    factor = drawn(with_exact_draws(fn), 5000).reshape(-1, 4, 4)
    factor = factor / factor.norm(dim=-1, keepdim=True)
    r = (factor @ factor.mT)[:, 2, 3]
    assert abs(float(r.var()) - 0.2) < 5 * float(r.square().std()) / math.sqrt(len(r))


def correlation(y):
    lower = pyro.sample("L", dist.LKJCholesky(3, 1.0))
    whole = pyro.sample("R", dist.LKJ(3, 1.0))
    soft = pyro.sample("p", dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), 0.3))
    mean = (lower @ lower.mT)[..., 1, 2] + whole[..., 0, 1] + soft
    pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def test_first_look_at_a_model_draws_exactly():
    """Bounds of the evidence take its first run for an exact draw of the posterior."""
    first = PyroModel(correlation, (torch.tensor(0.3),), {}, seed=3).traces[0].nodes
    with seeded(3, "probe"):
        for name in ("L", "R", "p"):
            fn = with_exact_draws(first[name]["fn"])
            assert torch.equal(first[name]["value"], fn())
    assert 0 < float(first["p"]["value"]) < 1


def test_draws_of_the_prior_and_simulated_data_are_exact():
    """Variances of 1,000 correlations: 5 standard errors, false alarm 6e-7 each."""

    def model():
        pyro.sample("L", dist.LKJCholesky(4, 1.0))
        pyro.sample("R", dist.LKJCholesky(4, torch.ones(1000)).to_event(1), obs=data)

    data = torch.eye(4).expand(1000, 4, 4)
    simulate = Simulate()
    with seeded(0, "data"), simulate:
        model()
    analysed = PyroModel(model, (), {})
    draws = draw_prior(analysed, 1000, seed=0, purpose="test")
    latent = torch.func.vmap(analysed.values)(draws)["L"]
    for lower in (latent, simulate.data["R"]):
        r = (lower @ lower.mT)[:, 2, 3]
        assert abs(float(r.var()) - 0.2) < 5 * float(r.square().std()) / math.sqrt(1000)


def test_what_cannot_be_expanded_is_an_event_outside_of_its_plate():
    """As the error says."""

    def in_a_plate():
        with pyro.plate("pair", 2):
            pyro.sample("R", dist.LKJ(3, torch.ones(2)))

    with pytest.raises(ModelError, match=r"site 'R' cannot have .* LKJ.*\.to_event\(\)"):
        PyroModel(in_a_plate, (), {})
    analysed = PyroModel(
        lambda: pyro.sample("R", dist.LKJ(3, torch.ones(2)).to_event(1)), (), {}
    )
    assert analysed.size == 6
