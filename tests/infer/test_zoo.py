"""Every way of writing a model gives the density that Pyro gives it."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from pyro_jarzynski import AnnealedSMC
from pyro_jarzynski.core.evaluation import CombinedEnergy, evaluate
from pyro_jarzynski.errors import EvidenceWarning, SlowModelWarning
from pyro_jarzynski.infer.batching import batch
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.posterior import ModelPosterior
from pyro_jarzynski.infer.prior import draw_prior
from tests.infer.batches import analysed, assert_close, batched, in_double, with_gradients
from tests.infer.zoo import NUM_WALKERS, ZOO, X, Y

over_the_zoo = pytest.mark.parametrize("name", ZOO)
# Sums over discrete latents have no trace of a single run to be compared with.
over_the_continuous = pytest.mark.parametrize(
    "name", [name for name, case in ZOO.items() if not PyroModel(*case[:3]).enumerated]
)


@pytest.fixture(autouse=True)
def _no_parameters_are_left():
    yield
    pyro.clear_param_store()


@over_the_zoo
def test_fastest_method_that_is_right_is_chosen(name):
    model, walkers = analysed(name)
    expected = ZOO[name].method
    if expected == "loop":
        with pytest.warns(SlowModelWarning, match=r"one walker at a time.*vmap.*plate"):
            found = batch(model, walkers)
    else:
        found = batch(model, walkers)
    assert found.method == expected
    before = {"vmap": [], "plate": ["vmap"], "loop": ["vmap", "plate"]}
    assert [refusal.method for refusal in found.refusals] == before[expected]


def check_batch_against_single_walkers(model: PyroModel, walkers: Tensor) -> None:
    densities = batched(model, walkers).densities

    def alone(cloud):
        rows = [model.log_densities(walker) for walker in cloud]
        return tuple(torch.stack(values) for values in zip(*rows, strict=True))

    found, expected = with_gradients(densities, walkers), with_gradients(alone, walkers)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


@over_the_zoo
def test_many_walkers_have_the_densities_of_each_alone(name):
    check_batch_against_single_walkers(*analysed(name))


@over_the_zoo
@pytest.mark.global_state
def test_double_precision_is_kept(name):
    torch.set_default_dtype(torch.float64)
    model = PyroModel(*in_double(ZOO[name])[:3])
    walkers = draw_prior(model, NUM_WALKERS, seed=1, purpose="test")
    assert walkers.dtype == torch.float64
    check_batch_against_single_walkers(model, walkers)
    assert all(x.dtype == torch.float64 for x in model.values(walkers[0]).values())


@over_the_zoo
def test_joint_density_is_that_of_pyro(name):
    """At the same unconstrained point, up to rounding; Pyro's sign is the other one."""
    case = ZOO[name]
    if case.no_potential:
        pytest.skip(case.no_potential)
    model, walkers = analysed(name)
    with torch.random.fork_rng():
        _, potential, transforms, _ = initialize_model(*case[:3])
    assert transforms.keys() == {latent.name for latent in model.latents}
    found = torch.stack([model.log_densities(u)[1] for u in walkers[:4]])
    expected = torch.stack([-potential(model.unflatten(u)) for u in walkers[:4]])
    assert_close(found.detach(), expected.detach())


@over_the_continuous
def test_likelihood_is_the_rest_of_the_trace(name):
    """Log joint less log prior is what sites other than latents have in a plain run."""
    if name == "scaled_latent":
        pytest.skip("the latent has another density in the posterior than in its prior")
    case, (model, walkers) = ZOO[name], analysed(name)
    latents = {latent.name for latent in model.latents}
    for walker in walkers[:4]:
        values = {k: v.detach() for k, v in model.values(walker).items()}
        with torch.random.fork_rng():
            conditioned = poutine.condition(case.model, data=values)
            trace = poutine.trace(conditioned).get_trace(*case.args, **case.kwargs)
        expected = trace.log_prob_sum(lambda name, _: name not in latents)
        prior, joint = (x.detach() for x in model.log_densities(walker))
        assert_close(joint - prior, torch.as_tensor(expected).detach())


@over_the_zoo
def test_prior_draws_have_the_density_of_the_prior(name):
    """Integration by parts: `E[∂ᵢ log q] = 0` and `E[uᵢ ∂ᵢ log q] = -1` for all `i`.

    About 800 statistics in all, each beyond 6 standard errors with probability 2e-9.
    """
    model, _ = analysed(name)
    num = 300 if ZOO[name].method == "loop" else 2000
    walkers = draw_prior(model, num, seed=2, purpose="moments")
    densities = batched(model, walkers[:NUM_WALKERS]).densities
    slope = with_gradients(densities, walkers)[2].double()
    for zero in (slope, 1 + walkers * slope):
        error = zero.std(0) / math.sqrt(num)
        assert (zero.mean(0).abs() < 6 * error + 1e-6).all()


