"""A training that is gone on with has the bits of one that was never interrupted."""

import itertools
import math
import shutil
import signal
import time
import warnings

import pytest
import torch
from torch import Tensor

import pyro_jarzynski as pj
from pyro_jarzynski.errors import ArgumentError, CheckpointError
from tests.ebm.models import mixture_data, mixture_learner, network_model
from tests.runtime.training_runs import ROW, RUNS, STEPS, train

pytestmark = pytest.mark.filterwarnings("ignore::pyro_jarzynski.AuditWarning")


def flat(state, path=""):
    """Return the tensors and numbers of a state by their places, without times."""
    if isinstance(state, dict):
        pairs = state.items()
    elif isinstance(state, list | tuple):
        pairs = enumerate(state)
    else:
        return {path: state}
    found = {}
    for key, value in pairs:
        if key != "seconds":
            found |= flat(value, f"{path}/{key}")
    return found


def assert_same_bits(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for path, value in one.items():
        same = bits(value) == bits(other[path])
        assert same, f"{path}: {value} and {other[path]}"


def bits(value):
    if isinstance(value, Tensor):
        strides = value.stride() if value.numel() > 1 else None
        content = value.detach().contiguous().flatten().view(torch.uint8)
        return value.dtype, value.shape, strides, content.tolist()
    return repr(value)


def state_of(learner):
    """Return the state without wall times, which nobody can repeat."""
    state = learner.state_dict()
    table = state["history"]["table"]
    table[:, state["history"]["columns"].index("seconds")] = 0
    return state


def up_to(folder, step, target):
    """Copy a directory of checkpoints as it was after some step."""
    for path in sorted(folder.glob("step-*")):
        if int(path.name[5:]) <= step:
            shutil.copytree(path, target / path.name)


def strides(name):
    """Every step of every run takes minutes: by default it is every 13th, but for one.

    13 has no factor in common with an epoch of three batches, nor with the four updates of
    a row.
    """
    if name == "Adam, cosine":
        return [(name, 1)]
    return [(name, 13), pytest.param(name, 1, marks=pytest.mark.slow)]


@pytest.mark.parametrize(
    ("name", "stride"), [pair for name in RUNS for pair in strides(name)]
)
def test_resume_at_every_step_gives_the_same_bits(tmp_path, name, stride):
    whole = train(name)
    expected = state_of(whole)
    kept = train(name, tmp_path / "kept")
    assert_same_bits(expected, state_of(kept))
    steps = kept.num_steps
    for step in range(1, steps + 1, stride):
        folder = tmp_path / f"from-{step}"
        up_to(tmp_path / "kept", step, folder)
        resumed = train(name, folder, resume=True, every=1000)
        assert_same_bits(expected, state_of(resumed))
        assert resumed.history["step"] == whole.history["step"]


def test_the_runs_are_of_the_kinds_that_they_say():
    """What can be lost was there: resamplings, short steps, epochs, renewed walkers."""
    assert train("ULA").cloud.num_resamplings > 0
    assert train("fast").step_control.scale < 1
    assert train("patience").num_steps < STEPS
    assert train("underdamped").cloud.active.momentum is not None
    assert train("blocks").best is not None


class Stopper:
    """A callback that presses Ctrl-C, or ends the process, at a row."""

    def __init__(self, step, number=signal.SIGINT):
        self.step, self.number = step, number

    def __call__(self, learner, row):
        if row["step"] == self.step:
            signal.raise_signal(self.number)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
)
def test_a_signal_saves_and_the_run_goes_on(tmp_path, number, error):
    expected = state_of(train("MALA"))
    stop = Stopper(3 * ROW, number)
    with pytest.raises(error) as caught:
        train("MALA", tmp_path, every=1000, callbacks=(stop,))
    if error is SystemExit:
        assert caught.value.code == 128 + signal.SIGTERM
    assert [p.name for p in tmp_path.glob("step-*")] == [f"step-{3 * ROW:012d}"]
    resumed = train("MALA", tmp_path, resume=True, callbacks=(Stopper(0),))
    assert_same_bits(expected, state_of(resumed))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_time_goes_on_where_it_ended(tmp_path, monkeypatch):
    """Whatever the clock of the new process begins with."""
    for begin in (1000, 0):
        ticks = itertools.count(begin)
        with monkeypatch.context() as patch:
            patch.setattr(time, "perf_counter", lambda t=ticks: float(next(t)))
            steps = STEPS if begin == 0 else STEPS // 2
            learner = train("MALA", tmp_path, steps=steps, resume=True, every=1)
    seconds = learner.history["seconds"]
    assert seconds == sorted(set(seconds))


def test_a_handler_of_ones_own_is_left_alone(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        train("MALA", tmp_path, callbacks=(Stopper(ROW, signal.SIGTERM),))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1]


def test_a_run_that_is_over_stays_as_it_ended(tmp_path):
    first = train("blocks", tmp_path)
    again = train("blocks", tmp_path, resume=True)
    assert again.num_steps == STEPS
    assert_same_bits(state_of(first), state_of(again))


def test_more_steps_than_at_first_are_those_of_a_longer_run(tmp_path):
    train("MALA", tmp_path, steps=16)
    longer = train("MALA", tmp_path, steps=28, resume=True)
    assert_same_bits(state_of(train("MALA", steps=28)), state_of(longer))


