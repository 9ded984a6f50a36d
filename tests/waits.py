"""Counts where a program would wait for a GPU, on any machine.

A processor waits when it reads a number that a GPU has still to compute: to branch on it,
to know the size of a result, or to copy it. All such operations are seen on a CPU as well,
and the package is told there that it would wait, so that it goes the way it goes on a GPU.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_jarzynski.core import faults

# Operations that end with a copy to the processor, or check what they did there.
WAITING = {
    "_local_scalar_dense",
    "_linalg_check_errors",
    "_linalg_eigh",
    "nonzero",
    "masked_select",
    "equal",
    "bincount",
    "repeat_interleave",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
}
# Copies of which the dispatcher of a CPU sees nothing.
COPIES = {"tolist", "cpu", "numpy"}


class Waits(TorchDispatchMode):
    """Collects the lines of the package at which it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING or (name.startswith("index") and _by_mask(args)):
            self.note(name)
        return func(*args, **(kwargs or {}))

    def note(self, name: str) -> None:
        """Remember the innermost line of the package, or of the test."""
        frames = [f for f in traceback.extract_stack() if "/pyro_jarzynski/" in f.filename]
        where = frames[-1] if frames else traceback.extract_stack()[-3]
        file = where.filename.rpartition("/")[2]
        self.places.append(f"{file}:{where.lineno} {where.name} ({name})")


class _Copies(TorchFunctionMode):
    """Sees copies to the processor that are no operations of their own there."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in COPIES:
            self.waits.note(func.__name__)
        return func(*args, **(kwargs or {}))


def _by_mask(args: tuple) -> bool:
    indices = args[1] if len(args) > 1 and isinstance(args[1], tuple | list) else []
    return any(isinstance(x, Tensor) and x.dtype == torch.bool for x in indices)


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let the package take every device for one that it has to wait for."""
    with patch.object(faults, "waits", lambda _: True):
        yield


@contextmanager
def counted() -> Iterator[list[str]]:
    """Yield the places at which the package waits within the block, on a GPU."""
    waits = Waits()
    with as_on_a_gpu(), waits, _Copies(waits):
        yield waits.places
