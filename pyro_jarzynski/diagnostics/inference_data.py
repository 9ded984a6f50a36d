"""Groups of arrays as what ArviZ reads: `InferenceData`, or `DataTree` from its version 1.

Datasets are built here by xarray, because the two generations of ArviZ agree on the
schema and on nothing else.
"""

import datetime
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pyro_jarzynski.diagnostics.arviz_library import import_arviz
from pyro_jarzynski.diagnostics.storable import (
    describe,
    storable_attributes,
    storable_labels,
    wrong_name,
)
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, ExportWarning

# xarray takes half a second to import, as ArviZ does: only an export should wait for it.
if TYPE_CHECKING:
    import xarray as xr

Dims: TypeAlias = Mapping[str, Sequence[str]]
Coords: TypeAlias = Mapping[str, Sequence[Any]]

SAMPLE_DIMS = ("chain", "draw")
# Names that ArviZ gives a meaning of its own, and those of dimensions that its version 1
# makes for itself, so that some of its functions fail where there is another.
RESERVED = ("chain", "draw", "sample")
TAKEN = (*RESERVED, "component", "group")
# Groups that have all attributes; the others tell when and with what they were made.
DESCRIBED = ("posterior", "sample_stats")
LIBRARIES = ("pyro-jarzynski", "pyro-ppl", "torch", "numpy", "arviz", "xarray")


