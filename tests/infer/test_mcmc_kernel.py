"""`MCMC(JarzynskiKernel(model))`, as users of NUTS would run it."""

import math
import pickle
from itertools import pairwise
from unittest.mock import patch

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from pyro.infer.mcmc import StreamingMCMC

from pyro_jarzynski import MALA, ULA, JarzynskiKernel
from pyro_jarzynski.errors import ArgumentError, ModelError
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


@pytest.mark.global_state
def test_two_chains_in_turn_differ():
    pyro.set_rng_seed(0)
    mcmc = sampled(kernel_of(seed=None), num_chains=2)
    first, second = mcmc.get_samples(group_by_chain=True)["mu"]
    assert not torch.equal(first, second)
    assert_posterior(mcmc.get_samples(), 800)
    assert mcmc.diagnostics()["mu"]["r_hat"] < 1.05


@pytest.mark.global_state
def test_parallel_chains():
    # Pyro goes to processes only where it counts more cores than chains.
    pyro.set_rng_seed(0)
    with patch("torch.multiprocessing.cpu_count", return_value=8):
        mcmc = sampled(kernel_of(seed=None), num_chains=2, mp_context="spawn")
    assert type(mcmc.sampler).__name__ == "_MultiSampler"
    assert_posterior(mcmc.get_samples(), 800)
    assert set(mcmc.diagnostics()["log evidence"]) == {"chain 0", "chain 1"}


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
