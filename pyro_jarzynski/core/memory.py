"""How much memory one walker takes while its gradient is on the way.

Autograd keeps what a forward pass leaves behind until the backward pass has used it, for
every walker of a call. Where that does not fit into the caches of a processor, or the
memory of a GPU, fewer walkers per call are faster, or the only way.
"""

import math

import torch
from torch import Tensor

from pyro_jarzynski.core.evaluation import Energy, evaluate
from pyro_jarzynski.core.trees import Position, leaves, map_tree, num_walkers
from pyro_jarzynski.errors import count, one_of

# Walkers of the two evaluations that are compared: what is kept once, however many
# walkers there are, drops out of the difference.
FEW, MORE = 8, 24
# Bytes per call on a processor: more do not fit into its caches, and fewer leave each call
# to its overhead. Of 12 models of 3 kB to 800 kB a walker, calls of 2^24 bytes took 1.11
# times as long as those of the best size on average (geometric mean), and 1.5 at most; 2^23
# took 1.4 and 2.6 times as long, 2^25 took 1.15 and 2.
CACHE = 2**24
# Share of a GPU's memory for one call.
GPU_SHARE = 1 / 8


def bytes_per_walker(energy: Energy, position: Position) -> float:
    """Return the bytes that autograd keeps of each walker between its two passes.

    Positions themselves do not count: they are there anyway.

    Args:
        energy: The energy.
        position: Some walkers, `(N, *event)`, or a dictionary of such tensors.
    """
    size = num_walkers(position)
    few, more = (
        _kept(
            energy,
            map_tree(lambda x, n=num: x[torch.arange(n, device=x.device) % size], position),
        )
        for num in (FEW, MORE)
    )
    return max(more - few, 0) / (MORE - FEW)


def chunk_size_for(
    chunk_size: int | str | None, energy: Energy, position: Position
) -> int | None:
    """Return walkers per call of an energy, for which memory is no concern if "auto".

    That depends on the energy and the kind of device alone, never on a clock or on what
    else runs, so that a run has the same bits when it is repeated. It is a power of two.

    Args:
        chunk_size: The number, `"auto"`, or `None` for all walkers at once.
        energy: The energy.
        position: Some walkers, `(N, *event)`, or a dictionary of such tensors.

    Raises:
        ArgumentError: The number is below 1, or another word is given.
    """
    check_chunk_size(chunk_size)
    if not isinstance(chunk_size, str):
        return chunk_size
    each = bytes_per_walker(energy, position)
    fitting = _budget(next(leaves(position)).device) / max(each, 1)
    return 2 ** max(0, math.floor(math.log2(fitting)))


def check_chunk_size(chunk_size: int | str | None) -> None:
    """Raise unless this is a number of walkers, `"auto"` or `None`."""
    if isinstance(chunk_size, str):
        one_of("chunk_size", chunk_size, ("auto",))
    elif chunk_size is not None:
        count("chunk_size", chunk_size)


def _budget(device: torch.device) -> float:
    if device.type == "cuda":
        return GPU_SHARE * torch.cuda.get_device_properties(device).total_memory
    return CACHE


def _kept(energy: Energy, position: Position) -> int:
    """Return the bytes of all tensors that one evaluation saves for its backward pass."""
    # Storages, so that no other tensor takes their place. Neither they nor what `note`
    # returns lead back to the graph that keeps them: torch never frees such a circle.
    storages: dict[int, torch.UntypedStorage] = {}
    inside = {x.untyped_storage().data_ptr() for x in leaves(position)}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        storages[storage.data_ptr()] = storage
        return x.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        evaluate(energy, position)
    return sum(kept.nbytes() for place, kept in storages.items() if place not in inside)
