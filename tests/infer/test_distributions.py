"""All distributions of Pyro and torch, as latents and as data, in each form of a site.

A combination is right, or refused by an error that names the site. What is right is known
by quadrature, by sums over all values, or by draws:

- latents that are numbers: their density in unconstrained space has mass one, and draws of
  the prior are uniform in its distribution function (Kolmogorov and Smirnov);
- latents that are arrays: integration by parts, `E[∂ᵢ log q] = 0` and
  `E[uᵢ ∂ᵢ log q] = -1`, and `E[g / q] = 1` for a Gaussian `g`, over draws of the prior;
- discrete latents: the evidence of a datum that depends on them;
- data: at values of a latent, inside of the support and outside, where the likelihood is
  zero and no derivative is NaN.
"""

import math
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_jarzynski.errors import ModelError
from pyro_jarzynski.infer.batching import batch
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import draw_prior
from tests.distributions import (
    ARRAYS,
    COUNT_ARRAYS,
    COUNTS,
    INF,
    OTHERS,
    REFUSED,
    SCALARS,
    Entry,
    default_dtype,
    n,
)

FORMS = ("plain", "plate", "event", "masked", "affine")
LOC, SCALE = 0.5, -2.0
# Draws of the prior; Kolmogorov's statistic is beyond 3 with probability 3e-8. How draws
# of each distribution are distributed in itself, `test_draws` tells from more of them.
NUM_DRAWS, MAX_KS = 200, 3.0
# Unconstrained coordinates with tails, for quadrature.
U = torch.sinh(torch.linspace(-12, 12, 2001, dtype=torch.float64))


class CannotBeWritten(Exception):
    """Pyro has no such form of a distribution."""


def in_form(fn: Any, form: str) -> Any:
    """Return a distribution in one of the forms."""
    try:
        if form == "event":
            return fn.expand(torch.Size([2])).to_event(1)
        if form == "masked":
            return dist.MaskedDistribution(fn, torch.tensor([True, False]))
    except (NotImplementedError, AttributeError) as error:
        raise CannotBeWritten from error
    if form == "affine":
        link = dist.transforms.AffineTransform(n(LOC), n(SCALE), len(fn.event_shape))
        return dist.TransformedDistribution(fn, [link])
    return fn


def sample(fn: Any, form: str, obs: Any = None) -> Tensor:
    """Sample the site `x`."""
    fn = in_form(fn, form)
    if form in {"plate", "masked"}:
        with pyro.plate("pair", 2):
            return pyro.sample("x", fn, obs=obs)
    return pyro.sample("x", fn, obs=obs)


def num_copies(form: str) -> int:
    return 1 if form in {"plain", "affine"} else 2


def plain_log_prob(fn: Any, values: Tensor) -> Tensor:
    """Return log-densities as torch and Pyro have them, one after the other."""
    with pyro.validation_enabled(is_validate=False):
        return torch.stack([fn.log_prob(value).detach().reshape(()) for value in values])


def evaluated(model: PyroModel, walkers: Tensor) -> list[Tensor]:
    """Return log prior, log joint, and their gradients."""
    densities = batch(model, walkers[:8]).densities
    point = walkers.clone().requires_grad_()
    values = densities(point)
    slopes = [
        torch.autograd.grad(x.sum(), point, retain_graph=True, materialize_grads=True)[0]
        for x in values
    ]
    return [x.detach().double() for x in (*values, *slopes)]


def check_latent_number(entry: Entry, form: str) -> None:
    model = PyroModel(lambda: sample(entry.make(), form), (), {})
    size = num_copies(form)
    assert model.size == size
    u = U.to(torch.get_default_dtype())
    log_density = evaluated(model, u[:, None].expand(-1, size).contiguous())[0] / size
    # Far out the value of the latent overflows.
    overflows = torch.isnan(log_density) & (U.abs() > 30)
    density = log_density.exp().masked_fill(overflows, 0.0)
    distribution = torch.cumulative_trapezoid(density, U)
    assert float(distribution[-1]) == pytest.approx(1.0, abs=5e-3)
    draws = draw_prior(model, NUM_DRAWS, seed=1, purpose="test").double()
    rank = torch.arange(NUM_DRAWS + 1, dtype=torch.float64) / NUM_DRAWS
    for column in draws.T.contiguous():
        place = torch.searchsorted(U, column).clamp(1, len(U) - 1)
        part = (column - U[place - 1]) / (U[place] - U[place - 1])
        ends = torch.cat([torch.zeros(1), distribution])
        uniform = torch.lerp(ends[place - 1], ends[place], part.clamp(0, 1)).sort().values
        gap = torch.maximum(uniform - rank[:-1], rank[1:] - uniform).max()
        assert float(gap) * math.sqrt(NUM_DRAWS) < MAX_KS


