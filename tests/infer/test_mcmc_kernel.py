"""`MCMC(JarzynskiKernel(model))`, as users of NUTS would run it."""

import math
import pickle
from dataclasses import fields
from inspect import signature
from itertools import combinations, pairwise
from unittest.mock import patch

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from pyro.infer.mcmc import StreamingMCMC

from pyro_jarzynski import MALA, ULA, AnnealedSMC, EvidenceWarning, JarzynskiKernel, Target
from pyro_jarzynski.errors import ArgumentError, ModelError, NonFiniteEnergyWarning
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.settings import Settings
from tests.infer.test_annealed_smc import STREAM, log_evidence_of_stream
from tests.scenarios import FLOAT

# Two chains on one core run in turn, of which Pyro warns.
pytestmark = pytest.mark.filterwarnings("ignore:num_chains=2 is more than")
ZERO = torch.zeros((), dtype=FLOAT)


def model(data):
    """A mean of closed form, and a scale that no data tell of."""
    pyro.sample("tau", dist.LogNormal(ZERO, 0.5))
    mu = pyro.sample("mu", dist.Normal(ZERO, 1.0))
    with pyro.plate("data", len(data)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=data)


def constrained(data):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3, dtype=FLOAT)))
    unit = pyro.sample("unit", dist.Uniform(ZERO, 1.0))
    pyro.sample("y", dist.Normal(weights[0] + unit, 0.1), obs=data)


SIZE = len(STREAM)
MEAN, SPREAD = float(STREAM.sum()) / (1 + SIZE), (1 + SIZE) ** -0.5


def kernel_of(program=model, **settings):
    return JarzynskiKernel(program, **{"num_walkers": 400, "seed": 1, **settings})


def sampled(kernel, *args, num_samples=400, warmup_steps=20, **settings):
    settings = {"disable_progbar": True, **settings}
    mcmc = MCMC(kernel, num_samples=num_samples, warmup_steps=warmup_steps, **settings)
    mcmc.run(*(args or (STREAM,)))
    return mcmc


def assert_posterior(draws, num=400):
    """Mean and spread, to ten standard errors; draws that share ancestors have larger."""
    error = 2 * 5 / math.sqrt(num)
    mu, log_tau = draws["mu"].flatten(), draws["tau"].flatten().log()
    assert abs(float(mu.mean()) - MEAN) < error * SPREAD
    assert abs(float(mu.std()) / SPREAD - 1) < error
    assert abs(float(log_tau.mean())) < error * 0.5
    assert abs(float(log_tau.std()) / 0.5 - 1) < error


def test_one_chain():
    mcmc = sampled(kernel_of())
    assert_posterior(mcmc.get_samples())


def chains_of(seed, num_chains=2, mp_context=None, **settings):
    """Return a run of several chains, in turn or in processes of their own."""
    kernel = kernel_of(num_walkers=50, max_moves=2, seed=seed, **settings)
    options = {"num_samples": 20, "warmup_steps": 2, "num_chains": num_chains}
    if mp_context is None:
        return sampled(kernel, **options)
    # Pyro goes to processes only where it counts more cores than chains.
    with patch("torch.multiprocessing.cpu_count", return_value=8):
        mcmc = sampled(kernel, **options, mp_context=mp_context)
    assert type(mcmc.sampler).__name__ == "_MultiSampler"
    return mcmc


def all_differ(chains):
    """Tell whether no draw is in two chains."""
    return all(not torch.isin(a, b).any() for a, b in combinations(chains, 2))


few_walkers = pytest.mark.filterwarnings("ignore::pyro_jarzynski.EvidenceWarning")


@few_walkers
@pytest.mark.global_state
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:num_chains=3")
@pytest.mark.parametrize("seed", [0, 2**40 + 1, None])
def test_each_chain_has_randomness_of_its_own(seed):
    """A seed determines them, however they are run; Pyro's seeds the processes without."""
    pyro.set_rng_seed(0)
    turns, forked = (
        chains_of(seed, 3, method).get_samples(group_by_chain=True)["mu"]
        for method in (None, "fork")
    )
    assert all_differ(turns)
    assert all_differ(forked)
    assert torch.equal(turns, forked) or seed is None


