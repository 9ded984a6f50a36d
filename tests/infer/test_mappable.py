"""Pyro's operations under `vmap` have the numbers and gradients that they have without."""

import ast
import math
import threading
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib import gp, timeseries
from pyro.contrib.epidemiology import binomial_dist
from pyro.contrib.forecast import ForecastingModel
from pyro.infer.reparam import (
    LinearHMMReparam,
    ProjectedNormalReparam,
    StableReparam,
    StudentTReparam,
    SymmetricStableReparam,
)
from pyro.nn import PyroSample
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.infer.batching import batch
from pyro_jarzynski.infer.mappable import REPLACEMENTS, mappable
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import draw_prior

PYRO = Path(pyro.__file__).parent


NUMBERS = torch.randn(20, generator=stream(0, "data"), dtype=torch.float64)


def noise(*shape):
    return NUMBERS[: math.prod(shape)].view(shape)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def cholesky(size):
    def density(c):
        # Through the module, as Pyro's own functions find it.
        matrix = c * torch.eye(size, dtype=c.dtype) + 0.5
        factor = pyro.ops.gaussian.safe_cholesky(matrix)
        return (factor * (1 + torch.arange(size))).sum()

    return density


def normalized(c):
    rows = torch.stack([c * numbers(3, 4, 0), numbers(0, 0, 0)])
    return (c * pyro.ops.tensor_utils.safe_normalize(rows) * numbers(1, 2, 3)).sum()


def stable_draw(coords, shift=0.0):
    """A transformed draw, of stability 1 at `c = 1` without a shift."""

    def density(c):
        u, e = numbers(-1.2, 0.1, 1.4), numbers(0.2, 1.0, 3.0)
        alpha, beta = (c + shift).expand(3), numbers(0.3, 0.5, -0.8)
        return _drawn(alpha, beta, u, e, coords=coords).sum()

    return density


def _drawn(*args, **kwargs):
    return pyro.distributions.stable._standard_stable(*args, **kwargs)


def stable_density(value, shift=0.0, coords="S0"):
    def density(c):
        law = dist.StableWithLogProb(c + shift, numbers(0.4), c, c / 10, coords=coords)
        return law.log_prob(value).sum()

    return density


def symmetric_stable(c):
    """Near stability 1, by its reparametrisation into a scale mixture."""
    sites = {"x_uniform": numbers(0.3), "x_exponential": numbers(1.1)}
    sites |= {"x_z_uniform": numbers(-0.4), "x_z_exponential": numbers(0.7)}
    sites |= {"x_t_uniform": numbers(0.8), "x_t_exponential": numbers(0.2)}
    skewed = dist.Stable(c, numbers(0.2), c, c)
    with (
        poutine.block(),
        poutine.condition(data=sites),
        poutine.trace() as found,
        poutine.reparam(config={"x": StableReparam(), "y": SymmetricStableReparam()}),
    ):
        pyro.sample("x", skewed, obs=numbers(0.7))
        sites |= {"y_uniform": numbers(0.1), "y_exponential": numbers(0.9)}
        pyro.sample("y", dist.Stable(c + 0.5, 0 * c, c, c), obs=numbers(0.7))
    return found.trace.log_prob_sum()


def counts(c):
    logits = torch.stack([c, 2 * c, torch.full_like(c, -math.inf)])
    law = dist.Multinomial(5, logits=logits, validate_args=False)
    return law.log_prob(numbers(2, 3, 0)).sum()


def categories(c):
    law = dist.OrderedLogistic(c * numbers(-1, 0, 2), numbers(-1, 0.5, 1))
    return law.log_prob(torch.tensor([0, 1, 3])).sum()


def matrix_hmm(law):
    one = torch.eye(2, dtype=torch.float64)

    def density(c):
        data = noise(6, 2)
        return law(c, one).log_prob(data).sum()

    return density


def normals(c, one, size=2):
    return dist.MultivariateNormal(torch.zeros(size, dtype=c.dtype), c * one)


def gaussian_hmm(c, one):
    step = normals(c, one)
    return dist.GaussianHMM(normals(1 + c, one), c * one, step, one, step, duration=6)


def gamma_gaussian_hmm(c, one):
    step = normals(c, one)
    scale = dist.Gamma(c + 3, c)
    return dist.GammaGaussianHMM(scale, step, c * one, step, one, step, duration=6)


def gaussian_mrf(c, one):
    both = torch.eye(4, dtype=c.dtype) + 0.1
    law = normals(c, both, 4).expand([6])
    return dist.GaussianMRF(normals(c, one), law, law)


