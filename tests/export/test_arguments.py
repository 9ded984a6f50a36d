"""Arguments of a model that are no plain tensors: stored, or left out with a warning."""

import datetime
import warnings
from collections import namedtuple
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski.errors import ExportWarning
from tests.diagnostics.trees import dataset, file_of, names
from tests.export.exports import run

DATA = torch.tensor([0.5, 1.5])


def model(y, extra=None, **more):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


class Raising:
    """What a user's object may do at worst."""

    def __repr__(self):
        raise ValueError("no representation")

    def __array__(self, *args, **kwargs):
        raise KeyError("no array")

    def __getattr__(self, name):
        raise RuntimeError(name)


class Colour(Enum):
    RED = 1


@dataclass
class Settings:
    scale: float
    title: str
    weights: object = None


Point = namedtuple("Point", "x y")
CIRCLE: dict = {}
CIRCLE["again"] = CIRCLE
FLOAT8 = torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn)
EXACT = np.array([1.0, 2.0], np.longdouble)
RECORDS = np.array([(1.0, "a"), (2.0, "b")], [("size", "f4"), ("label", "U1")])
TABLE = pd.DataFrame({"size": [1.0, 2.0], "label": ["a", "b"]})
MASKED = np.ma.masked_array([1, 2], [False, True])
DAY = np.datetime64("2020-01-02", "ns")


def listed(value):
    return {"extra": value}


STORED = {
    "text": ("abc", listed("abc")),
    "strings": (np.array(["a", "bé"]), listed(["a", "bé"])),
    "strings of pandas": (pd.Series(["a", None]), listed(["a", ""])),
    "bytes": (np.array([b"a", b"bc"]), listed(["a", "bc"])),
    "dates": (np.array(["2020-01-02"], "datetime64[D]"), listed([DAY])),
    "dates of Python": ([datetime.date(2020, 1, 2)], listed(["2020-01-02"])),
    "far dates": (np.array(["9999-01-02"], "datetime64[D]"), listed(["9999-01-02"])),
    "duration": (np.timedelta64(3, "s"), listed(np.timedelta64(3 * 10**9, "ns"))),
    "years": (np.timedelta64(3, "Y"), listed("3 years")),
    "big-endian": (np.arange(3.0).astype(">f8"), listed([0.0, 1.0, 2.0])),
    "reversed": (np.arange(3.0)[::-1], listed([2.0, 1.0, 0.0])),
    "extended precision": (EXACT, listed([1.0, 2.0])),
    "half precision": (np.ones(2, np.float16), listed([1.0, 1.0])),
    "float8": (FLOAT8, listed([1.0, 2.0])),
    "bfloat16": (FLOAT8.bfloat16(), listed([1.0, 2.0])),
    "with gradient": (torch.ones(2, requires_grad=True), listed([1.0, 1.0])),
    "sparse": (torch.eye(2).to_sparse(), listed([[1.0, 0.0], [0.0, 1.0]])),
    "complex": (torch.tensor([1 + 2j]).conj(), {"extra.real": [1.0], "extra.imag": [-2.0]}),
    "huge integer": (2**70, listed(str(2**70))),
    "huge integers": ([2**70, 1], listed([str(2**70), "1"])),
    "64 bits": (2**64 - 1, listed(2**64 - 1)),
    "decimal": (Decimal("1.5"), listed(1.5)),
    "enum": (Colour.RED, listed("Colour.RED")),
    "path": (Path("a"), listed("a")),
    "missing numbers": ([1.0, None], listed([1.0, np.nan])),
    "missing of pandas": (pd.Series([1, None], dtype="Int64"), listed([1.0, np.nan])),
    "masked": (MASKED, listed([1.0, np.nan])),
    "records": (RECORDS, {"extra.size": [1.0, 2.0], "extra.label": ["a", "b"]}),
    "table": (TABLE, {"extra.size": [1.0, 2.0], "extra.label": ["a", "b"]}),
    "dictionary": ({"a/b": [1, 2], "c": {"d": 3}}, {"extra.a.b": [1, 2], "extra.c.d": 3}),
    "dataclass": (Settings(2.0, "a"), {"extra.scale": 2.0, "extra.title": "a"}),
    "named tuple": (Point(1, 2), {"extra.x": 1, "extra.y": 2}),
    "tensors": ([torch.ones(2), torch.zeros(2)], listed([[1.0, 1.0], [0.0, 0.0]])),
    "ragged": ([[1], [2, 3]], {"extra.0": [1], "extra.1": [2, 3]}),
    "mixed": ([1, "a"], {"extra.0": 1, "extra.1": "a"}),
    "nothing": (None, {}),
}
LEFT_OUT = {
    "raising": (Raising(), "'extra' (Raising)"),
    "function": (len, "'extra' (builtin_function_or_method)"),
    "network": (torch.nn.Linear(2, 2), "'extra' (Linear)"),
    "data set": (torch.utils.data.TensorDataset(DATA), "'extra' (TensorDataset)"),
    "objects": (np.array([object(), 1], object), "'extra' (int, object together)"),
    "null character": ("a\0b", "'extra' (text with a null character)"),
    "lone surrogate": ("\ud800", "'extra' (text that has no encoding in UTF-8)"),
    "no text": (b"\xff", "'extra' (bytes that are no text)"),
    "circle": (CIRCLE, "'extra' (it is nested too deeply)"),
    "many": (
        [torch.ones(i) for i in range(101)],
        "'extra' (it holds more than 100 arrays)",
    ),
    "huge sparse": (
        torch.sparse_coo_tensor([[0], [0]], [1.0], (10**6, 10**6), check_invariants=True),
        "'extra' (a sparse tensor of 1,000,000,000,000 numbers)",
    ),
}