@dataclass(frozen=True)
class Group:
    """Arrays of one group of the schema.

    Attributes:
        variables: Arrays by name, `(chains, draws, *shape)`; without the first two if the
            group is not `sampled`.
        sampled: Whether the arrays have one entry per chain and draw.
        dims: Names of the dimensions of `shape`, as far as they are known.
        leading: Names of dimensions that stand before those, of which `dims` says nothing.
        partial: Whether variables may lack the last dimensions that are known of them, as
            a log-likelihood lacks those of one datum.
        meanings: What each variable is, with its unit.
        draws: Labels of draws that are none of the posterior's; `None` for those.
        optional: Variables that are left out, with a warning, where their names or
            dimensions are in the way of others.
        left_out: What else the group lacks, and why.
    """

    variables: Mapping[str, np.ndarray]
    sampled: bool = True
    dims: Dims = field(default_factory=dict)
    leading: Sequence[str] = ()
    partial: bool = False
    meanings: Mapping[str, str] = field(default_factory=dict)
    draws: np.ndarray | None = None
    optional: Collection[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


def build(
    groups: Mapping[str, Group],
    *,
    dims: Dims | None = None,
    coords: Coords | None = None,
    attrs: Mapping[str, Any] | None = None,
    described: Mapping[str, Any] | None = None,
) -> Any:
    """Return groups as the installed ArviZ has them.

    Args:
        groups: Groups by name; those without variables are left out.
        dims: Names of the dimensions of variables, in place of those known.
        coords: Labels along dimensions.
        attrs: Attributes of the whole and of its main groups: strings, numbers, or lists of
            these.
        described: Attributes of the run, of which `attrs` may replace some.

    Returns:
        `arviz.InferenceData` with ArviZ 0.2x, `xarray.DataTree` from its version 1 on.

    Raises:
        ArgumentError: A name is reserved or unknown, labels or dimensions are of the wrong
            number, or a name, a label or an attribute cannot be stored in a file.
        MissingDependencyError: ArviZ cannot be imported.

    Warns:
        ExportWarning: Something optional cannot be stored, and is left out.
    """
    arviz = import_arviz()
    import xarray as xr

    given = {"dims": dims, "coords": coords, "attrs": attrs}
    for argument, value in given.items():
        if not isinstance(value, Mapping | None):
            raise ArgumentTypeError(
                f"`{argument}` must be a dictionary, got {describe(value)}."
            )
    left_out: dict[str, str] = {}
    for group in groups.values():
        left_out |= group.left_out
    groups = {name: group for name, group in groups.items() if group.variables}
    dims, coords = _check_dims(dims or {}, groups), _reusable(coords or {})
    stamp = _stamp()
    common = stamp | storable_attributes({**(described or {}), **(attrs or {})})
    known: set[str] = set()
    datasets: dict[str, xr.Dataset] = {}
    for name, group in groups.items():
        found = _dataset(group, dims, coords, left_out)
        if not found.data_vars:
            continue
        found.attrs = dict(common if name in DESCRIBED else stamp)
        if group.sampled:
            found.attrs["sample_dims"] = list(SAMPLE_DIMS)
        known |= {str(dim) for dim in found.dims}
        datasets[name] = found
    if unknown := sorted(set(coords) - known):
        raise ArgumentError(
            f"`coords` has labels for {unknown[0]!r}, which is no dimension here; there "
            f"are {', '.join(sorted(known))}."
        )
    if left_out:
        _warn_of(left_out)
    if int(arviz.__version__.split(".")[0]) < 1:
        with warnings.catch_warnings():
            # The oldest know no groups but their own, and keep others all the same.
            warnings.filterwarnings("ignore", ".*not defined in the InferenceData scheme")
            return arviz.InferenceData(attrs=common, save_warmup=True, **datasets)
    tree = xr.DataTree.from_dict(datasets)
    tree.attrs = common
    return tree


def _warn_of(left_out: Mapping[str, str]) -> None:
    listed = "; ".join(f"{name!r} ({why})" for name, why in left_out.items())
    warnings.warn(
        f"The export leaves out {listed}. To keep one, pass it to the model as numbers, "
        "dates or text, or describe it by `attrs`, such as "
        f"`attrs={{{next(iter(left_out))!r}: 'what it was'}}`.",
        ExportWarning,
        stacklevel=4,
    )


def _reusable(coords: Coords) -> Coords:
    """Return labels that can be read for one group after another."""
    return {
        dim: list(labels) if isinstance(labels, Iterator) else labels
        for dim, labels in coords.items()
    }


def _stamp() -> dict[str, Any]:
    """Return when and with what something was made."""
    stamp = {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "creation_library": "pyro-jarzynski",
        "creation_library_language": "Python",
        "inference_library": "pyro-jarzynski",
    }
    for library in LIBRARIES:
        try:
            stamp[f"{library}_version"] = version(library)
        except PackageNotFoundError:
            continue
    if own := stamp.get("pyro-jarzynski_version"):
        stamp["creation_library_version"] = stamp["inference_library_version"] = own
    return stamp


def _check_dims(dims: Dims, groups: Mapping[str, Group]) -> Dims:
    """Return the user's dimensions, or raise if they name no variable."""
    known = {name for group in groups.values() for name in group.variables}
    for name, given in dims.items():
        if name not in known:
            raise ArgumentError(
                f"`dims` names {name!r}, which is no variable here; there are "
                f"{', '.join(sorted(known))}."
            )
        if not isinstance(given, list | tuple) or not all(
            isinstance(d, str) for d in given
        ):
            raise ArgumentTypeError(
                f"`dims[{name!r}]` must be a list of names, got {describe(given)}."
            )
        if len(set(given)) < len(given):
            raise ArgumentError(
                f"`dims[{name!r}]` must not name two dimensions alike, got {list(given)}."
            )
        if wrong := [dim for dim in given if wrong_name(dim)]:
            raise ArgumentError(
                f"`dims[{name!r}]` must have names that files can store, got {wrong[0]!r}; "
                "choose another name."
            )
        if clash := sorted(set(given) & set(RESERVED)):
            raise ArgumentError(
                f"`dims[{name!r}]` must not use {clash[0]!r}, which ArviZ reserves for its "
                "own dimension; choose another name."
            )
    return dims


def _dataset(
    group: Group, dims: Dims, coords: Coords, left_out: dict[str, str]
) -> "xr.Dataset":
    """Return a group as a dataset, and note which optional variables it lacks."""
    import xarray as xr

    lead = SAMPLE_DIMS if group.sampled else ()
    variables, sizes = {}, dict[str, int]()
    for name, values in group.variables.items():
        try:
            own = [*lead, *_names(name, values.shape[len(lead) :], group, dims)]
            _check_variable(name, own, values.shape, sizes)
        except ArgumentError as error:
            if name not in group.optional or name in dims:
                raise
            left_out[name] = str(error).rstrip(".")
            continue
        sizes |= dict(zip(own, values.shape, strict=True))
        meaning = group.meanings.get(name)
        variables[name] = (own, values, {} if meaning is None else {"long_name": meaning})
    for clash in sorted(set(variables) & set(sizes)):
        why = f"{clash!r} is the name of a variable and of a dimension"
        if clash not in group.optional or clash in dims:
            raise ArgumentError(f"{why}; give the dimension another name by `dims`.")
        left_out[clash] = why
        del variables[clash]
    used = {dim: sizes[dim] for own, _, _ in variables.values() for dim in own}
    labels = {
        dim: _labels(dim, size, coords, group.draws if dim == "draw" else None)
        for dim, size in used.items()
    }
    return xr.Dataset(variables, coords=labels)


def _check_variable(
    name: str, dims: list[str], shape: tuple[int, ...], sizes: Mapping[str, int]
) -> None:
    """Raise if a variable and its dimensions cannot stand beside those of known sizes."""
    if name in RESERVED:
        raise ArgumentError(
            f"The name {name!r} is reserved by ArviZ for a dimension of its own; rename "
            "the site or the argument of the model."
        )
    for what, used in (("variable", name), *(("dimension", dim) for dim in dims)):
        if wrong_name(used):
            raise ArgumentError(
                f"The {what} {used!r} has a name that files cannot store; rename the site, "
                "the plate or the argument of the model."
            )
    for dim, size in zip(dims, shape, strict=True):
        if sizes.get(dim, size) != size:
            raise ArgumentError(
                f"The dimension {dim!r} of {name!r} has size {size}, but another variable "
                f"has {sizes[dim]} there; give them names by `dims`."
            )


def _names(name: str, shape: tuple[int, ...], group: Group, dims: Dims) -> list[str]:
    """Return one name per dimension of a variable."""
    lead = list(group.leading)
    known = lead + list(dims.get(name, group.dims.get(name, ())))
    complete = len(known) == len(shape) or (group.partial and len(known) > len(shape))
    if name in dims and not complete:
        rest = shape[len(lead) :]
        raise ArgumentError(
            f"`dims[{name!r}]` must name {len(rest)} dimensions of sizes {rest}, got "
            f"{len(dims[name])}."
        )
    known = known[: len(shape)]
    return known + [f"{name}_dim_{i}" for i in range(len(known), len(shape))]


def _labels(dim: str, size: int, coords: Coords, draws: np.ndarray | None) -> np.ndarray:
    if draws is not None:
        return draws
    if dim not in coords:
        return np.arange(size)
    return storable_labels(dim, coords[dim], size)