def independent_hmm(c, one):
    del one
    eye = torch.eye(1, dtype=c.dtype)
    law = dist.Normal(torch.zeros(2, 6, 1, dtype=c.dtype), c).to_event(1)
    first = dist.Normal(torch.zeros(2, 1, dtype=c.dtype), c).to_event(1)
    return dist.IndependentHMM(dist.GaussianHMM(first, c * eye, law, eye, law))


def discrete_hmm(c):
    logits = c * torch.eye(3, dtype=c.dtype)
    law = dist.DiscreteHMM(0 * logits[0], logits, dist.Normal(c * numbers(0, 1, 2), c))
    return law.log_prob(noise(6))


def coalescent(c):
    leaves, rates = numbers(0, 0.1, 0.2, 0.3), c * torch.ones(10, dtype=c.dtype)
    law = dist.CoalescentTimesWithRate(leaves, rates)
    return law.log_prob(numbers(-1.0, -0.5, -0.2))


def skewed(c):
    flat = dist.VonMises(numbers(0, 0), torch.stack([c, c])).to_event(1)
    return dist.SineSkewed(flat, c * numbers(0.2, 0.3)).log_prob(noise(2))


def two_angles(c):
    law = dist.SineBivariateVonMises(0 * c, 0 * c, c, 2 * c, weighted_correlation=c / 3)
    return law.log_prob(noise(2))


def missing(c):
    return dist.NanMaskedNormal(c, c).log_prob(numbers(0.5, math.nan, 0.3)).sum()


def missing_coordinates(c):
    nan = math.nan
    data = numbers([0.5, 0.1, nan], [0.3, 0.2, 0.4], [nan, nan, nan], [nan, 0.4, nan])
    matrix = c * torch.eye(3, dtype=c.dtype) + 0.3
    law = dist.NanMaskedMultivariateNormal(c * torch.ones(3, dtype=c.dtype), matrix)
    return law.log_prob(data).sum()


def nothing_missing(c):
    matrix = c * torch.eye(3, dtype=c.dtype) + 0.3
    law = dist.NanMaskedMultivariateNormal(c * torch.ones(3, dtype=c.dtype), matrix)
    return law.log_prob(noise(4, 3)).sum()


def wishart(c):
    one = torch.eye(2, dtype=c.dtype)
    return dist.Wishart(c + 3, covariance_matrix=c * one).log_prob(one + 0.1)


def matching(law, *shape):
    def density(c):
        value = torch.arange(shape[0]) % shape[1]
        return law(c * noise(*shape), bp_iters=4).log_prob(value)

    return density


def epidemic(c):
    known = binomial_dist(numbers(20), c / 3, overdispersion=c / 2)
    return known.log_prob(numbers(4))


CASES = {
    "safe_cholesky 1": cholesky(1),
    "safe_cholesky 3": cholesky(3),
    "safe_log": lambda c: pyro.ops.special.safe_log(c * numbers(0.1, 0, 2))[[0, 2]].sum(),
    "safe_normalize": normalized,
    "stable draw S": stable_draw("S"),
    "stable draw S0": stable_draw("S0"),
    "stable draw far from 1": stable_draw("S", 0.4),
    "stable density": stable_density(noise(4), 0.5),
    "stable density near 1": stable_density(noise(4)),
    "stable density near 0": stable_density(numbers(0.0, 0.101, 0.1), 0.5),
    "stable reparametrisation": symmetric_stable,
    "Multinomial": counts,
    "OrderedLogistic": categories,
    "GaussianHMM": matrix_hmm(gaussian_hmm),
    "GammaGaussianHMM": matrix_hmm(gamma_gaussian_hmm),
    "GaussianMRF": matrix_hmm(gaussian_mrf),
    "IndependentHMM": matrix_hmm(independent_hmm),
    "DiscreteHMM": discrete_hmm,
    "CoalescentTimesWithRate": coalescent,
    "SineSkewed": skewed,
    "SineBivariateVonMises": two_angles,
    "NanMaskedNormal": missing,
    "NanMaskedMultivariateNormal": missing_coordinates,
    "NanMaskedMultivariateNormal, whole": nothing_missing,
    "Wishart": wishart,
    "OneOneMatching": matching(dist.OneOneMatching, 4, 4),
    "OneTwoMatching": matching(dist.OneTwoMatching, 6, 3),
    "epidemiology": epidemic,
}
# Where interpolations begin and end, and in between: as the stability 1 is special.
WALKERS = numbers(0.7, 0.985, 0.9925, 0.998, 1.0, 1.004, 1.0075, 1.06, 1.4)


def graded(function, points):
    point = points.clone().requires_grad_()
    values = function(point)
    (grads,) = torch.autograd.grad(values.sum(), point)
    return values.detach(), grads


