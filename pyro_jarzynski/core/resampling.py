"""Resampling: draw ancestors so that walker `i` has `n W_i` children on average.

All schemes share one signature,

    ancestors = scheme(log_weight, num, generator)      # (N,), n -> (n,) int64

work in float64, never choose a walker of weight zero, and keep the evidence unbiased.
With islands, `(C, N)`, each is resampled by itself.
Systematic resampling, the default, has the least variance in practice and gives each
walker `n W_i` children up to less than one.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.core.weights import normalise
from pyro_jarzynski.errors import one_of

# Integers up to this one are added up without overflow.
TOTAL = 2.0**62

Resampler: TypeAlias = Callable[[Tensor, int, torch.Generator | None], Tensor]


def multinomial(
    log_weight: Tensor, num: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw `num` ancestors independently with probabilities `W_i`."""
    return _invert(normalise(log_weight), _uniform(log_weight, num, generator))


def stratified(
    log_weight: Tensor, num: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw one ancestor in each of `num` equal strata of the weights."""
    uniform = _uniform(log_weight, num, generator)
    return _invert(normalise(log_weight), _strata(uniform, num))


def systematic(
    log_weight: Tensor, num: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw `num` ancestors at equal distances, from one random number."""
    uniform = _uniform(log_weight, 1, generator)
    return _invert(normalise(log_weight), _strata(uniform, num))


def residual(
    log_weight: Tensor, num: int, generator: torch.Generator | None = None
) -> Tensor:
    """Take `floor(n W_i)` copies of each walker and draw the remainder independently."""
    if log_weight.ndim > 1:
        return torch.stack([residual(island, num, generator) for island in log_weight])
    expected = num * normalise(log_weight)
    copies = expected.floor()
    fixed = torch.arange(len(expected), device=expected.device)
    fixed = fixed.repeat_interleave(copies.to(torch.int64))
    missing = num - len(fixed)
    if missing <= 0:
        return fixed[:num]
    remainder = (expected - copies).clamp(min=0)
    uniform = _uniform(log_weight, missing, generator)
    drawn = _invert(remainder / remainder.sum(), uniform)
    return torch.cat([fixed, drawn])


RESAMPLERS: dict[str, Resampler] = {
    "multinomial": multinomial,
    "stratified": stratified,
    "systematic": systematic,
    "residual": residual,
}


def get_resampler(resampler: str | Resampler) -> Resampler:
    """Return a resampler by its name; a function is returned as it is."""
    if callable(resampler):
        return resampler
    return RESAMPLERS[one_of("resampler", resampler, RESAMPLERS)]


def _uniform(like: Tensor, num: int, generator: torch.Generator | None) -> Tensor:
    shape = (*like.shape[:-1], num)
    return torch.rand(shape, dtype=torch.float64, device=like.device, generator=generator)


def _strata(uniform: Tensor, num: int) -> Tensor:
    index = torch.arange(num, dtype=torch.float64, device=uniform.device)
    return (index + uniform) / num


def _invert(weight: Tensor, level: Tensor) -> Tensor:
    """Return the first index whose cumulative weight exceeds each level."""
    sums = cumulative(weight)
    sums = sums / sums[..., -1:]
    # Rounding can lift a level to 1, beyond every walker; the largest float below 1
    # still lies under the last walker of positive weight.
    level = level.clamp(max=math.nextafter(1.0, 0.0))
    return torch.searchsorted(sums, level, right=True)


def cumulative(weight: Tensor) -> Tensor:
    """Return the cumulative sums of nonnegative numbers along the last dimension.

    A GPU adds up from several places at once: its sums of floating-point numbers differ
    from run to run in their last digits and can fall by as much, so that a walker of
    weight zero could be drawn. There integers are added up, without rounding: the numbers
    in units of `2^-62` of their sum.
    """
    if weight.device.type == "cpu":
        return weight.cumsum(-1)
    total = weight.sum(-1, keepdim=True).double()
    units = (weight / total * TOTAL).round().to(torch.int64).cumsum(-1)
    return (units.double() / TOTAL * total).to(weight.dtype)
