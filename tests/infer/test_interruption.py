"""Signals and time limits end a run within one evaluation of the model."""

import math
import signal

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC

import pyro_jarzynski as pj
from pyro_jarzynski.core.sharing import sharing
from pyro_jarzynski.core.watching import Abandoned, look, watched
from pyro_jarzynski.errors import EvidenceWarning, TimeLimitError
from pyro_jarzynski.infer.recorder import Recorder
from pyro_jarzynski.infer.time_limit import TimeLimit
from tests.runtime.test_resume_annealing import content

Y = torch.tensor([1.2, -0.7, 0.3, 2.5])

pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_jarzynski.EvidenceWarning",
    "ignore::pyro_jarzynski.errors.SlowModelWarning",
)


class Model:
    """A model that counts its runs and does something at one of them.

    Args:
        at: The number of the run; `None` is never.
        act: What is done there.
        by_loop: Whether it branches on a latent, so that walkers are evaluated one by one.
    """

    def __init__(self, at=None, act=None, *, by_loop=False):
        self.at, self.act, self.by_loop, self.runs = at, act, by_loop, 0

    def __call__(self, y):
        self.runs += 1
        if self.runs == self.at:
            self.act()
        mu = pyro.sample("mu", dist.Normal(0.0, 100.0))
        if self.by_loop and float(mu.detach()) > 1e9:
            raise ValueError
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 0.1), obs=y)


FEW = {"num_walkers": 12, "num_chains": 2, "max_moves": 2, "seed": 1, "progress": False}


