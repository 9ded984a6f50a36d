"""Arrays as what the installed ArviZ reads: names, dimensions, labels, attributes."""

import datetime
import math
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_jarzynski.diagnostics.arviz_library import import_arviz
from pyro_jarzynski.diagnostics.inference_data import LIBRARIES, Group, build
from pyro_jarzynski.diagnostics.storable import as_array, storable_attributes
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    JarzynskiError,
    MissingDependencyError,
)
from tests.diagnostics.trees import arviz_is_old, dataset, file_of, names

DRAWS = np.arange(24.0).reshape(2, 3, 4)
SCALAR = np.arange(6.0).reshape(2, 3)


def posterior(variables=None, **options):
    return {"posterior": Group({"x": DRAWS} if variables is None else variables, **options)}


def test_draws_are_labelled_by_chain_and_draw():
    found = dataset(build(posterior()))
    assert found["x"].dims == ("chain", "draw", "x_dim_0")
    np.testing.assert_array_equal(found["x"], DRAWS)
    for dim, size in {"chain": 2, "draw": 3, "x_dim_0": 4}.items():
        np.testing.assert_array_equal(found[dim], np.arange(size))


def test_the_installed_generation_decides_the_type():
    tree = build(posterior())
    assert type(tree).__name__ == ("InferenceData" if arviz_is_old() else "DataTree")
    found = import_arviz().extract(tree)
    assert set(found.sizes) == {"sample", "x_dim_0"}


def test_dims_and_coords_of_the_user_come_first():
    known = posterior(dims={"x": ["plate"]})
    assert dataset(build(known))["x"].dims[2] == "plate"
    found = dataset(
        build(known, dims={"x": ["school"]}, coords={"school": ["a", "b", "c", "d"]})
    )
    assert found["x"].dims[2] == "school"
    np.testing.assert_array_equal(found["x"].sel(school="c"), DRAWS[..., 2])


def test_coords_name_draws_and_chains_as_well():
    coords = {"chain": ["left", "right"], "draw": [10, 20, 30]}
    found = dataset(build(posterior(), coords=coords))
    assert float(found["x"].sel(chain="right", draw=20)[0]) == DRAWS[1, 1, 0]


def test_draws_may_have_labels_of_their_own():
    steps = np.array([20, 40, 60])
    found = dataset(build(posterior(draws=steps)))
    np.testing.assert_array_equal(found["draw"], steps)


def test_fixed_groups_have_no_draws():
    tree = build({"observed_data": Group({"y": np.arange(4.0)}, sampled=False)})
    found = dataset(tree, "observed_data")
    assert found["y"].dims == ("y_dim_0",)
    assert "sample_dims" not in found.attrs


def test_dims_shared_by_groups_have_the_same_labels():
    groups = posterior() | {"observed_data": Group({"y": np.zeros(4)}, sampled=False)}
    labels = ["a", "b", "c", "d"]
    tree = build(groups, dims={"x": ["who"], "y": ["who"]}, coords={"who": labels})
    for group in ("posterior", "observed_data"):
        assert list(dataset(tree, group)["who"].to_numpy()) == labels


def test_groups_without_variables_are_left_out():
    tree = build(posterior() | {"constant_data": Group({}, sampled=False)})
    assert names(tree) == {"posterior"}


def test_partial_groups_may_lack_the_last_dimensions():
    """The log-likelihood of a vector has one number, its data have several."""
    groups = posterior() | {"log_likelihood": Group({"x": SCALAR}, partial=True)}
    tree = build(groups, dims={"x": ["school"]})
    assert dataset(tree, "log_likelihood")["x"].dims == ("chain", "draw")
    with pytest.raises(ArgumentError, match=r"`dims\['x'\]` must name 0 dimensions"):
        build(groups | {"log_likelihood": Group({"x": SCALAR})}, dims={"x": ["school"]})


def test_meanings_are_long_names():
    tree = build(posterior(meanings={"x": "position, metres"}))
    assert dataset(tree)["x"].attrs == {"long_name": "position, metres"}


def test_scalars_and_empty_arrays_have_dimensions_too():
    tree = build(posterior({"a": SCALAR, "b": np.zeros((2, 3, 0)), "c": DRAWS[..., None]}))
    dims = {name: dataset(tree)[name].dims[2:] for name in "abc"}
    assert dims == {"a": (), "b": ("b_dim_0",), "c": ("c_dim_0", "c_dim_1")}


