"""Latents keep their distribution under masks; scales are as in Pyro's own potential."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model

from pyro_jarzynski import AnnealedSMC, evidence_bounds
from pyro_jarzynski.errors import EvidenceWarning, ModelError
from pyro_jarzynski.infer.discrete import draw_discrete
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import draw_prior

DATA = torch.tensor([0.5, 1.2, -0.3, 0.8])
SEEN = torch.tensor([True, True, False, False])
GAMMA = dist.Gamma(2.0, 3.0)


def densities(model, *args, walkers=None):
    """Return log prior and log joint at draws of the prior, and the draws."""
    analysed = PyroModel(model, args, {})
    if walkers is None:
        walkers = draw_prior(analysed, 5, seed=0, purpose="test")
    return (*torch.func.vmap(analysed.log_densities)(walkers), walkers)


def observe(x, mask=None):
    with pyro.plate("data", 4), poutine.mask(mask=True if mask is None else mask):
        pyro.sample("y", dist.Normal(x, 1.0), obs=DATA)


def plain(name="x"):
    with pyro.plate("latents", 4):
        return pyro.sample(name, GAMMA)


def around_the_plate():
    with poutine.mask(mask=SEEN):
        return plain()


def inside_the_plate():
    with pyro.plate("latents", 4), poutine.mask(mask=SEEN):
        return pyro.sample("x", GAMMA)


def nested_handlers():
    with poutine.mask(mask=SEEN), poutine.mask(mask=~SEEN):
        return plain()


def never():
    with poutine.mask(mask=False):
        return plain()


@poutine.mask(mask=SEEN)
def decorated():
    return plain()


def by_the_distribution():
    with pyro.plate("latents", 4):
        return pyro.sample("x", GAMMA.mask(SEEN))


def before_the_event():
    return pyro.sample("x", GAMMA.expand([4]).mask(SEEN).to_event(1))


def after_the_event():
    return pyro.sample("x", GAMMA.expand([4]).to_event(1).mask(torch.tensor(False)))


def twice():
    return pyro.sample(
        "x", GAMMA.expand([4]).mask(SEEN).mask(~SEEN).to_event(1).mask(False)
    )


def below_a_transform():
    law = dist.Normal(0.0, 1.0).expand([4]).mask(SEEN)
    exp = dist.transforms.ExpTransform()
    return pyro.sample("x", dist.TransformedDistribution(law, exp).to_event(1))


def log_normal():
    return pyro.sample("x", dist.LogNormal(0.0, 1.0).expand([4]).to_event(1))


def masked_and_expanded():
    with pyro.plate("latents", 4):
        return pyro.sample("x", GAMMA.mask(torch.tensor(False)).expand([4]))


def mixture(mask):
    halves = dist.Categorical(torch.ones(2))
    parts = dist.Normal(torch.tensor([-1.0, 2.0]), 1.0)
    parts = parts if mask is None else parts.mask(mask)
    with pyro.plate("latents", 4):
        return pyro.sample("x", dist.MixtureSameFamily(halves, parts))


def masked_parts_of_a_mixture():
    return mixture(torch.tensor([True, False]))


def plain_mixture():
    return mixture(None)


@pytest.mark.parametrize(
    ("masked", "reference"),
    [
        (around_the_plate, plain),
        (inside_the_plate, plain),
        (nested_handlers, plain),
        (never, plain),
        (decorated, plain),
        (by_the_distribution, plain),
        (before_the_event, plain),
        (after_the_event, plain),
        (twice, plain),
        (below_a_transform, log_normal),
        (masked_and_expanded, plain),
        (masked_parts_of_a_mixture, plain_mixture),
    ],
)
def test_a_latent_keeps_its_distribution_in_any_wrapping(masked, reference):
    *expected, walkers = densities(lambda: observe(reference()))
    found = densities(lambda: observe(masked()), walkers=walkers)
    torch.testing.assert_close(found[:2], tuple(expected))


@pytest.mark.parametrize("name", ["x", "x_unobserved", "x_observed", "_x", "y_1"])
def test_the_name_of_a_masked_latent_is_of_no_account(name):
    def model():
        with poutine.mask(mask=SEEN):
            x = plain(name)
        observe(x)

    *expected, walkers = densities(lambda: observe(plain()))
    torch.testing.assert_close(densities(model, walkers=walkers)[:2], tuple(expected))


def test_evidence_of_masked_pairs_is_that_of_the_others():
    """Against the integral over all: 16 islands, beyond 5.5 errors with 6e-5."""

    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 4), poutine.mask(mask=SEEN):
            x = pyro.sample("x", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(x, 1.0), obs=DATA)

    result = AnnealedSMC(model, num_walkers=256, num_chains=16, progress=False).run()
    law = dist.MultivariateNormal(torch.zeros(2), 2 * torch.eye(2) + 1)
    error = abs(result.log_evidence - float(law.log_prob(DATA[:2])))
    assert error < 5.5 * result.log_evidence_error
    # Given `mu` of variance 1/2, which two data have left it, they have variance 3/2.
    spread = result.get_samples()["x"][:, 2:].std(0)
    assert ((spread - 1.5**0.5).abs() < 0.15).all()


LENGTHS = torch.tensor([4, 2, 1])
SEQUENCES = torch.tensor([[0.3, -1.2, 0.8, 0.1], [1.0, 0.4, 9.0, 9.0], [-2.0, 9, 9, 9]])


def chain_parameters():
    step = pyro.sample("step", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    mean = pyro.sample("mean", dist.Normal(torch.tensor([-1.0, 1.0]), 0.5).to_event(1))
    return step, mean


def padded(num_steps):
    step, mean = chain_parameters()
    data = torch.nn.functional.pad(SEQUENCES, (0, num_steps - 4))
    with pyro.plate("sequences", 3):
        x = torch.tensor(0)
        for t in pyro.markov(range(num_steps)):
            with poutine.mask(mask=t < LENGTHS):
                x = pyro.sample(f"x_{t}", dist.Categorical(step[x]))
                pyro.sample(f"y_{t}", dist.Normal(mean[x], 1.0), obs=data[:, t])


def ragged():
    step, mean = chain_parameters()
    for i, length in enumerate(LENGTHS.tolist()):
        x = torch.tensor(0)
        for t in pyro.markov(range(length)):
            x = pyro.sample(f"x_{i}_{t}", dist.Categorical(step[x]))
            pyro.sample(f"y_{i}_{t}", dist.Normal(mean[x], 1.0), obs=SEQUENCES[i, t])


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("num_steps", [4, 7])
def test_padding_of_discrete_chains_changes_nothing(num_steps, scale):
    *expected, walkers = densities(poutine.scale(ragged, scale=scale))
    found = densities(poutine.scale(padded, scale=scale), num_steps, walkers=walkers)
    torch.testing.assert_close(found[:2], tuple(expected))


def test_masked_states_are_drawn_from_their_distribution():
    """By 4,000 draws to 5 standard errors: false alarm 6e-7 each."""
    num = 4000
    model = PyroModel(padded, (5,), {})
    walker = draw_prior(model, 1, seed=0, purpose="test")
    drawn = draw_discrete(model, walker.expand(num, -1), by_loop=False, seed=0)
    step = model.values(walker[0])["step"]
    before, after = drawn["x_3"][:, 1], drawn["x_4"][:, 1]
    for state in (0, 1):
        rows = after[before == state].double()
        share = float(step[state, 1])
        error = math.sqrt(share * (1 - share) / len(rows))
        assert abs(float(rows.mean()) - share) < 5 * error


def test_a_mask_may_depend_on_a_discrete_latent():
    """A second hidden value takes part only where the first is one."""

    def model(*, always):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        a = pyro.sample("a", dist.Bernoulli(0.3))
        with poutine.mask(mask=True if always else a > 0):
            b = pyro.sample("b", dist.Bernoulli(0.4))
        pyro.sample("y", dist.Normal(m + a * b, 1.0), obs=torch.tensor(0.7))

    *expected, walkers = densities(lambda: model(always=True))
    found = densities(lambda: model(always=False), walkers=walkers)
    torch.testing.assert_close(found[:2], tuple(expected))


# Scales.


def test_scale_over_discrete_latents_is_taken_within_their_sum():
    """As in the potential of Pyro's NUTS; `TraceEnum_ELBO` takes it outside."""

    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=2.0), pyro.plate("data", 4):
            z = pyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(m + z, 1.0), obs=DATA)

    prior, joint, walkers = densities(model)
    z = torch.tensor([0.0, 1.0])
    data = dist.Normal(walkers + z, 1.0).log_prob(DATA[:, None, None])
    both = dist.Bernoulli(0.3).log_prob(z) + data
    torch.testing.assert_close(joint, prior + (2 * both).logsumexp(-1).sum(0))
    with torch.random.fork_rng():
        _, potential, _, _ = initialize_model(model, max_plate_nesting=1)
    expected = torch.stack([-potential({"m": walker[0]}) for walker in walkers])
    torch.testing.assert_close(joint, expected)


