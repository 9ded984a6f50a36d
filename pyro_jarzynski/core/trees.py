"""Positions: one tensor, or a dictionary of tensors, with walkers along dimension 0.

Everything that treats the two alike stands here, so that no other file asks which of
them it holds.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError

# Numbers of which a temporary fits into a cache of a core.
MAX_CACHED = 2**18

Position: TypeAlias = Tensor | dict[str, Tensor]


def map_tree(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply `fn` to the tensors of trees of one structure.

    A tree is a tensor, a dictionary of trees, or a (named) tuple of trees; anything else
    in it stays as it is.
    """
    if isinstance(tree, Tensor):
        return fn(tree, *others)
    if isinstance(tree, dict):
        return {key: map_tree(fn, tree[key], *(o[key] for o in others)) for key in tree}
    if not isinstance(tree, tuple):
        return tree
    mapped = [map_tree(fn, *items) for items in zip(tree, *others, strict=True)]
    return type(tree)(*mapped) if hasattr(tree, "_fields") else tuple(mapped)


def leaves(position: Position) -> Iterator[Tensor]:
    """Yield the tensors of a position."""
    if isinstance(position, Tensor):
        yield position
    else:
        yield from position.values()


def rebuild(position: Position, tensors: Iterator[Tensor]) -> Position:
    """Return `tensors` in the structure of `position`."""
    return map_tree(lambda _: next(tensors), position)


def num_walkers(position: Position) -> int:
    """Return the number of walkers, or raise if the tensors of a position disagree."""
    if not isinstance(position, Tensor | dict) or not _is_filled(position):
        raise ArgumentTypeError(
            "`position` must be a tensor, or a non-empty dictionary of tensors, with "
            f"walkers along dimension 0; got {type(position).__name__}."
        )
    sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves(position)}
    if len(sizes) != 1 or 0 in sizes:
        raise ArgumentError(
            "All tensors of `position` must have the same number of walkers, at least "
            f"1, along dimension 0; got sizes {sorted(sizes)}."
        )
    return sizes.pop()


def _is_filled(position: Position) -> bool:
    """Tell whether a position holds at least one tensor, and nothing else."""
    if isinstance(position, Tensor):
        return True
    return bool(position) and all(isinstance(x, Tensor) for x in position.values())


def inner(a: Position, b: Position) -> Tensor:
    """Return `Σ a·b` over the event dimensions, one number per walker, `(N,)`."""
    products = [
        _row_products(x.reshape(len(x), -1), y.reshape(len(y), -1))
        for x, y in zip(leaves(a), leaves(b), strict=True)
    ]
    return sum(products[1:], start=products[0])


def _row_products(x: Tensor, y: Tensor) -> Tensor:
    # Measured: up to seven times faster while the products fit into a cache, and slower
    # from there, where the other way needs no room for them.
    if x.numel() <= MAX_CACHED:
        return torch.linalg.vecdot(x, y)
    return torch.einsum("nd,nd->n", x, y)


def select(mask: Tensor, yes: Any, no: Any) -> Any:
    """Return, walker by walker, the rows of `yes` where `mask` holds and else of `no`."""
    return map_tree(lambda a, b: torch.where(per_walker(mask, a), a, b), yes, no)


def per_walker(values: Tensor, like: Tensor) -> Tensor:
    """Return one value per walker, `(N,)`, in a shape that broadcasts with a leaf."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))
