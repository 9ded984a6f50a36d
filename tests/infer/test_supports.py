"""Densities are zero outside of supports, and latents cover theirs."""

import math
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_jarzynski import AnnealedSMC, JarzynskiKernel, self_test
from pyro_jarzynski.distributions.supports import within_support
from pyro_jarzynski.errors import ModelError
from pyro_jarzynski.infer.batching import batch
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.pointwise import log_likelihood
from tests.infer.batches import with_gradients
from tests.seeds import seed_of

DATA = torch.tensor([3.2, 4.1, 3.6, 5.0, 3.3])
AFFINE = dist.transforms.AffineTransform


def densities_at(model, *points: float) -> tuple[Tensor, ...]:
    """Return log prior, log joint and their gradients at values of the only latent."""
    analysed = PyroModel(model, (), {})
    values = torch.tensor(points)
    walkers = analysed.latents[0].transform.inv(values).reshape(len(points), -1)
    found = batch(analysed, walkers)
    assert found.method == "vmap"
    return with_gradients(found.densities, walkers)


def normalised(model, reach: float = 14.0) -> float:
    """Return the integral of the prior over unconstrained space."""
    analysed = PyroModel(model, (), {})
    u = torch.linspace(-reach, reach, 40_001, dtype=torch.float64)
    log_prior = torch.func.vmap(analysed.log_densities)(u[:, None])[0]
    return float(torch.trapezoid(log_prior.double().exp(), u))


def shifted_by(law):
    def model():
        loc = pyro.sample("loc", dist.Normal(3.0, 1.0))
        with pyro.plate("data", len(DATA)):
            pyro.sample("y", law, obs=DATA - loc)

    return model


def threshold():
    loc = pyro.sample("loc", dist.Normal(3.0, 1.0))
    law = dist.TransformedDistribution(dist.Exponential(2.0), AFFINE(loc, 1.0))
    with pyro.plate("data", len(DATA)):
        pyro.sample("y", law, obs=DATA)


def validated():
    loc = pyro.sample("loc", dist.Normal(3.0, 1.0))
    law = dist.Exponential(torch.tensor(2.0), validate_args=True)
    with pyro.plate("data", len(DATA)):
        pyro.sample("y", law, obs=DATA - loc)


def event():
    loc = pyro.sample("loc", dist.Normal(3.0, 1.0))
    law = dist.Exponential(2.0).expand(DATA.shape).to_event(1)
    pyro.sample("y", law, obs=DATA - loc)


EXPONENTIAL = [shifted_by(dist.Exponential(2.0)), threshold, validated, event]


@pytest.mark.parametrize("model", EXPONENTIAL)
def test_data_below_a_threshold_have_density_zero(model):
    prior, joint, _, slope = densities_at(model, 3.0, 3.1, 3.3, 6.0)
    truth = 5 * math.log(2) - 2 * (DATA[:, None] - torch.tensor([3.0, 3.1])).sum(0)
    torch.testing.assert_close((joint - prior)[:2], truth)
    assert (joint[2:] == -math.inf).all()
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize(
    "law",
    [
        dist.Gamma(1.0, 1.0),
        dist.Weibull(1.0, 2.0),
        dist.LogNormal(0.0, 1.0),
        dist.Chi2(2.0),
        dist.FoldedDistribution(dist.Normal(1.0, 1.0)),
    ],
)
def test_densities_of_other_distributions_end_at_zero(law):
    _, joint, _, slope = densities_at(shifted_by(law), 3.0, 3.4, 6.0)
    assert torch.isfinite(joint[0])
    assert (joint[1:] == -math.inf).all()
    assert torch.isfinite(slope).all()


def test_evidence_of_a_threshold():
    """`∫ N(l; 3, 1) Π 2 e^{-2 (y - l)} dl` below the smallest datum, by quadrature."""
    below = torch.linspace(-9, 3.2, 20_001, dtype=torch.float64)
    data = (math.log(2) - 2 * (DATA.double()[:, None] - below)).sum(0)
    density = (dist.Normal(3.0, 1.0).log_prob(below) + data).exp()
    truth = float(torch.trapezoid(density, below).log())
    sampler = AnnealedSMC(
        EXPONENTIAL[0], num_walkers=512, num_chains=8, progress=False, seed=seed_of(0)
    )
    with pytest.warns():
        result = sampler.run()
    assert result.get_samples()["loc"].max() <= 3.2
    # A Student's statistic of 7 degrees of freedom: beyond 8 with probability 9e-5.
    assert abs(result.log_evidence - truth) < 8 * result.log_evidence_error