def test_a_second_call_of_fit_is_gone_on_with(tmp_path):
    def run(kept):
        learner, data = mixture_learner(), mixture_data(100)
        if not kept:
            learner.fit(data, 7, batch_size=30)
        kept = pj.Checkpoints(tmp_path, every=5, resume=kept)
        learner.fit(data, 12, batch_size=30, checkpoints=kept)
        return learner

    whole = run(kept=False)
    shutil.rmtree(tmp_path / f"step-{19:012d}")
    again = run(kept=True)
    assert again.num_steps == 19
    assert_same_bits(state_of(whole), state_of(again))


@pytest.mark.parametrize("name", ["ULA", "Adam, cosine", "Muon, blocks, renewal"])
def test_without_a_file_a_state_goes_to_another_learner(name):
    """In the midst of an epoch; neither shares anything with the other from there."""
    build, settings = RUNS[name]
    (first, data), (second, _) = build(), build()
    first.fit(data, 9, **settings)
    second.load_state_dict(first.state_dict())
    for learner in (first, second):
        learner.fit(data, 9, **settings)
    assert_same_bits(state_of(first), state_of(second))


def test_what_was_told_is_not_told_again():
    first, second = mixture_learner(), mixture_learner()
    with pytest.warns(pj.ExploitationWarning, match="are effective"):
        first.alarms.look(10, 0.01)
    second.load_state_dict(first.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second.alarms.look(20, 0.01)


def test_callbacks_with_a_state_keep_their_rows(tmp_path):
    def watch():
        return pj.MassWatch(lambda x: x[:, 0] > 0, num_classes=2)

    whole, broken, resumed = watch(), watch(), watch()
    train("MALA", callbacks=(whole,))
    with pytest.raises(KeyboardInterrupt):
        train("MALA", tmp_path, callbacks=(broken, Stopper(2 * ROW)))
    train("MALA", tmp_path, resume=True, callbacks=(resumed, lambda *_: None))
    assert len(resumed.rows) > len(broken.rows) == 2
    assert resumed.rows == whole.rows
    with pytest.raises(CheckpointError, match=r"`callbacks` must have 1 with a state.* 0"):
        train("MALA", tmp_path, resume=True)


def test_a_failing_update_leaves_the_last_checkpoint(tmp_path):
    class Broken:
        def __call__(self, learner, row):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train("MALA", tmp_path, every=3, callbacks=(Broken(),))
    assert pj.Checkpoints(tmp_path).load()["num_steps"] == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"num_walkers": 50}, "`num_walkers` was 100 and is 50"),
            ({"seed": 4}, "`seed` was 0 and is 4"),
            ({"kernel": pj.MALA(0.1)}, "`kernel` was {'name': 'ULA'"),
            ({"moves_per_update": 2}, "`moves_per_update` was 1 and is 2"),
        ],
    )
    def test_another_training(self, tmp_path, changes, told):
        self.fit(mixture_learner(), tmp_path)
        with pytest.raises(CheckpointError, match=told):
            self.fit(mixture_learner(**changes), tmp_path, resume=True)

    def test_other_data(self, tmp_path):
        self.fit(mixture_learner(), tmp_path)
        with pytest.raises(CheckpointError, match=r"`data` was .*\[100, 3\].*\[90, 3\]"):
            self.fit(mixture_learner(), tmp_path, resume=True, data=mixture_data(90))

    def test_another_network(self, tmp_path):
        data = mixture_data(50).float()
        self.fit(mixture_learner(model=network_model()), tmp_path, data=data)
        other = mixture_learner(model=network_model(hidden=9))
        with pytest.raises(
            CheckpointError, match=r"(?s)does not fit this run.*size mismatch"
        ):
            self.fit(other, tmp_path, resume=True, data=data)

    def test_walkers_of_another_dtype(self):
        learner = mixture_learner()
        state = learner.state_dict()
        for block in state["followers"]["cloud"]["place"]["blocks"]:
            block["position"] = block["position"].float()
        with pytest.raises(ArgumentError, match=r"walkers of torch.float64, got"):
            learner.load_state_dict(state)

    def test_a_scheduler_with_code(self, tmp_path):
        class Falls:
            def __init__(self):
                self.how = math.exp

            def __call__(self, step):
                return 0.9**step

        learner = mixture_learner()
        learner.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(learner.optimizer, Falls())
        with pytest.raises(CheckpointError, match=r"'lr_scheduler\.lr_lambdas.*code"):
            self.fit(learner, tmp_path)
        # At once, and not when hours have gone by.
        assert learner.num_steps == 0

    @staticmethod
    def fit(learner, folder, *, resume=False, data=None):
        data = mixture_data(100) if data is None else data
        kept = pj.Checkpoints(folder, every=2, resume=resume)
        learner.fit(data, 4, checkpoints=kept)


def test_the_way_in_which_shards_resample_must_not_change(tmp_path):
    with pj.distributed(num_shards=2):
        train("ULA", tmp_path, steps=1)
    with (
        pj.distributed(num_shards=2, local_resampling=True),
        pytest.raises(CheckpointError, match="`local_resampling` was False and is True"),
    ):
        train("ULA", tmp_path, steps=2, resume=True)