@cache
def result():
    return run(model, DATA, num_walkers=16)


def exported(*args, **options):
    """Export a run as if the model had had these further arguments."""
    found = result()
    found.posterior.model.args = (DATA, *args)
    found.posterior.model.kwargs = options.pop("kwargs", {})
    return found.to_arviz(log_likelihood=False, **options)


def constants(tree):
    if "constant_data" not in names(tree):
        return {}
    return {n: v.to_numpy() for n, v in dataset(tree, "constant_data").data_vars.items()}


@pytest.mark.parametrize("kind", ["memory", "netCDF", "Zarr"])
def test_arguments_that_can_be_stored_are_in_the_file(kind, tmp_path):
    tree = exported(kwargs={name: value for name, (value, _) in STORED.items()})
    if kind != "memory":
        tree = file_of(tree, str(tmp_path / "run"), kind)
    arrays = constants(tree)
    for name, (_, expected) in STORED.items():
        for part, values in expected.items():
            found = arrays.pop(part.replace("extra", name))
            np.testing.assert_array_equal(found, np.asarray(values), err_msg=name)
    assert not arrays


@pytest.mark.parametrize("kind", ["netCDF", "Zarr"])
def test_arguments_that_cannot_be_stored_are_named_by_one_warning(kind, tmp_path):
    kwargs = {name: value for name, (value, _) in LEFT_OUT.items()}
    with pytest.warns(ExportWarning) as caught:
        tree = exported(kwargs=kwargs | {"scale": 2.0})
    assert len(caught) == 1
    told = str(caught[0].message)
    for name, (_, message) in LEFT_OUT.items():
        assert message.replace("'extra'", f"'{name}'") in told
    assert constants(file_of(tree, str(tmp_path / "run"), kind)) == {"scale": 2.0}


def test_the_advice_of_the_warning_helps():
    with pytest.warns(ExportWarning, match=r"such as `attrs=\{'extra': 'what it was'\}`"):
        tree = exported(len, attrs={"extra": "what it was"})
    assert tree.attrs["extra"] == "what it was"


NAMES = ["", "a\0", "\ud800", ".", "chain", "draw", "sample", "x_dim_0"]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_the_way_of_others_cost_the_argument_alone(name, tmp_path):
    kwargs = {"x": torch.ones(2), name: torch.ones(2), "z": 1}
    with pytest.warns(ExportWarning, match="The export leaves out"):
        tree = exported(kwargs=kwargs)
    assert constants(file_of(tree, str(tmp_path / "run"), "netCDF")).keys() == {"x", "z"}


def test_one_of_two_arguments_of_one_name_is_left_out():
    with pytest.warns(ExportWarning, match=r"two values would be called 'a\.b'"):
        assert constants(exported(kwargs={"a/b": 1, "a.b": 2})) == {"a.b": 1}


def test_data_are_found_within_nested_arguments():
    found = constants(exported({"y": DATA, "x": DATA + 1, "again": DATA.numpy()}))
    assert found.keys() == {"extra.x"}


def test_missing_data_are_the_same_data():
    """NaN differs from itself, which made a constant of data that have some."""

    def masked(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        seen = ~torch.isnan(y)
        with pyro.plate("data", len(y)), pyro.poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y.nan_to_num())

    found = run(masked, torch.tensor([0.5, 0.0]), num_walkers=16)
    y = torch.tensor([0.5, float("nan")])
    found.posterior.model.args = (y,)
    found.posterior.model.traces[0].nodes["y"]["value"] = y
    assert "constant_data" not in names(found.to_arviz(log_likelihood=False))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.filterwarnings("ignore:The model can only be evaluated one walker:UserWarning")
def test_computed_sites_cost_no_export(tmp_path):
    def computing(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.deterministic("complex", m + 1j)
        pyro.deterministic("sparse", (m * torch.eye(2)).to_sparse())
        pyro.deterministic("half", m.half())
        pyro.deterministic("a/b", m)
        pyro.deterministic("a.b", 2 * m)
        pyro.deterministic("chain", m)
        pyro.sample("y", dist.Normal(m, 1.0).expand([2]).to_event(1), obs=y)

    with pytest.warns(ExportWarning, match=r"leaves out 'a\.b' .*; 'chain' "):
        tree = run(computing, DATA, num_walkers=16).to_arviz()
    found = dataset(file_of(tree, str(tmp_path / "run"), "netCDF"))
    assert set(found.data_vars) == {
        "m", "complex.real", "complex.imag", "sparse", "half", "a.b"
    }  # fmt: skip
    np.testing.assert_array_equal(found["complex.real"], found["m"])
    np.testing.assert_array_equal(found["a.b"], found["m"])


def test_a_prior_that_cannot_be_drawn_costs_its_group_alone(monkeypatch):
    def fail(*args, **options):
        raise ValueError("too far")

    found = run(model, DATA, num_walkers=16)
    monkeypatch.setattr("pyro_jarzynski.infer.export.content.draw_prior", fail)
    with pytest.warns(
        ExportWarning, match="the group 'prior', which failed: ValueError: too"
    ):
        tree = found.to_arviz()
    assert "prior" not in names(tree)
    assert {"posterior", "log_prior", "log_likelihood"} <= names(tree)
    with pytest.raises(ValueError, match="too far"):
        found.to_arviz(prior_predictive=True)


def test_settings_whose_representation_fails_cost_no_export():
    found = run(model, DATA, num_walkers=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        object.__setattr__(found.settings, "kernel", Raising())
        tree = found.to_arviz(log_likelihood=False)
    assert tree.attrs["kernel"] == "an object of type Raising"
