"""Models whose latents are all discrete are summed exactly, and their latents drawn."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, Predictive
from safetensors.torch import load_file
from torch import nn

from pyro_jarzynski import (
    AnnealedSMC,
    DataTempering,
    JarzynskiKernel,
    evidence_bounds,
    mode_masses,
    self_test,
    to_arviz,
)
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, ModelError
from pyro_jarzynski.runtime.draw_files import save_draws
from tests.command_line import call

DATA = torch.tensor([0.1, 2.9, 3.2])
SHARES = torch.tensor([0.5, 0.3, 0.2])


def model(y):
    """Two discrete latents of different types for each datum."""
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        k = pyro.sample("k", dist.Categorical(SHARES))
        pyro.deterministic("mean", 3 * z + k)
        pyro.sample("y", dist.Normal(3 * z + k, 1.0), obs=y)


def exact():
    """Return the log evidence, and the probabilities that `z` is one and `k` is two."""
    z, k = torch.tensor([0.0, 1.0])[:, None, None], torch.arange(3)[:, None]
    log = dist.Normal(3 * z + k, 1.0).log_prob(DATA) + dist.Bernoulli(0.3).log_prob(z)
    joint = (log + SHARES.log()[:, None]).double().exp()
    total = joint.sum((0, 1))
    return float(total.log().sum()), joint[1].sum(0) / total, joint[:, 2].sum(0) / total


def assert_shares(found, expected):
    """By 4,000 draws or less to 5 standard errors: false alarm 6e-7 each."""
    error = (expected * (1 - expected) / len(found)).sqrt()
    assert ((found.double().mean(0) - expected).abs() < 5 * error).all()


@pytest.fixture(scope="module")
def result():
    sampler = AnnealedSMC(model, num_walkers=1000, num_chains=4, progress=False)
    return sampler.run(DATA)


def test_evidence_and_draws(result):
    log_evidence, ones, twos = exact()
    assert result.log_evidence == pytest.approx(log_evidence, abs=1e-5)
    assert (result.log_evidence_error, result.status) == (0, "ok")
    draws = result.get_samples()
    assert_shares(draws["z"], ones)
    assert_shares(draws["k"] == 2, twos)
    assert (draws["z"].dtype, draws["k"].dtype) == (torch.float32, torch.int64)


def test_computed_sites_are_those_of_the_draws(result):
    draws = result.get_samples(deterministic=True)
    assert torch.equal(draws["mean"], 3 * draws["z"] + draws["k"])
    assert torch.equal(draws["z"], result.get_samples()["z"])


def test_summary(result):
    table = result.summary().table
    assert list(table.index) == [f"{name}[{i}]" for name in "zk" for i in range(3)]
    _, ones, _ = exact()
    spread = (ones * (1 - ones)).sqrt()
    for place in range(3):
        row = table.loc[f"z[{place}]"]
        assert abs(row["mean"] - ones[place]) < 5 * spread[place] / 4000**0.5
        # Draws are independent, so that the error is that of as many coins.
        assert row["mcse"] == pytest.approx(row["sd"] / 4000**0.5, rel=0.05)


def test_export(result):
    tree = result.to_arviz()
    posterior, prior = tree["posterior"], tree["prior"]
    assert posterior["z"].shape == (4, 1000, 3)
    _, ones, _ = exact()
    for group, expected in ((posterior, ones), (prior, torch.full((3,), 0.3).double())):
        assert_shares(torch.tensor(group["z"].values).flatten(0, 1), expected)
    assert (prior["mean"].values == 3 * prior["z"].values + prior["k"].values).all()
    # Given all others, the likelihood of a datum is its evidence.
    log_likelihood = torch.tensor(tree["log_likelihood"]["y"].values)
    assert float(log_likelihood[0, 0].sum()) == pytest.approx(exact()[0], abs=1e-5)
    lp = tree["sample_stats"]["lp"].values
    assert lp == pytest.approx(exact()[0], abs=1e-5)


def test_export_of_predictions():
    result = AnnealedSMC(model, num_walkers=8, num_chains=2, progress=False).run(DATA)
    tree = result.to_arviz(posterior_predictive=True, prior_predictive=True)
    for group in ("posterior_predictive", "prior_predictive"):
        assert tree[group]["y"].shape == (2, 8, 3)


def test_masses_of_modes(result):
    masses, errors = mode_masses(result, lambda sites: sites["z"][:, 0] > 0)
    _, ones, _ = exact()
    assert abs(float(masses[1] - ones[0])) < 6 * float(errors[1]) + 1e-3


@pytest.mark.global_state
def test_predictions_of_pyro(result):
    draws = result.get_samples(50)
    found = Predictive(model, draws, return_sites=["mean", "y"])(DATA)
    assert torch.equal(found["mean"], 3 * draws["z"] + draws["k"])


def test_files(result, tmp_path):
    save_draws(tmp_path, result)
    assert {"draws.safetensors", "arviz.nc", "summary.csv"} <= {
        path.name for path in tmp_path.iterdir()
    }
    drawn = load_file(tmp_path / "draws.safetensors")
    assert torch.equal(drawn["z"].flatten(0, 1), result.get_samples()["z"])


PROGRAM = """
import pyro
import pyro.distributions as dist
import torch

