"""Whether a model that was loaded is the one that was saved: energies at some walkers.

Two energy functions that agree at some walkers, at their parameters and at others, are
taken for the same. An outline of the model, which holds the classes and settings of its
parts, names what differs if they do not agree.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyro_jarzynski.core.digests import PLAIN, described
from pyro_jarzynski.core.evaluation import evaluate
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.ebm.wrapped import bare, is_fully_sharded, own_class

# Types of the parts that an outline lists one by one.
PARTS = (nn.Module, Distribution, Transform, Tensor)
# Walkers at which energies are kept.
NUM_POINTS = 16
# Tensors with more numbers are named by their digests.
MAX_SHOWN = 8
# Differences that an error names.
MAX_NAMED = 5


@standard_modes()
def energies_of(model: nn.Module, position: Tensor) -> dict[str, Tensor]:
    """Return energies of a model at some of its walkers.

    Args:
        model: The model; its modules are evaluated in the modes that they are in.
        position: Its walkers, `(N, *event)`.

    Returns:
        Energies at the parameters, `(n,)`, and at parameters that are moved at random, if
        it can be evaluated there.
    """
    points = position[:: max(1, len(position) // NUM_POINTS)][:NUM_POINTS]
    found = {"own": evaluate(model, points, gradient=False).energy}
    if is_fully_sharded(model):
        return found
    with _moved_parameters(model), suppress(ArithmeticError, RuntimeError, ValueError):
        found["moved"] = evaluate(model, points, gradient=False).energy
    return found


def largest_change(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> float | None:
    """Return by how much energies differ, in nats; `None` if they agree up to rounding."""
    changes = [0.0]
    for name in found.keys() & expected.keys():
        a, b = found[name].double(), expected[name].to(found[name].device).double()
        if a.shape != b.shape:
            return torch.inf
        tolerance = torch.finfo(expected[name].dtype).eps ** 0.5
        same = (a == b) | (a.isnan() & b.isnan())
        same |= (a - b).abs() <= tolerance * (1 + b.abs())
        change = (a - b).abs().nan_to_num(torch.inf).masked_fill(same, 0)
        changes.append(float(change.max()))
    return max(changes) or None


def outline_of(model: nn.Module) -> dict[str, str]:
    """Return the classes and settings of all parts of a model, by their paths."""
    found: dict[str, str] = {}
    _note(found, "", model, set())
    return found


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Return a sentence that names the entries in which two outlines differ."""
    differing = [
        f"`{path or 'model'}` is {found.get(path, 'missing')}, and was "
        f"{expected.get(path, 'missing')}"
        for path in dict.fromkeys((*expected, *found))
        if found.get(path) != expected.get(path)
    ]
    if not differing:
        return (
            "Classes and settings of its parts are the same, so that the code of a class "
            "differs, or something that these do not show."
        )
    more = len(differing) - MAX_NAMED
    named = "; ".join(differing[:MAX_NAMED])
    return f"{named}; and {more} more." if more > 0 else f"{named}."


def _note(found: dict[str, str], path: str, value: Any, seen: set[int]) -> None:
    """Add the class and settings of a part, and of the parts in it, to an outline."""
    if isinstance(value, nn.Module):
        value = bare(value)
        entries = _attributes(value) | value._modules
        entries |= {
            name: value._buffers[name] for name in value._non_persistent_buffers_set
        }
        entries.pop("training")
    elif isinstance(value, Distribution | Transform):
        entries = _attributes(value)
    elif isinstance(value, list | tuple) and any(isinstance(x, PARTS) for x in value):
        entries = {str(number): entry for number, entry in enumerate(value)}
    else:
        text = _text(value)
        if text is not None:
            found[path] = text
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    found[path] = own_class(value).__qualname__
    for name, entry in entries.items():
        _note(found, f"{path}.{name}" if path else name, entry, seen)


def _attributes(part: Any) -> dict[str, Any]:
    """Return the public attributes of an object, and the distributions within it."""
    return {
        name: value
        for name, value in vars(part).items()
        if not name.startswith("_") or isinstance(value, Distribution)
    }


def _text(value: Any) -> str | None:
    """Return the text by which a setting is compared; `None` for objects without one."""
    if isinstance(value, Tensor):
        if value.numel() > MAX_SHOWN:
            return described(value)
        return f"{value.tolist()} of {value.dtype}"
    if isinstance(value, FunctionType | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, PLAIN):
        return repr(value)
    if not isinstance(value, list | tuple | dict):
        return None
    short = len(value) <= MAX_SHOWN and all(isinstance(x, PLAIN) for x in value)
    return repr(value) if short and not isinstance(value, dict) else described(value)


@contextmanager
def _moved_parameters(model: nn.Module) -> Iterator[None]:
    """Move all parameters at random, on every device alike, and put them back."""
    generator = stream(0, "moved parameters", "cpu")
    moving = [p for p in model.parameters() if p.is_floating_point() or p.is_complex()]
    kept = [(p, p.detach().clone()) for p in moving]
    try:
        for p, value in kept:
            exact = value.cpu().to(torch.promote_types(p.dtype, torch.float64))
            noise = torch.randn(
                p.shape, generator=generator, dtype=torch.float64, device="cpu"
            )
            # Without a new version of the parameter: it is as it was afterwards.
            p.data.copy_(exact + noise * (0.1 + exact.abs() / 10))
        yield
    finally:
        for p, value in kept:
            p.data.copy_(value)
