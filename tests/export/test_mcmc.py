"""What `pyro.infer.MCMC` has drawn, with any kernel, in ArviZ."""

from unittest.mock import patch

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS

import pyro_jarzynski as pj
from pyro_jarzynski import JarzynskiKernel
from pyro_jarzynski.errors import ArgumentError
from tests.diagnostics.trees import calls_of_arviz, dataset, names
from tests.export.assignments import MIXED
from tests.export.exports import EXPORTS, FLOAT, GROUP, X, Y
from tests.export.known_likelihoods import normal
from tests.export.known_mixtures import THREE
from tests.infer.test_mcmc_kernel import mode_draws, narrow_modes

pytestmark = pytest.mark.global_state


def sampled(model, *args, num_samples=40, kernel=JarzynskiKernel, **options):
    pyro.set_rng_seed(0)
    settings = {"num_walkers": 64, "seed": 0} if kernel is JarzynskiKernel else {}
    mcmc = MCMC(
        kernel(model, **settings),
        num_samples=num_samples,
        warmup_steps=20,
        disable_progbar=True,
        **options,
    )
    mcmc.run(*args)
    return mcmc


@pytest.fixture(scope="module")
def regression():
    return sampled(EXPORTS["regression"].model, *EXPORTS["regression"].args)


def linear(x, y):
    """A product with a matrix, which a plate of draws would not follow."""
    b = pyro.sample("b", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ b, 1.0), obs=y)


@pytest.mark.parametrize("kernel", [JarzynskiKernel, NUTS])
def test_draws_and_likelihoods_are_those_of_the_chain(kernel):
    mcmc = sampled(linear, X, Y, kernel=kernel)
    state = torch.get_rng_state()
    tree = pj.to_arviz(mcmc)
    assert torch.equal(torch.get_rng_state(), state)
    draws = mcmc.get_samples(group_by_chain=True)["b"]
    np.testing.assert_array_equal(dataset(tree)["b"].to_numpy(), draws.numpy())
    likelihood = normal(Y, draws @ X.T, 1.0)
    found = dataset(tree, "log_likelihood")["y"]
    assert found.dims == ("chain", "draw", "data")
    np.testing.assert_allclose(found, likelihood, rtol=1e-9)
    prior = normal(draws, 0.0, 1.0).sum(-1)
    np.testing.assert_allclose(dataset(tree, "log_prior")["b"], prior, rtol=1e-9)
    lp = dataset(tree, "sample_stats")["lp"]
    np.testing.assert_allclose(lp, prior + likelihood.sum(-1), rtol=1e-9)
    assert tree.attrs["kernel"] == kernel.__name__


@pytest.mark.parametrize("num", [len(Y), 2, 1])
def test_as_many_draws_as_data_do_not_pair_up(num):
    mcmc = sampled(linear, X, Y, num_samples=num)
    draws = mcmc.get_samples(group_by_chain=True)["b"]
    found = dataset(pj.to_arviz(mcmc), "log_likelihood")["y"]
    np.testing.assert_allclose(found, normal(Y, draws @ X.T, 1.0), rtol=1e-9)


def test_groups_dims_and_predictions(regression):
    tree = pj.to_arviz(
        regression,
        dims={"slope": ["feature"]},
        coords={"feature": ["dose", "age"]},
        attrs={"note": "short"},
        posterior_predictive=True,
        prior_predictive=True,
    )
    expected = {"posterior", "sample_stats", "log_prior", "log_likelihood", "prior"}
    expected |= {"observed_data", "constant_data"}
    expected |= {"posterior_predictive", "prior_predictive"}
    assert names(tree) == expected
    assert dataset(tree)["a"].dims == ("chain", "draw", "groups")
    assert dataset(tree)["slope"].dims == ("chain", "draw", "feature")
    assert tree.attrs["note"] == "short"
    draws = {n: torch.tensor(v.to_numpy()) for n, v in dataset(tree).items()}
    noise = torch.tensor(dataset(tree, "posterior_predictive")["y"].to_numpy())
    noise = noise - draws["a"][..., GROUP] - draws["slope"] @ X.T
    # Unit normal: false alarms below 1e-8 each, at six standard errors.
    assert abs(float(noise.mean())) < 6 / noise.numel() ** 0.5
    assert abs(float(noise.var()) - 1) < 6 * (2 / noise.numel()) ** 0.5


