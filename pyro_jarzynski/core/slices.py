"""Tensors of which each rank holds a slice, as torch's `DTensor`.

They are known by name, because to import all of `torch.distributed` takes long.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def is_sliced(x: object) -> bool:
    """Tell whether a tensor is one of which ranks hold slices."""
    return type(x).__name__ == "DTensor"


def any_sliced(tensors: Iterable[Tensor]) -> bool:
    """Tell whether ranks hold slices of some of these tensors."""
    return any(map(is_sliced, tensors))


def own_slice(x: Tensor) -> Tensor:
    """Return the slice of a tensor that is here: all of one that is whole."""
    sliced: Any = x
    return sliced.to_local() if is_sliced(x) else x


def whole(x: Tensor) -> Tensor:
    """Return all of a tensor; of a sliced one all ranks must ask."""
    sliced: Any = x
    return sliced.full_tensor() if is_sliced(x) else x


def num_copies(x: Tensor) -> int:
    """Return how many ranks hold the same slice of a sliced tensor."""
    sliced: Any = x
    return sliced.device_mesh.size() // sliced.device_mesh.size(_cut(x))


def apart(state: Any) -> Any:
    """Return a tree of dictionaries and lists in which the slice here stands for a tensor.

    As in all states, what differs between ranks is in dictionaries called "shards".
    """
    if is_sliced(state):
        along = _cut(state)
        own = {str(state.device_mesh.get_local_rank(along)): state.to_local()}
        return {"shards": own, "dim": state.placements[along].dim}
    if isinstance(state, dict):
        return {key: apart(value) for key, value in state.items()}
    if isinstance(state, list):
        return [apart(value) for value in state]
    return state


def together(state: Any, like: Tensor) -> Any:
    """Return the tree of which `apart` on all ranks made one.

    Args:
        state: The tree, with the slices of as many ranks as there were.
        like: A tensor that is sliced among the ranks that there are.
    """
    if isinstance(state, dict) and state.keys() == {"shards", "dim"}:
        slices = [state["shards"][str(k)] for k in range(len(state["shards"]))]
        return _sliced(torch.cat(slices, state["dim"]), state["dim"], like)
    if isinstance(state, dict):
        return {key: together(value, like) for key, value in state.items()}
    if isinstance(state, list):
        return [together(value, like) for value in state]
    return state


def _cut(x: Any) -> int:
    """Return the dimension of the mesh of ranks along which a tensor is sliced."""
    return [placement.is_shard() for placement in x.placements].index(True)


def _sliced(full: Tensor, dim: int, like: Any) -> Tensor:
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh, placements = like.device_mesh, list(like.placements)
    placements[_cut(like)] = Shard(dim)
    # Every rank has all of it: nothing is sent.
    return distribute_tensor(
        full.to(mesh.device_type), mesh, placements, src_data_rank=None
    )
