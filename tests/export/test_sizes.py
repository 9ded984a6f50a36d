"""The log-likelihood of each datum is exported if it fits into memory, or is asked for."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS

import pyro_jarzynski as pj
from pyro_jarzynski.errors import ExportWarning
from pyro_jarzynski.infer.export import groups
from pyro_jarzynski.runtime.draw_files import save_draws
from tests.diagnostics.trees import dataset, names
from tests.infer.batches import conjugate, run

Y = torch.linspace(-1, 1, 10)
WALKERS, CHAINS = 64, 2
# Of one number each.
BYTES = 4 * len(Y) * WALKERS * CHAINS


@pytest.fixture(scope="module")
def result():
    return run(conjugate, Y, num_walkers=WALKERS, num_chains=CHAINS)


def limited(monkeypatch, size):
    monkeypatch.setattr(groups, "MAX_BYTES", size)


def test_what_fits_is_exported(monkeypatch, result):
    limited(monkeypatch, BYTES)
    found = dataset(result.to_arviz(), "log_likelihood")["y"]
    assert found.nbytes == BYTES


def test_what_does_not_fit_is_left_out_with_a_remedy_that_works(monkeypatch, result):
    limited(monkeypatch, BYTES - 1)
    told = r"log-likelihood of each datum, which takes .* GB for 128 draws.*`log_likelihood"
    with pytest.warns(ExportWarning, match=told):
        tree = result.to_arviz()
    assert "log_likelihood" not in names(tree)
    assert {"posterior", "log_prior", "observed_data"} <= names(tree)
    again = result.to_arviz(log_likelihood=True)
    assert dataset(again, "log_likelihood")["y"].shape == (CHAINS, WALKERS, len(Y))
    # Nothing is said of what is not wanted.
    assert "log_likelihood" not in names(result.to_arviz(log_likelihood=False))


def test_a_small_machine_has_a_smaller_limit(monkeypatch, result):
    monkeypatch.setattr(groups, "_memory", lambda: BYTES / groups.MEMORY_SHARE - 1)
    with pytest.warns(ExportWarning, match="leaves out the log-likelihood"):
        result.to_arviz()
    monkeypatch.setattr(groups, "_memory", lambda: BYTES / groups.MEMORY_SHARE)
    assert "log_likelihood" in names(result.to_arviz())


def test_log_likelihoods_of_sites_and_plates_are_counted_together(monkeypatch):
    def model(x, y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 4, dim=-1):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)
        # One number for a whole vector.
        pyro.sample("y", dist.Normal(m, 1.0).expand([5]).to_event(1), obs=y)

    found = run(model, torch.zeros(3, 4), torch.zeros(5))
    size = 4 * (3 * 4 + 1) * 64 * 2
    limited(monkeypatch, size)
    assert "log_likelihood" in names(found.to_arviz())
    limited(monkeypatch, size - 1)
    with pytest.warns(ExportWarning, match="leaves out the log-likelihood"):
        found.to_arviz()


def test_that_of_a_target_is_one_number():
    target = pj.Target(
        lambda x: dist.Normal(0.0, 1.0).log_prob(x).sum(1),
        lambda x: -x.square().sum(1),
        lambda n, g: torch.randn(n, 3, generator=g),
    )
    found = pj.AnnealedSMC(target, num_walkers=32, chunk_size=5, progress=False).run()
    tree = found.to_arviz()
    logs = torch.from_numpy(dataset(tree, "log_likelihood")["likelihood"].to_numpy())
    x = torch.from_numpy(dataset(tree)["x"].to_numpy())
    torch.testing.assert_close(logs, -x.square().sum(-1))


def test_other_kernels_of_mcmc_have_the_same_limit(monkeypatch):
    with torch.random.fork_rng():
        pyro.set_rng_seed(0)
        mcmc = MCMC(NUTS(conjugate), 5, warmup_steps=5, disable_progbar=True)
        mcmc.run(Y)
    limited(monkeypatch, 4 * len(Y) * 5 - 1)
    with pytest.warns(ExportWarning, match="for 5 draws"):
        tree = pj.to_arviz(mcmc)
    assert "log_likelihood" not in names(tree)
    assert "log_likelihood" in names(pj.to_arviz(mcmc, log_likelihood=True))


def test_files_of_draws_have_the_same_choice(monkeypatch, result, tmp_path):
    import arviz

    limited(monkeypatch, 1)
    with pytest.warns(ExportWarning, match="`--log-likelihood` on the command line"):
        save_draws(tmp_path / "small", result)
    save_draws(tmp_path / "large", result, log_likelihood=True)
    small, large = (
        names(arviz.from_netcdf(tmp_path / name / "arviz.nc"))
        for name in ("small", "large")
    )
    assert large - small == {"log_likelihood"}
