"""A model and its data as the command line names them: `FILE.py:MODEL` and JSON.

The file is a program and is executed; the data are not.
"""

import importlib.util
import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.errors import DataError, ModelSourceError


def load_source(source: str) -> Callable[..., Any]:
    """Execute `FILE.py` and return its `MODEL`.

    Args:
        source: `FILE.py:MODEL`.

    Raises:
        ModelSourceError: There is no such file, or nothing to call of that name in it.
    """
    path, _, name = source.rpartition(":")
    if not path or not name.isidentifier():
        raise ModelSourceError(f"The model must be given as FILE.py:MODEL, got {source!r}.")
    file = Path(path)
    if not file.is_file():
        raise ModelSourceError(
            f"There is no file {file}: FILE of FILE.py:MODEL must be the path of a program."
        )
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ModelSourceError(f"{file} is not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        known = sorted(
            n for n, v in vars(module).items() if callable(v) and not n.startswith("_")
        )
        raise ModelSourceError(
            f"{file} has no model {name!r}; it has {', '.join(known) or 'nothing to call'}."
        )
    return found


def check_arguments(model: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Raise if a model cannot be called with some keyword arguments."""
    try:
        inspect.signature(model).bind(**arguments)
    except TypeError as error:
        raise ModelSourceError(
            f"The model does not take the arguments of `--data` "
            f"({', '.join(arguments) or 'none'}): {error}."
        ) from error


def load_arguments(file: Path) -> dict[str, Any]:
    """Read the keyword arguments of a model from a JSON object.

    Lists become tensors: of integers if all their numbers are written as such, else of
    torch's default dtype. Everything else is passed as it is.

    Raises:
        DataError: The file is not a JSON object, holds a name twice or a number that is not
            finite, or a list is ragged.
    """
    try:
        content = json.loads(
            file.read_text(encoding="utf-8"),
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
    return {
        name: _tensor(name, value) if isinstance(value, list) else value
        for name, value in content.items()
    }


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, or raise where Python would keep the last of equal names."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands there twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON; leave missing data out")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is too large for a float")
    return number


def _tensor(name: str, value: list) -> Tensor:
    try:
        return torch.tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"`--data` must hold {name!r} as a rectangular list of numbers: {error}."
        ) from error
