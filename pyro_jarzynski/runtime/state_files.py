"""States of runs as JSON and tensors, and back: every bit, and nothing that is code.

What JSON does not know is told by an object of one entry:

    {"tensor": name}            one of the tensors, with "order" if its dimensions lie in
                                memory in another order
    {"float": "nan"}            a number that is not finite
    {"tuple": [...]}            a tuple
    {"dict": {...}}             a dictionary by strings
    {"items": [[key, value]]}   one by integers as well
    {"counter": [[key, n]]}     a `collections.Counter`, as schedulers have it
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyro_jarzynski.errors import CheckpointError


def encode(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return a state as values for JSON, and the tensors that these name.

    Raises:
        CheckpointError: Something in it is neither a tensor nor a plain value.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(state, "", tensors), tensors


def decode(values: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the state that `encode` was given.

    Raises:
        CheckpointError: The values are not of its making, or do not name these tensors.
    """
    left = dict(tensors)
    state = _decode(values, left)
    if left:
        raise CheckpointError(f"it has a tensor that nobody names: {min(left)!r}")
    return state


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    def inside(entries: Any) -> list[Any]:
        return [_encode(x, f"{path}.{k}", tensors) for k, x in enumerate(entries)]

    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, Tensor):
        return _encode_tensor(value, path, tensors)
    if isinstance(value, list):
        return inside(value)
    if isinstance(value, tuple):
        return {"tuple": inside(value)}
    if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        known = {k: _encode(x, f"{path}.{k}", tensors) for k, x in value.items()}
        if isinstance(value, Counter):
            return {"counter": [[k, x] for k, x in known.items()]}
        if all(isinstance(key, str) for key in known):
            return {"dict": known}
        return {"items": [[k, x] for k, x in known.items()]}
    raise CheckpointError(
        f"The state of the run has a {type(value).__name__} at {path.strip('.')!r}, which "
        "a checkpoint cannot hold: it holds tensors, numbers and strings, never code. Use "
        "an optimiser, scheduler or callback whose `state_dict` has only such values."
    )


def _encode_tensor(value: Tensor, path: str, tensors: dict[str, Tensor]) -> Any:
    name = f"{len(tensors)}{path}"
    order = sorted(range(value.ndim), key=lambda k: value.stride(k), reverse=True)
    # Sums go through memory in its order, which their last bits depend on.
    if value.is_contiguous() or not all(value.stride()):
        tensors[name] = value
        return {"tensor": name}
    tensors[name] = value.permute(order)
    return {"tensor": name, "order": order}


def _decode(value: Any, left: dict[str, Tensor]) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_decode(x, left) for x in value]
        case {"tensor": str(name), **more} if name in left:
            return _decode_tensor(left.pop(name), more)
        case {"float": "nan" | "inf" | "-inf" as number, **more} if not more:
            return float(number)
        case {"tuple": list(entries), **more} if not more:
            return tuple(_decode(x, left) for x in entries)
        case {"dict": dict(entries), **more} if not more:
            return {key: _decode(x, left) for key, x in entries.items()}
        case {"items": list(entries), **more} if not more:
            return dict(_decode_pair(pair, left) for pair in entries)
        case {"counter": list(entries), **more} if not more:
            return Counter(dict(_decode_pair(pair, left) for pair in entries))
    raise CheckpointError(f"it has values of no known kind: {str(value)[:80]}")


def _decode_pair(pair: Any, left: dict[str, Tensor]) -> tuple[Any, Any]:
    match pair:
        case [str() | int() as key, entry]:
            return key, _decode(entry, left)
    raise CheckpointError(f"it has values of no known kind: {str(pair)[:80]}")


def _decode_tensor(value: Tensor, more: dict[Any, Any]) -> Tensor:
    match more:
        case {"order": list(order), **others} if not others:
            if sorted(map(repr, order)) == sorted(map(repr, range(value.ndim))):
                return value.permute(sorted(range(value.ndim), key=order.__getitem__))
        case {**others} if not others:
            return value
    raise CheckpointError(f"it has a tensor of unknown layout: {str(more)[:80]}")
