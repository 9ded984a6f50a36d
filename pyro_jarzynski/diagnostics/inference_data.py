"""Groups of arrays as what ArviZ reads: `InferenceData`, or `DataTree` from its version 1.

Datasets are built here by xarray, because the two generations of ArviZ agree on the
schema and on nothing else.
"""

import datetime
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyro_jarzynski.diagnostics.arviz_library import import_arviz
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError

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
    """

    variables: Mapping[str, np.ndarray]
    sampled: bool = True
    dims: Dims = field(default_factory=dict)
    leading: Sequence[str] = ()
    partial: bool = False
    meanings: Mapping[str, str] = field(default_factory=dict)
    draws: np.ndarray | None = None


def build(
    groups: Mapping[str, Group],
    *,
    dims: Dims | None = None,
    coords: Coords | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Return groups as the installed ArviZ has them.

    Args:
        groups: Groups by name; those without variables are left out.
        dims: Names of the dimensions of variables, in place of those known.
        coords: Labels along dimensions.
        attrs: Attributes of the whole and of its main groups: strings, numbers, or lists of
            these.

    Returns:
        `arviz.InferenceData` with ArviZ 0.2x, `xarray.DataTree` from its version 1 on.

    Raises:
        ArgumentError: A name is reserved or unknown, labels or dimensions are of the wrong
            number, or an attribute cannot be stored in a file.
        MissingDependencyError: ArviZ cannot be imported.
    """
    arviz = import_arviz()
    import xarray as xr

    groups = {name: group for name, group in groups.items() if group.variables}
    dims, coords = _check_dims(dims or {}, groups), dict(coords or {})
    stamp = _stamp()
    common = stamp | storable(attrs or {})
    known: set[str] = set()
    datasets: dict[str, xr.Dataset] = {}
    for name, group in groups.items():
        datasets[name] = _dataset(group, dims, coords)
        datasets[name].attrs = dict(common if name in DESCRIBED else stamp)
        if group.sampled:
            datasets[name].attrs["sample_dims"] = list(SAMPLE_DIMS)
        known |= {str(dim) for dim in datasets[name].dims}
    if unknown := sorted(set(coords) - known):
        raise ArgumentError(
            f"`coords` has labels for {unknown[0]!r}, which is no dimension here; there "
            f"are {', '.join(sorted(known))}."
        )
    if int(arviz.__version__.split(".")[0]) < 1:
        with warnings.catch_warnings():
            # The oldest know no groups but their own, and keep others all the same.
            warnings.filterwarnings("ignore", ".*not defined in the InferenceData scheme")
            return arviz.InferenceData(attrs=common, save_warmup=True, **datasets)
    tree = xr.DataTree.from_dict(datasets)
    tree.attrs = common
    return tree


def as_array(values: Tensor) -> np.ndarray:
    """Return a tensor as an array of its own, in a type that NumPy has."""
    values = values.detach().cpu()
    if values.dtype == torch.bfloat16:
        values = values.float()
    return values.clone(memory_format=torch.contiguous_format).numpy()


def storable(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes in types that netCDF and Zarr store, or raise.

    Booleans become 0 or 1, tensors and arrays lists, and lists of one what is in them.
    """
    return {str(name): _storable(str(name), value) for name, value in attrs.items()}


def _storable(name: str, value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple) and value:
        if len(value) == 1:
            # Files give back a list of one as what is in it.
            return _storable(name, value[0])
        items = [_storable(name, item) for item in value]
        if all(isinstance(item, str) for item in items):
            return items
        if all(isinstance(item, int | float) for item in items):
            return items
    raise ArgumentError(
        f"`attrs[{name!r}]` must be a string, a number, or a list of either, which is what "
        f"files can store; got {value!r} of type {type(value).__name__}. Convert it, for "
        "instance by `str` or `json.dumps`."
    )


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
        if isinstance(given, str) or not all(isinstance(dim, str) for dim in given):
            raise ArgumentTypeError(
                f"`dims[{name!r}]` must be a list of names, got {given!r}."
            )
        if len(set(given)) < len(given):
            raise ArgumentError(
                f"`dims[{name!r}]` must name each dimension otherwise, got {list(given)}."
            )
        if clash := sorted(set(given) & set(RESERVED)):
            raise ArgumentError(
                f"`dims[{name!r}]` must not use {clash[0]!r}, which ArviZ reserves for its "
                "own dimension; choose another name."
            )
    return dims


def _dataset(group: Group, dims: Dims, coords: Coords) -> "xr.Dataset":
    import xarray as xr

    lead = SAMPLE_DIMS if group.sampled else ()
    variables, sizes = {}, dict[str, int]()
    for name, values in group.variables.items():
        if name in RESERVED:
            raise ArgumentError(
                f"The name {name!r} is reserved by ArviZ for a dimension of its own; "
                "rename the site or the argument of the model."
            )
        shape = values.shape[len(lead) :]
        own = [*lead, *_names(name, shape, group, dims)]
        for dim, size in zip(own, values.shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise ArgumentError(
                    f"The dimension {dim!r} of {name!r} has size {size}, but another "
                    f"variable has {sizes[dim]} there; give them names by `dims`."
                )
        meaning = group.meanings.get(name)
        variables[name] = (own, values, {} if meaning is None else {"long_name": meaning})
    if clash := sorted(set(variables) & set(sizes)):
        raise ArgumentError(
            f"{clash[0]!r} is the name of a variable and of a dimension; name the "
            "dimension otherwise by `dims`."
        )
    labels = {
        dim: _labels(dim, size, coords, group.draws if dim == "draw" else None)
        for dim, size in sizes.items()
    }
    return xr.Dataset(variables, coords=labels)


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
    given = np.asarray(coords[dim])
    if given.shape != (size,):
        got = str(len(given)) if given.ndim else repr(coords[dim])
        raise ArgumentError(
            f"`coords[{dim!r}]` must hold {size} labels, one along each place of that "
            f"dimension; got {got}."
        )
    return given
