"""Short texts by which ranks see whether they have the same."""

import hashlib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

# What is its own text, with every bit.
PLAIN = (bool, int, float, complex, str, type(None))


def digest(tree: Any) -> str:
    """Return a digest of the tensors and plain values of a tree, `(…)`, `[…]` or `{…}`.

    Of any other object only the type counts.
    """
    found = hashlib.sha256()
    _add(found, tree)
    return found.hexdigest()[:12]


def described(value: Any) -> str:
    """Return what a value is, in words and as a digest."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor {tuple(value.shape)} ({digest(value)})"
    return f"a {type(value).__name__} ({digest(value)})"


def versions() -> dict[str, str]:
    """Return the versions on which the bits of a run depend."""
    package = __name__.partition(".")[0]
    return {package: import_module(package).__version__, "torch": torch.__version__}


def _add(found: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        found.update(f"{value.dtype} {tuple(value.shape)} ".encode())
        if value.layout == torch.strided:
            flat = value.detach().cpu().reshape(-1).contiguous()
            found.update(flat.view(torch.uint8).numpy())
        return
    name = type(value).__name__
    found.update(
        f"{name} {value!r} ".encode() if isinstance(value, PLAIN) else name.encode()
    )
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, list | tuple):
        found.update(f"{len(value)} ".encode())
        for entry in value:
            _add(found, entry)
