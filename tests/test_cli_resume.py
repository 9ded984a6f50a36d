"""Runs from the command line that are interrupted, and gone on with by `--resume`."""

import csv
import json
import signal

import pytest

from pyro_jarzynski import History, ProgressBar
from pyro_jarzynski.infer.recorder import Recorder
from tests.command_line import LEFT, MODEL, TINY, call, names_in, train


def stop_at(monkeypatch, step, number=signal.SIGINT):
    """Let a signal come when a row is shown."""
    shown = ProgressBar.__call__

    def show(self, learner, row):
        shown(self, learner, row)
        if row["step"] == step:
            signal.raise_signal(number)

    monkeypatch.setattr(ProgressBar, "__call__", show)


def content(out):
    """Return what a run came to, without times."""
    history = History.from_csv(out / "history.csv")
    record = json.loads((out / "model.json").read_text())
    record["notes"]["results"].pop("seconds")
    rows = [{k: repr(v) for k, v in row.items() if k != "seconds"} for row in history]
    curves = out / "curves.csv"
    return (
        (out / "model.safetensors").read_bytes(),
        record,
        rows,
        curves.read_text() if curves.exists() else "",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("kind", TINY)
def test_a_run_is_gone_on_with(monkeypatch, tmp_path, kind, number):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert call(*train(kind, whole)).code == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 2, number)
        stopped = call(*train(kind, broken))
    assert stopped.code == 128 + number, stopped.error
    assert "The same command with --resume goes on from here." in stopped.error
    assert names_in(broken) >= MODEL | {"checkpoints"}
    refused = call(*train(kind, broken))
    assert refused.code == 1
    assert "must be a new or an empty directory" in refused.error
    resumed = call(*train(kind, broken), "--resume")
    assert resumed.code == 0, resumed.error
    assert content(broken) == content(whole)
    # What is over needs no checkpoints.
    assert names_in(broken) == LEFT[kind]


def test_resume_of_nothing_begins(tmp_path):
    assert call(*train("gmm", tmp_path), "--resume").code == 0


def test_a_run_that_is_over_is_not_begun_anew(tmp_path):
    assert call(*train("gmm", tmp_path)).code == 0
    answer = call(*train("gmm", tmp_path), "--resume")
    assert answer.code == 1
    assert "holds files" in answer.error


def test_overwriting_begins_anew(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        assert call(*train("gmm", tmp_path)).code == 130
    assert call(*train("gmm", tmp_path), "--overwrite").code == 0
    assert names_in(tmp_path) == LEFT["gmm"]


def test_other_options_are_refused_and_nothing_is_lost(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        assert call(*train("gmm", tmp_path)).code == 130
    before = content(tmp_path)
    answer = call(*train("gmm", tmp_path), "--seed", 4, "--resume")
    assert answer.code == 1
    assert "does not fit this run" in answer.error
    assert "`seed` was 0 and is 4" in answer.error
    assert content(tmp_path) == before
    assert call(*train("gmm", tmp_path), "--resume").code == 0


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--learning-rate", 0.05, "`learning_rate` was 0.001 and is 0.05"),
        ("--matrix-learning-rate", 0.2, "`matrix_learning_rate` was 0.02 and is 0.2"),
        ("--weight-decay", 0.0, "`weight_decay` was 0.3 and is 0.0"),
        ("--batch-size", 32, "`batch_size` was 256 and is 32"),
        ("--steps", 8, "`steps` was 6 and is 8"),
        ("--patience", 4, "`patience` was None and is 4"),
        ("--eval-every", 3, "`eval_every` was 2 and is 3"),
        ("--algorithm", "pcd", "`algorithm` was 'jarzynski' and is 'pcd'"),
    ],
)
def test_no_option_of_a_training_may_change(interrupted_digits, option, value, told):
    """What `model.json` and the report say of a run was used in all of it."""
    before = content(interrupted_digits)
    command = train("digits", interrupted_digits)
    answer = call(*command, option, value, "--resume")
    assert answer.code == 1
    assert told in answer.error
    assert content(interrupted_digits) == before


@pytest.fixture(scope="module")
def interrupted_digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2)
        assert call(*train("digits", out)).code == 130
    return out