class Rain:
    pass

def make():
    return model

def model(y):
    rain = pyro.sample("rain", dist.Bernoulli(0.2))
    pyro.sample("wet", dist.Bernoulli(0.3 + 0.6 * rain), obs=torch.as_tensor(y))
"""


def infer(folder, name):
    (folder / "program.py").write_text(PROGRAM)
    (folder / "data.json").write_text('{"y": 1.0}')
    data = () if name in {"Rain", "make"} else ("--data", folder / "data.json")
    few = ("--walkers", "500", "--chains", "2", "--out", folder / "out")
    return call("infer", f"{folder / 'program.py'}:{name}", *data, *few)


def test_command_line(tmp_path):
    answer = infer(tmp_path, "model")
    assert answer.code == 0, answer.error
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["log_evidence"] == pytest.approx(math.log(0.42), abs=1e-6)
    rain = load_file(tmp_path / "out" / "draws.safetensors")["rain"].flatten()[:, None]
    assert_shares(rain, torch.tensor([0.18 / 0.42]))
    assert (tmp_path / "out" / "arviz.nc").exists()
    assert "rain" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "told"), [("Rain", "is a class"), ("make", "if it makes models")]
)
def test_command_line_refuses_what_is_no_model(tmp_path, name, told):
    answer = infer(tmp_path, name)
    assert answer.code == 1
    assert told in " ".join(answer.error.split())
    assert "Traceback" not in answer.error


@pytest.mark.global_state
def test_chains_of_mcmc():
    mcmc = MCMC(
        JarzynskiKernel(model, num_walkers=1000, seed=0), 3000, 1, disable_progbar=True
    )
    mcmc.run(DATA)
    draws, (log_evidence, ones, twos) = mcmc.get_samples(), exact()
    assert_shares(draws["z"], ones)
    assert_shares(draws["k"] == 2, twos)
    told = mcmc.diagnostics()
    assert told["log evidence"]["chain 0"] == pytest.approx(log_evidence, abs=1e-5)
    assert told["k"]["r_hat"].shape == (3,)
    posterior = to_arviz(mcmc)["posterior"]
    assert (posterior["mean"].values[0] == (3 * draws["z"] + draws["k"]).numpy()).all()
    assert posterior["k"].dtype == "int64"


@pytest.mark.global_state
def test_runs_of_nuts_are_exported_with_draws():
    """NUTS itself draws nothing of such models."""
    mcmc = MCMC(NUTS(model), 500, 1, disable_progbar=True)
    mcmc.run(DATA)
    assert mcmc.get_samples() == {}
    posterior = to_arviz(mcmc)["posterior"]
    assert_shares(torch.tensor(posterior["z"].values[0]), exact()[1])


def test_without_observations_draws_are_of_the_prior():
    def rain():
        pyro.deterministic("twice", 2 * pyro.sample("rain", dist.Bernoulli(0.2)))

    result = AnnealedSMC(rain, num_walkers=1000, num_chains=2, progress=False).run()
    assert result.log_evidence == pytest.approx(0, abs=1e-6)
    draws = result.get_samples(deterministic=True)
    assert_shares(draws["rain"][:, None], torch.tensor([0.2]))
    assert torch.equal(draws["twice"], 2 * draws["rain"])


def test_data_that_arrive():
    sampler = AnnealedSMC(
        model, num_walkers=16, schedule=DataTempering([1, 3]), progress=False
    )
    assert sampler.run(DATA).log_evidence == pytest.approx(exact()[0], abs=1e-5)


@pytest.mark.parametrize("check", [self_test, evidence_bounds])
def test_there_is_nothing_to_check(check):
    with pytest.raises(ModelError, match="no continuous latents: its evidence is exact"):
        check(model, DATA)


# Nothing to infer.


class Regression(pyro.nn.PyroModule):
    def __init__(self, y=None):
        super().__init__()
        self.w = pyro.nn.PyroSample(dist.Normal(0.0, 1.0))

    def forward(self, y):
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(self.w, 1.0), obs=y)


def factory(y):
    return lambda y: pyro.sample("m", dist.Normal(0.0, 1.0))


def factory_of_modules(y):
    return nn.Linear(1, 1)


def by_smc(target):
    AnnealedSMC(target, num_walkers=8, progress=False).run(DATA)


def by_mcmc(target):
    MCMC(JarzynskiKernel(target, num_walkers=8), 2, 1, disable_progbar=True).run(DATA)


USES = [
    by_smc,
    by_mcmc,
    *((lambda m, f=f: f(m, DATA)) for f in (self_test, evidence_bounds)),
]


@pytest.mark.global_state
@pytest.mark.parametrize("use", USES)
def test_a_class_in_the_place_of_a_model_is_refused(use):
    """The advice is taken by `by_smc(Regression())`."""
    with pytest.raises(
        ArgumentTypeError, match=r"got the class Regression.*`Regression\(...\)`"
    ):
        use(Regression)


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.EvidenceWarning")
def test_an_instance_is_taken():
    by_smc(Regression())


@pytest.mark.global_state
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("target", [factory, factory_of_modules])
def test_a_factory_in_the_place_of_a_model_is_refused(use, target):
    with pytest.raises(ModelError, match=r"no sample sites.*if it makes models, give"):
        use(target)


@pytest.mark.global_state
@pytest.mark.parametrize("use", USES)
def test_a_program_without_sites_is_refused(use):
    with pytest.raises(ModelError, match=r"no sample sites: there is nothing to infer"):
        use(lambda y: y.sum())


@pytest.mark.parametrize("target", [None, 3, "model"])
def test_what_cannot_be_called_is_refused(target):
    with pytest.raises(ArgumentTypeError, match="`model` must be"):
        by_smc(target)


def null(y):
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


@pytest.mark.global_state
def test_mcmc_without_latents_has_the_evidence_alone():
    mcmc = MCMC(JarzynskiKernel(null, num_walkers=8), 3, 1, disable_progbar=True)
    with pytest.warns(UserWarning, match="no latents"):
        mcmc.run(DATA)
    assert mcmc.get_samples() == {}
    expected = float(dist.Normal(0.0, 1.0).log_prob(DATA).sum())
    assert mcmc.diagnostics()["log evidence"]["chain 0"] == pytest.approx(expected)
    with pytest.raises(ArgumentError, match="no latents"):
        to_arviz(mcmc)
