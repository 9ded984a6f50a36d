"""Blocks of one cloud of walkers, each weighted by itself: to take apart and to join."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import Walkers


class Place(NamedTuple):
    """Where the walkers stand; never changed in place.

    Attributes:
        blocks: Walkers of each block, weighted for the parameters that it followed last.
        behind: Updates of the parameters since then, for each block.
        turn: The block that followed last.
    """

    blocks: tuple[Walkers, ...]
    behind: tuple[int, ...]
    turn: int


def split(walkers: Walkers, size: int | None) -> tuple[Walkers, ...]:
    """Return blocks of so many walkers each, the last of what is left."""
    if size is None or walkers.num_walkers <= size:
        return (walkers,)
    rows = torch.arange(walkers.num_walkers, device=walkers.log_weight.device).split(size)
    return tuple(map_tree(lambda x, r=r: x[r] if x.ndim else x, walkers) for r in rows)


def join(blocks: list[Walkers], steps: Tensor) -> Walkers:
    """Return one cloud of all walkers, each weighted by the evidence of its block."""
    if len(blocks) == 1:
        return blocks[0]
    # Relative to the first, so that the weights stay in the range of one block's.
    banked = blocks[0].log_banked
    weighted = [
        block._replace(
            log_weight=block.log_weight + (block.log_banked - banked),
            log_banked=banked,
            steps=steps,
        )
        for block in blocks
    ]
    return map_tree(concatenate, *weighted)


def concatenate(*parts: Tensor) -> Tensor:
    """Join tensors of walkers; what all walkers share stays as it is."""
    return torch.cat(parts) if parts[0].ndim and len(parts) > 1 else parts[0]
