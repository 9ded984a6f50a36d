"""Models of which all values of the discrete latents can be counted through."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.export.known_likelihoods import Values


class Mixed(NamedTuple):
    """A model, and all values of its discrete latents.

    Attributes:
        model: The model.
        args: Its data.
        supports: Values of one entry and number of entries, by discrete site.
        shapes: Shape of each discrete site.
        joint: From latents, discrete ones, and data: the log-density of the latents as far
            as the discrete ones matter, and the log-likelihood by site.
    """

    model: Callable[..., Any]
    args: tuple[Tensor, ...]
    supports: dict[str, tuple[Any, int]]
    shapes: dict[str, tuple[int, ...]]
    joint: Callable[..., tuple[Tensor, Values]]


MIXED: dict[str, Mixed] = {}


def mixed(*args: Tensor, joint: Callable, **sites: tuple) -> Callable[[Callable], Callable]:
    """Add a model; a site is `(values of one entry, shape of the site)`."""

    def add(model: Callable) -> Callable:
        supports, shapes = {}, {}
        for name, (values, shape) in sites.items():
            event = torch.as_tensor(values[0]).ndim
            count = torch.Size(shape[: len(shape) - event]).numel()
            supports[name], shapes[name] = (values, count), shape
        MIXED[model.__name__] = Mixed(model, args, supports, shapes, joint)
        return model

    return add


def assignments(case: Mixed) -> Iterator[Values]:
    """Yield all values of all discrete latents together."""
    names = list(case.supports)
    each = [product(values, repeat=count) for values, count in case.supports.values()]
    for chosen in product(*each):
        yield {
            # In double: a number with a vector in single would be rounded.
            name: torch.tensor(entries, dtype=torch.float64).reshape(case.shapes[name])
            for name, entries in zip(names, chosen, strict=True)
        }


def log_joints(case: Mixed, values: Values, args: tuple) -> tuple[Tensor, Values]:
    """Return the densities of all assignments, `(A,)`, and likelihoods `(A, *batch)`."""
    found = [case.joint(values, z, *args) for z in assignments(case)]
    data = {name: torch.stack([f[1][name] for f in found]) for name in found[0][1]}
    return torch.stack([f[0] for f in found]), data
