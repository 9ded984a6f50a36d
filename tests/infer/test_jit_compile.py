"""Compiled models have the numbers of models as they are, in every way to anneal."""

import math
import pickle
import warnings
from unittest.mock import patch

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC

from pyro_jarzynski import (
    HMC,
    MALA,
    ULA,
    AnnealedSMC,
    DataTempering,
    JarzynskiKernel,
    Target,
    UnderdampedLangevin,
)
from pyro_jarzynski.core import compiled
from pyro_jarzynski.core.compiled import CompiledTerms, agree
from pyro_jarzynski.core.gradients import differentiate
from pyro_jarzynski.errors import ArgumentTypeError, CompilationWarning
from pyro_jarzynski.infer.learned import LearnedPosterior
from pyro_jarzynski.infer.posterior import ModelPosterior
from tests.infer.batches import FEW, analysed, run
from tests.infer.test_annealed_smc import STREAM, arriving, normal_of_unknown_scale
from tests.infer.test_learned import learned
from tests.infer.zoo import NUM_WALKERS, ZOO, Y

TOGETHER = [name for name, case in ZOO.items() if case.method != "loop"]
# A hierarchy, a support, a discrete latent and a plate: one of each kind.
SMALL = [
    "non_centred_hierarchy",
    "simplex",
    "outliers_by_bernoulli",
    "function_without_vmap",
]


@pytest.fixture(autouse=True)
def _no_parameters_are_left():
    yield
    pyro.clear_param_store()


def check_model(name):
    model, walkers = analysed(name)
    posterior = ModelPosterior(model, None, NUM_WALKERS, 0)
    made = CompiledTerms(posterior.terms, NUM_WALKERS)
    made.graded(walkers)
    assert made.program is not None
    other = posterior.draw(NUM_WALKERS, seed=5, purpose="other walkers")
    assert agree(made.graded(other), differentiate(posterior.terms, other))


@pytest.mark.parametrize("name", TOGETHER)
def test_record_of_a_model_is_the_model(name, compilations):
    check_model(name)
    assert len(compilations) == 1


@pytest.mark.parametrize("name", SMALL)
def test_code_of_a_model_is_the_model(name):
    check_model(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_code_of_every_model_is_the_model(name):
    check_model(name)


WAYS = {
    "MALA": {"kernel": MALA()},
    "HMC": {"kernel": HMC()},
    "ULA": {"kernel": ULA()},
    "underdamped": {"kernel": UnderdampedLangevin()},
    "from the prior": {"learn_base": False},
    "waste-free": {"waste_free": True, "num_moves": 3},
    "online": {"adapt": "online"},
    "arrivals": {"schedule": DataTempering((3, 8))},
    "chunks": {"chunk_size": 29},
}


def both(model, *args, **settings):
    """Return the results of a model as it is and compiled, at the same seed."""
    return [run(model, *args, seed=1, jit_compile=jit, **settings) for jit in (False, True)]


def assert_same(plain, fast, tolerance=1e-7):
    assert plain.num_gradients == fast.num_gradients
    assert fast.log_evidence == pytest.approx(plain.log_evidence, abs=tolerance)
    torch.testing.assert_close(
        fast.walkers.position, plain.walkers.position, rtol=tolerance, atol=tolerance
    )


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.EvidenceWarning")
@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_evidence_and_draws_are_those_of_the_plain_run(settings, compilations):
    assert_same(*both(arriving, STREAM, **settings))
    # A model, whatever the scout and the pilot do, is compiled once.
    assert len(compilations) == (2 if "schedule" in settings else 1)


def test_real_code_and_a_target():
    target, _, _ = normal_of_unknown_scale()
    assert_same(*both(target))


def test_real_code_of_a_pyro_model_is_kept(monkeypatch):
    made = []
    real = compiled.compile_graph
    monkeypatch.setattr(compiled, "_kept", {})
    monkeypatch.setattr(compiled, "compile_graph", lambda g: made.append(g) or real(g))
    assert_same(*both(arriving, STREAM))
    assert_same(*both(arriving, 1 - STREAM.flip(0)))
    assert len(made) == 1


def test_other_data_of_the_same_shape(compilations):
    """The second run has the code of the first, and its own data."""
    one, two = (both(arriving, y) for y in (STREAM, STREAM + 0.01))
    assert_same(*one)
    assert_same(*two)
    assert abs(one[1].log_evidence - two[1].log_evidence) > 1e-3
    assert len(compilations) == 1


def test_parameters_of_pyro_are_those_of_the_present(compilations):
    def model(y):
        scale = pyro.param("scale", torch.tensor(1.0, dtype=y.dtype))
        m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=y.dtype), 2.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(m, scale), obs=y)

    one = both(model, STREAM)
    pyro.get_param_store()["scale"] = torch.tensor(1.5, dtype=STREAM.dtype)
    two = both(model, STREAM)
    assert_same(*one)
    assert_same(*two)
    assert one[1].log_evidence != two[1].log_evidence
    assert len(compilations) == 1