@few_walkers
def test_chains_of_neighbouring_seeds_differ():
    chains = [chains_of(seed).get_samples(group_by_chain=True)["mu"] for seed in range(3)]
    assert all_differ(torch.cat(chains))
    # The first chain is that of a kernel which runs alone.
    assert torch.equal(chains[2][0], chains_of(2, 1).get_samples()["mu"])


@few_walkers
def test_chains_of_a_kernel_that_runs_again_are_the_same():
    kernel = kernel_of(num_walkers=50, max_moves=2)
    options = {"num_samples": 20, "warmup_steps": 2, "num_chains": 2}
    first, second = (sampled(kernel, **options).get_samples()["mu"] for _ in range(2))
    assert torch.equal(first, second)


@few_walkers
def test_chains_of_a_stream_differ():
    kernel = kernel_of(num_walkers=50, max_moves=2)
    mcmc = StreamingMCMC(kernel, 20, warmup_steps=2, num_chains=2, disable_progbar=True)
    mcmc.run(STREAM)
    means = [mcmc.get_statistics()[chain, "mu"]["mean"] for chain in (0, 1)]
    assert means[0] != means[1]


@pytest.mark.global_state
def test_two_chains_in_turn_differ():
    pyro.set_rng_seed(0)
    mcmc = sampled(kernel_of(seed=None), num_chains=2)
    first, second = mcmc.get_samples(group_by_chain=True)["mu"]
    assert not torch.equal(first, second)
    assert_posterior(mcmc.get_samples(), 800)
    assert mcmc.diagnostics()["mu"]["r_hat"] < 1.05


def test_parallel_chains():
    """Those of a seed are the same in new processes as in turn."""
    with patch("torch.multiprocessing.cpu_count", return_value=8):
        mcmc = sampled(kernel_of(), num_chains=2, mp_context="spawn")
    assert type(mcmc.sampler).__name__ == "_MultiSampler"
    assert_posterior(mcmc.get_samples(), 800)
    found, expected = mcmc.diagnostics(), sampled(kernel_of(), num_chains=2).diagnostics()
    assert set(found["log evidence"]) == {"chain 0", "chain 1"}
    assert len(set(found["log evidence"].values())) == 2
    assert found["log evidence"] == expected["log evidence"]


def test_streaming():
    """Mean and variance of 2,000 draws, to ten standard errors."""
    kernel = kernel_of(num_walkers=2000)
    mcmc = StreamingMCMC(kernel, 2000, warmup_steps=20, disable_progbar=True)
    mcmc.run(STREAM)
    found = mcmc.get_statistics()[0, "mu"]
    assert abs(float(found["mean"]) - MEAN) < 0.22 * SPREAD
    assert float(found["variance"]) == pytest.approx(SPREAD**2, rel=0.3)


def test_hook_sees_every_step():
    seen = []

    def hook(kernel, params, stage, index):
        assert all(torch.isfinite(value).all() for value in params.values())
        seen.append((stage, index, sorted(params)))

    sampled(kernel_of(), num_samples=5, warmup_steps=3, hook_fn=hook)
    stages = [("Warmup", i) for i in range(3)] + [("Sample", i) for i in range(5)]
    assert seen == [(stage, i, ["mu", "tau"]) for stage, i in stages]


@pytest.mark.parametrize("names", [["tau", "mu"], ["mu", "tau"], ["tau"]])
def test_saved_parameters_keep_their_names(names):
    """Pyro writes them in the given order, and reads them sorted."""
    kernel = kernel_of()
    kernel.save_params = list(names)
    draws = sampled(kernel).get_samples()
    whole = sampled(kernel_of()).get_samples()
    assert sorted(draws) == sorted(names)
    assert all(torch.equal(draws[name], whole[name]) for name in names)


def test_initial_point_is_told_to_be_unused():
    with pytest.warns(UserWarning, match="initial_params. is not used"):
        mcmc = sampled(kernel_of(), initial_params={"tau": ZERO, "mu": ZERO})
    assert_posterior(mcmc.get_samples())


