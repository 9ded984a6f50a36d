"""Walkers that change their rank: each travels once to a rank, however many children."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.trees import map_tree


def exchange(
    ranks: Ranks, local: Any, rows: Tensor, sizes: Sequence[int]
) -> tuple[Any, int]:
    """Return the walkers of some rows, wherever they are, and how many changed their rank.

    Args:
        ranks: The processes; all must take part.
        local: A tree of tensors with the walkers of this rank along dimension 0.
        rows: For each place on all ranks, `(N,)`, the walker that comes there.
        sizes: Places of each rank.

    Returns:
        The tree of the places of this rank, and the number of places on all ranks whose
        walker comes from another.
    """
    ends = torch.tensor(sizes, device=rows.device).cumsum(0)
    owner = torch.searchsorted(ends, rows, right=True)
    host = torch.searchsorted(ends, torch.arange(len(rows), device=rows.device), right=True)
    moved = int((owner != host).sum())
    me, first = ranks.rank, int(ends[ranks.rank]) - sizes[ranks.rank]
    wanted = rows[host == me]
    index = wanted - first
    if moved:
        travels = owner != host
        sent = [
            rows[travels & (owner == me) & (host == r)].unique() for r in range(ranks.size)
        ]
        come = rows[travels & (host == me)].unique()
        of_ranks = torch.searchsorted(ends, come, right=True)
        received = torch.bincount(of_ranks, minlength=ranks.size).tolist()
        local = _with_others(ranks, local, torch.cat(sent) - first, sent, received)
        abroad = owner[host == me] != me
        there = sizes[me] + torch.searchsorted(come, wanted)
        index = torch.where(abroad, there, index)
    return map_tree(lambda x: x[index].contiguous(), local), moved


def _with_others(
    ranks: Ranks, local: Any, chosen: Tensor, sent: list[Tensor], received: list[int]
) -> Any:
    """Return the walkers of this rank, and behind them those that come from others."""
    columns: list[Tensor] = []
    map_tree(columns.append, local)
    packed = torch.cat([_bytes(x[chosen]) for x in columns], 1)
    found = ranks.swap(packed, [len(rows) for rows in sent], received)
    widths = [_bytes(x[:1]).shape[1] for x in columns]
    parts = iter(found.split(widths, 1))

    def behind(x: Tensor) -> Tensor:
        part = next(parts).contiguous().view(x.dtype)
        return torch.cat([x.contiguous(), part.reshape(-1, *x.shape[1:])])

    return map_tree(behind, local)


def _bytes(x: Tensor) -> Tensor:
    """Return the bytes of each row, `(n, …)`."""
    width = math.prod(x.shape[1:])
    return x.reshape(len(x), width).contiguous().view(torch.uint8)