def stages_of(model, **settings):
    """Run a model; return its result, and runs and row at the end of each stage."""
    ends, add = [], Recorder.add

    def noted(recorder, reached):
        add(recorder, reached)
        ends.append((model.runs, len(recorder.rows)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "add", noted)
        result = pj.AnnealedSMC(model, **FEW | settings).run(Y)
    return result, ends


def kill(number=signal.SIGINT):
    return lambda: signal.raise_signal(number)


def middles(ends):
    """Return a run of the model within each stage, and the rows that are finished then."""
    starts = [(runs, rows) for runs, rows in ends[:-1]]
    return [
        ((a + b[0]) // 2 + 1, rows) for (a, rows), b in zip(starts, ends[1:], strict=True)
    ]


@pytest.mark.parametrize(("by_loop", "stride"), [(False, 2), (True, 3)])
def test_ctrl_c_leaves_the_last_finished_stage_at_once(by_loop, stride, capsys):
    """In the preliminary run there is no result; later that of the stages before."""
    settings = {"schedule": pj.AdaptiveTempering(0.97)}
    whole, ends = stages_of(Model(by_loop=by_loop), **settings)
    assert ends[0][1] == 0
    assert ends[-1][1] > 2
    for at, rows in middles(ends)[::stride]:
        model = Model(at, kill(), by_loop=by_loop)
        sampler = pj.AnnealedSMC(model, **FEW | settings)
        with pytest.raises(KeyboardInterrupt):
            sampler.run(Y)
        # Not one more, neither for the stage nor for the result.
        assert model.runs == at
        if rows == 0:
            assert sampler.result is None
            continue
        found = sampler.result
        assert found.status == "partial"
        assert found.history["beta"].equal(whole.history["beta"][:rows])
        assert found.history["log_evidence"].equal(whole.history["log_evidence"][:rows])
        assert found.log_evidence_per_chain.equal(whole.history["log_evidence"][rows - 1])
    capsys.readouterr()


def test_the_first_signal_is_told_of_at_once(capsys):
    told = []

    def act():
        signal.raise_signal(signal.SIGINT)
        told.append(capsys.readouterr().err)

    with pytest.raises(KeyboardInterrupt):
        pj.AnnealedSMC(Model(100, act, by_loop=True), **FEW).run(Y)
    (text,) = told
    (line,) = text.strip().splitlines()
    assert line.startswith("Ctrl-C: the run stops after the evaluation of the model under")
    assert line.endswith("A second one stops it at once.")


def test_the_second_signal_does_not_wait_for_the_model(capsys):
    reached = []

    def act():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        reached.append("after")

    model = Model(100, act, by_loop=True)
    with pytest.raises(KeyboardInterrupt):
        pj.AnnealedSMC(model, **FEW).run(Y)
    assert not reached
    assert model.runs == 100
    capsys.readouterr()


KINDS = {
    "pilot": {"schedule": pj.AdaptiveTempering(0.7)},
    "online": {"adapt": "online", "schedule": pj.AdaptiveTempering(0.6)},
    "off": {"adapt": "off", "schedule": [0.0, 0.1, 0.4, 1.0]},
    "HMC": {"kernel": pj.HMC(0.1, 3), "schedule": pj.AdaptiveTempering(0.7)},
    "ULA": {"kernel": pj.ULA(0.01), "schedule": [0.0, 0.1, 1.0], "learn_base": False},
    "data": {"schedule": pj.DataTempering([2, 4], 0.7)},
}


@pytest.mark.parametrize(
    ("kind", "num_shards"),
    [*((kind, None) for kind in KINDS), ("pilot", 4), ("off", 4), ("ULA", 4)],
)
def test_a_stage_that_was_given_up_is_gone_on_with_bit_by_bit(
    tmp_path, kind, num_shards, capsys
):
    def run(model, folder=None, **options):
        kept = folder and pj.Checkpoints(folder, every=1000, **options)
        sampler = pj.AnnealedSMC(model, checkpoints=kept, **FEW | KINDS[kind])
        if num_shards is None:
            return sampler.run(Y)
        with sharing(num_shards):
            return sampler.run(Y)

    counted = Model()
    expected = content(run(counted))
    stop = signal.SIGTERM if kind == "pilot" else signal.SIGINT
    ended = SystemExit if kind == "pilot" else KeyboardInterrupt
    for number, share in enumerate((0.5, 0.9)):
        folder = tmp_path / str(number)
        with pytest.raises(ended):
            run(Model(int(share * counted.runs), kill(stop)), folder)
        assert content(run(Model(), folder, resume=True)) == expected
    capsys.readouterr()


class Clock:
    """A clock of which each run of a model takes a second."""

    def __init__(self, model):
        self.model = model

    def __call__(self):
        return float(self.model.runs)


@pytest.fixture
def clocked(monkeypatch):
    """Return a model of one walker at a time, by whose runs time goes on."""
    model = Model(by_loop=True)
    monkeypatch.setattr(TimeLimit, "clock", Clock(model))
    monkeypatch.setattr(TimeLimit, "grace", 2.0)
    return model


def test_max_seconds_ends_a_stage(clocked):
    whole, ends = stages_of(Model(by_loop=True))
    for at, rows in middles(ends):
        clocked.runs = 0
        sampler = pj.AnnealedSMC(clocked, max_seconds=float(at), learn_base=False, **FEW)
        if rows == 0:
            continue
        result = sampler.run(Y)
        assert not result.complete
        assert at < clocked.runs <= at + 3
        assert result.seconds <= at + 3
    assert whole.complete


def test_half_of_the_time_ends_the_preliminary_run(clocked):
    """The walkers then start from the prior, and have the other half."""
    _, ends = stages_of(Model(by_loop=True))
    scouted = [runs for runs, rows in ends if rows == 0]
    in_last_stage = (scouted[-2] + scouted[-1]) // 2
    stages = []
    add = Recorder.add

    def noted(recorder, reached):
        add(recorder, reached)
        stages.append(reached.counts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "add", noted)
        limit, few = 2.0 * in_last_stage, FEW | {"num_chains": 1}
        result = pj.AnnealedSMC(clocked, max_seconds=limit, **few).run(Y)
    assert stages.index(True) == len(scouted) - 1
    assert type(result.posterior).__name__ == "ModelPosterior"
    assert limit < clocked.runs <= limit + 3


def test_time_without_a_finished_stage_is_an_error_of_one_line(clocked):
    sampler = pj.AnnealedSMC(clocked, max_seconds=100.0, **FEW)
    told = r"`max_seconds` is 100, and the first stage .* Allow more time, or take fewer"
    with pytest.raises(TimeLimitError, match=told) as caught:
        sampler.run(Y)
    assert "\n" not in str(caught.value)
    assert sampler.result is None
    assert clocked.runs <= 103


def test_the_analysis_of_a_model_is_ended_as_well(clocked):
    sampler = pj.AnnealedSMC(clocked, max_seconds=5.0, **FEW)
    with pytest.raises(TimeLimitError, match="the analysis of the model was not finished"):
        sampler.run(Y)
    assert clocked.runs <= 8


def test_a_preliminary_run_is_gone_on_with_after_too_little_time(clocked, tmp_path):
    expected, ends = stages_of(Model(by_loop=True))

    def run(**settings):
        kept = pj.Checkpoints(tmp_path, every=1000, resume=True)
        return pj.AnnealedSMC(clocked, checkpoints=kept, **FEW | settings).run(Y)

    # Half of it ends the preliminary run in its third stage, and the rest is too little.
    with pytest.raises(TimeLimitError):
        run(max_seconds=2.0 * ends[1][0] + 10)
    assert [path.name[-3:] for path in tmp_path.glob("step-*")] == ["002"]
    again = run()
    assert content(again) == content(expected)


def test_mcmc_ends_its_warm_up(clocked):
    kernel = pj.JarzynskiKernel(
        clocked, num_walkers=12, max_moves=2, seed=1, learn_base=False, max_seconds=150.0
    )
    mcmc = MCMC(kernel, num_samples=4, warmup_steps=3, disable_progbar=True)
    mcmc.run(Y)
    assert mcmc.diagnostics()["status"]["chain 0"] == "partial"
    assert mcmc.get_samples()["mu"].shape == (4,)
    # The model was looked at three times before the time began.
    assert clocked.runs <= 156


def test_mcmc_without_a_finished_stage_is_an_error(clocked):
    kernel = pj.JarzynskiKernel(clocked, num_walkers=40, max_seconds=100.0, seed=1)
    mcmc = MCMC(kernel, num_samples=4, warmup_steps=3, disable_progbar=True)
    with pytest.raises(TimeLimitError, match="the first stage of the walkers"):
        mcmc.run(Y)
    assert clocked.runs <= 106


def test_mcmc_is_interrupted_within_an_evaluation():
    model = Model(100, kill(), by_loop=True)
    kernel = pj.JarzynskiKernel(model, num_walkers=12, max_moves=2, seed=1)
    mcmc = MCMC(kernel, num_samples=4, warmup_steps=3, disable_progbar=True)
    with pytest.raises(KeyboardInterrupt):
        mcmc.run(Y)
    assert model.runs == 100


def sampler_of(model, **settings):
    return pj.AnnealedSMC(model, **FEW | settings)


@pytest.mark.parametrize("test", [pj.self_test, pj.evidence_bounds])
def test_checks_of_the_sampler_end_as_well(clocked, test):
    with pytest.raises(TimeLimitError, match=r"(test|first simulation) was not finished"):
        test(sampler_of(clocked, max_seconds=100.0), Y)
    assert clocked.runs <= 103
    model = Model(100, kill(), by_loop=True)
    with pytest.raises(KeyboardInterrupt):
        test(sampler_of(model), Y)
    assert model.runs == 100


def test_bounds_of_the_simulations_that_were_finished(clocked):
    """Four take as long as four times the first."""
    settings = {"max_moves": 1, "learn_base": False, "num_walkers": 4}
    model = Model(by_loop=True)
    first = pj.evidence_bounds(sampler_of(model, **settings), Y, num_simulations=1)
    limited = sampler_of(clocked, max_seconds=model.runs + 30.0, **settings)
    with pytest.warns(EvidenceWarning, match="after 1 of 4 simulations"):
        bounds = pj.evidence_bounds(limited, Y)
    assert bounds.lower.equal(first.lower)
    assert bounds.forward.equal(first.forward)
    assert math.isnan(bounds.gap_error)
    assert clocked.runs <= model.runs + 33


def test_watchers_are_called_inside_their_blocks_alone():
    called = []

    def give_up():
        called.append("inner")
        raise Abandoned

    look()
    with watched(lambda: called.append("outer")):
        look()
        with pytest.raises(Abandoned), watched(give_up):
            look()
        look()
    look()
    assert called == ["outer", "outer", "inner", "outer"]
