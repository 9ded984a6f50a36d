"""Blocks of one cloud of walkers, each weighted by itself: to take apart and to join."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core.team import Team
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.errors import ArgumentError


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

    @property
    def next(self) -> int:
        """The block whose turn is next."""
        return (self.turn + 1) % len(self.blocks)

    def later(self) -> "Place":
        """Return the same after a change of the parameters that no block followed."""
        return self._replace(behind=tuple(number + 1 for number in self.behind))

    def put(self, number: int, block: Walkers) -> "Place":
        """Return the same with a block of walkers at the present parameters."""
        blocks, behind = list(self.blocks), list(self.behind)
        blocks[number], behind[number] = block, 0
        return self._replace(blocks=tuple(blocks), behind=tuple(behind))

    def whole(self, team: Team) -> "Place":
        """Return the same with the positions of all walkers; all ranks must ask."""
        return self._replace(blocks=tuple(team.whole(block) for block in self.blocks))

    def state(self, team: Team) -> dict[str, Any]:
        """Return the place as a state."""
        return self._asdict() | {"blocks": [team.state(block) for block in self.blocks]}

    def restored(self, state: Mapping[str, Any], team: Team) -> "Place":
        """Return the place of a state, if it is one of walkers of the same kind."""
        known = self.blocks[0]
        device = known.log_weight.device
        blocks = [team.restored(block, device) for block in state["blocks"]]
        for block in blocks:
            for part in team.parts(block):
                _check_alike(part, known)
        behind, turn = [int(number) for number in state["behind"]], int(state["turn"])
        if not 0 <= turn < len(blocks) == len(behind):
            raise ArgumentError("`state` must have numbers for each block of walkers.")
        return Place(tuple(blocks), tuple(behind), turn)


def _check_alike(block: Walkers, known: Walkers) -> None:
    """Raise unless walkers of a state can stand where others are."""
    position, example = block.position, known.position
    assert isinstance(position, Tensor)
    assert isinstance(example, Tensor)
    if position.shape[1:] != example.shape[1:]:
        raise ArgumentError(
            f"`state` must have walkers of shape {tuple(example.shape[1:])}, got "
            f"{tuple(position.shape[1:])}: it is of another model."
        )
    if position.dtype != example.dtype:
        raise ArgumentError(
            f"`state` must have walkers of {example.dtype}, got {position.dtype}."
        )
    of_each = (position, block.evaluation.energy, block.log_weight, block.ancestor)
    if len({len(values) for values in of_each}) > 1 or block.log_weight.ndim != 1:
        raise ArgumentError("`state` must have one weight and energy for each walker.")


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
