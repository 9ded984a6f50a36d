"""`pyro-jarzynski infer`: what it prints, what it leaves, and how it fails."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from arviz import from_netcdf
from safetensors.torch import load_file

from pyro_jarzynski.errors import ExportWarning
from pyro_jarzynski.infer.export import groups
from pyro_jarzynski.infer.time_limit import TimeLimit
from tests.command_line import call, flat, names_in
from tests.diagnostics.trees import names

ROOT = Path(__file__).parent.parent
PICTURES = {"annealing.png", "evidence.png", "weights.png", "genealogy.png"}
TABLES = {"draws.safetensors", "summary.csv", "history.csv", "result.json"}
FILES = PICTURES | TABLES | {"arviz.nc", "report.html"}
SOURCE = """
import pyro
import pyro.distributions as dist


def mean(y, scale=1.0):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    twice = pyro.deterministic("twice", 2 * m)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, scale), obs=y)


def known(y):
    pyro.deterministic("total", y.sum())
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def misnamed(y):
    m = pyro.sample("chain", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(m, 1.0).expand([2]).to_event(1), obs=y)


def edged(y):
    p = pyro.sample("p", dist.Beta(5.0, 0.05))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(p, 1.0), obs=y)


number = 3
"""
# log N(y; 0, I + 11ᵀ) for y = (1, 2).
LOG_EVIDENCE = -3.3872


@pytest.fixture
def source(tmp_path):
    (tmp_path / "model.py").write_text(SOURCE)
    (tmp_path / "data.json").write_text('{"y": [1.0, 2.0]}')
    return tmp_path


def infer(folder, *options, model="mean"):
    data = ("--data", folder / "data.json")
    size = ("--walkers", 128, "--out", folder / "out")
    return call("infer", f"{folder / 'model.py'}:{model}", *data, *size, *options)


def test_evidence_and_summary_are_printed_and_draws_are_left(source):
    answer = infer(source)
    assert answer.code == 0, answer.error
    assert "log evidence -3." in answer.shown
    assert "mean sd 5% 50% 95% mcse r_hat" in answer.shown
    assert names_in(source / "out") == FILES
    draws = load_file(source / "out" / "draws.safetensors")
    assert {name: tuple(v.shape) for name, v in draws.items()} == {
        "m": (4, 128),
        "twice": (4, 128),
    }
    record = json.loads((source / "out" / "result.json").read_text())
    assert record["log_evidence"] == pytest.approx(
        LOG_EVIDENCE, abs=6 * record["log_evidence_error"] + 0.02
    )
    assert record["complete"]
    assert record["notes"]["seed"] == 0
    assert "report.html" in answer.shown.split("Report: ")[1].replace(" ", "")
    page = (source / "out" / "report.html").read_text(encoding="utf-8")
    assert "model.py:mean" in page
    assert f"{record['log_evidence']:.3f} ± {record['log_evidence_error']:.3f} nats" in page


def test_compiled_model_has_the_evidence_of_the_plain_one(source):
    answer = infer(source, "--jit-compile", "--chains", 2)
    assert answer.code == 0, answer.error
    record = json.loads((source / "out" / "result.json").read_text())
    assert record["log_evidence"] == pytest.approx(LOG_EVIDENCE, abs=0.1)
    assert "Compil" not in answer.error


@pytest.mark.filterwarnings("ignore:The model has no latents:UserWarning")
def test_model_without_latents_has_a_report_without_pictures(source):
    answer = infer(source, model="known")
    assert answer.code == 0, answer.error
    assert names_in(source / "out") == TABLES | {"report.html"}
    draws = load_file(source / "out" / "draws.safetensors")
    assert set(draws["total"].flatten().tolist()) == {3.0}
    assert "-4.338 ± 0.000 nats" in (source / "out" / "report.html").read_text()


def test_report_is_not_drawn_again_from_the_files(source):
    assert infer(source).code == 0
    answer = call("report", source / "out")
    assert answer.code == 1
    assert "holds an inference run" in answer.error
    assert "call `pyro-jarzynski infer` again" in answer.error


def test_names_that_arviz_cannot_have_cost_its_file_alone(source):
    with pytest.warns(ExportWarning, match="arviz.nc is not written.*'chain' is reserved"):
        answer = infer(source, model="misnamed")
    assert answer.code == 0, answer.error
    assert names_in(source / "out") == FILES - {"arviz.nc"}


@pytest.mark.parametrize(
    ("option", "kept"), [("--log-likelihood", True), ("--no-log-likelihood", False)]
)
def test_log_likelihoods_can_be_left_out(source, monkeypatch, option, kept):
    monkeypatch.setattr(groups, "MAX_BYTES", 1)
    assert infer(source, option, "--chains", 2).code == 0
    assert ("log_likelihood" in names(from_netcdf(source / "out" / "arviz.nc"))) == kept


@pytest.mark.parametrize("kernel", ["mala", "hmc", "ula", "underdamped"])
def test_every_kernel_can_be_named(source, kernel):
    assert infer(source, "--kernel", kernel).code == 0


def test_settings_reach_the_sampler(source):
    assert infer(source, "--seed", 5, "--chains", 2, "--base", "normal").code == 0
    record = json.loads((source / "out" / "result.json").read_text())
    assert len(record["log_evidence_per_chain"]) == 2
    assert record["notes"]["seed"] == 5


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("missing.py:mean", "There is no file"),
        ("model.py", "must be given as FILE.py:MODEL"),
        (
            "model.py:median",
            "has no model 'median'; it has edged, known, mean, misnamed",
        ),
        ("model.py:number", "has no model 'number'"),
        ("data.json:mean", "is not a Python file"),
    ],
)
def test_model_that_is_not_there(source, model, message):
    answer = call("infer", source / model, "--out", source / "out")
    assert answer.code == 1
    assert message in answer.error
    assert "Traceback" not in answer.error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1, 2]", "must be a JSON object"),
        ('{"y": [[1.0], [1.0, 2.0]]}', "must hold 'y' as a rectangular list"),
        ('{"y": ["a", 1.0]}', "got numbers, text together"),
        ('{"x": [1.0]}', "does not take the arguments of `--data` (x)"),
    ],
)
def test_data_that_do_not_fit(source, content, message):
    (source / "data.json").write_text(content)
    answer = infer(source)
    assert answer.code == 1
    assert message in answer.error
    assert names_in(source / "out") == set()


def test_data_that_are_not_there(source):
    (source / "data.json").unlink()
    answer = infer(source)
    assert answer.code == 1
    assert "cannot be read" in answer.error


def test_a_wrong_setting_is_one_line(source):
    answer = infer(source, "--ess", 1.5)
    assert answer.code == 1
    assert "`ess` must lie in [0, 1], got 1.5" in answer.error
    assert answer.error.count("Error: ") == 1


@pytest.mark.parametrize("name", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_there(source, name):
    answer = infer(source, "--device", name)
    assert answer.code == 1
    assert "`--device` must be a device that torch can use here" in answer.error
    assert torch.get_default_device().type == "cpu"


def test_too_little_time_is_one_line(source, monkeypatch):
    times = itertools.count()
    monkeypatch.setattr(TimeLimit, "clock", lambda: float(next(times)))
    monkeypatch.setattr(TimeLimit, "grace", 2.0)
    answer = infer(source, "--max-seconds", 20)
    assert answer.code == 1
    assert "Error: `max_seconds` is 20, and the" in answer.error
    assert "Traceback" not in answer.error


def test_each_doubt_is_told_once(source):
    """As a warning, in a line of its own; the files have it as well."""
    code = "from pyro_jarzynski.cli import main; main()"
    command = [sys.executable, "-c", code, "infer", f"{source / 'model.py'}:edged"]
    options = ["--data", str(source / "data.json"), "--out", str(source / "out")]
    done = subprocess.run(
        [*command, *options, "--walkers", "64"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    doubts = json.loads((source / "out" / "result.json").read_text())["doubts"]
    assert doubts
    for doubt in doubts:
        assert (done.stdout + done.stderr).count(doubt) == 1


def test_files_are_not_overwritten_unasked(source):
    assert infer(source).code == 0
    again = infer(source)
    assert again.code == 1
    assert "holds files" in again.error
    assert infer(source, "--overwrite").code == 0


# Ctrl-C after two stages of the walkers that are kept.
INTERRUPTED = """
import signal
from pyro_jarzynski.cli import main
from pyro_jarzynski.infer.recorder import Recorder

add = Recorder.add

def interrupted(recorder, reached):
    add(recorder, reached)
    if len(recorder.rows) == 2:
        signal.raise_signal(signal.SIGINT)

Recorder.add = interrupted
main()
"""


def test_ctrl_c_ends_with_what_was_reached(source):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", INTERRUPTED, "infer", f"{source / 'model.py'}:mean"]
    options = ["--data", str(source / "data.json"), "--out", str(source / "out")]
    done = subprocess.run(
        [*command, *options, "--walkers", "64", "--ess", "0.999"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "Interrupted: what was reached so far is in" in flat(done.stderr)
    shown = done.stdout + done.stderr
    assert shown.count("Warning: The run ended at inverse temperature") == 1
    assert names_in(source / "out") == FILES | {"checkpoints"}
    assert "The run ended at inverse temperature" in (
        source / "out" / "report.html"
    ).read_text(encoding="utf-8")
    assert not json.loads((source / "out" / "result.json").read_text())["complete"]
