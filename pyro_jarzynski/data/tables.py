"""Tables of numbers on disk: NumPy arrays and comma-separated values."""

import csv
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyro_jarzynski.errors import ArgumentError, DataError

# What NumPy raises of a file that it cannot read.
UNREADABLE = (
    ValueError,
    TypeError,
    EOFError,
    OSError,
    MemoryError,
    SyntaxError,
    RecursionError,
    tokenize.TokenError,
)
# A table, what its rows are called, and the number of each.
Located: TypeAlias = tuple[np.ndarray, str, Sequence[int]]


def load_table(path: Path | str, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a table of finite numbers, `(n, d)`, on torch's default device.

    Args:
        path: File in `.npy`, of shape `(n, d)`, or `(n,)` for one column, and without
            pickled objects; or in `.csv`, separated by commas, whose first row is a header
            if none of its cells is a number.
        dtype: Floating type of the table.

    Raises:
        ArgumentError: The name of the file ends otherwise.
        DataError: The file is missing, empty, ragged, or holds what is no finite number;
            the message names the line or row.

    Example:
        >>> with open("petals.csv", "w") as file:
        ...     for line in ("length,width", "5.1,3.5", "4.9,3.0"):
        ...         print(line, file=file)
        >>> pj.load_table("petals.csv")
        tensor([[5.1000, 3.5000],
                [4.9000, 3.0000]])
    """
    file = Path(path)
    readers = {".npy": _read_npy, ".csv": _read_csv}
    if file.suffix.lower() not in readers:
        raise ArgumentError(
            f"`path` must name a file in {' or '.join(readers)}, got {file.name!r}."
        )
    if not file.is_file():
        raise DataError(f"`path` must name a file; there is none at {file}.")
    table, noun, numbers = readers[file.suffix.lower()](file)
    if not table.size:
        raise DataError(
            f"{file} has no numbers: its table has shape {table.shape}. It must have one "
            "row for each datum."
        )
    # NumPy turns any byte order into the machine's own.
    values = torch.as_tensor(table.astype(np.float64), device="cpu").to(dtype)
    bad = (~torch.isfinite(values).all(1)).nonzero().flatten().tolist()
    if bad:
        shown = ", ".join(str(numbers[row]) for row in bad[:5])
        raise DataError(
            f"{file} has NaN, infinity or numbers too large for {dtype} in {len(bad)} of "
            f"{len(values)} rows: {noun} {shown}{', …' if len(bad) > 5 else ''}. Remove "
            "them or fill them in."
        )
    return values.to(torch.get_default_device())


def _read_npy(file: Path) -> Located:
    try:
        array = np.load(file, allow_pickle=False)
    except UNREADABLE as error:
        # Of several lines the last advise to trust the file.
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(
            f"{file} cannot be read: {reason}. Pickled objects are refused, since reading "
            "them may run code; save a plain array of numbers by `numpy.save`."
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{file} is an archive of arrays; save one by `numpy.save`.")
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{file} must hold real numbers, got an array of {array.dtype}; convert it by "
            "`astype(float)`."
        )
    if array.ndim not in (1, 2):
        raise DataError(
            f"{file} must have shape (n, d) or (n,), got {array.shape}; save "
            "`array.reshape(len(array), -1)`."
        )
    table = array[:, None] if array.ndim == 1 else array
    return table, "row", range(len(table))


def _read_csv(file: Path) -> Located:
    rows = rows_of(file)
    if rows and not any(_is_number(cell) for cell in rows[0][1]):
        rows = rows[1:]
    for line, cells in rows:
        if len(cells) != len(rows[0][1]):
            raise DataError(
                f"Line {line} of {file} has {len(cells)} cells, line {rows[0][0]} has "
                f"{len(rows[0][1])}: all rows must have as many. Fill it in, or remove "
                "it."
            )
        wrong = next((k for k, cell in enumerate(cells) if not _is_number(cell)), None)
        if wrong is not None:
            raise DataError(
                f"Line {line} of {file} has {cells[wrong]!r} in column {wrong + 1}, which "
                "is no number. Correct it, or remove the line; only the first may be a "
                "header."
            )
    table = np.array([[float(cell) for cell in cells] for _, cells in rows])
    return table, "line", [line for line, _ in rows]


def rows_of(file: Path) -> list[tuple[int, list[str]]]:
    """Return the rows that are not blank, each with the number of its line."""
    try:
        # A byte order mark, which spreadsheets write, is no part of the first cell.
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text)
            return [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(
            f"{file} cannot be read as comma-separated text: {error}. Save it in UTF-8, "
            "with commas between numbers."
        ) from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
