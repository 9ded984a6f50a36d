"""Values, labels, attributes and names in the types that netCDF and Zarr files store.

Files store booleans, integers and floats of up to 64 bits, dates, durations and text.
Values of other types are converted where that keeps what they say, and refused with the
reason otherwise.
"""

import array
import datetime
import enum
import math
import numbers
import pathlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_jarzynski.errors import ArgumentError

# Names of attributes that the libraries of netCDF use themselves.
RESERVED_ATTRIBUTES = (
    "_Netcdf4Coordinates",
    "_Netcdf4Dimid",
    "_NCProperties",
    "_nc3_strict",
    "CLASS",
    "DIMENSION_LIST",
    "NAME",
    "REFERENCE_LIST",
    "coordinates",
)
# Types whose text says all about a value.
DESCRIBED_BY_TEXT = (
    datetime.date,
    datetime.time,
    datetime.timedelta,
    enum.Enum,
    pathlib.PurePath,
    uuid.UUID,
    torch.dtype,
    torch.device,
)
# Types that NumPy reads without calling methods of a user, beside those with `__array__`.
READ_BY_NUMPY = (
    numbers.Number,
    str,
    bytes,
    bytearray,
    memoryview,
    array.array,
    list,
    tuple,
    range,
    type(None),
    *DESCRIBED_BY_TEXT,
)
# Arrays that a nested argument becomes at most, and levels of nesting.
MAX_LEAVES = 100
MAX_DEPTH = 10
# Numbers of a sparse tensor that is written out in full.
MAX_DENSE = 2**24


class NotStorableError(ValueError):
    """Files store no such value; the message is the reason."""


@dataclass(frozen=True)
class Stored:
    """Values as arrays, and those that files cannot store.

    Attributes:
        arrays: Arrays by name.
        left_out: Reasons by name.
    """

    arrays: dict[str, np.ndarray]
    left_out: dict[str, str]


def storable_values(values: Iterable[tuple[str, Any]]) -> Stored:
    """Return values of any types as arrays, and the reasons why some are left out.

    Mappings, tables, records, dataclasses, and sequences that are no arrays become one
    array for each leaf, called `name.key` or `name.0`; complex numbers become `name.real`
    and `name.imag`. `None` is passed over. Slashes, which names in files must not have,
    become dots.
    """
    found = Stored({}, {})
    for given, value in values:
        name = given.replace("/", ".")
        try:
            parts = dict[str, np.ndarray]()
            for leaf_name, leaf in _leaves(name, value, 0):
                part = leaf_name.replace("/", ".")
                if part in parts or part in found.arrays:
                    raise NotStorableError(f"two values would be called {part!r}")
                if len(parts) == MAX_LEAVES:
                    raise NotStorableError(f"it holds more than {MAX_LEAVES} arrays")
                parts[part] = leaf
        except Exception as error:
            # Whatever the methods of an unknown object raise must not cost the export.
            found.left_out[name] = _reason(error, type_name(value))
        else:
            found.arrays.update(parts)
    return found


def storable_array(value: Any) -> np.ndarray:
    """Return a value as an array of its own, of a type that files store.

    Raises:
        NotStorableError: There is none; the message is the reason.
    """
    if isinstance(value, Tensor):
        return storable_array(_dense(value).numpy())
    found = _as_numpy(value)
    kind, dtype = found.dtype.kind, found.dtype
    if kind in "biu":
        return found.astype(f"{kind}{dtype.itemsize}", order="C")
    if kind == "f":
        # Not all files have half precision, and none has extended precision.
        return np.array(found, np.float32 if dtype.itemsize <= 4 else np.float64, order="C")
    if kind in "mM":
        return _times(found)
    if kind == "S":
        return _text([_decode(item) for item in found.flat], found.shape)
    if kind in "UT":
        return _text(list(found.flat), found.shape)
    if kind == "O":
        return _objects(found)
    raise NotStorableError({"c": "complex numbers", "V": "records"}.get(kind, str(dtype)))


def as_array(values: Tensor) -> np.ndarray:
    """Return a tensor as an array of its own, in a type that NumPy has."""
    return np.array(_dense(values).numpy(), order="C")