def check_latent_array(entry: Entry, form: str) -> None:
    """Each of about a thousand statistics is beyond 6 with probability 2e-9."""
    model = PyroModel(lambda: sample(entry.make(), form), (), {})
    draws = draw_prior(model, NUM_DRAWS, seed=2, purpose="test")
    log_density, _, slope, _ = evaluated(model, draws)
    draws = draws.double()
    for zero in (slope, 1 + draws * slope):
        error = zero.std(0) / math.sqrt(NUM_DRAWS)
        assert (zero.mean(0).abs() < 6 * error + 1e-9).all()
    narrower = torch.cov(draws.T).reshape(draws.shape[1], -1) * 0.6
    gaussian = torch.distributions.MultivariateNormal(draws.mean(0), narrower)
    ratio = (gaussian.log_prob(draws) - log_density).exp()
    assert abs(ratio.mean() - 1) < 6 * ratio.std() / math.sqrt(NUM_DRAWS)


def check_discrete_latent(entry: Entry, form: str) -> None:
    def summary(z: Tensor, event_dim: int) -> Tensor:
        z = z.to(torch.get_default_dtype())
        for _ in range(event_dim):
            z = (z * torch.arange(1.0, z.shape[-1] + 1)).sum(-1)
        return z

    event_dim = len(entry.make().event_shape)

    def model() -> None:
        fn = in_form(entry.make(), form)
        if num_copies(form) == 1:
            z = summary(pyro.sample("x", fn), event_dim)
            pyro.sample("y", dist.Normal(z, n(1.0)), obs=n(0.7))
            return
        with pyro.plate("pair", 2):
            z = summary(pyro.sample("x", fn), event_dim)
            pyro.sample("y", dist.Normal(z, n(1.0)), obs=n(0.7).expand(2))

    prior, joint = PyroModel(model, (), {}).log_densities(torch.empty(0))
    values = entry.make().enumerate_support()
    datum = dist.Normal(summary(values, event_dim), n(1.0)).log_prob(n(0.7))
    truth = (plain_log_prob(entry.make(), values) + datum).logsumexp(0)
    prior, joint = (x.to(torch.get_default_dtype()) for x in (prior, joint))
    torch.testing.assert_close(joint, num_copies(form) * truth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prior, torch.zeros(()), rtol=0, atol=1e-5)


def check_data(entry: Entry, form: str, values: Tensor, log_prob: Tensor) -> None:
    """Compare the likelihood of data that are latents with that of `values`."""
    event, num = values.shape[1:], num_copies(form)
    # Infinitely many integers are no indices.
    whole = isinstance(
        entry.make(), dist.OneOneMatching | dist.OneTwoMatching | dist.SpanningTree
    )

    def model() -> None:
        flat = torch.zeros(num * max(1, event.numel()))
        y = pyro.sample("y", dist.Normal(flat, 10.0).to_event(1))
        y = y.reshape(y.shape[:-1] + ((num,) if num > 1 else ()) + event)
        sample(entry.make(), form, obs=y.long() if whole else y)

    expected, rows = log_prob.double(), values.reshape(len(values), -1)
    if num == 2:
        # The other of two is inside of the support; under a mask it is not.
        other = int(torch.isfinite(log_prob).nonzero()[0]) if form != "masked" else -1
        expected = expected + (log_prob[other] if form != "masked" else 0.0)
        rows = torch.cat([rows, rows[other].expand_as(rows)], 1)
    prior, joint, _, slope = evaluated(PyroModel(model, (), {}), rows.contiguous())
    found, inside = joint - prior, torch.isfinite(expected)
    exact = torch.get_default_dtype() == torch.float64
    torch.testing.assert_close(
        found[inside], expected[inside], rtol=0, atol=1e-6 if exact else 1e-2
    )
    assert (found[~inside] == -INF).all()
    assert torch.isfinite(slope[inside]).all()
    # Sums over states of which none is possible.
    assert isinstance(entry.make(), dist.DiscreteHMM) or not torch.isnan(slope).any()