SCALE = torch.tensor([2.0, 0.5, 2.0, 0.5])


@pytest.mark.parametrize("scale", [0.5, SCALE])
def test_scale_applies_to_latents_where_no_mask_does(scale):
    def model(name, mask):
        with pyro.plate("data", 4), poutine.scale(scale=scale), poutine.mask(mask=mask):
            x = pyro.sample(name, dist.Normal(1.0, 2.0))
            pyro.sample("y", dist.Normal(x, 1.0), obs=DATA)

    for name, mask in (("x", SEEN), ("x_unobserved", SEEN), ("x", True), ("x", False)):
        prior, joint, x = densities(model, name, mask)
        own, data = dist.Normal(1.0, 2.0).log_prob(x), dist.Normal(x, 1.0).log_prob(DATA)
        mask = torch.as_tensor(mask)
        expected = torch.where(mask, scale * (own + data), own).sum(1)
        torch.testing.assert_close(joint, expected)
        torch.testing.assert_close(prior, own.sum(1))


def test_imputed_data_under_a_scale():
    """Entries that were observed have their own density, without the scale."""

    def model():
        with pyro.plate("data", 4), poutine.scale(scale=0.5):
            pyro.sample("y", dist.Normal(1.0, 2.0), obs=DATA, obs_mask=SEEN)

    prior, joint, y = densities(model)
    own, data = dist.Normal(1.0, 2.0).log_prob(y), dist.Normal(1.0, 2.0).log_prob(DATA)
    expected = torch.where(SEEN, own + data / 2, own / 2).sum(1)
    torch.testing.assert_close(joint, expected)
    torch.testing.assert_close(prior, own.sum(1))


def test_a_scale_of_a_latent_that_is_masked_inside_is_refused():
    def model():
        with poutine.scale(scale=0.5):
            observe(before_the_event())

    with pytest.raises(ModelError, match=r"latent 'x' has a mask inside .* under a scale"):
        AnnealedSMC(model, num_walkers=8, progress=False).run()


def test_scaled_latents_are_told():
    def model():
        with poutine.scale(scale=0.5):
            m = pyro.sample("m", dist.Normal(0.0, 1.0))
        observe(m)

    with pytest.warns(EvidenceWarning, match=r"latent 'm' is under a scale"):
        AnnealedSMC(model, num_walkers=64, progress=False).run()


def test_bounds_need_densities_that_are_not_scaled():
    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=0.5):
            observe(m)

    with pytest.raises(ModelError, match=r"'y' is under a scale"):
        evidence_bounds(model)
