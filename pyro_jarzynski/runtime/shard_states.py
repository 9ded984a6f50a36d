"""One checkpoint of many ranks: the shards of all of them in one manifest.

The states of the ranks are the same but for dictionaries called "shards", in which each
rank has its own. Rank 0 writes what all know, every rank the tensors of its shards, and
rank 0 gives the checkpoint its name once all of it is on the disk.
"""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyro_jarzynski.core.ranks import Ranks

SHARDS = "shards"


def own_tensors(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Return the tensors that this rank is to write, by the names that `encode` gave."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if ranks.rank == 0 or SHARDS in name.split(".")
    }


def merged(values: Any, ranks: Ranks) -> Any:
    """Return the values of a state with the shards of all ranks."""
    if ranks.size == 1:
        return values
    whole, *others = [json.loads(text) for text in ranks.texts(json.dumps(values))]
    for other in others:
        _add_shards(whole, other)
    return whole


def _add_shards(whole: Any, other: Any) -> None:
    """Put the shards of another rank beside those that are there already."""
    if isinstance(whole, list):
        for here, there in zip(whole, other, strict=True):
            _add_shards(here, there)
    elif isinstance(whole, dict):
        for key in whole.keys() & other.keys():
            if key == SHARDS and "dict" in whole[key]:
                whole[key]["dict"] |= other[key]["dict"]
            else:
                _add_shards(whole[key], other[key])