def test_initial_draws_are_the_base():
    """From draws of the posterior, fewer temperatures lead there than from the prior."""
    earlier = sampled(kernel_of(seed=5), num_samples=300).get_samples()
    cloud = {"mu": earlier["mu"], "tau": earlier["tau"].log()}
    mcmc = sampled(kernel_of(learn_base=False), initial_params=cloud)
    assert_posterior(mcmc.get_samples())
    plain = sampled(kernel_of(learn_base=False))
    betas = (m.diagnostics()["betas"]["chain 0"] for m in (mcmc, plain))
    assert len(next(betas)) < len(next(betas))


WRONG = {
    "must have the latents mu, tau, got mu": {"initial_params": {"mu": ZERO}},
    "'tau' in the uncon": {"initial_params": {"mu": ZERO, "tau": ZERO.expand(4, 2)}},
    "`warmup_steps` must be at least 1": {"warmup_steps": 0},
}


@pytest.mark.parametrize(("words", "settings"), WRONG.items())
def test_wrong_settings_are_named(words, settings):
    with pytest.raises(ArgumentError, match=words):
        sampled(kernel_of(), **settings)


@pytest.mark.parametrize("warmup_steps", [1, 2, 60])
@pytest.mark.parametrize("kernel", [MALA(), ULA()], ids=["MALA", "ULA"])
def test_any_number_of_warm_up_steps_reaches_the_posterior(warmup_steps, kernel):
    mcmc = sampled(kernel_of(kernel=kernel), warmup_steps=warmup_steps)
    assert mcmc.diagnostics()["betas"]["chain 0"][-1] == 1
    assert_posterior(mcmc.get_samples())


@pytest.mark.parametrize("rounds", [2, 3])
def test_more_draws_than_walkers_are_new_draws(rounds):
    mcmc = sampled(kernel_of(num_walkers=200), num_samples=200 * rounds)
    draws = mcmc.get_samples()
    parts = torch.stack([draws["mu"], draws["tau"]], 1).split(200)
    for earlier, later in pairwise(parts):
        repeated = (earlier[:, None] == later).all(-1).any(0)
        assert float(repeated.double().mean()) <= 0.02
    unique = len(torch.cat(parts).unique(dim=0))
    assert mcmc.diagnostics()["unique draws"]["chain 0"] == unique
    assert_posterior(draws, 200)


def test_draws_follow_weights_that_are_uneven():
    """Hardly moved from the prior, of mean 0, walkers have nothing but their weights."""
    settings = {"kernel": ULA(1e-5), "adapt": "off", "schedule": [0, 1]}
    draws = sampled(kernel_of(num_walkers=4000, **settings), STREAM[:2], num_samples=4000)
    mean = float(draws.get_samples()["mu"].mean())
    assert mean == pytest.approx(float(STREAM[:2].sum()) / 3, abs=0.1)


def test_diagnostics():
    mcmc = sampled(kernel_of(num_walkers=2000), num_samples=100)
    found = mcmc.diagnostics()
    assert found["divergences"] == {"chain 0": []}
    assert 0 < found["acceptance rate"]["chain 0"] < 1
    gap = found["log evidence"]["chain 0"] - log_evidence_of_stream(STREAM)
    assert abs(gap) < 5 * found["log evidence error"]["chain 0"] < 0.5
    assert len(found["ess"]["chain 0"]) == len(found["betas"]["chain 0"])


@pytest.mark.global_state
def test_seed_of_pyro_decides_unless_the_kernel_has_one():
    def draws(global_seed, seed):
        pyro.set_rng_seed(global_seed)
        return sampled(kernel_of(seed=seed), num_samples=50).get_samples()["mu"]

    assert torch.equal(draws(1, None), draws(1, None))
    assert not torch.equal(draws(1, None), draws(2, None))
    assert torch.equal(draws(1, 7), draws(2, 7))


def test_kernel_runs_again_after_pickle_and_after_cleanup():
    kernel = kernel_of()
    kernel.setup(20, STREAM)
    for _ in range(25):
        kernel.sample({})
    again = pickle.loads(pickle.dumps(kernel))
    kernel.cleanup()
    kernel.cleanup()
    expected = sampled(kernel_of()).get_samples()["mu"]
    for used in (again, kernel):
        assert torch.equal(sampled(used).get_samples()["mu"], expected)