def test_functions_of_arviz_take_it(regression):
    tree = pj.to_arviz(regression)
    with calls_of_arviz() as arviz:
        assert len(arviz.summary(tree)) == 6
        assert np.isfinite(float(arviz.loo(tree).se))


def test_chains_and_divergences_are_kept_apart():
    """As two processes leave them: draws by chain, and one report of each."""
    mcmc = sampled(linear, X, Y)
    mcmc._samples = {"b": mcmc._samples["b"].reshape(2, 20, 2)}
    mcmc._diagnostics = [
        {"divergences": [1, 3], "log evidence": -1.0, "warnings": [], "status": "ok"},
        {"divergences": [], "log evidence": -2.0, "warnings": [], "status": "ok"},
    ]
    tree = pj.to_arviz(mcmc)
    draws = mcmc.get_samples(group_by_chain=True)["b"]
    np.testing.assert_array_equal(dataset(tree)["b"].to_numpy(), draws.numpy())
    found = dataset(tree, "log_likelihood")["y"]
    np.testing.assert_allclose(found, normal(Y, draws @ X.T, 1.0), rtol=1e-9)
    diverging = dataset(tree, "sample_stats")["diverging"].to_numpy()
    assert [list(row.nonzero()[0]) for row in diverging] == [[1, 3], []]
    assert tree.attrs["log_marginal_likelihood"] == [-1.0, -2.0]


def test_evidence_of_the_kernel_is_kept(regression):
    attrs = pj.to_arviz(regression, log_likelihood=False).attrs
    told = regression.diagnostics()["log evidence"]["chain 0"]
    assert attrs["log_marginal_likelihood"] == pytest.approx(told)


def test_discrete_latents_are_summed_out_and_drawn():
    case = MIXED["mixture_in_a_plate"]
    y = case.args[0].double()
    mcmc = sampled(case.model, y)
    tree = pj.to_arviz(mcmc)
    found = {n: torch.tensor(v.to_numpy()) for n, v in dataset(tree).items()}
    assert set(found) == {"mean", "z", "centre"}
    assert torch.equal(found["centre"], found["mean"].gather(-1, found["z"]))
    parts = normal(y[:, None], found["mean"][..., None, :], 1.0) + THREE.log()
    likelihood = dataset(tree, "log_likelihood")["y"]
    np.testing.assert_allclose(likelihood, parts.logsumexp(-1), rtol=1e-9)


def test_what_has_no_draws_is_refused():
    fresh = MCMC(JarzynskiKernel(linear), num_samples=10, warmup_steps=1)
    with pytest.raises(ArgumentError, match="no draws: call its `run` first"):
        pj.to_arviz(fresh)


def test_a_potential_function_is_refused():
    def potential(z):
        return z["x"].square().sum() / 2

    kernel = NUTS(potential_fn=potential)
    start = {"x": torch.zeros(1, dtype=FLOAT)}
    mcmc = MCMC(kernel, 5, 5, initial_params=start, disable_progbar=True)
    mcmc.run()
    with pytest.raises(ArgumentError, match="potential function"):
        pj.to_arviz(mcmc)


def test_draws_that_were_not_kept_are_named():
    mcmc = sampled(*EXPORTS["regression"][:1], *EXPORTS["regression"].args)
    mcmc._samples.pop("a")
    with pytest.raises(ArgumentError, match="no draws of the latent 'a'"):
        pj.to_arviz(mcmc)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_status_and_doubts_of_chains_in_processes():
    """Each process finds another mode, and only the export sees them together."""
    with patch("torch.multiprocessing.cpu_count", return_value=8):
        mcmc = sampled(
            narrow_modes,
            Y,
            num_chains=2,
            mp_context="fork",
            initial_params={"x": mode_draws()},
        )
    assert mcmc.diagnostics()["status"] == {"chain 0": "ok", "chain 1": "ok"}
    attrs = pj.to_arviz(mcmc, log_likelihood=False).attrs
    assert attrs["status"] == "doubtful"
    assert attrs["doubts"].startswith("The chains disagree about the latent 'x'")
    assert "\n" not in attrs["doubts"]