def test_gradient_of_a_learned_base():
    posterior = learned()
    assert isinstance(posterior, LearnedPosterior)
    point = posterior.draw(200, seed=0, purpose="test")
    found = posterior.terms.graded(point)
    expected = differentiate(posterior.terms, point)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.energy, b.energy)
        torch.testing.assert_close(a.grad, b.grad)


def branching(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    scale = 1.0 if m > 0 else 2.0
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, scale), obs=y)


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SlowModelWarning")
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.EvidenceWarning")
def test_a_model_of_single_walkers_is_told_not_to_be_compiled(compilations):
    few = {**FEW, "num_walkers": 8, "num_chains": 1}
    with pytest.warns(CompilationWarning, match="one walker at a time") as told:
        AnnealedSMC(branching, **few, jit_compile=True).run(Y)
    assert [w.category for w in told].count(CompilationWarning) == 1
    assert not compilations


def test_a_target_that_cannot_be_recorded_is_told_and_right(compilations):
    target, _, _ = normal_of_unknown_scale()

    def likelihood(x):
        return target.log_likelihood(x) * (1.0 if x[0, 0].item() < math.inf else 2.0)

    odd = Target(target.log_prior, likelihood, target.prior_sample)
    with pytest.warns(CompilationWarning, match="Python numbers of tensors that vary"):
        plain, fast = both(odd)
    assert_same(plain, fast, 0.0)


def test_kernel_of_pyro(compilations):
    def draws(jit):
        kernel = JarzynskiKernel(arriving, num_walkers=100, seed=1, jit_compile=jit)
        kernel.setup(20, STREAM)
        kernel.sample({})
        kernel = pickle.loads(pickle.dumps(kernel))
        mcmc = MCMC(kernel, num_samples=100, warmup_steps=20, disable_progbar=True)
        mcmc.run(STREAM)
        return mcmc.get_samples()["x"]

    torch.testing.assert_close(draws(jit=False), draws(jit=True))
    assert compilations


@pytest.mark.slow
@pytest.mark.global_state
@pytest.mark.filterwarnings("ignore:num_chains=2 is more than")
def test_chains_in_processes_of_their_own():
    pyro.set_rng_seed(0)
    kernel = JarzynskiKernel(arriving, num_walkers=100, jit_compile=True)
    with patch("torch.multiprocessing.cpu_count", return_value=8):
        mcmc = MCMC(
            kernel,
            num_samples=100,
            warmup_steps=20,
            num_chains=2,
            mp_context="spawn",
            disable_progbar=True,
        )
        mcmc.run(STREAM)
    assert mcmc.get_samples(group_by_chain=True)["x"].shape == (2, 100)


def test_wrong_setting_is_named():
    with pytest.raises(ArgumentTypeError, match="`jit_compile` must be True or False"):
        AnnealedSMC(arriving, jit_compile="yes")


def test_configuration_of_the_compiler_is_left():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor
    before = dynamo.get_config_copy(), inductor.get_config_copy()
    run(arriving, STREAM, jit_compile=True, seed=1)
    assert (dynamo.get_config_copy(), inductor.get_config_copy()) == before
