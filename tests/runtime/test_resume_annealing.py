"""An annealing that is gone on with has the bits of one that was never interrupted."""

import signal

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_jarzynski as pj
from pyro_jarzynski.errors import CheckpointError
from pyro_jarzynski.infer.recorder import Recorder
from tests.runtime.test_resume import bits, up_to
from tests.runtime.training_runs import train

Y = torch.tensor([1.2, -0.7, 0.3, 2.5, 0.9, 1.6])
BETAS = [(k / 30) ** 2 for k in range(31)]


def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 300.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, tau + 0.1), obs=y)


RUNS = {
    "MALA, learned base": {"schedule": pj.AdaptiveTempering(0.95)},
    "thirty temperatures": {"schedule": BETAS, "num_moves": 1},
    "online": {"adapt": "online", "schedule": pj.AdaptiveTempering(0.9)},
    "off": {"adapt": "off", "schedule": BETAS[::3]},
    "HMC": {"kernel": pj.HMC(0.1, 3), "max_moves": 3},
    "ULA": {"kernel": pj.ULA(0.01), "max_moves": 3, "ess_threshold": 0.9},
    "underdamped": {"kernel": pj.UnderdampedLangevin(0.1), "max_moves": 3},
    "waste-free": {"waste_free": True, "num_moves": 3, "preconditioner": "diagonal"},
    "data that arrive": {"schedule": pj.DataTempering([2, 6], 0.9), "chunk_size": 50},
}


def sampler(name, folder=None, *, resume=False, every=1, **others):
    kept = None
    if folder is not None:
        kept = pj.Checkpoints(folder, every=every, keep=100, resume=resume)
    settings = {"num_walkers": 40, "num_chains": 2, "max_moves": 4, "seed": 1}
    settings |= RUNS[name] | others
    return pj.AnnealedSMC(model, progress=False, checkpoints=kept, **settings)


def run(name, folder=None, **others):
    return sampler(name, folder, **others).run(Y)


def content(result):
    """Return everything that a result holds, without times."""
    walkers = result.walkers._asdict()
    evaluation = walkers.pop("evaluation")
    history = {k: v for k, v in result.history.items() if k != "seconds"}
    return {
        "walkers": {k: bits(v) for k, v in walkers.items() if isinstance(v, Tensor)},
        "energy": bits(evaluation.energy),
        "gradient": bits(evaluation.grad),
        "history": {name: bits(values) for name, values in history.items()},
        "weights": [bits(each) for each in result.stage_log_weights],
        "gradients": result.num_gradients,
        "undecorrelated": result.num_undecorrelated,
        "warnings": result.run_warnings,
        "evidence": result.log_evidence,
    }


pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_jarzynski.EvidenceWarning",
    "ignore::pyro_jarzynski.errors.SupportWarning",
)


def strides(name):
    if name == "thirty temperatures":
        return [(name, 1)]
    return [(name, 9), pytest.param(name, 1, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("name", "stride"), [p for name in RUNS for p in strides(name)])
def test_resume_at_every_stage_gives_the_same_bits(tmp_path, name, stride):
    expected = content(run(name))
    kept = tmp_path / "kept"
    assert content(run(name, kept)) == expected
    steps = sorted(int(path.name[5:]) for path in kept.glob("step-*"))
    assert steps == list(range(1, len(steps) + 1))
    for step in steps[::stride]:
        folder = tmp_path / f"from-{step}"
        up_to(kept, step, folder)
        assert content(run(name, folder, resume=True, every=1000)) == expected, step


def with_a_hole(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    pyro.factor("hole", torch.where(mu < 0, torch.nan, 0 * mu))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 5.0), obs=y)


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.NonFiniteEnergyWarning")
@pytest.mark.parametrize("adapt", ["pilot", "off"])
def test_resume_with_walkers_of_weight_zero(tmp_path, adapt):
    """Half of the first walkers are lost, and stay so; what was counted is gone on with."""

    def run_with(folder=None, **others):
        checkpoints = folder and pj.Checkpoints(folder, every=1, keep=100, **others)
        settings = {"schedule": [0, 0.2, 0.6, 1], "num_moves": 2, "ess_threshold": 0.0}
        few = {"num_walkers": 40, "num_chains": 2, "progress": False}
        sampler = pj.AnnealedSMC(
            with_a_hole, adapt=adapt, checkpoints=checkpoints, **few, **settings
        )
        return sampler.run(Y)

    result = run_with(tmp_path / "kept")
    assert (result.walkers.log_weight == 0).all()
    assert any("draws of the base" in text for text in result.run_warnings)
    steps = sorted(int(path.name[5:]) for path in (tmp_path / "kept").glob("step-*"))
    for step in steps:
        folder = tmp_path / f"from-{step}"
        up_to(tmp_path / "kept", step, folder)
        assert content(run_with(folder, resume=True)) == content(result)