def test_draws_satisfy_their_constraints():
    draws = sampled(kernel_of(constrained), ZERO + 0.8, num_samples=300).get_samples()
    torch.testing.assert_close(draws["weights"].sum(1), torch.ones(300, dtype=FLOAT))
    for values in draws.values():
        assert ((values > 0) & (values < 1)).all()


def test_support_that_depends_on_latents_is_refused():
    def nested():
        top = pyro.sample("top", dist.Gamma(2.0, 1.0))
        low = pyro.sample("low", dist.Uniform(0.0, top))
        pyro.sample("y", dist.Normal(low, 1.0), obs=torch.tensor(0.5))

    with pytest.raises(ModelError, match="'low' depends on other latents"):
        kernel_of(nested).setup(5)


def test_summary_is_printed(capsys):
    sampled(kernel_of()).summary()
    assert "Number of divergences: 0" in capsys.readouterr().out


# ArviZ 0.2x announces its next release when it is imported.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.global_state
def test_arviz_reads_the_draws():
    import arviz

    if not hasattr(arviz, "from_pyro"):
        pytest.skip("this ArviZ does not read Pyro")
    mcmc = sampled(kernel_of())
    posterior = arviz.from_pyro(mcmc, log_likelihood=False).posterior
    assert posterior["mu"].shape == (1, 400)
    assert torch.equal(torch.tensor(posterior["mu"].values[0]), mcmc.get_samples()["mu"])


def test_settings_are_those_of_the_sampler():
    names = {field.name for field in fields(Settings)}
    shown = signature(JarzynskiKernel).parameters
    assert shown.keys() - {"model"} == names - {"num_chains"}
    own = {"model", "progress", "checkpoints"}
    assert signature(AnnealedSMC).parameters.keys() - own == names
    assert shown["num_walkers"].default == Settings().num_walkers
    assert shown["seed"].default is None
    with pytest.raises(ArgumentError, match="`num_chains` is an argument of `MCMC`"):
        kernel_of(num_chains=2)
    with pytest.raises(TypeError, match="'walkers'"):
        kernel_of(walkers=2)
    with pytest.raises(TypeError, match="got a `Target`: use `AnnealedSMC`"):
        kernel_of(Target(torch.sum, torch.sum, torch.randn))


SAME = {
    "default": {},
    "waste-free": {"waste_free": True, "num_moves": 3, "resampler": "stratified"},
    "online": {"adapt": "online", "num_moves": 2, "ess_threshold": 0.9},
    "too few": {"num_walkers": 8, "max_moves": 1, "learn_base": False},
    "no time": {"max_seconds": 1e-6, "learn_base": False},
}


@few_walkers
@pytest.mark.parametrize("settings", SAME.values(), ids=SAME)
def test_annealing_is_that_of_the_sampler(settings):
    """Evidence, history and doubts are those of one island, to the last bit."""
    settings = {"num_walkers": 100, "seed": 3} | settings
    sampler = AnnealedSMC(model, num_chains=1, progress=False, **settings)
    expected = sampler.run(STREAM)
    mcmc = sampled(kernel_of(**settings), num_samples=5)
    (found,) = mcmc._diagnostics
    assert found["log evidence"] == expected.log_evidence
    assert found["betas"] == expected.history["beta"].tolist()
    assert found["step size"] == float(expected.history["step_size"][-1])
    assert found["warnings"] == expected.doubts
    assert found["status"] == expected.status


def test_warnings_of_a_chain_are_told_once_and_are_in_its_diagnostics():
    kernel = kernel_of(num_walkers=8, max_moves=1, learn_base=False)
    with pytest.warns(EvidenceWarning) as told:
        mcmc = sampled(kernel, num_samples=5)
    texts = [str(w.message) for w in told]
    assert texts == mcmc.diagnostics()["warnings"]["chain 0"]
    assert any("descend from a few" in text for text in texts)
    assert len(set(texts)) == len(texts)
    assert mcmc.diagnostics()["status"]["chain 0"] == "doubtful"
    assert {w.filename for w in told} == {__file__}


def narrow_modes(data):
    del data
    x = pyro.sample("x", dist.Normal(ZERO, 5.0))
    modes = dist.Normal(torch.tensor([-6.0, 6.0], dtype=FLOAT), 0.05)
    pyro.factor("modes", modes.log_prob(x).logsumexp(0))