@over_the_zoo
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SlowModelWarning")
def test_chunks_of_walkers_have_the_same_energies(name):
    model, walkers = analysed(name)
    posterior = ModelPosterior(model, None, NUM_WALKERS, 0)
    energy = CombinedEnergy(posterior.terms, (0.5, 0.5))
    whole = evaluate(energy, walkers)
    for size in (4, 16):
        parts = evaluate(energy, walkers, chunk_size=size)
        assert_close(parts.energy, whole.energy)
        assert_close(parts.grad, whole.grad)


@over_the_zoo
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SlowModelWarning")
def test_values_lie_in_their_supports(name):
    model, walkers = analysed(name)
    posterior = ModelPosterior(model, None, NUM_WALKERS, 0)
    values = posterior.constrain(walkers)
    assert values.keys() == {latent.name for latent in model.latents}
    for latent in model.latents:
        assert values[latent.name].shape == (NUM_WALKERS, *latent.shape)
        for walker in range(3):
            trace, _ = model.run(walkers[walker])
            value = values[latent.name][walker]
            assert trace.nodes[latent.name]["fn"].support.check(value).all()


def test_deterministic_sites_belong_to_their_walkers():
    model, walkers = analysed("non_centred_hierarchy")
    posterior = ModelPosterior(model, None, NUM_WALKERS, 0)
    values = posterior.constrain(walkers, deterministic=True)
    expected = values["mu"][:, None] + values["tau"][:, None] * values["z"]
    torch.testing.assert_close(values["theta"], expected)


def test_no_walker_gets_another_weight_without_data():
    """Prior and posterior are the same function."""
    case = ZOO["no_data"]
    sampler = AnnealedSMC(
        case.model, num_walkers=64, schedule=[0.0, 0.5, 1.0], progress=False
    )
    result = sampler.run(*case.args)
    assert abs(result.log_evidence) < 1e-6
    assert (result.walkers.log_weight.abs() < 1e-6).all()


def test_prior_draws_need_memory_in_proportion_to_the_walkers():
    sizes = []

    def model(y):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        steps = dist.Normal(torch.zeros(len(y)), scale).to_event(1)
        sizes.append(pyro.sample("steps", steps).numel())
        pyro.sample("last", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    draw_prior(PyroModel(model, (Y,), {}), 300, seed=0, purpose="memory")
    assert max(sizes) <= 300 * len(Y)


def test_one_latent_of_double_precision_among_others():
    def model(x, y):
        wide = torch.tensor(1.0, dtype=torch.float64)
        scale = pyro.sample("scale", dist.HalfNormal(wide))
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(x @ b, scale), obs=y)

    sampler = AnnealedSMC(model, num_walkers=64, num_chains=2, progress=False)
    assert sampler.run(X, Y).complete


def test_contradicting_data_of_a_discrete_latent():
    """Both values have likelihood `e^{-200}`, which is no zero."""

    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("low", dist.Normal(m + 20 * z, 1.0), obs=torch.tensor(0.0))
        pyro.sample("high", dist.Normal(m + 20 * z, 1.0), obs=torch.tensor(20.0))

    joint = PyroModel(model, (), {}).log_densities(torch.zeros(1))[1]
    expected = -200 - 1.5 * math.log(2 * math.pi)
    assert float(joint) == pytest.approx(expected, rel=1e-5)


# Such a posterior is narrow at both ends, and some walkers may be stuck there.
@pytest.mark.filterwarnings("ignore:After the moves of a stage")
def test_prior_at_the_edge_of_single_precision_is_told():
    """A tenth of the mass of `Beta(0.1, 0.1)` is closer to one than float32 can say."""

    def model(y):
        p = pyro.sample("p", dist.Beta(0.1, 0.1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    sampler = AnnealedSMC(model, num_walkers=512, progress=False)
    with pytest.warns(EvidenceWarning, match=r"latent 'p' were rounded to the edge"):
        sampler.run(torch.ones(6))


def test_reparametrised_site_is_among_the_deterministic():
    model, walkers = analysed("hierarchy_by_reparam")
    posterior = ModelPosterior(model, None, NUM_WALKERS, 0)
    assert "theta" in posterior.constrain(walkers, deterministic=True)
