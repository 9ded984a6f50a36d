"""Bases to start from: those that cannot be used, and the evidence from the others."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, ModelError
from tests.infer.batches import conjugate, observe, run
from tests.infer.zoo import X, Y, noise

# Evidence of `conjugate` with the data `Y`.
TRUTH = float(dist.MultivariateNormal(torch.zeros(12), torch.eye(12) + 4.0).log_prob(Y))


def improper(y):
    support = dist.constraints.real
    m = pyro.sample("m", dist.ImproperUniform(support, (), ()))
    observe(m, y)


def test_improper_prior_cannot_be_drawn():
    with pytest.raises(ModelError, match=r"'m' has an improper prior.*base=\"normal\""):
        run(improper, Y)


def test_improper_prior_from_another_base():
    """The posterior is normal; 4 standard errors of mean and of variance: 1e-4."""
    result = run(improper, Y, base="normal", num_walkers=2000)
    m = result.get_samples()["m"].double()
    error = math.sqrt(1 / len(Y) / 4000)
    assert abs(float(m.mean() - Y.mean())) < 4 * 2 * error
    assert float(m.var()) * len(Y) == pytest.approx(1, abs=4 * 2 * math.sqrt(2 / 4000))
    flat = dist.Normal(Y.mean(), math.sqrt(1 / len(Y)))
    truth = float(dist.Normal(Y.mean(), 1.0).log_prob(Y).sum() - flat.log_prob(Y.mean()))
    assert abs(result.log_evidence - truth) < 5 * result.log_evidence_error + 0.01


def two_latents(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, s), obs=y)


def ones(*shape):
    return 1 + torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("gaussian", "`base` must be 'prior', 'normal', a guide.*'gaussian'"),
        ({"m": ones(20)}, "no draws of the latent 's'; it has m"),
        ({}, "no draws of the latent 'm'; it has none"),
        ({"m": ones(20, 2), "s": ones(20)}, r"draws of 'm' of shape \(n.*got \(20, 2\)"),
        (
            {"m": ones(20), "s": ones(21)},
            "equally many draws of all latents, got 20 and 21",
        ),
        ({"m": ones(5), "s": ones(5)}, "needs at least 6 draws .* 2 dimensions, got 5"),
        ({"m": ones(20), "s": -ones(20)}, "draws outside the supports"),
        ({"m": ones(20) * math.nan, "s": ones(20)}, "draws outside the supports"),
    ],
    ids=[
        "unknown name",
        "missing site",
        "no site",
        "wrong shape",
        "different numbers",
        "too few",
        "outside of the support",
        "NaN",
    ],
)
def test_base_that_cannot_be_used(base, message):
    with pytest.raises(ArgumentError, match=message):
        run(two_latents, Y, base=base)


@pytest.mark.parametrize("base", [None, 3, [1.0, 2.0]])
def test_base_of_a_wrong_type(base):
    with pytest.raises(ArgumentTypeError, match=f"got {type(base).__name__}"):
        run(two_latents, Y, base=base)


def test_base_of_lists():
    base = {"m": [0.0] * 20, "s": [1.0] * 20}
    with pytest.raises(ArgumentTypeError, match=r"draws of 'm' .*tensor.* got list"):
        run(two_latents, Y, base=base)


def test_guide_that_is_a_point():
    def guide(y):
        pyro.sample("m", dist.Delta(y.mean()))

    with pytest.raises(ArgumentError, match=r"`base` .*'m'"):
        run(conjugate, Y, base=guide)


def test_base_of_draws_in_double_precision():
    """Draws of NumPy or ArviZ are in double precision, the model is not."""

    def model(x, y):
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        observe(x @ b, y)

    assert run(model, X, Y, base={"b": noise(50, 3).double()}).complete


def test_guide_without_a_latent():
    def guide(y):
        pyro.sample("m", dist.Normal(0.0, 1.0))

    with pytest.raises(ModelError, match="guide without the latent 's'"):
        run(two_latents, Y, base=guide)


def normal_guide(y):
    pyro.sample("m", dist.Normal(y.mean(), 0.5))


def auto_guide():
    with torch.random.fork_rng():
        guide = AutoNormal(conjugate, init_scale=1.0)
        guide(Y)
    return guide


def earlier_draws():
    generator = torch.Generator().manual_seed(1)
    return {"m": Y.mean() + 0.3 * torch.randn(500, generator=generator)}


@pytest.mark.parametrize(
    "make",
    [lambda: "prior", lambda: "normal", lambda: normal_guide, auto_guide, earlier_draws],
    ids=["prior", "normal", "guide", "AutoNormal", "earlier draws"],
)
def test_every_base_gives_the_same_evidence(make):
    """Student's statistic of 7 degrees of freedom: false alarms 1.6e-3 for each base."""
    result = run(conjugate, Y, base=make(), num_walkers=512, num_chains=8)
    pyro.clear_param_store()
    assert result.complete
    assert abs(result.log_evidence - TRUTH) < 5 * result.log_evidence_error + 5e-3


def test_base_may_have_further_sites():
    base = {**earlier_draws(), "other": torch.zeros(3)}
    assert run(conjugate, Y, base=base).complete