def latent(law):
    def model():
        pyro.sample("x", law)

    return model


def transformed(law, *links):
    return dist.TransformedDistribution(law, list(links))


@pytest.mark.parametrize(
    ("law", "low", "high"),
    [
        (transformed(dist.Exponential(1.0), AFFINE(1.0, -1.0)), -math.inf, 1.0),
        (transformed(dist.Exponential(1.0), AFFINE(1.0, 1.0)), 1.0, math.inf),
        (transformed(dist.Beta(2.0, 2.0), AFFINE(0.0, 3.0)), 0.0, 3.0),
        (transformed(dist.Beta(1.0, 1.0), AFFINE(0.0, 3.0)), 0.0, 3.0),
        (transformed(dist.Beta(2.0, 2.0), dist.transforms.ExpTransform()), 1.0, math.e),
        (
            transformed(dist.Gamma(2.0, 1.0), dist.transforms.PowerTransform(2.0)),
            0.0,
            math.inf,
        ),
        (
            transformed(
                dist.Normal(0.0, 1.0), dist.transforms.ExpTransform(), AFFINE(2.0, -1.0)
            ),
            -math.inf,
            2.0,
        ),
        (
            transformed(
                dist.Normal(0.0, 1.0),
                dist.transforms.ComposeTransform(
                    [dist.transforms.SigmoidTransform(), AFFINE(-2.0, 4.0)]
                ),
            ),
            -2.0,
            2.0,
        ),
        (transformed(dist.Normal(0.0, 1.0), dist.transforms.ELUTransform()), -1, math.inf),
        (transformed(dist.VonMises(0.5, 2.0), AFFINE(0.0, 2.0)), -6.2832, 6.2832),
        (
            dist.MixtureSameFamily(
                dist.Categorical(torch.tensor([0.3, 0.7])),
                dist.Uniform(torch.tensor([-1.0, 2.0]), torch.tensor([1.0, 3.0])),
            ),
            -1.0,
            3.0,
        ),
        (
            dist.MixtureSameFamily(
                dist.Categorical(torch.tensor([0.3, 0.7])),
                transformed(
                    dist.Exponential(1.0),
                    AFFINE(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.5])),
                ),
            ),
            0.0,
            math.inf,
        ),
        (dist.GeneralizedPareto(torch.tensor(1.0), 2.0, torch.tensor(0.3)), 1.0, math.inf),
        (dist.GeneralizedPareto(torch.tensor(1.0), 2.0, torch.tensor(-0.5)), 1.0, 5.0),
    ],
)
def test_latents_cover_their_supports(law, low, high):
    analysed = PyroModel(latent(law), (), {})
    ends = analysed.latents[0].transform(torch.tensor([-60.0, 60.0])).sort().values
    for end, bound in zip(ends.tolist(), (low, high), strict=True):
        assert abs(end) >= 60 if math.isinf(bound) else abs(end - bound) < 1e-3
    assert normalised(latent(law)) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize(
    ("base", "link", "u"),
    [
        (dist.Normal(0.0, 10.0), dist.transforms.SigmoidTransform(), [25.0]),
        (dist.Normal(0.0, 10.0), dist.transforms.TanhTransform(), [-25.0]),
        (dist.Normal(0.0, 10.0), dist.transforms.ELUTransform(), [-25.0]),
        (
            dist.Normal(torch.zeros(3), 10.0).to_event(1),
            dist.transforms.OrderedTransform(),
            [10.0, -25.0, 3.0],
        ),
        (dist.LogNormal(0.0, 10.0), AFFINE(1.0, -2.0), [-25.0]),
    ],
)
def test_value_that_rounds_to_an_end_has_the_density_of_its_base(base, link, u):
    """Single precision has no number between 1 and its image of 25."""
    analysed = PyroModel(latent(transformed(base, link)), (), {})
    found = analysed.log_densities(torch.tensor(u))[0]
    expected = dist.Normal(0.0, 10.0).log_prob(torch.tensor(u)).sum()
    torch.testing.assert_close(found, expected)