def test_checkpoints_come_as_often_as_asked(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        call(*train("digits", tmp_path), "--checkpoint-every", 3)
    kept = {int(name[5:]) for name in names_in(tmp_path / "checkpoints") - {".lock"}}
    assert kept == {3, 4}
    answer = call(*train("gmm", tmp_path / "other"), "--checkpoint-every", 0)
    assert answer.code == 1
    assert "`checkpoint_every` must be at least 1" in answer.error
    assert not (tmp_path / "other").exists()


PROGRAM = """
import pyro
import pyro.distributions as dist


def model(y):
    m = pyro.sample("m", dist.Normal(0.0, 30.0))
    pyro.deterministic("twice", 2 * m)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def impossible(y):
    m = pyro.sample("m", dist.Normal(0.0, 30.0))
    pyro.factor("wall", m * 0 - float("inf"))
    pyro.sample("y", dist.Normal(m, 1.0), obs=y[0])
"""
pytestmark = pytest.mark.filterwarnings("ignore::pyro_jarzynski.EvidenceWarning")


class TestInference:
    """`infer`, which few walkers make quick; a run has a scout of some stages, and more."""

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path):
        (tmp_path / "model.py").write_text(PROGRAM)
        (tmp_path / "data.json").write_text('{"y": [1.0, 2.0, 2.5]}')
        self.folder = tmp_path

    def infer(self, out, *options, model="model"):
        command = ["infer", f"{self.folder / 'model.py'}:{model}", "--out", out]
        data = ["--data", self.folder / "data.json"]
        return call(*command, *data, "--walkers", 32, "--chains", 2, *options)

    @staticmethod
    def stop_at(monkeypatch, stage, number):
        add = Recorder.add

        def stopped(recorder, reached):
            add(recorder, reached)
            if recorder.num_stages == stage:
                signal.raise_signal(number)

        monkeypatch.setattr(Recorder, "add", stopped)

    @staticmethod
    def content(out):
        """Return what a run came to, without times."""
        record = json.loads((out / "result.json").read_text())
        record.pop("seconds")
        with (out / "history.csv").open() as file:
            rows = [{**row, "seconds": ""} for row in csv.DictReader(file)]
        draws = (out / "draws.safetensors").read_bytes()
        return record, rows, draws, (out / "summary.csv").read_text()

    @pytest.mark.parametrize(
        ("stage", "number"),
        [(2, signal.SIGTERM), (9, signal.SIGINT)],
        ids=["scout, TERM", "walkers, INT"],
    )
    def test_is_gone_on_with(self, monkeypatch, tmp_path, stage, number):
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        assert self.infer(whole).code == 0
        with monkeypatch.context() as patch:
            self.stop_at(patch, stage, number)
            stopped = self.infer(broken)
        assert stopped.code == 128 + number, stopped.error
        assert "The same command with --resume goes on from here." in stopped.error
        known = "what was reached so far" if stage == 9 else "there are no draws yet"
        assert known in stopped.error
        assert ("draws.safetensors" in names_in(broken)) == (stage == 9)
        assert self.infer(broken).code == 1
        resumed = self.infer(broken, "--resume")
        assert resumed.code == 0, resumed.error
        assert self.content(broken) == self.content(whole)
        assert names_in(broken) == names_in(whole)

    def test_another_seed_or_other_data_are_refused_and_nothing_is_lost(
        self, monkeypatch, tmp_path
    ):
        out = tmp_path / "out"
        with monkeypatch.context() as patch:
            self.stop_at(patch, 9, signal.SIGINT)
            assert self.infer(out).code == 130
        before = self.content(out)
        other = self.infer(out, "--resume", "--seed", 3)
        assert other.code == 1
        assert "`seed` was 0 and is 3" in other.error
        (tmp_path / "data.json").write_text('{"y": [1.0, 2.0, 2.6]}')
        other = self.infer(out, "--resume")
        assert other.code == 1
        assert "of another model or other data: the log-density of walker 0" in other.error
        assert self.content(out) == before
        assert names_in(out / "checkpoints") >= {"step-000000000009"}

    def test_more_time_goes_on(self, tmp_path):
        out = tmp_path / "out"
        assert self.infer(out, "--max-seconds", 1e-9).code == 0
        assert "checkpoints" in names_in(out)
        reached = self.content(out)
        assert not reached[0]["complete"]
        assert self.infer(out, "--resume").code == 0
        found = self.content(out)
        assert found[0]["complete"]
        assert found[1][: len(reached[1])] == reached[1]
        assert "checkpoints" not in names_in(out)

    def test_a_failure_leaves_nothing_in_the_way(self, tmp_path):
        answer = self.infer(tmp_path / "out", model="impossible")
        assert answer.code == 1
        assert names_in(tmp_path / "out") == set()

    def test_checkpoints_come_as_often_as_asked(self, monkeypatch, tmp_path):
        self.stop_at(monkeypatch, 9, signal.SIGINT)
        self.infer(tmp_path / "out", "--checkpoint-every", 4)
        kept = names_in(tmp_path / "out" / "checkpoints") - {".lock"}
        assert {int(name[5:]) for name in kept} == {8, 9}
        answer = self.infer(tmp_path / "other", "--checkpoint-every", 0)
        assert "`checkpoint_every` must be at least 1" in answer.error
