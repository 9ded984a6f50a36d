"""`pyro-jarzynski infer`: model files and data that Python takes, and errors in them."""

import json
import sys

import pandas as pd
import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.cli.arguments import choose_integers, load_arguments
from pyro_jarzynski.cli.model_source import check_arguments, load_source
from pyro_jarzynski.errors import ExportWarning, ModelSourceError
from pyro_jarzynski.infer.summary import Summary
from tests.command_line import call, names_in

SOURCE = """
from __future__ import annotations

import dataclasses
import functools
import sys

import pyro
import pyro.distributions as dist
import pyro.nn
import pyro.poutine as poutine
import torch

from priors_of_test import SCALE


@dataclasses.dataclass
class Prior:
    scale: float = SCALE


def normal(y, scale=1.0):
    m = pyro.sample("m", dist.Normal(0.0, Prior().scale))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, scale), obs=y)


def logistic(x, label):
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(label)):
        pyro.sample("label", dist.Bernoulli(logits=x @ b), obs=label)


def grouped(x, label, group, pair):
    a = pyro.sample("a", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(label)):
        logits = a[group, pair["second"]] + x @ b
        pyro.sample("label", dist.Bernoulli(logits=logits), obs=label)


def named(y, names, options=None):
    assert names == ["a", "b"] and options["weights"].tolist() == [1.0, 2.0]
    normal(y)


def keyword_only(*, y, scale=2.0):
    normal(y, scale)


class Net(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.m = pyro.nn.PyroSample(dist.Normal(0.0, 5.0))

    def forward(self, y):
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(self.m, 1.0), obs=y)


net = Net()
conditioned = poutine.condition(normal, data={"unused": torch.tensor(0.0)})
decorated = poutine.mask(mask=True)(normal)
partial = functools.partial(normal, scale=1.0)
anonymous = lambda y: normal(y)


def failing(y):
    return help_to_fail(y)


def help_to_fail(y):
    return y.no_such_thing


def impossible(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, -1.0), obs=y)


def misspelt(y, group):
    return normal(y) + 1
"""
LOGISTIC = {"x": [[1, 0], [0, 1], [1, 1]], "label": [1, 0, 1]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "model_of_test.py").write_text(SOURCE)
    (folder / "priors_of_test.py").write_text("SCALE = 5.0\n")
    before = list(sys.path)
    yield folder
    sys.path[:] = before


@pytest.fixture
def infer(folder, tmp_path):
    def run(model, data, *options):
        (tmp_path / "data.json").write_text(json.dumps(data))
        source, size = f"{folder / 'model_of_test.py'}:{model}", ("--walkers", 64)
        given = ("--data", tmp_path / "data.json", "--chains", 2, *size, *options)
        return call("infer", source, "--out", tmp_path / "out", *given)

    return run


def evidence(out):
    return json.loads((out / "result.json").read_text())["log_evidence"]


def test_labels_and_design_of_integers_are_those_of_floats(infer, folder, tmp_path):
    """A logistic regression as JSON writes it, with the bits of the one in floats."""
    answer = infer("logistic", LOGISTIC)
    assert answer.code == 0, answer.error
    smc = pj.AnnealedSMC(
        load_source(f"{folder / 'model_of_test.py'}:logistic"),
        num_walkers=64,
        num_chains=2,
        progress=False,
    )
    floats = {name: torch.tensor(value).float() for name, value in LOGISTIC.items()}
    assert evidence(tmp_path / "out") == smc.run(**floats).log_evidence