def test_support_that_depends_on_a_latent():
    """`2 - s x`, `x` exponential: below 2 for either sign of the scale."""

    def model():
        s = pyro.sample("s", dist.LogNormal(0.0, 0.5))
        law = transformed(dist.Exponential(1.0), AFFINE(2.0, -s))
        pyro.sample("x", law)

    analysed = PyroModel(model, (), {})
    grid = torch.linspace(-8, 8, 161, dtype=torch.float64)
    u = torch.cartesian_prod(grid, 3 * grid)
    log_prior = torch.func.vmap(analysed.log_densities)(u)[0].double()
    total = log_prior.exp().sum() * 0.1 * 0.3
    assert float(total) == pytest.approx(1.0, abs=1e-3)
    assert float(analysed.values(torch.tensor([0.3, 1.0]))["x"]) < 2


def test_data_hidden_by_a_mask_can_be_anything():
    seen = torch.tensor([True, False, True])
    y = torch.tensor([0.5, math.nan, 1.5])

    def by_handler():
        m = pyro.sample("m", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", 3), poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(m, m), obs=y)

    def in_a_distribution():
        m = pyro.sample("m", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", 3):
            pyro.sample("y", dist.Gamma(m, m).mask(seen), obs=y - 1.0 * ~seen)

    def alone():
        m = pyro.sample("m", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", 2):
            pyro.sample("y", dist.Normal(m, m), obs=y[seen])

    points = 0.4, 2.0
    with pyro.validation_enabled(is_validate=False):
        found, expected = densities_at(by_handler, *points), densities_at(alone, *points)
        hidden = densities_at(in_a_distribution, *points)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert all(torch.isfinite(x).all() for x in hidden)


def test_a_branch_outside_leaves_the_gradient_of_the_others():
    """With probability 0.3 the data are exponential, which they cannot be below zero."""

    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        kind = pyro.sample("kind", dist.Bernoulli(0.3))
        shape = 1.5 + 0 * kind
        law = dist.MaskedMixture(
            kind == 1, dist.Normal(m, 1.0), dist.Gamma(shape, 2.0 + m.square())
        )
        pyro.sample("y", law, obs=m - 1.0)

    def alone():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, 1.0), obs=m - 1.0)

    points = -0.5, 0.5
    found, expected = densities_at(model, *points), densities_at(alone, *points)
    torch.testing.assert_close(found[1], expected[1] + math.log(0.7))
    torch.testing.assert_close(found[3], expected[3])


def test_components_of_a_mixture_end_where_they_do():
    halves = dist.Categorical(torch.tensor([0.5, 0.5]))
    starts = torch.tensor([0.0, 2.0])
    parts = transformed(dist.Exponential(1.0), AFFINE(starts, torch.ones(2)))

    def model():
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.MixtureSameFamily(halves, parts), obs=torch.tensor(1.0) - loc)

    prior, joint, _, slope = densities_at(model, 0.5, 1.5, -1.5)
    truth = [
        math.log(0.5) - 0.5,
        -math.inf,
        math.log(0.5) + math.log(math.exp(-2.5) + math.exp(-0.5)),
    ]
    torch.testing.assert_close(joint - prior, torch.tensor(truth))
    assert torch.isfinite(slope).all()


def test_pointwise_log_likelihoods_end_with_their_supports():
    model = EXPONENTIAL[0]
    found = log_likelihood(PyroModel(model, (), {}), torch.tensor([[3.1], [3.4]]))["y"]
    expected = math.log(2) - 2 * (DATA - torch.tensor([[3.1], [3.4]]))
    torch.testing.assert_close(
        found, expected.masked_fill(expected > math.log(2), -math.inf)
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kernel_of_mcmc_stays_within_the_support():
    kernel = JarzynskiKernel(validated, num_walkers=256, seed=0)
    mcmc = pyro.infer.MCMC(kernel, 256, warmup_steps=2, disable_progbar=True)
    mcmc.run()
    assert mcmc.get_samples()["loc"].max() <= 3.2


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_walls_do_not_turn_the_coin():
    test = self_test(AnnealedSMC(EXPONENTIAL[1], num_walkers=256, progress=False))
    assert test.verdict == "passed"


def test_values_that_are_not_computed_are_nan():
    """Density zero would hide a failure."""

    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Exponential(1.0), obs=m.sqrt())

    _, joint, _, _ = densities_at(model, 0.5, -0.5)
    assert torch.isfinite(joint[0])
    assert torch.isnan(joint[1])


def pair(p):
    """Return two probabilities; for a negative `p` the second is negative."""
    return torch.stack([1 - p, p], -1)