@pytest.mark.parametrize("name", CASES)
def test_mapped_numbers_and_gradients_are_those_of_pyro(name):
    density = CASES[name]
    with pyro.validation_enabled(False):
        expected = graded(lambda points: torch.stack([density(c) for c in points]), WALKERS)
        with mappable():
            alone = graded(
                lambda points: torch.stack([density(c) for c in points]), WALKERS
            )
            mapped = graded(torch.func.vmap(density), WALKERS)
    for found in (alone, mapped):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_the_gradient_of_the_logarithm_is_bounded_at_zero():
    with mappable():
        grads = torch.func.vmap(torch.func.grad(pyro.ops.special.safe_log))(numbers(0, 2))
    torch.testing.assert_close(grads, numbers(1 / torch.finfo(torch.float64).eps, 0.5))


def test_a_walker_beyond_what_a_distribution_allows_does_not_stop_the_others():
    """Concentrations above 10,000 are refused, if the walker is alone."""
    with pyro.validation_enabled(False):
        with pytest.raises(AssertionError, match="inaccurate"):
            two_angles(numbers(12_000)[0])
        with mappable():
            found = torch.func.vmap(two_angles)(numbers(1, 2, 12_000))
        torch.testing.assert_close(found[0], two_angles(numbers(1)[0]))