REFUSED = {
    "coords of no dimension": ({"coords": {"town": [1]}}, "'town', which is no dimension"),
    "too few labels": (
        {"coords": {"x_dim_0": [1, 2]}},
        r"`coords\['x_dim_0'\]` must hold 4 labels.*got 2",
    ),
    "labels in a table": (
        {"coords": {"x_dim_0": [[1, 2], [3, 4], [5, 6], [7, 8]]}},
        r"`coords\['x_dim_0'\]` must hold 4 labels, one along",
    ),
    "dims of no variable": ({"dims": {"z": ["a"]}}, "'z', which is no variable here"),
    "too many dims": ({"dims": {"x": ["a", "b"]}}, r"1 dimensions of sizes \(4,\), got 2"),
    "too few dims": ({"dims": {"x": []}}, r"must name 1 dimensions"),
    "dim called draw": ({"dims": {"x": ["draw"]}}, "must not use 'draw'"),
    "dim called sample": ({"dims": {"x": ["sample"]}}, "must not use 'sample'"),
    "dim called as a variable": (
        {"dims": {"x": ["x"]}},
        "of a variable and of a dimension",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_names_that_do_not_fit_are_refused(case):
    options, message = case
    with pytest.raises(ArgumentError, match=message):
        build(posterior(), **options)


@pytest.mark.parametrize("given", ["school", [1]])
def test_dims_are_lists_of_names(given):
    with pytest.raises(ArgumentTypeError, match=r"`dims\['x'\]` must be a list of names"):
        build(posterior(), dims={"x": given})


@pytest.mark.parametrize("labels", ["abcd", 4, None])
def test_labels_that_are_no_sequence_are_refused_with_their_name(labels):
    with pytest.raises(JarzynskiError, match=r"`coords\['x_dim_0'\]`"):
        build(posterior(), coords={"x_dim_0": labels})


def test_one_dimension_named_twice_is_refused():
    with pytest.raises(ArgumentError, match=r"'a'"):
        build(posterior({"x": np.zeros((2, 3, 4, 4))}), dims={"x": ["a", "a"]})


@pytest.mark.parametrize("name", ["chain", "draw", "sample"])
def test_variables_must_not_be_called_as_dimensions_of_arviz(name):
    with pytest.raises(ArgumentError, match=f"{name!r} is reserved by ArviZ"):
        build(posterior({name: SCALAR}))


def test_dimensions_of_two_sizes_are_refused():
    two = posterior({"x": DRAWS, "y": DRAWS[..., :2]})
    with pytest.raises(ArgumentError, match=r"'a' of 'y' has size 2.*has 4"):
        build(two, dims={"x": ["a"], "y": ["a"]})


@pytest.mark.parametrize(
    "value", [None, {"a": 1}, object(), [], [None], ["a", 1], [[1, 2]] * 2]
)
def test_attributes_that_files_cannot_store_are_refused_by_name(value):
    with pytest.raises(ArgumentError, match=r"`attrs\['note.*must be a string, a number"):
        build(posterior(), attrs={"note": value})


class Raising:
    """What a user's object may do at worst."""

    def __repr__(self):
        raise ValueError("no representation")

    def __getattr__(self, name):
        raise RuntimeError(name)


PAIRS = [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
NOT_STORABLE = [
    {"attrs": {"note": 2**70}},
    {"attrs": {"note": [2**70, 1]}},
    {"attrs": {"note": "a\0b"}},
    {"attrs": {"note": "\ud800"}},
    {"attrs": {"note": ["a\0b", "c"]}},
    {"attrs": {"note": np.array(["2020-01-01"], "datetime64[ns]")}},
    {"attrs": {"note": Raising()}},
    {"attrs": {"": 1}},
    {"attrs": {"a\0": 1}},
    {"attrs": {"_NCProperties": "a"}},
    {"attrs": {"coordinates": "a"}},
    {"attrs": {1: "a"}},
    {"attrs": [1]},
    {"coords": {"x_dim_0": [1, "a", 2, "b"]}},
    {"coords": {"x_dim_0": PAIRS}},
    {"coords": {"x_dim_0": pd.MultiIndex.from_tuples(PAIRS)}},
    {"coords": {"x_dim_0": [1j, 2, 3, 4]}},
    {"coords": {"x_dim_0": ["a\0", "b", "c", "d"]}},
    {"coords": {"x_dim_0": [Raising()] * 4}},
    {"coords": {"x_dim_0": Raising()}},
    {"coords": {"x_dim_0": dict(PAIRS)}},
    {"coords": [1]},
    {"dims": {"x": ["a/b"]}},
    {"dims": {"x": [""]}},
    {"dims": {"x": None}},
    {"dims": {"x": [Raising()]}},
    {"dims": [1]},
]


@pytest.mark.parametrize("options", NOT_STORABLE)
def test_what_files_cannot_store_is_refused_before_anything_is_written(options):
    argument = next(iter(options))
    with pytest.raises((ArgumentError, ArgumentTypeError), match=f"^`{argument}"):
        build(posterior(), **options)


LABELS = {
    "generator": (lambda: (letter for letter in "abcd"), list("abcd")),
    "dates": (lambda: [datetime.date(2020, 1, 2)] * 4, ["2020-01-02"] * 4),
    "index": (lambda: pd.Index(list("abcd")), list("abcd")),
    "tensors": (lambda: [torch.tensor(place) for place in range(4)], [0, 1, 2, 3]),
    "extended precision": (lambda: np.ones(4, np.longdouble), [1.0] * 4),
    "half precision": (lambda: np.ones(4, np.float16), [1.0] * 4),
    "huge": (lambda: [2**70, 1, 2, 3], [str(2**70), "1", "2", "3"]),
    "pairs as text": (lambda: [str(pair) for pair in PAIRS], [str(pair) for pair in PAIRS]),
}


@pytest.mark.parametrize("kind", ["netCDF", "Zarr"])
@pytest.mark.parametrize("case", LABELS.values(), ids=LABELS)
def test_labels_of_all_kinds_are_stored(case, kind, tmp_path):
    make, expected = case
    groups = posterior() | {"prior": Group({"x": DRAWS})}
    tree = file_of(build(groups, coords={"x_dim_0": make()}), tmp_path / "run", kind)
    for group in ("posterior", "prior"):
        assert dataset(tree, group)["x_dim_0"].to_numpy().tolist() == expected


def test_tuples_as_labels_are_told_apart_from_too_few():
    message = r"must hold 4 labels.*got labels of type tuple\..*`\[str\(label\) for"
    with pytest.raises(ArgumentError, match=message):
        build(posterior(), coords={"x_dim_0": PAIRS})


STORED = {
    "text": ("a", "a"),
    "number": (0.5, 0.5),
    "bool": (True, 1),
    "tensor": (torch.tensor([1.5, 2.5]), [1.5, 2.5]),
    "scalar tensor": (torch.tensor(3), 3),
    "array": (np.array([1, 2]), [1, 2]),
    "scalar of numpy": (np.float32(0.5), 0.5),
    "bools": (torch.tensor([True, False]), [1, 0]),
    "tuple": (("a", "b"), ["a", "b"]),
    "list of one": ([2.0], 2.0),
    "list of one text": (["a"], "a"),
    "mixed numbers": ([1, 2.5], [1, 2.5]),
    "not a number": ([math.inf, -math.inf], [math.inf, -math.inf]),
    "extended precision": (np.ones(2, np.longdouble), [1.0, 1.0]),
    "64 bits": (2**64 - 1, 2**64 - 1),
    "table column": (pd.Series(["a", "b"]), ["a", "b"]),
}


@pytest.mark.parametrize("case", STORED.values(), ids=STORED)
def test_attributes_become_what_files_store(case):
    given, expected = case
    found = storable_attributes({"a": given})["a"]
    assert found == expected
    assert type(found) is type(expected)


def test_attributes_are_on_the_whole_and_its_main_groups():
    groups = posterior() | {"prior": Group({"x": DRAWS})}
    tree = build(groups, attrs={"seed": 3})
    assert tree.attrs["seed"] == dataset(tree).attrs["seed"] == 3
    assert "seed" not in dataset(tree, "prior").attrs
    assert dataset(tree).attrs["sample_dims"] == ["chain", "draw"]
    for attrs in (tree.attrs, dataset(tree, "prior").attrs):
        assert attrs["creation_library"] == attrs["inference_library"] == "pyro-jarzynski"
        assert {"torch_version", "pyro-ppl_version", "created_at"} <= attrs.keys()
    assert "arviz" in LIBRARIES


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool, torch.int64])
def test_arrays_keep_values_and_type(dtype):
    values = torch.arange(6).reshape(2, 3).mT.to(dtype)
    array = as_array(values)
    assert torch.equal(torch.from_numpy(array), values)
    assert array.flags["C_CONTIGUOUS"]
    array[:] = 0
    assert values.any(), "the array shares memory with the tensor"


def test_half_precision_that_numpy_lacks_becomes_single():
    array = as_array(torch.tensor([1.5, 2.0], dtype=torch.bfloat16, requires_grad=True))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [1.5, 2.0])


def test_without_arviz_the_error_tells_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(MissingDependencyError, match="pip install arviz"):
        build(posterior())
    assert issubclass(MissingDependencyError, ImportError)
