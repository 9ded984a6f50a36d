"""Short texts by which ranks see whether they have the same."""

import hashlib
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

# What is its own text, with every bit.
PLAIN = (bool, int, float, complex, str, type(None))

# Integers into which numbers of so many bytes are cut; sums of them do not overflow.
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int32}


def digest(tree: Any) -> str:
    """Return a digest of the tensors and plain values of a tree, `(…)`, `[…]` or `{…}`.

    Of any other object only the type counts.
    """
    found = hashlib.sha256()
    _add(found, tree)
    return found.hexdigest()[:12]


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Return a short text that changes with any bit of tensors, and costs one pass.

    They stay where they are: their bits are summed as integers, in whatever order.
    """
    total = 0
    for tensor in tensors:
        flat = tensor.detach().reshape(-1).contiguous()
        bits = flat.view(INTEGERS.get(flat.itemsize, torch.uint8))
        total = 31 * total + int(bits.sum(dtype=torch.int64))
    return f"{total % (2**61 - 1):x}"


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