def mixture(chances, **options):
    parts = dist.Normal(torch.tensor([0.0, 3.0]), 1.0)
    return dist.MixtureSameFamily(dist.Categorical(chances, **options), parts, **options)


@pytest.mark.parametrize("validate_args", [None, True])
@pytest.mark.parametrize(
    ("law", "value"),
    [
        (lambda p, **k: dist.Gamma(p, 1.0, **k), 0.5),
        (lambda p, **k: dist.InverseGamma(p, torch.tensor(1.0), **k), 0.5),
        (lambda p, **k: dist.Beta(p, 2.0, **k), 0.5),
        (lambda p, **k: dist.Weibull(1.0, p, **k), 0.5),
        (lambda p, **k: dist.Chi2(p, **k), 0.5),
        (lambda p, **k: dist.VonMises(0.0, p, **k), 0.5),
        (lambda p, **k: dist.Dirichlet(torch.stack([p, 1 + 0 * p], -1), **k), [0.5, 0.5]),
        (lambda p, **k: dist.Bernoulli(1 - p / 2, **k), 1.0),
        (lambda p, **k: dist.Geometric(1 - p / 2, **k), 1.0),
        (lambda p, **k: dist.Binomial(3, 1 - p / 2, **k), 1.0),
        (lambda p, **k: dist.NegativeBinomial(3.0, 1 - p / 2, **k), 1.0),
        (lambda p, **k: dist.Poisson(p, **k), 0.0),
        (lambda p, **k: dist.Weibull(p, torch.tensor(2.0), **k), 0.5),
        (lambda p, **k: dist.Categorical(pair(p), **k), 0.0),
        (lambda p, **k: dist.OneHotCategorical(pair(p), **k), [1.0, 0.0]),
        (lambda p, **k: dist.Multinomial(3, pair(p), **k), [1.0, 2.0]),
        (lambda p, **k: mixture(pair(p), **k), 0.5),
        (lambda p, **k: mixture(pair(p), **k).to_event(0).mask(mask=True), 0.5),
    ],
)
def test_invalid_parameters_have_density_zero(law, value, validate_args):
    """Torch gives them a finite one."""

    def model():
        p = pyro.sample("p", dist.Normal(1.0, 1.0))
        pyro.sample("y", law(p, validate_args=validate_args), obs=torch.tensor(value))

    prior, joint, _, _ = densities_at(model, 0.7, -0.7)
    truth = law(torch.tensor(0.7)).log_prob(torch.tensor(value))
    torch.testing.assert_close((joint - prior)[0], truth)
    assert joint[1] == -math.inf


def test_probabilities_that_rounding_puts_above_one_are_valid():
    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        chance = 1 + 1e-7 * m.abs()
        pyro.sample("y", dist.Bernoulli(chance), obs=torch.tensor(1.0))
        pair = torch.stack([chance, 1 - chance], -1)
        pyro.sample("z", dist.Categorical(pair), obs=torch.tensor(0))

    _, joint, _, _ = densities_at(model, 1.0, 2.0)
    assert torch.isfinite(joint).all()


@pytest.mark.parametrize(
    ("law", "ends"),
    [
        (dist.Exponential(2.0), {0.0: math.log(2)}),
        (dist.Gamma(1.0, 2.0), {0.0: math.log(2)}),
        (dist.Gamma(2.0, 2.0), {0.0: -math.inf}),
        (dist.Beta(1.0, 1.0), {0.0: 0.0, 1.0: 0.0}),
        (dist.HalfNormal(1.0), {0.0: math.log(2 / math.pi) / 2}),
        (dist.FoldedDistribution(dist.Normal(0.0, 1.0)), {0.0: math.log(2 / math.pi) / 2}),
        (dist.Pareto(2.0, 3.0), {2.0: math.log(1.5)}),
        (dist.LogNormal(0.0, 1.0), {0.0: -math.inf}),
        (dist.InverseGamma(2.0, 3.0), {0.0: -math.inf}),
        (dist.Weibull(1.0, 2.0), {0.0: -math.inf}),
        (dist.Kumaraswamy(2.0, 3.0), {0.0: -math.inf, 1.0: -math.inf}),
        (dist.RelaxedBernoulli(torch.tensor(2.0), 0.5), {0.0: -math.inf, 1.0: -math.inf}),
        (dist.TruncatedPolyaGamma(torch.tensor(1.0)), {0.0: -math.inf}),
        (
            transformed(dist.Normal(0.0, 1.0), dist.transforms.TanhTransform()),
            {-1.0: -math.inf, 1.0: -math.inf},
        ),
        (dist.Geometric(0.5), {0.0: math.log(0.5)}),
        (dist.Binomial(2, 0.5), {0.0: math.log(0.25), 2.0: math.log(0.25)}),
    ],
)
def test_densities_at_the_ends_of_supports(law, ends):
    """Those of the limit where it is finite and the end is in the support."""
    for end, log_density in ends.items():
        found = within_support(law).log_prob(torch.tensor(end))
        torch.testing.assert_close(found, torch.tensor(log_density))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mcmc_takes_latents_that_are_images_close_to_their_ends():
    def model():
        pyro.sample("x", transformed(dist.Gamma(0.02, 1.0), AFFINE(1.0, 1.0)))

    kernel = JarzynskiKernel(model, num_walkers=32, seed=0)
    mcmc = pyro.infer.MCMC(kernel, 16, warmup_steps=1, disable_progbar=True)
    mcmc.run()
    assert (mcmc.get_samples()["x"] >= 1).all()


