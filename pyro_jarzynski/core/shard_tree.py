"""The one tree over shards along which sums go and walkers travel.

A node `(level, index)` stands for the shards from `index 2^level` on, `2^level` of them;
shards beyond the last are not there. A sum along this tree has the same bits wherever its
leaves are.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

Node = tuple[int, int]


def nodes_of(shards: range, num: int) -> list[Node]:
    """Return the fewest nodes that make up a range of `num` shards."""
    first, end, nodes = shards.start, shards.stop, []
    top = max(num - 1, 0).bit_length()
    if end == num:
        # Those that are not there belong to the last, unless they fill a node of their own.
        end = 2**top
    while first < min(end, num):
        level = (first & -first).bit_length() - 1 if first else top
        while 2**level > end - first:
            level -= 1
        nodes.append((level, first >> level))
        first += 2**level
    return nodes


def add_leaf(shard: int, leaf: Tensor, known: dict[Node, Tensor]) -> None:
    """Add what a shard has to the sums of nodes, as far up as those beside it are known.

    Shards that come in order leave no more sums than the tree has levels.
    """
    level, index = 0, shard
    while index % 2 and (level, index - 1) in known:
        leaf = known.pop((level, index - 1)) + leaf
        level, index = level + 1, index // 2
    known[level, index] = leaf


def combine(node: Node, known: Mapping[Node, Tensor]) -> Tensor:
    """Return the sum of a node from those of nodes below it."""
    found = _combine(node, known)
    assert found is not None
    return found


def _combine(node: Node, known: Mapping[Node, Tensor]) -> Tensor | None:
    level, index = node
    if node in known or level == 0:
        return known.get(node)
    left = _combine((level - 1, 2 * index), known)
    right = _combine((level - 1, 2 * index + 1), known)
    if left is None or right is None:
        return right if left is None else left
    return left + right


def arrange(ancestors: Tensor, sizes: list[int]) -> Tensor:
    """Return ancestors in an order in which as few walkers as possible change their shard.

    Each walker that has children keeps its place for one of them. The other children go to
    empty places of their own shard, and then of the nearest shards along the tree: of each
    node of it as few walkers leave as its surplus demands.

    Args:
        ancestors: Ancestor of each of `N` new walkers, `(N,)`, in any order.
        sizes: Walkers of each shard, which add up to `N`.

    Returns:
        The ancestor of the walker in each place, `(N,)`: a permutation of `ancestors`.
    """
    children = torch.bincount(ancestors, minlength=len(ancestors))
    places = torch.arange(len(ancestors), device=ancestors.device)
    extra = places.repeat_interleave((children - 1).clamp(min=0))
    empty = places[children == 0]
    ends = torch.tensor(sizes, device=ancestors.device).cumsum(0)[:-1]
    nodes = list(
        zip(
            extra.tensor_split(torch.searchsorted(extra, ends).cpu()),
            empty.tensor_split(torch.searchsorted(empty, ends).cpu()),
            strict=True,
        )
    )
    while True:
        nodes = [_settle(places, *node) for node in nodes]
        if len(nodes) == 1:
            return places
        pairs = [nodes[k : k + 2] for k in range(0, len(nodes), 2)]
        nodes = [_join(pair) for pair in pairs]


def _settle(places: Tensor, extra: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
    """Put children into empty places of a node, and return what is left of either."""
    num = min(len(extra), len(empty))
    places[empty[:num]] = extra[:num]
    return extra[num:], empty[num:]


def _join(pair: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    extra, empty = zip(*pair, strict=True)
    return torch.cat(extra), torch.cat(empty)
