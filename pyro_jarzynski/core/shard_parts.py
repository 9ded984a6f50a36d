"""Walkers of single shards: how many, which they are, and resampling by themselves."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.resampling import Resampler
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.errors import ArgumentError

# What each rank has of its own walkers alone.
LOCAL = ("position", "evaluation", "momentum")


def sizes_of_shards(num_shards: int, num: int, islands: int) -> list[int]:
    """Return how many of `num` walkers on islands each shard has."""
    each, size = num_shards // islands, num // islands
    if num_shards % islands or size < each:
        raise ArgumentError(
            f"`num_shards` is {num_shards}: it must be a multiple of the {islands} "
            f"islands, and at most {size} for each of them, their walkers."
        )
    return [size // each + (k < size % each) for k in range(each)] * islands


def rows_of(sizes: Sequence[int]) -> list[slice]:
    """Return which walkers each shard has."""
    ends = accumulate(sizes, initial=0)
    return [slice(first, last) for first, last in pairwise(ends)]


def local_rows(walkers: Walkers, rows: slice) -> Walkers:
    """Return walkers with some rows of what a rank has of its own walkers alone."""
    local = {name: map_tree(lambda x: x[rows], getattr(walkers, name)) for name in LOCAL}
    return walkers._replace(**local)


def side_by_side(*parts: Tensor) -> Tensor:
    """Join tensors of shards along dimension 0."""
    # In one layout, wherever the parts come from: sums depend on it in their last bits.
    return torch.cat([part.contiguous() for part in parts])


def resample_apart(
    part: Walkers, threshold: float, resampler: Resampler, generator: torch.Generator
) -> Walkers:
    """Resample a shard by itself if its ESS is low; each walker gets its mean weight."""
    alive = bool((part.log_weight > -torch.inf).any())
    if not alive or weights.ess(part.log_weight) >= threshold * part.num_walkers:
        return part
    rows = resampler(part.log_weight, part.num_walkers, generator)
    level = weights.log_mean_exp(part.log_weight).expand(part.num_walkers)
    resampled = map_tree(lambda x: x[rows] if x.ndim else x, part)
    return resampled._replace(log_weight=level)
