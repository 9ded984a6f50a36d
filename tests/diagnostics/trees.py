"""What both generations of ArviZ return, read and drawn in one way."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import xarray

from pyro_jarzynski.diagnostics.arviz_library import import_arviz

# Of ArviZ and what it calls: the shape of weights, and what it has not kept up with.
THEIRS = (
    "Estimated shape parameter of Pareto",
    "Passing a dict or None as alias_mapping",
    "The inplace keyword in DataFrame.sort_values",
    "Consolidated metadata is currently not part",
    "The data type .* does not have a Zarr V3",
    "In a future version of xarray the default value for data_vars",
    "Your data appears to have a single value",
)


@contextmanager
def calls_of_arviz() -> Iterator[Any]:
    """Yield ArviZ, whose own warnings are let pass, and close its figures after."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    arviz = import_arviz()
    with warnings.catch_warnings():
        for message in THEIRS:
            warnings.filterwarnings("ignore", message)
        yield arviz
    plt.close("all")


def arviz_is_old() -> bool:
    """Tell whether the installed ArviZ has `InferenceData`."""
    return int(import_arviz().__version__.split(".")[0]) < 1


def dataset(tree: Any, group: str = "posterior") -> Any:
    found = tree[group]
    return found.to_dataset() if hasattr(found, "to_dataset") else found


def names(tree: Any) -> set[str]:
    return set(tree.children) if hasattr(tree, "children") else set(tree.groups())


def datasets(tree: Any) -> dict[str, Any]:
    return {name: dataset(tree, name) for name in names(tree)}


def file_of(tree: Any, path: Any, kind: str) -> Any:
    """Write a tree and read it again, by what ArviZ recommends."""
    with calls_of_arviz() as arviz:
        if kind == "netCDF":
            tree.to_netcdf(str(path))
            return arviz.from_netcdf(str(path))
        (tree.to_datatree() if arviz_is_old() else tree).to_zarr(path)
        if arviz_is_old():
            return xarray.open_datatree(path, engine="zarr")
        return arviz.from_zarr(path)