def storable_labels(name: str, given: Any, size: int) -> np.ndarray:
    """Return the labels along a dimension: all numbers, all dates, or all text.

    Raises:
        ArgumentError: They are something else, or not as many as the dimension is long.
    """
    advice = ""
    try:
        labels = storable_array(given if hasattr(given, "dtype") else _items(given))
        got = str(labels.size) if labels.ndim < 2 else f"an array of shape {labels.shape}"
    except Exception as error:
        labels, got = None, _reason(error, describe(given))
        advice = " Convert them, for instance by `[str(label) for label in labels]`."
    if labels is None or labels.shape != (size,):
        raise ArgumentError(
            f"`coords[{name!r}]` must hold {size} labels, one along each place of that "
            f"dimension, all of them numbers, dates or text; got {got}.{advice}"
        )
    # Labels that are text have NumPy's type for it, as xarray makes them of lists.
    return labels.astype(str) if labels.dtype.kind == "O" else labels


def storable_attributes(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes in types that netCDF and Zarr store, or raise.

    Booleans become 0 or 1, tensors and arrays lists, and lists of one what is in them.

    Raises:
        ArgumentError: A name or a value cannot be stored.
    """
    found = {}
    for name, value in attrs.items():
        wrong = not isinstance(name, str) or name in RESERVED_ATTRIBUTES
        if wrong or wrong_name(name):
            raise ArgumentError(
                f"`attrs` must have names that files can store, got {describe(name)}; "
                "choose another name."
            )
        try:
            found[str(name)] = _attribute(value)
        except Exception as error:
            raise ArgumentError(
                f"`attrs[{name!r}]` must be a string, a number, or a list of either, which "
                f"is what files can store; got {_reason(error, describe(value))} of type "
                f"{type_name(value)}. Convert it, for instance by `str` or `json.dumps`."
            ) from error
    return found


def wrong_name(name: str) -> bool:
    """Tell whether no variable, dimension or attribute in a file can have a name."""
    unusable = name in ("", ".", "..", "zarr.json") or "/" in name or "\0" in name
    return unusable or not _is_unicode(name)


def type_name(value: Any) -> str:
    """Return the name of a value's type."""
    return type(value).__name__


def describe(value: Any, longest: int = 200) -> str:
    """Return the representation of an object, whatever its `__repr__` does."""
    try:
        text = repr(value)
    except Exception:
        return f"an object of type {type_name(value)}"
    return text if len(text) <= longest else f"{text[:longest]}…"


def _reason(error: Exception, other: str) -> str:
    """Return why a value is not stored; errors of foreign code are no reason to tell."""
    return str(error) if isinstance(error, NotStorableError) else other


def _leaves(name: str, value: Any, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays that a value holds, by their names."""
    if _is_nothing(value):
        return
    if depth > MAX_DEPTH:
        raise NotStorableError("it is nested too deeply")
    parts = _parts(value)
    if parts is None:
        try:
            yield name, storable_array(value)
            return
        except Exception:
            if not isinstance(value, list | tuple):
                raise
        parts = enumerate(value)
    for key, part in parts:
        yield from _leaves(f"{name}.{key}", part, depth + 1)


def _parts(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Return the named parts of a value, or `None` if it has none."""
    # A table of pandas iterates over its columns like a mapping, but is none.
    is_table = type(value).__module__.startswith("pandas") and hasattr(value, "columns")
    if isinstance(value, Mapping) or is_table:
        parts: Iterable[tuple[Any, Any]] = value.items()
        return parts
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, Tensor) and value.is_complex():
        value = _dense(value).numpy()
    kind = value.dtype.kind if isinstance(value, np.ndarray | np.generic) else ""
    if kind == "V" and value.dtype.names:
        return [(field, value[field]) for field in value.dtype.names]
    if kind == "c" or isinstance(value, complex):
        return [("real", np.real(value)), ("imag", np.imag(value))]
    return None


def _dense(value: Tensor) -> Tensor:
    """Return a tensor on the CPU, in a layout and a type that NumPy has."""
    value = value.detach()
    if value.is_nested:
        raise NotStorableError("a nested tensor")
    if value.is_quantized:
        value = value.dequantize()
    if value.layout is not torch.strided:
        if value.numel() > MAX_DENSE:
            raise NotStorableError(f"a sparse tensor of {value.numel():,} numbers")
        value = value.to_dense()
    if value.is_floating_point() and value.element_size() < 4:
        value = value.float()
    elif value.dtype == torch.complex32:
        value = value.to(torch.complex64)
    return value.cpu().resolve_conj().resolve_neg()


def _as_numpy(value: Any) -> np.ndarray:
    """Return what is no tensor as an array, in which missing numbers are NaN."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        if value.dtype.kind not in "biuf":
            raise NotStorableError("a masked array")
        value = np.ma.filled(value.astype(float), np.nan)
    if not _is_read_by_numpy(value):
        raise NotStorableError(type_name(value))
    if not isinstance(value, list | tuple):
        return np.asarray(value)
    if not all(_is_read_by_numpy(item) for item in value):
        raise NotStorableError("a list of objects")
    found = np.asarray(
        [_dense(item).numpy() if isinstance(item, Tensor) else item for item in value]
    )
    # NumPy makes text of numbers that stand beside text.
    return found if found.dtype.kind in "biufcmM" else np.asarray(value, dtype=object)


def _is_read_by_numpy(value: Any) -> bool:
    return isinstance(value, READ_BY_NUMPY) or hasattr(value, "__array__")


def _items(labels: Any) -> list:
    """Return the items of an iterable of single labels."""
    if isinstance(labels, str | bytes | Mapping | set | frozenset):
        raise NotStorableError(describe(labels))
    found = list(labels)
    for item in found:
        if isinstance(item, list | tuple):
            raise NotStorableError(f"labels of type {type_name(item)}")
    return found


def _objects(found: np.ndarray) -> np.ndarray:
    """Return an array of objects as one of numbers, or of text."""
    items = list(found.flat)
    there = [item for item in items if not _is_missing(item)]
    if there and all(isinstance(item, str) for item in there):
        return _text(items, found.shape)
    if all(isinstance(item, numbers.Number) for item in there):
        if items and all(isinstance(item, numbers.Integral) for item in items):
            return _integers([int(item) for item in items], found.shape)
        if not any(isinstance(item, complex) for item in there):
            reals = [np.nan if _is_missing(item) else float(item) for item in items]
            return np.array(reals, np.float64).reshape(found.shape)
    if all(isinstance(item, DESCRIBED_BY_TEXT) for item in there):
        return _text(items, found.shape)
    types = sorted({type_name(item) for item in there})
    raise NotStorableError(types[0] if len(types) == 1 else f"{', '.join(types)} together")


def _integers(items: list[int], shape: tuple[int, ...]) -> np.ndarray:
    """Return integers in 64 bits, or larger ones as text, which is exact."""
    for dtype in (np.int64, np.uint64):
        limits = np.iinfo(dtype)
        if limits.min <= min(items) and max(items) <= limits.max:
            return np.array(items, dtype).reshape(shape)
    return _text(items, shape)


def _times(found: np.ndarray) -> np.ndarray:
    """Return dates or durations in nanoseconds, or as text where these do not fit."""
    unit = np.datetime_data(found.dtype)[0]
    if unit == "generic" and not np.isnat(found).all():
        return np.array(found, np.int64)
    # A duration of a year or a month has no one length.
    if found.dtype.kind == "M" or unit not in "YM":
        # Where nanoseconds do not reach, older releases of NumPy wrap around.
        with suppress(OverflowError):
            times = found.astype(f"{found.dtype.kind}8[ns]", order="C")
            same = times.astype(found.dtype) == found
            if bool((same | np.isnat(found)).all()):
                return times
    return _text(list(found.flatten()), found.shape)


def _text(items: list, shape: tuple[int, ...]) -> np.ndarray:
    """Return the text of values, with nothing where one is missing."""
    found = np.empty(shape, dtype=object)
    for place, item in zip(np.ndindex(shape), items, strict=True):
        text = "" if _is_missing(item) else str(item)
        if "\0" in text:
            raise NotStorableError("text with a null character")
        if not _is_unicode(text):
            raise NotStorableError("text that has no encoding in UTF-8")
        found[place] = text
    return found


def _decode(item: bytes) -> str:
    try:
        return item.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotStorableError("bytes that are no text") from error


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_missing(item: Any) -> bool:
    return _is_nothing(item) or (isinstance(item, float) and math.isnan(item))


def _is_nothing(item: Any) -> bool:
    """Tell whether an object stands for a value that is missing, here or in pandas."""
    return item is None or type_name(item) in ("NAType", "NaTType")


def _attribute(value: Any) -> Any:
    """Return the value of an attribute as a string, a number, or a list of either."""
    if not isinstance(value, str | int | float) and hasattr(value, "tolist"):
        found = storable_array(value)
        if found.dtype.kind in "mM":
            raise NotStorableError(describe(value))
        value = found.tolist()
    if isinstance(value, str):
        return str(_text([value], ())[()])
    if isinstance(value, int):
        if _integers([int(value)], ()).dtype.kind == "O":
            raise NotStorableError(f"{describe(value)}, of more than 64 bits,")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, list | tuple) and value:
        if len(value) == 1:
            # Files give back a list of one as what is in it.
            return _attribute(value[0])
        items = [_attribute(item) for item in value]
        if all(isinstance(item, str) for item in items):
            return items
        if all(isinstance(item, int | float) for item in items):
            return items
    raise NotStorableError(describe(value))