def test_the_runs_are_of_the_kinds_that_they_say(tmp_path):
    """There is a scout with a learned base, resampling, and a path of thirty."""
    learned = sampler("MALA, learned base", tmp_path)
    result = learned.run(Y)
    assert type(result.posterior).__name__ == "LearnedPosterior"
    states = list(tmp_path.glob("step-*"))
    assert len(states) > len(result.history["beta"]) + 3
    assert len(run("thirty temperatures").history["beta"]) == 30
    assert run("ULA").history["resampled"].any()


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
)
def test_a_signal_saves_and_the_run_goes_on(tmp_path, monkeypatch, number, error):
    name = "off"
    expected = content(run(name))
    add = Recorder.add

    def stopped(self, reached):
        add(self, reached)
        if self.num_stages == 9:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "add", stopped)
        with pytest.raises(error):
            run(name, tmp_path, every=1000)
    assert [path.name for path in tmp_path.glob("step-*")] == [f"step-{9:012d}"]
    assert content(run(name, tmp_path, resume=True)) == expected
    # The last stage again, and nothing else.
    assert content(run(name, tmp_path, resume=True)) == expected


def test_a_run_that_ran_out_of_time_can_get_more(tmp_path):
    name = "off"
    first = run(name, tmp_path, max_seconds=1e-9, every=1000)
    assert not first.complete
    again = run(name, tmp_path, resume=True)
    assert content(again) == content(run(name))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 2}, "`seed` was 1 and is 2"),
        ({"num_walkers": 50}, "`num_walkers` was 40 and is 50"),
        ({"kernel": pj.HMC()}, "`kernel` was {'name': 'MALA'"),
        ({"schedule": BETAS[::2]}, "`schedule` was"),
        ({"kernel": pj.MALA(target_acceptance=0.4)}, "`kernel` was .*0.4"),
        ({"kernel": pj.MALA(0.07)}, "`kernel` was .*0.07"),
        ({"kernel": pj.MALA(preconditioner=torch.ones(2))}, "`kernel` was .*tensor"),
        ({"base": {"mu": Y, "tau": Y.abs()}}, "`base` was 'prior' and is 'a dict"),
    ],
)
def test_another_run_is_refused(tmp_path, changes, told):
    run("off", tmp_path, every=2)
    with pytest.raises(CheckpointError, match=told):
        run("off", tmp_path, resume=True, **changes)


def test_another_trajectory_is_refused(tmp_path):
    run("HMC", tmp_path, every=2, kernel=pj.HMC(0.1, 3, trajectory=0.2))
    with pytest.raises(CheckpointError, match=r"'trajectory': 0\.2.* and is .*0\.25"):
        run("HMC", tmp_path, resume=True, kernel=pj.HMC(0.1, 3, trajectory=0.25))


@pytest.mark.parametrize(
    ("name", "step"), [("MALA, learned base", 2), ("thirty temperatures", 5)]
)
def test_another_model_is_refused_with_its_first_energies(tmp_path, name, step):
    """In the midst of scouting, and on the way of the walkers that count."""
    run(name, tmp_path / "whole")
    up_to(tmp_path / "whole", step, tmp_path / "part")
    other = sampler(name, tmp_path / "part", resume=True)
    told = "of another model or other data: the log-density of walker 0 was"
    with pytest.raises(CheckpointError, match=told):
        other.run(Y + 1)


def test_checkpoints_of_a_training_are_refused(tmp_path):
    train("MALA", tmp_path)
    with pytest.raises(CheckpointError, match="does not fit this run"):
        run("off", tmp_path, resume=True)