def test_mcmc_refuses_supports_that_move():
    def model():
        top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", transformed(dist.Beta(2.0, 2.0), AFFINE(0.0, top)))

    with pytest.raises(ModelError, match="support of 'x' depends on other latents"):
        pyro.infer.MCMC(JarzynskiKernel(model, seed=0), 4, disable_progbar=True).run()


# A distribution is left slowly where a wall cuts it off.
@pytest.mark.filterwarnings("ignore:.*`max_moves` ended the moves")
def test_evidence_of_a_rate_that_may_be_negative():
    """Zero counts would draw it to minus infinity; `∫₀^∞ N(t; 1, 2) exp(-5 t) dt`."""

    def model():
        rate = pyro.sample("rate", dist.Normal(1.0, 2.0))
        with pyro.plate("data", 5):
            pyro.sample("y", dist.Poisson(rate), obs=torch.zeros(5))

    settings = {"num_walkers": 256, "num_chains": 16, "progress": False}
    result = AnnealedSMC(model, **settings).run()
    # The Gaussian is shifted to mean 1 - 5 · 4.
    tail = torch.special.log_ndtr(torch.tensor(-19 / 2, dtype=torch.float64))
    truth = float(tail) + (19**2 - 1) / 8
    assert abs(result.log_evidence - truth) < 5.5 * result.log_evidence_error
    assert float(result.get_samples()["rate"].min()) > 0


class Sum(dist.TorchDistribution):
    """A mixture of a user's own, of parts with supports of their own."""

    arg_constraints: ClassVar = {}
    support = dist.constraints.real

    def __init__(self, first, second):
        self.first, self.second = first, second
        super().__init__(first.batch_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Sum(self.first.expand(batch_shape), self.second.expand(batch_shape))

    def sample(self, sample_shape=()):
        shape = torch.Size(sample_shape)
        take = torch.rand(shape + self.batch_shape) < 0.5
        return torch.where(take, self.first.sample(shape), self.second.sample(shape))

    def log_prob(self, value):
        parts = self.first.log_prob(value), self.second.log_prob(value)
        return torch.logaddexp(*parts) - math.log(2)


class Undeclared(Sum):
    """Its support is not known."""

    support = dist.constraints.dependent


@pytest.mark.parametrize("kind", [Sum, Undeclared])
def test_parts_of_a_distribution_of_a_user_end_with_their_supports(kind):
    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        fn = kind(dist.Exponential(torch.tensor(2.0)), dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("y", fn, obs=m)

    prior, joint, _, slope = densities_at(model, 0.7, -0.7)
    normal = dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.7))
    both = torch.logaddexp(math.log(2) - torch.tensor(1.4), normal)
    expected = torch.stack([both, normal]) - math.log(2)
    torch.testing.assert_close(joint - prior, expected)
    assert torch.isfinite(slope).all()


def test_data_of_a_distribution_that_only_torch_has():
    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", torch.distributions.Exponential(1.0), obs=1 - m)

    prior, joint, _, _ = densities_at(model, 0.7, 1.7)
    torch.testing.assert_close(joint - prior, torch.tensor([-0.3, -math.inf]))
    settings = {"num_walkers": 64, "num_chains": 2, "progress": False}
    result = AnnealedSMC(model, **settings, base={"m": -torch.linspace(0.01, 1, 64)}).run()
    assert result.to_arviz().log_likelihood["y"].shape[:2] == (2, 64)
