"""Runs from the command line that are interrupted, and gone on with by `--resume`."""

import json
import signal

import pytest

from pyro_jarzynski import History, ProgressBar
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