def mode_draws():
    """Return draws of one mode, and of the other: `initial_params` of two chains."""
    noise = torch.randn(2, 100, dtype=FLOAT, generator=torch.Generator().manual_seed(0))
    return torch.tensor([[-6.0], [6.0]]) + 0.05 * noise


def test_chains_that_disagree_are_told_of():
    """Each starts from draws of another mode, and finds no other."""
    kernel = kernel_of(narrow_modes)
    with pytest.warns(EvidenceWarning) as told:
        mcmc = sampled(kernel, num_chains=2, initial_params={"x": mode_draws()})
    first, last = mcmc.diagnostics()["warnings"].values()
    (doubt,) = set(last) - set(first)
    assert doubt.startswith("The chains disagree about the latent 'x'")
    shown = [str(w.message) for w in told if w.category is EvidenceWarning]
    assert shown == [f"Chain 1: {doubt}"]
    assert mcmc.diagnostics()["status"] == {"chain 0": "ok", "chain 1": "doubtful"}


def gradients_after(warmup_steps, num_samples=5, **settings):
    """Gradients that a chain has evaluated before its first draw, and after its last."""
    seen = []

    def hook(kernel, params, stage, index):
        del params, stage, index
        seen.append(kernel._chain.recorder.num_gradients)

    options = {"num_samples": num_samples, "warmup_steps": warmup_steps}
    sampled(kernel_of(**settings), hook_fn=hook, **options)
    return seen[warmup_steps - 1], seen[-1]


def test_warm_up_ends_when_the_walkers_have_decorrelated():
    """Ten times as many steps evaluate nothing more."""
    assert gradients_after(30) == gradients_after(300)


@few_walkers
def test_warm_up_goes_on_where_the_annealing_ended_too_early():
    slow = {"kernel": MALA(0.1, target_acceptance=None), "max_moves": 1}
    few, more, most = (gradients_after(n, **slow)[0] for n in (10, 100, 200))
    assert few < more == most


def test_draws_are_moved_only_until_they_have_decorrelated():
    """Some moves of all walkers for a draw of which there are no walkers left."""
    before, after = gradients_after(20, num_samples=101, num_walkers=100)
    assert 100 <= after - before <= 25 * 100
    more = gradients_after(20, num_samples=101, num_walkers=100, num_moves=40)
    assert more[1] - more[0] == 40 * 100


def test_draws_that_resemble_earlier_ones_are_told_of():
    kernel = kernel_of(
        num_walkers=50, kernel=MALA(1e-6, target_acceptance=None), num_moves=2, max_moves=3
    )
    with pytest.warns(EvidenceWarning, match="After 3 moves .* resemble earlier ones"):
        mcmc = sampled(kernel, num_samples=101, warmup_steps=5)
    (found,) = mcmc.diagnostics()["warnings"].values()
    assert sum("resemble earlier ones" in text for text in found) == 1


def pierced(data):
    """A posterior that is not a number in a small part, which moves meet now and then."""
    mu = pyro.sample("mu", dist.Normal(ZERO, 1.0))
    pyro.factor("hole", torch.where((mu - MEAN).abs() < SPREAD / 50, math.nan, 0 * mu))
    with pyro.plate("data", len(data)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=data)


@few_walkers
def test_moves_between_draws_that_are_refused_are_counted():
    with pytest.warns(NonFiniteEnergyWarning, match="the ends of .* which are refused"):
        few, many = (
            sampled(kernel_of(pierced), num_samples=num).diagnostics()["warnings"]
            for num in (10, 2000)
        )
    (few,), (many,) = few["chain 0"], many["chain 0"]
    assert "site 'hole'" in few
    assert many != few


def test_model_is_analysed_once_for_each_chain(monkeypatch):
    analysed = []
    init = PyroModel.__init__

    def counted(self, *args, **kwargs):
        analysed.append(1)
        init(self, *args, **kwargs)

    monkeypatch.setattr(PyroModel, "__init__", counted)
    sampled(kernel_of(num_walkers=50), num_samples=5, num_chains=2)
    assert len(analysed) == 2