def test_all_columns_are_printed_however_large_the_numbers(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    columns = ["mean", "sd", "5%", "50%", "95%", "mcse", "r_hat"]
    table = pd.DataFrame({name: [1.2345678e39] for name in columns}, index=["m"])
    shown = str(Summary(table, "a headline"))
    assert all(name in shown.split() for name in columns)


def test_text_and_nested_objects_reach_the_model(infer, tmp_path):
    data = {"y": [1, 2], "names": ["a", "b"], "options": {"weights": [1, 2]}}
    answer = infer("named", data)
    assert answer.code == 0, answer.error
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["notes"]["integers"] == []


def test_indices_alone_stay_integers(folder, tmp_path):
    model = load_source(f"{folder / 'model_of_test.py'}:grouped")
    pair = {"first": [0, 1, 1], "second": [0, 0, 1]}
    content = {**LOGISTIC, "group": [0, 1, 1], "pair": pair}
    (tmp_path / "data.json").write_text(json.dumps(content))
    arguments = load_arguments(tmp_path / "data.json")
    assert choose_integers(model, arguments) == ("group", "pair.second")


def test_a_failure_that_is_not_of_types_needs_no_integers(folder, tmp_path):
    model = load_source(f"{folder / 'model_of_test.py'}:misspelt")
    (tmp_path / "data.json").write_text('{"y": [1, 2], "group": [0, 1]}')
    assert choose_integers(model, load_arguments(tmp_path / "data.json")) == ()


MODELS = ["normal", "keyword_only", "net", "conditioned", "decorated", "partial"]


@pytest.mark.parametrize("name", [*MODELS, "anonymous"])
def test_models_of_all_kinds_are_taken(folder, name):
    """With a module beside the file, and dataclasses under postponed annotations."""
    model = load_source(f"{folder / 'model_of_test.py'}:{name}")
    check_arguments(model, {"y": torch.ones(2)})
    run = pj.AnnealedSMC(model, num_walkers=16, num_chains=2, progress=False)
    assert run.run(y=torch.ones(2)).complete


@pytest.mark.parametrize("name", ["Net", "Prior"])
def test_a_class_is_no_model(infer, name, tmp_path):
    answer = infer(name, {"y": [1.0]})
    assert answer.code == 1
    assert f"{name} in " in answer.error
    assert f"such as `model = {name}(…)`, and name that" in answer.error
    assert names_in(tmp_path / "out") == set()


@pytest.mark.parametrize(
    ("name", "message", "places"),
    [
        (
            "failing",
            "The model raised AttributeError: 'Tensor' object has no attribute",
            ["in failing return help_to_fail(y)", "in help_to_fail return y.no_such_thing"],
        ),
        (
            "impossible",
            "The model cannot be run with these data",
            ['in impossible pyro.sample("y", dist.Normal(m, -1.0), obs=y)'],
        ),
    ],
)
def test_errors_of_a_model_are_shown_where_they_are(infer, name, message, places, tmp_path):
    answer = infer(name, {"y": [1.0, 2.0]})
    assert answer.code == 1
    assert f"Error: {message}" in answer.error
    assert "Traceback" not in answer.error
    assert answer.error.count("model_of_test.py, line") == len(places)
    assert all(place in answer.error for place in places)
    assert names_in(tmp_path / "out") == set()


PROGRAMS = {
    "syntax": ("def model(y:\n", "SyntaxError: '(' was never closed"),
    "import": (
        "import no_such_module\n",
        "No module named 'no_such_module' program.py, line 1",
    ),
    "relative": ("from .x import y\n", "no known parent package program.py, line 1"),
    "error": ("x = 1\nx / 0\n", "ZeroDivisionError: division by zero program.py, line 2"),
    "exit": ("import sys\nsys.exit('bye')\n", "SystemExit: bye program.py, line 2"),
    "null": ("\0", "SyntaxError: source code string cannot contain null bytes"),
}


@pytest.mark.parametrize("case", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_that_fail_are_shown_where_they_do(case, tmp_path):
    program, message = case
    (tmp_path / "program.py").write_text(program)
    answer = call("infer", f"{tmp_path / 'program.py'}:model", "--out", tmp_path / "out")
    assert answer.code == 1
    assert "program.py cannot be executed: " in answer.error
    assert message in answer.error
    assert "importlib" not in answer.error


def test_a_file_called_as_a_module_of_python_hides_none(tmp_path):
    (tmp_path / "statistics.py").write_text("def model(): pass\n")
    before = sys.modules.get("statistics")
    assert callable(load_source(f"{tmp_path / 'statistics.py'}:model"))
    assert sys.modules.get("statistics") is before
    sys.path.remove(str(tmp_path))


def test_whatever_a_model_needs_is_told(folder):
    model = load_source(f"{folder / 'model_of_test.py'}:normal")
    with pytest.raises(ModelSourceError, match=r"It takes \(y, scale=1.0\)"):
        check_arguments(model, {"x": 1})


def test_files_that_fail_cost_no_results(infer, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError("no space left on device")

    others = {"summary.csv", "history.csv", "arviz.nc", "report.html"}
    (tmp_path / "out").mkdir()
    for name in others:
        (tmp_path / "out" / name).write_text("of an earlier run")
    monkeypatch.setattr("pandas.DataFrame.to_csv", fail)
    monkeypatch.setattr("pyro_jarzynski.infer.result.SMCResult.to_arviz", fail)
    monkeypatch.setattr("pyro_jarzynski.report.inference_report.write_report", fail)
    with pytest.warns(ExportWarning, match="no space left on device") as caught:
        answer = infer("normal", {"y": [1, 2]}, "--overwrite")
    assert answer.code == 0
    assert "log evidence -" in answer.shown
    told = {
        str(warning.message).split(" is not written. OSError: ")[0] for warning in caught
    }
    assert told == others
    assert {"draws.safetensors", "result.json"} <= names_in(tmp_path / "out")
    assert not others & names_in(tmp_path / "out")


def test_evidence_is_printed_before_anything_is_written(infer, monkeypatch):
    def fail(*args, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr("pyro_jarzynski.runtime.disk.write", fail)
    answer = infer("normal", {"y": [1, 2]})
    assert answer.code == 1
    assert "log evidence -" in answer.shown
    assert "must be one that can be written" in answer.error


def test_an_unforeseen_error_is_one_line_or_a_traceback(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("a fault of this package")

    monkeypatch.setattr("pyro_jarzynski.cli.train.render", fail)
    answer = call("report", tmp_path)
    assert (answer.code, answer.error.count("Error")) == (1, 2)
    assert (
        "Error: RuntimeError: a fault of this package. `pyro-jarzynski --trace"
        in answer.error
    )
    with pytest.raises(RuntimeError, match="a fault of this package"):
        call("--traceback", "report", tmp_path)


def test_the_version_is_printed():
    answer = call("--version")
    assert (answer.code, answer.shown) == (0, f"pyro-jarzynski {pj.__version__}")
