"""Lines of a model's program: where it draws random numbers, where it fails."""

import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyro
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# What a model calls; Pyro's ready-made models are programs as well.
_PYRO = Path(pyro.__file__).parent
_LIBRARIES = (
    Path(torch.__file__).parent,
    Path(__file__).parent.parent,
    Path(traceback.__file__).parent / "contextlib.py",
    *(_PYRO / part for part in ("distributions", "infer", "nn", "ops", "params")),
    *(_PYRO / part for part in ("poutine", "primitives.py")),
)


def line_of(frames: Iterable[traceback.FrameSummary]) -> str:
    """Return the innermost line that is of a program and not of a library.

    Args:
        frames: The stack, the innermost frame last.

    Returns:
        File and line, or nothing if there is no such line.
    """
    for frame in reversed(list(frames)):
        file = Path(frame.filename)
        if not any(file == known or known in file.parents for known in _LIBRARIES):
            return f"{frame.filename}, line {frame.lineno}"
    return ""


def random_call(run: Callable[[], Any]) -> str:
    """Return the first call by which a program draws random numbers of torch.

    Args:
        run: Runs the program.

    Returns:
        Name of the operation, file and line; or nothing if torch draws none.
    """
    with _RandomCalls() as calls:
        run()
    return calls.first


class _RandomCalls(TorchDispatchMode):
    """Notes the first operation that draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        if not self.first and torch.Tag.nondeterministic_seeded in func.tags:
            name = func.overloadpacket.__name__
            self.first = f"`{name}` at {line_of(traceback.extract_stack())}"
        return func(*args, **(kwargs or {}))
