"""Edges of supports, and values that rounding has put on them."""

import math
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_jarzynski.distributions.constraints import Simplex

# An end of an interval.
Bound: TypeAlias = float | Tensor | None


def edges_of(support: Constraint) -> tuple[Bound, Bound]:
    """Return the finite bounds of a set of numbers; `None` is no bound."""
    if isinstance(support, Simplex | type(constraints.simplex)):
        return 0.0, None
    return getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)


def moved_inside(value: Tensor, edges: tuple[Bound, Bound]) -> Tensor:
    """Return values, moved from the edges of their support to the next numbers inside."""
    low, high = (
        None if bound is None else _next(bound, towards, value.dtype)
        for bound, towards in zip(edges, (math.inf, -math.inf), strict=True)
    )
    value = value if low is None else value.clamp(min=low)
    return value if high is None else value.clamp(max=high)


def _next(bound: float | Tensor, towards: float, dtype: torch.dtype) -> Bound:
    """Return the next number of a type, and after zero the smallest normal one."""
    if isinstance(bound, Tensor):
        bound = bound.detach().to(dtype)
        direction = torch.full_like(bound, towards)
        smallest = math.copysign(torch.finfo(dtype).tiny, towards)
        inside = torch.where(bound == 0, smallest, torch.nextafter(bound, direction))
        return torch.where(torch.isfinite(bound), inside, bound)
    return _next_number(float(bound), towards, dtype)


@cache
def _next_number(bound: float, towards: float, dtype: torch.dtype) -> float | None:
    if not math.isfinite(bound):
        return None
    found = _next(torch.tensor(bound, device="cpu"), towards, dtype)
    assert isinstance(found, Tensor)
    return float(found)
