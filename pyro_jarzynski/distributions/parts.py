"""The distributions that a distribution is made of."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch.distributions import Distribution


def made_of(fn: Any) -> Iterator[Any]:
    """Yield a distribution and all those that it is made of, at whatever depth."""
    yield fn
    for part in parts_of(fn).values():
        yield from made_of(part)


def rebuilt(fn: Any, change: Callable[[Any], Any]) -> Any:
    """Return a distribution with a function applied to those that it is made of."""
    parts = parts_of(fn)
    changed = {name: change(part) for name, part in parts.items()}
    if all(changed[name] is parts[name] for name in parts):
        return fn
    new = copy.copy(fn)
    vars(new).update(changed)
    return new


def parts_of(fn: Any) -> dict[str, Any]:
    """Return the distributions that a distribution is made of, by attribute."""
    return {name: part for name, part in vars(fn).items() if isinstance(part, Distribution)}


def without_validation(fn: Any) -> Any:
    """Return a distribution that validates neither values nor parameters, nor its parts."""
    new = copy.copy(rebuilt(fn, without_validation))
    new._validate_args = False
    return new
