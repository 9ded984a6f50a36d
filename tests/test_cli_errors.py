"""Wrong commands: exit codes, and messages that say what would be right."""

import json
import re
import shutil

import pytest
import typer

from pyro_jarzynski import RESAMPLERS, save_model
from pyro_jarzynski.cli import app
from pyro_jarzynski.cli import train as cli
from pyro_jarzynski.experiments.mixture import LEARNERS
from tests.command_line import TINY, call, flat, names_in, train
from tests.ebm.models import mixture_learner


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (["train", "svhn", "--out", "x"], "'svhn'; known are digits, gmm, mnist"),
        (["fit"], "'fit'; known are train, report"),
        (["train", "gmm", "--out", "x", "--algorithm", "sgd"], "jarzynski pcd cd"),
        (
            ["train", "digits", "--out", "x", "--resampler", "best"],
            "systematic stratified residual multinomial",
        ),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(arguments, known):
    answer = call(*arguments)
    assert answer.code == 2
    for name in re.findall(r"\w+", known):
        assert name in answer.error


BAD = [
    ("digits", "--steps", "0", "`steps` must be at least 1, got 0"),
    ("digits", "--walkers", "0", "`num_walkers` must be at least 1, got 0"),
    ("digits", "--audit-walkers", "-3", "`audit_walkers` must be at least 1, got -3"),
    ("digits", "--moves", "0", "`moves_per_update` must be at least 1, got 0"),
    ("digits", "--hidden", "0", "must be at least 1, got 0"),
    ("digits", "--batch-size", "0", "`batch_size` must be at least 1, got 0"),
    ("digits", "--learning-rate", "-1", "`learning_rate` must be a positive finite float"),
    ("digits", "--learning-rate", "nan", "`learning_rate` must be a positive finite float"),
    ("digits", "--weight-decay", "-1", "`weight_decay` must be a finite float of at least"),
    ("digits", "--matrix-learning-rate", "0", "`matrix_learning_rate` must be a positive"),
    ("digits", "--ess-threshold", "1.5", "`ess_threshold` must lie in [0, 1], got 1.5"),
    ("digits", "--eval-every", "0", "`eval_every` must be at least 1, got 0"),
    ("digits", "--patience", "0", "`patience` must be at least 1, got 0"),
    (
        "digits",
        "--walkers",
        str(2**70),
        "`num_walkers` must be at most 9223372036854775807",
    ),
    ("digits", "--hidden", str(2**70), "must be at most 9223372036854775807, got"),
    ("digits", "--seed", str(2**70), "`seed` must be at most 9223372036854775807, got"),
    ("gmm", "--dimension", str(2**70), "`dimension` must be at most 92233"),
    ("gmm", "--data-size", "1", "`data_size` must be at least 2, got 1"),
    ("gmm", "--dimension", "0", "`dimension` must be at least 1, got 0"),
    ("gmm", "--modes", "3", "`num_modes` must be even, got 3"),
    ("gmm", "--modes", "8", "`dimension` must be at least 4, half of `num_modes`, got 3"),
    ("gmm", "--eval-every", "-1", "`eval_every` must be at least 1, got -1"),
]


@pytest.mark.parametrize(("kind", "option", "value", "message"), BAD)
def test_bad_numbers_are_refused_and_leave_nothing(tmp_path, kind, option, value, message):
    answer = call(*train(kind, tmp_path / "out", option, value))
    assert answer.code == 1
    assert "Error: " in answer.error
    assert message in answer.error
    # The same command with a better number must not find the directory in use.
    assert names_in(tmp_path / "out") == set()


def test_what_is_no_number_is_refused(tmp_path):
    answer = call(*train("digits", tmp_path, "--steps", "many"))
    assert answer.code == 2
    assert "--steps" in answer.error


@pytest.mark.parametrize("kind", TINY)
def test_an_output_that_cannot_be_written(tmp_path, kind):
    (tmp_path / "file").write_text("")
    answer = call(*train(kind, tmp_path / "file" / "below"))
    assert answer.code == 1
    assert "`--out` must be a directory that can be written, got" in answer.error


def test_paths_in_messages_can_be_copied(tmp_path):
    """A message is one line, whatever the width of the terminal."""
    folder = tmp_path / ("a" * 90) / "run"
    assert str(folder) in call("report", folder).error


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for kind in TINY:
        assert call(*train(kind, folder / kind)).code == 0
    return folder


SPOILED = [
    *((kind, name) for kind in TINY for name in ("model.json", "history.csv")),
    ("digits", "model.safetensors"),
    ("gmm", "curves.csv"),
]


@pytest.mark.parametrize(("kind", "name"), SPOILED)
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_report_of_a_spoiled_run_names_the_file(finished, tmp_path, kind, name, how):
    out = tmp_path / "run"
    shutil.copytree(finished / kind, out)
    content = (out / name).read_bytes()
    (out / name).unlink()
    if how == "cut":
        # Half the file, so that its last line is short of columns.
        (out / name).write_bytes(content[: len(content) // 2])
    answer = call("report", out)
    assert answer.code == 1
    assert name in answer.error.replace(" ", "")


@pytest.mark.parametrize("place", ["results", "settings"])
@pytest.mark.parametrize("kind", TINY)
def test_report_names_the_entry_that_a_run_lacks(finished, tmp_path, kind, place):
    out = tmp_path / "run"
    shutil.copytree(finished / kind, out)
    record = json.loads((out / "model.json").read_text())
    shown = {"digits": "test_nll", "gmm": "exact_kl"}.get(kind, "test_nll")
    gone = shown if place == "results" else "ess_threshold"
    del record["notes"][place][gone]
    (out / "model.json").write_text(json.dumps(record))
    answer = call("report", out)
    assert answer.code == 1
    assert f"no entry '{gone}'" in answer.error


def test_report_of_no_run(tmp_path):
    answer = call("report", tmp_path)
    assert answer.code == 1
    assert "model.json" in answer.error.replace(" ", "")
    learner = mixture_learner()
    save_model(tmp_path, learner.model, learner.audit.cloud.walkers)
    answer = call("report", tmp_path)
    assert answer.code == 1
    assert "holds no run of digits, gmm, mnist" in answer.error


def commands(group, *path):
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *path, name)
    yield path, group


COMMANDS = {" ".join(path): (path, c) for path, c in commands(typer.main.get_command(app))}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option(monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "200")
    path, command = COMMANDS[name]
    answer = call(*path, "--help")
    assert answer.code == 0
    assert flat(command.help.partition("\n")[0]).rstrip(".") in answer.shown
    for parameter in command.params:
        assert parameter.help, f"{parameter.name} is not explained"
        assert max(parameter.opts, key=len).lower() in answer.shown.lower()


def test_without_a_command_help_is_shown():
    answer = call()
    for name in ("train", "report"):
        assert name in answer.shown + answer.error


def test_the_command_line_knows_every_algorithm_and_resampler():
    assert {a.value for a in cli.Algorithm} == set(LEARNERS)
    assert {r.value for r in cli.Resampler} == set(RESAMPLERS)