@pytest.mark.parametrize(
    "law",
    [
        dist.Bernoulli(numbers(0.3)),
        dist.Binomial(5, numbers(0.3)),
        dist.Categorical(numbers(0.2, 0.3, 0.5).expand(1, 3)),
        dist.NegativeBinomial(5, numbers(0.3)),
    ],
    ids=lambda law: type(law).__name__,
)
def test_logits_of_all_data_of_a_plate_are_computed_once(law):
    value = numbers(0, 1, 1)
    expected = law.expand([3]).log_prob(value)
    with mappable():
        logits = law.expand([3]).logits
        found = law.expand([3]).log_prob(value)
    assert logits.untyped_storage().data_ptr() == law.logits.untyped_storage().data_ptr()
    assert logits.untyped_storage().nbytes() == 8 * logits[0].numel()
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("own", "values", "expanded"),
    [
        ((3,), (), None),
        ((3,), (5,), (5,)),
        ((4, 3), (5, 1), None),
        ((4, 3), (5, 4), (2, 5, 4)),
        ((4, 1, 1, 3), (2, 6), (4, 2, 6)),
        ((2, 1, 4, 3), (5, 1), (2, 5, 4)),
        ((3,), (7, 1, 1), (2, 1)),
        ((3,), (0,), (0,)),
    ],
)
def test_categories_of_any_shapes(own, values, expanded):
    generator = stream(0, "shapes")
    logits = torch.randn(2, *own, generator=generator, dtype=torch.float64)
    value = torch.randint(3, values, generator=generator)

    def density(each):
        law = dist.Categorical(logits=each)
        found = (law if expanded is None else law.expand(expanded)).log_prob(value)
        return found * torch.arange(1 + found.numel())[1:].view(found.shape)

    with pyro.validation_enabled(False):
        expected = graded(lambda rows: torch.stack([density(x) for x in rows]), logits)
        with mappable():
            found = graded(torch.func.vmap(density), logits)
    assert found[0].equal(expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=1e-12)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that is written."""

    num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.num = max(self.num, result.untyped_storage().nbytes())
        return result


def test_gradients_of_categories_take_no_memory_for_each_category_of_each_datum():
    """They are of 50 logits and 1,000 data."""
    logits, value = torch.zeros(50, requires_grad=True), torch.arange(1000) % 50
    with mappable(), Largest() as largest:
        law = dist.Categorical(logits=logits).expand([1000])
        (grad,) = torch.autograd.grad(law.log_prob(value).sum(), logits)
    torch.testing.assert_close(grad, torch.zeros(50), rtol=0, atol=1e-4)
    # Indices of 8 bytes.
    assert largest.num == 8 * 1000


def attributes():
    return [vars(owner)[name] for owner, name, _ in REPLACEMENTS]


def test_nothing_stays_replaced():
    before = attributes()

    def fail():
        with mappable():
            with mappable():
                pass
            now = attributes()
            assert not any(a is b for a, b in zip(before, now, strict=True))
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert all(a is b for a, b in zip(before, attributes(), strict=True))


def test_a_run_leaves_pyro_as_it_was_and_other_threads_wait():
    before, model = attributes(), PyroModel(*MODELS["HMM"])
    walkers = draw_prior(model, 4, seed=0, purpose="test")
    densities = batch(model, walkers).densities
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(densities(walkers)[1]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(x.equal(found[0]) for x in found)
    assert len(found) == 4
    assert all(a is b for a, b in zip(before, attributes(), strict=True))


def test_all_modules_of_pyro_that_import_a_replaced_function_are_known():
    functions = {name for owner, name, _ in REPLACEMENTS if not isinstance(owner, type)}
    known = {
        (owner.__name__, name)
        for owner, name, _ in REPLACEMENTS
        if hasattr(owner, "__file__")
    }
    # Those that look up another name, and those that are no part of a model.
    others = {"safe_log", "warn_if_nan", "_is_zero"}
    for file in PYRO.rglob("*.py"):
        module = ".".join(file.relative_to(PYRO.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            for alias in node.names:
                if alias.name in functions - others:
                    assert (module, alias.asname or alias.name) in known


def scale():
    return pyro.sample("c", dist.LogNormal(0.0, 0.3))


def hmm(y):
    c, one = scale(), torch.eye(2)
    step = dist.Normal(torch.zeros(2), c).to_event(1)
    first = dist.Normal(torch.zeros(2), 10.0).to_event(1)
    law = dist.GaussianHMM(first, one, step, one, step, duration=len(y))
    pyro.sample("y", law, obs=y)


def linear_hmm(y):
    c, one = scale(), torch.eye(2)
    step = dist.StudentT(4.0, torch.zeros(2), c).to_event(1)
    first = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    law = dist.LinearHMM(first, one, step, one, step, duration=len(y))
    reparam = LinearHMMReparam(trans=StudentTReparam(), obs=StudentTReparam())
    with poutine.reparam(config={"y": reparam}):
        pyro.sample("y", law, obs=y)


def stable_noise(y):
    alpha, c = pyro.sample("alpha", dist.Uniform(0.5, 1.9)), scale()
    with pyro.plate("data", len(y)), poutine.reparam(config={"y": StableReparam()}):
        pyro.sample("y", dist.Stable(alpha, 0.3, c, torch.zeros(())), obs=y)


def direction(y):
    with poutine.reparam(config={"z": ProjectedNormalReparam()}):
        z = pyro.sample("z", dist.ProjectedNormal(torch.ones(3)))
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


def regression():
    kernel = gp.kernels.Matern52(1)
    kernel.lengthscale = PyroSample(dist.LogNormal(0.0, 0.5))
    x = torch.linspace(0, 1, 6)
    return gp.models.GPRegression(
        x[:, None], x.sin(), kernel, noise=torch.tensor(0.1)
    ).model


def matern():
    law = timeseries.IndependentMaternGP(nu=1.5, obs_dim=2)
    law.kernel.length_scale = PyroSample(dist.LogNormal(0.0, 0.5).expand([2]).to_event(1))

    def model(y):
        pyro.factor("y", law.log_prob(y).sum())

    return model


class Forecast(ForecastingModel):
    def model(self, zero_data, covariates):
        del covariates
        c, one = scale(), torch.eye(2)
        step = dist.Normal(torch.zeros(2), c).to_event(1)
        law = dist.GaussianHMM(step, one, step, one, step, duration=len(zero_data))
        self.predict(law, zero_data)


def mixture(y):
    scales = scale() * torch.ones(2, 3)
    pyro.sample("y", dist.MixtureOfDiagNormals(0 * scales, scales, torch.zeros(2)), obs=y)


def grouped(y):
    spread, groups = scale() * torch.ones(6), torch.tensor([0, 0, 0, 1, 1, 1])
    zero, one = torch.zeros(2), torch.ones(2)
    pyro.sample("y", dist.GroupedNormalNormal(zero, one, spread, groups), obs=y)


def phylogeny():
    rates = scale() * torch.ones(10)
    law = dist.CoalescentTimesWithRate(torch.tensor([0.0, 0.1, 0.2, 0.3]), rates)
    pyro.sample("y", law, obs=torch.tensor([-1.0, -0.5, -0.2]))


PAIRS = torch.randn(6, 2, generator=stream(1, "data"))
MODELS = {
    "HMM": (hmm, (PAIRS,), {}),
    "MixtureOfDiagNormals": (mixture, (torch.ones(3),), {}),
    "GroupedNormalNormal": (grouped, (torch.ones(6),), {}),
    "CoalescentTimesWithRate": (phylogeny, (), {}),
    "LinearHMM": (linear_hmm, (PAIRS,), {}),
    "Stable": (stable_noise, (PAIRS[:, 0],), {}),
    "ProjectedNormal": (direction, (torch.ones(3),), {}),
    "contrib.gp": (regression(), (), {}),
    "contrib.timeseries": (matern(), (PAIRS,), {}),
    "contrib.forecast": (Forecast(), (PAIRS, torch.zeros(6, 0)), {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_pyro_are_mapped(name):
    """Their numbers are compared to those of one walker at a time by `batch` itself."""
    model = PyroModel(*MODELS[name])
    walkers = draw_prior(model, 16, seed=0, purpose="test")
    assert batch(model, walkers).method == "vmap"
    pyro.clear_param_store()
