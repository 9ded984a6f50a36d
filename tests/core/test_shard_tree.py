"""Resampling arranges children so that as few as possible change their shard."""

import pytest
import torch

from pyro_jarzynski.core.resampling import RESAMPLERS
from pyro_jarzynski.core.shard_tree import arrange


def crossing(ancestors, arranged, sizes, level):
    """Return how many change their node of a level, and how many must."""
    num, width = len(sizes), 2**level
    node = torch.arange(num).repeat_interleave(torch.tensor(sizes)) // width
    moved = int((node[arranged] != node).sum())
    children = node[ancestors].bincount(minlength=-(-num // width))
    places = node.bincount(minlength=-(-num // width))
    return moved, int((children - places).clamp(min=0).sum())


def clouds():
    """Yield ancestors of clouds of all shapes, more and less out of balance."""
    generator = torch.Generator().manual_seed(0)
    draws = list(RESAMPLERS.values())
    for index in range(300):
        num = 1 + index % 13
        sizes = (1 + torch.randint(40, (num,), generator=generator)).tolist()
        spread = (0.01, 0.3, 3.0)[index % 3]
        noise = torch.randn(num, generator=generator, dtype=torch.float64)
        log_weight = spread * noise.repeat_interleave(torch.tensor(sizes))
        own = torch.randn(len(log_weight), generator=generator, dtype=torch.float64)
        draw = draws[index % len(draws)]
        yield draw(log_weight + spread * own, len(log_weight), generator), sizes


def test_arrangement_is_of_the_same_children():
    for ancestors, sizes in clouds():
        arranged = arrange(ancestors, sizes)
        assert torch.equal(arranged.sort().values, ancestors.sort().values)
        kept = ancestors.unique()
        assert torch.equal(arranged[kept], kept)


@pytest.mark.parametrize("level", range(5))
def test_as_few_as_possible_leave_a_node(level):
    """At each level of the tree at once; ancestors in their own order do not achieve it."""
    unarranged = 0
    for ancestors, sizes in clouds():
        moved, least = crossing(ancestors, arrange(ancestors, sizes), sizes, level)
        assert moved == least
        unarranged += crossing(ancestors, ancestors, sizes, level)[0] - least
    # Thirteen shards are all in one node of the highest level.
    assert (unarranged > 0) == (level < 4)
