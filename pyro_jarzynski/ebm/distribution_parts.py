"""Tensors and modules within a distribution, which torch does not register."""

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any
from weakref import ReferenceType

from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyro_jarzynski.core.digests import digest
from pyro_jarzynski.errors import ArgumentError


def parts_of(holder: object) -> Iterator[tuple[str, Tensor | nn.Module]]:
    """Yield the tensors and modules within a distribution, with the paths to them."""
    for path, value in _objects_in(holder, "", set()):
        if isinstance(value, Tensor | nn.Module):
            yield path, value


def _objects_in(holder: object, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield all that a distribution holds, each object once, with the paths to them."""
    if id(holder) in seen:
        return
    seen.add(id(holder))
    yield path, holder
    for name, value in _entries(holder):
        yield from _objects_in(value, f"{path}.{name}" if path else name, seen)


def modules_in(holder: object) -> list[nn.Module]:
    """Return the modules within a distribution, and those within these."""
    found = [part for _, part in parts_of(holder) if isinstance(part, nn.Module)]
    return [module for part in found for module in part.modules()]


def digests_of(base: object) -> dict[str, str] | None:
    """Return classes and digests of tensors of all that a base holds, by their paths.

    `None` is returned for a model that has no distribution for a base.
    """
    if not isinstance(base, Distribution):
        return None
    found = {}
    for path, part in _objects_in(base, "", set()):
        # What a transform has evaluated last is no part of the distribution.
        if "_cached" in path:
            continue
        if isinstance(part, Distribution | Transform):
            found[path] = type(part).__name__
        if isinstance(part, Tensor | nn.Module):
            content = part if isinstance(part, Tensor) else dict(part.state_dict())
            found[path] = digest(content)
    return found


def check_base_parameters(base: Distribution) -> None:
    """Raise if a base has parameters that would have to be trained, or cannot be used."""
    for path, part in parts_of(base):
        tensors = part.parameters() if isinstance(part, nn.Module) else [part]
        for tensor in tensors:
            if tensor.is_inference():
                raise ArgumentError(
                    f"`base` has a tensor made in `torch.inference_mode`, {path!r}, which "
                    "has no gradients: build the base outside."
                )
            if tensor.requires_grad:
                raise ArgumentError(
                    f"`base` has a parameter that requires a gradient, {path!r}, and a "
                    "base is never trained: call its `detach()`, or "
                    "`requires_grad_(False)` on a module. Put what is to be learned into "
                    "`net`."
                )


def moved(holder: Any, fn: Callable[[Tensor], Tensor], known: dict[int, Any]) -> Any:
    """Return a copy of a distribution with a function applied to all tensors within.

    Modules are changed in place, as torch does.

    Args:
        holder: The distribution.
        fn: As of `torch.nn.Module._apply`.
        known: What has been moved so far, by the identity of what it was made from.
    """
    if id(holder) in known:
        return known[id(holder)][1]
    if isinstance(holder, Tensor):
        result: Any = fn(holder)
    elif type(holder) in (list, tuple, dict):
        result = _rebuilt(holder, fn, known)
    elif hasattr(holder, "_moved"):
        # What it has computed of its parameters has the precision that they had.
        result = holder._moved(fn)
    elif isinstance(holder, Distribution | Transform):
        result = holder._apply(fn) if isinstance(holder, nn.Module) else copy(holder)
        known[id(holder)] = holder, result
        for name, value in _entries(holder):
            vars(result)[name] = moved(value, fn, known)
        if isinstance(vars(result).get("_inv"), ReferenceType):
            # The inverse that a transform remembers is that of the original.
            result._inv = None
    elif isinstance(holder, nn.Module):
        result = holder._apply(fn)
    else:
        return holder
    # The key is an identity: its object must live as long.
    known[id(holder)] = holder, result
    return result


def _rebuilt(holder: Any, fn: Callable[[Tensor], Tensor], known: dict[int, Any]) -> Any:
    if isinstance(holder, dict):
        return {key: moved(value, fn, known) for key, value in holder.items()}
    values = [moved(value, fn, known) for value in holder]
    return values if type(holder) is list else tuple(values)


def _entries(holder: Any) -> list[tuple[str, Any]]:
    """Return what a distribution or a container holds, by names."""
    if type(holder) is dict:
        return [(str(key), value) for key, value in holder.items()]
    if type(holder) in (list, tuple):
        return [(str(k), value) for k, value in enumerate(holder)]
    if not isinstance(holder, Distribution | Transform):
        return []
    # What a module registers is found and moved by the module.
    registered = ("_parameters", "_buffers", "_modules")
    return [(name, value) for name, value in vars(holder).items() if name not in registered]
