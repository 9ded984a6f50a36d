"""Resampling arranges children so that as few as possible change their shard."""

import pytest
import torch

from pyro_jarzynski.core.resampling import RESAMPLERS
from pyro_jarzynski.core.shard_tree import add_leaf, arrange, combine, nodes_of


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


@pytest.mark.parametrize("num", range(1, 14))
def test_sums_on_the_way_are_few_and_have_the_bits_of_the_tree(num):
    """Whichever rank has which shards; the order of leaves alone would have other bits."""
    leaves = torch.randn(num, 50, generator=torch.Generator().manual_seed(num))
    (root,) = nodes_of(range(num), num)
    expected = combine(root, {(0, k): leaf for k, leaf in enumerate(leaves)})
    for size in range(1, num + 1):
        of_ranks = {}
        for rank in range(size):
            shards, known = range(rank * num // size, (rank + 1) * num // size), {}
            for shard in shards:
                add_leaf(shard, leaves[shard], known)
                assert len(known) <= 2 * len(shards).bit_length()
            of_ranks |= {node: combine(node, known) for node in nodes_of(shards, num)}
        assert torch.equal(combine(root, of_ranks), expected)
    in_order = leaves[0]
    for leaf in leaves[1:]:
        in_order = in_order + leaf
    assert torch.equal(in_order, expected) == (num < 4)
