"""Arguments of a model from a file of JSON or of comma-separated values.

Numbers are floats, in the default type of torch, because models compute with them: labels
0 and 1, counts, designs. Only where a model needs integers, as indices, it gets them.
"""

import json
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.data.tables import rows_of
from pyro_jarzynski.errors import DataError
from pyro_jarzynski.infer.probe import probe

# Choices of arguments that are tried as integers.
MOST_TRIALS = 64
# What to do about missing numbers.
MISSING = (
    "leave missing data out, or write any number there and pass a list of true and false "
    "by which the model masks it"
)
TYPES = {
    int: "numbers",
    float: "numbers",
    bool: "true or false",
    str: "text",
    dict: "objects",
}


@dataclass(frozen=True)
class Arguments:
    """What a file says of the keyword arguments of a model.

    Attributes:
        content: Numbers, text, lists and dictionaries by name.
        integers: Names of the lists whose numbers are all written as integers.
    """

    content: dict[str, Any]
    integers: tuple[str, ...]

    def values(self, as_integers: Collection[str] = ()) -> dict[str, Any]:
        """Return the arguments, in which lists of numbers are tensors.

        Args:
            as_integers: Names of the lists that become tensors of integers.
        """
        return {n: _value(n, value, as_integers) for n, value in self.content.items()}


def load_arguments(file: Path) -> Arguments:
    """Read the keyword arguments of a model.

    Of a JSON object each entry is an argument, of a table in a file `.csv` each column.
    Lists of numbers and of true and false become tensors; lists of text, single numbers,
    `null` and text remain what they are.

    Raises:
        DataError: The file is no such object or table, has a name twice, or a list in it is
            ragged or lacks numbers.
    """
    content = _read_csv(file) if file.suffix.lower() == ".csv" else _read_json(file)
    found = Arguments(content, tuple(_integers(content)))
    found.values()
    return found


def choose_integers(model: Callable[..., Any], arguments: Arguments) -> tuple[str, ...]:
    """Return which lists of integers a model needs as such, for instance as indices.

    It is run with all of them as floats, and where it fails with as few as possible as
    integers. If it fails in any case it needs none: then types are not the reason.
    """
    names = arguments.integers
    failure = _failure(model, arguments.values())
    if failure is None or failure == _failure(model, arguments.values(names)):
        return ()
    for chosen in islice(_subsets(names), MOST_TRIALS):
        if _failure(model, arguments.values(chosen)) is None:
            return chosen
    return ()


def _subsets(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield all subsets of some names but the empty one, small ones first."""
    for size in range(1, len(names) + 1):
        yield from combinations(names, size)


def _failure(model: Callable[..., Any], values: dict[str, Any]) -> str | None:
    """Return how a model fails with some arguments, or `None` if it runs."""
    try:
        probe(model, (), values, seed=0, improper=True)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(
            # Bytes, whose encoding in UTF-8, UTF-16 or UTF-32 is recognised.
            file.read_bytes(),
            object_pairs_hook=_without_repetition,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except OSError as error:
        raise DataError(f"`--data` cannot be read: {file}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"`--data` is not valid JSON: {file}: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(
            f"`--data` must be a JSON object of the model's arguments, {file} holds a "
            f"{type(content).__name__}."
        )
    return content


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, or raise where Python would keep the last of equal names."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands there twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON; {MISSING}")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is too large for a float")
    return number


def _read_csv(file: Path) -> dict[str, Any]:
    """Return the columns of a table, whose first line names them."""
    try:
        (_, header), *rows = rows_of(file)
    except ValueError as error:
        told = str(error) if isinstance(error, DataError) else f"{file} is empty"
        raise DataError(f"`--data` cannot be read: {told}.") from error
    names = [name.strip() for name in header]
    if len(set(names)) < len(names) or not all(names):
        raise DataError(
            f"`--data` must name each column once in its first line, which is {header} in "
            f"{file}."
        )
    for line, cells in rows:
        if len(cells) != len(names):
            raise DataError(
                f"`--data` must have {len(names)} cells in each line; line {line} of "
                f"{file} has {len(cells)}."
            )
    columns = {n: [cells[k].strip() for _, cells in rows] for k, n in enumerate(names)}
    return {name: _column(name, cells) for name, cells in columns.items()}


def _column(name: str, cells: list[str]) -> list[Any]:
    """Return the cells of a column: all numbers, all true or false, or all text."""
    words = {"true": True, "false": False}
    if all(cell.lower() in words for cell in cells):
        return [words[cell.lower()] for cell in cells]
    numbers = [_number(cell) for cell in cells]
    if None not in numbers:
        return numbers
    if all(number is None and cell for number, cell in zip(numbers, cells, strict=True)):
        return cells
    wrong = cells[numbers.index(None)]
    raise DataError(
        f"`--data` must hold numbers alone, or text alone, in the column {name!r}, got "
        f"{wrong!r} beside numbers; {MISSING}."
    )


def _number(cell: str) -> int | float | None:
    """Return a number as it is written: an integer, or a finite float."""
    try:
        number = float(cell)
    except ValueError:
        return None
    if not math.isfinite(number) or "_" in cell:
        return None
    return int(cell) if cell.lstrip("+-").isdigit() else number


def _integers(value: Any, name: str = "") -> Iterator[str]:
    """Yield the names of the lists whose numbers are all integers of 64 bits."""
    inside = f"{name}." if name else ""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _integers(part, f"{inside}{key}")
    elif isinstance(value, list):
        items = list(_flat(value))
        if items and all(type(x) is int and -(2**63) <= x < 2**63 for x in items):
            yield name
        for place, part in enumerate(value):
            if isinstance(part, dict):
                yield from _integers(part, f"{inside}{place}")


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _value(name: str, value: Any, as_integers: Collection[str]) -> Any:
    """Return a value of JSON as an argument."""
    if isinstance(value, dict):
        return {n: _value(f"{name}.{n}", v, as_integers) for n, v in value.items()}
    if not isinstance(value, list):
        return value
    types = {type(item) for item in _flat(value)}
    if types <= {int, float, bool}:
        return _tensor(name, value, types, as_integers)
    if type(None) in types:
        raise DataError(f"`--data` has null in {name!r}; {MISSING}.")
    if types == {str}:
        return value
    if types == {dict} and not any(isinstance(item, list) for item in value):
        return [_value(f"{name}.{k}", item, as_integers) for k, item in enumerate(value)]
    told = ", ".join(sorted(TYPES[kind] for kind in types))
    raise DataError(
        f"`--data` must hold numbers alone, text alone or objects alone in {name!r}, got "
        f"{told} together."
    )


def _tensor(
    name: str, value: list, types: set[type], as_integers: Collection[str]
) -> Tensor:
    exact = name in as_integers or types == {bool}
    dtype = None if exact else torch.get_default_dtype()
    device = torch.get_default_device()
    try:
        numbers = value if exact else _floats(value)
        found = torch.tensor(numbers, dtype=dtype, device=device)
    except OverflowError as error:
        raise DataError(
            f"`--data` has a number in {name!r} that no float can be."
        ) from error
    except (TypeError, ValueError) as error:
        raise DataError(
            f"`--data` must hold {name!r} as a rectangular list of numbers: {error}. Fill "
            "up short lists, and pass their lengths as well."
        ) from error
    if not torch.isfinite(found).all():
        raise DataError(
            f"`--data` has a number in {name!r} that is too large for {found.dtype}. Call "
            "`torch.set_default_dtype(torch.float64)` in the file of the model."
        )
    return found


def _floats(value: Any) -> Any:
    return [_floats(item) for item in value] if isinstance(value, list) else float(value)