def check_data_number(entry: Entry, form: str) -> None:
    low, high = max(entry.low, -8.0), min(entry.high, 8.0)
    inner = torch.linspace(low, high, 14)[1:-1] + 1e-3
    outer = torch.tensor([low - 0.5, low - 2, high + 0.5, high + 2])
    x = torch.cat([inner, outer])
    inside = (x > entry.low) & (x < entry.high)
    log_prob = torch.full_like(x, -INF)
    log_prob[inside] = plain_log_prob(entry.make(), x[inside])
    check_data(entry, form, *transformed(x, log_prob, form))


def check_data_count(entry: Entry, form: str) -> None:
    top = min(entry.high, 400.0)
    support = torch.arange(0, top + 1).to(torch.get_default_dtype())
    mass = plain_log_prob(entry.make(), support).exp().sum()
    assert float(mass) == pytest.approx(1.0, abs=1e-3)
    inner = support[:3]
    outer = torch.tensor([-1.0, -2.0, 0.5, 1.5, *([top + 1, top + 2] * (entry.high < INF))])
    log_prob = plain_log_prob(entry.make(), inner)
    x = torch.cat([inner, outer])
    log_prob = torch.cat([log_prob, torch.full_like(outer, -INF)])
    check_data(entry, form, *transformed(x, log_prob, form))


def check_data_array(entry: Entry, form: str) -> None:
    fn = entry.make()
    if entry.inside is None:
        with pyro.validation_enabled(is_validate=False):
            inner = torch.stack([fn.sample().detach() for _ in range(4)])
    else:
        inner = entry.inside()
    try:
        log_prob = plain_log_prob(fn, inner)
    except (NotImplementedError, RuntimeError):
        # The model has to say so.
        log_prob = torch.zeros(len(inner))
    x = inner.to(torch.get_default_dtype())
    if entry.outside:
        outer = torch.stack([torch.as_tensor(value).to(x) for value in entry.outside])
        x = torch.cat([x, outer])
        log_prob = torch.cat([log_prob, torch.full((len(outer),), -INF)])
    check_data(entry, form, *transformed(x, log_prob, form))


def transformed(x: Tensor, log_prob: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """Return values and log-densities of the form of a distribution."""
    if form != "affine":
        return x, log_prob
    return LOC + SCALE * x, log_prob - math.log(abs(SCALE)) * x[0].numel()


CHECKS = {
    "latent": (
        (SCALARS, check_latent_number),
        (ARRAYS, check_latent_array),
        (COUNTS, check_discrete_latent),
        (COUNT_ARRAYS, check_discrete_latent),
        (OTHERS, check_latent_number),
    ),
    "observed": (
        (SCALARS, check_data_number),
        (ARRAYS, check_data_array),
        (COUNTS, check_data_count),
        (COUNT_ARRAYS, check_data_array),
        (OTHERS, check_data_array),
    ),
}
CASES = [
    pytest.param(name, entry, side, check, id=f"{name}-{side}")
    for side, tables in CHECKS.items()
    for table, check in tables
    for name, entry in table.items()
    # As data it is a factor.
    if (name, side) != ("Unit", "observed")
]


def outcome(check: Any, entry: Entry, form: str) -> str:
    """Return `right`, `refused`, or what is wrong."""
    pyro.clear_param_store()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            check(entry, form)
        except CannotBeWritten:
            return "cannot be written"
        except ModelError as error:
            return "refused" if "'x'" in str(error) else f"unnamed: {error}"
        except AssertionError as error:
            return f"wrong: {error}"
    return "right"


@pytest.mark.global_state
@pytest.mark.parametrize(("name", "entry", "side", "check"), CASES)
def test_each_form_of_a_distribution_is_right_or_refused(name, entry, side, check):
    refused = REFUSED[side].get(name, ())
    with default_dtype(torch.float64):
        found = {form: outcome(check, entry, form) for form in FORMS}
    expected = {
        form: "refused" if form in refused else "right"
        for form in FORMS
        if found[form] != "cannot be written"
    }
    assert {form: found[form] for form in expected} == expected


@pytest.mark.global_state
@pytest.mark.parametrize(("name", "entry", "side", "check"), CASES)
def test_each_distribution_is_right_or_refused_in_single_precision(
    name, entry, side, check
):
    with default_dtype(torch.float32):
        found = outcome(check, entry, "plain")
    assert found == ("refused" if "plain" in REFUSED[side].get(name, ()) else "right")
