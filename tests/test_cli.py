"""Runs from the command line: what they leave, and what Ctrl-C leaves."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyro_jarzynski import History, JarzynskiLearner, LikelihoodTracker, load_model
from tests.command_line import LEFT, MODEL, TINY, call, flat, names_in, train

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One finished run of each experiment, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "new"
    answers = {kind: call(*train(kind, folder / kind)) for kind in TINY}
    assert [answer.code for answer in answers.values()] == [0, 0], answers
    return folder, {kind: answer.shown for kind, answer in answers.items()}


@pytest.fixture(params=list(TINY))
def run(request, runs, tmp_path):
    """A copy of a finished run, that a test may spoil."""
    shutil.copytree(runs[0] / request.param, tmp_path / "run")
    return request.param, tmp_path / "run"


def test_a_run_leaves_everything(run):
    kind, out = run
    assert names_in(out) == LEFT[kind]
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"pyro-jarzynski: {kind}" in page
    history = History.from_csv(out / "history.csv")
    assert history["step"] == ([2, 4, 6] if kind == "digits" else [2, 4])
    saved = load_model(out)
    assert saved.notes["experiment"] == kind
    assert torch.isfinite(saved.model(saved.position)).all()


@pytest.mark.parametrize("kind", TINY)
def test_a_run_says_what_came_out(kind, runs):
    wanted = {
        "digits": ["Test NLL: 9", "Gaussian, same test: 93.", "Best update: "],
        "gmm": ["Mass of the first mode: 0.", "(data: 0.2500)", "Exact KL divergence: "],
    }
    _, said = runs
    assert all(part in said[kind] for part in [*wanted[kind], "report.html"])


@pytest.mark.parametrize("algorithm", ["jarzynski", "pcd", "cd"])
@pytest.mark.parametrize("kind", TINY)
def test_every_algorithm_runs(tmp_path, kind, algorithm):
    assert call(*train(kind, tmp_path, "--algorithm", algorithm)).code == 0
    assert names_in(tmp_path) == LEFT[kind]
    assert load_model(tmp_path).notes["settings"]["algorithm"] == algorithm
    if kind == "digits":
        return
    with open(tmp_path / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["step"]) for row in rows] == [2, 4]
    assert {"mass", "exact_kl", "estimated_kl"} < rows[0].keys()


def test_the_last_word_is_that_of_fresh_walkers(tmp_path, monkeypatch):
    found, renew = [], LikelihoodTracker.renew

    def watched(tracker, **settings):
        found.append(renew(tracker, **settings))

    monkeypatch.setattr(LikelihoodTracker, "renew", watched)
    assert call(*train("digits", tmp_path)).code == 0
    assert load_model(tmp_path).log_normalizer == found[-1].after


def test_masses_of_more_modes_are_shown(tmp_path):
    answer = call(*train("gmm", tmp_path, "--modes", "4"))
    assert answer.code == 0
    assert names_in(tmp_path) == LEFT["gmm"]
    assert re.search(r"Masses: (\d\.\d{4}, ){3}\d\.\d{4} \(data: 0\.0", answer.shown)
    with open(tmp_path / "curves.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    assert sum(float(row[f"mass_{mode}"]) for mode in range(4)) == pytest.approx(1)


def test_the_same_command_gives_the_same_numbers(run, tmp_path):
    kind, out = run
    assert call(*train(kind, tmp_path / "again")).code == 0
    first, again = (History.from_csv(p / "history.csv") for p in (out, tmp_path / "again"))
    for name in ("train_nll", "log_z", "training_log_z", "grad_norm"):
        assert first[name] == again[name]


def test_report_draws_again(run):
    kind, out = run
    for path in [*out.glob("*.png"), out / "report.html"]:
        path.unlink()
    answer = call("report", out)
    assert answer.code == 0
    assert "Report: " in answer.shown
    assert names_in(out) == LEFT[kind]


def test_a_directory_with_files_is_kept(run):
    kind, out = run
    (out / "notes.txt").write_text("mine")
    before = (out / "model.json").read_text()
    answer = call(*train(kind, out, "--seed", "1"))
    assert answer.code == 1
    assert "holds files. Choose another, or pass `--overwrite`" in answer.error
    assert (out / "model.json").read_text() == before
    assert call(*train(kind, out, "--seed", "1", "--overwrite")).code == 0
    assert (out / "model.json").read_text() != before
    assert (out / "notes.txt").read_text() == "mine"


def test_a_failed_training_leaves_a_sound_model(tmp_path):
    answer = call(*train("digits", tmp_path, "--learning-rate", "1e20"))
    assert answer.code == 1
    assert answer.error.count("Error: ") == 1
    assert names_in(tmp_path) == MODEL | {"checkpoints"}
    saved = load_model(tmp_path)
    assert torch.isfinite(saved.model(saved.position)).all()
    # The first update failed: the model is as it was before it.
    assert all((p.abs() < 10).all() for p in saved.model.parameters())


@pytest.mark.parametrize("kind", TINY)
def test_an_interrupt_before_the_first_row(monkeypatch, tmp_path, kind):
    def stop(self, *args, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(JarzynskiLearner, "fit", stop)
        answer = call(*train(kind, tmp_path))
    assert answer.code == 130
    assert "Interrupted: the best model and the history so far are in" in answer.error
    assert len(History.from_csv(tmp_path / "history.csv")) == 0
    assert load_model(tmp_path).log_normalizer_error < 1e-6
    again = call("report", tmp_path)
    assert again.code == 0, again.error
    assert "Report: " in again.shown


# Ctrl-C right after the second row.
INTERRUPTED = """
import signal
from pyro_jarzynski import ProgressBar
from pyro_jarzynski.cli import main

shown = ProgressBar.__call__

def show(self, learner, row):
    shown(self, learner, row)
    if row["step"] == 4:
        signal.raise_signal(signal.SIGINT)

ProgressBar.__call__ = show
main()
"""


@pytest.mark.parametrize("kind", TINY)
def test_ctrl_c_saves_the_run(tmp_path, kind):
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *train(kind, out, "--steps", "100000")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    told = "Interrupted: the best model and the history so far are in"
    assert told in flat(done.stderr)
    assert names_in(out) >= MODEL
    history = History.from_csv(out / "history.csv")
    assert history["step"] == [2, 4]
    assert load_model(out).notes["results"]["updates"] >= 4
