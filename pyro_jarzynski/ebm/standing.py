"""Walkers of a model where they stand: which they are, and what they weigh now.

To look at them changes nothing in the course of a run.
"""

import torch
from torch import Tensor

from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import Resampler
from pyro_jarzynski.core.team import Team, Tools
from pyro_jarzynski.core.transitions import reweight
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.ebm.blocks import Place, concatenate, join, split
from pyro_jarzynski.ebm.module_modes import ModuleModes, as_checked
from pyro_jarzynski.ebm.staleness import STALE, is_current, slice_sums
from pyro_jarzynski.ebm.startable import StartableEnergy, kind_of
from pyro_jarzynski.ebm.wrapped import check_even
from pyro_jarzynski.errors import ArgumentError, count


class Standing:
    """Walkers that stand somewhere; `Cloud` is one that can go on.

    Attributes:
        model: The energy under training.
        team: Who has which walkers.
        tools: Tools of the whole cloud.
        resampler: Draws walkers by their weights.
        module_modes: Train or eval mode of the modules of the model when it was checked.
        parameter_kind: Dtype and device of its parameters then.
        draws: Generator of draws from the walkers, which nothing else uses.
        block_size: Walkers of a block; `None` is one block of all.
        fully_sharded: Whether ranks have slices of the model.
    """

    model: StartableEnergy
    team: Team
    tools: Tools
    resampler: Resampler
    module_modes: ModuleModes
    parameter_kind: tuple[torch.dtype, torch.device]
    draws: torch.Generator
    block_size: int | None
    fully_sharded: bool
    _place: Place
    _present: list[Walkers] | None
    _slice_sums: Tensor

    @property
    def place(self) -> Place:
        """Where the walkers stand."""
        return self._place

    @place.setter
    def place(self, place: Place) -> None:
        self._place, self._present = place, None
        if self.fully_sharded:
            self._slice_sums = slice_sums(self.model)

    @property
    def walkers(self) -> Walkers:
        """All walkers, weighted for the present parameters: no block is resampled or moved.

        What is evaluated for this is kept for the next who asks, and used by nobody else:
        to look at the walkers does not change the course of a run. Of walkers on several
        ranks all must ask.

        Raises:
            ArgumentError: The parameters have changed since the walkers followed them.
        """
        self.check_current()
        here = self._present_blocks()
        return join([self.team.whole(block) for block in here], self.active.steps)

    @walkers.setter
    def walkers(self, walkers: Walkers) -> None:
        blocks = split(walkers, self.block_size)
        for block in blocks:
            self._check_even(block.num_walkers)
        self._go_to([self.team.own(block) for block in blocks])

    @property
    def here(self) -> Walkers:
        """The same walkers, with positions of this rank alone: for who needs weights."""
        return join(self._present_blocks(), self.active.steps)

    @as_checked
    def is_current(self) -> bool:
        """Return whether the walkers are weighted for the parameters of the model now."""
        self.check_kind()
        if self.fully_sharded:
            return torch.equal(self._slice_sums, slice_sums(self.model))
        turn = self.place.turn
        behind = self.place.behind[turn] > 0
        block = self._present_blocks()[turn] if behind else self.active
        return is_current(
            self.model,
            self.team.parts(block)[0],
            chunk_size=self.tools.chunk_size,
        )

    def check_kind(self) -> None:
        """Raise if the model has been moved, so that its walkers cannot follow it."""
        kinds = zip(self.parameter_kind, kind_of(self.model), strict=True)
        for name, (was, now) in zip(("of", "on"), kinds, strict=True):
            if was != now:
                raise ArgumentError(
                    f"The walkers are {name} {was} and the model {name} {now}: move a "
                    "model by `to`, `double` or `float` before the learner or tracker is "
                    "built, or move it back."
                )

    def check_current(self) -> None:
        """Raise unless the walkers are weighted for the parameters of the model now."""
        if not self.is_current():
            raise ArgumentError(STALE)

    def look(self) -> None:
        """Evaluate walkers that wait, so that each rank knows all weights; all must ask."""
        self._present_blocks()

    @as_checked
    def _present_blocks(self) -> list[Walkers]:
        if self._present is None:
            known = zip(self.place.blocks, self.place.behind, strict=True)
            self._present = [
                self._reweighted(block) if behind else block for block, behind in known
            ]
        return self._present

    def _reweighted(self, block: Walkers) -> Walkers:
        def act(part: Walkers, own: Tools) -> tuple[Walkers, Tensor]:
            return reweight(part, self.model, own, None), torch.ones_like(part.log_banked)

        return self.team.each(block, self.tools, act, weighs=True)[0]

    @property
    def active(self) -> Walkers:
        """The block that followed last, which gives the gradient."""
        return self.place.blocks[self.place.turn]

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return len(self.place.blocks)

    @property
    def num_walkers(self) -> int:
        """Number of walkers."""
        return sum(block.num_walkers for block in self.place.blocks)

    @property
    def position(self) -> Tensor:
        """Positions of the walkers, `(N, *event)`; all ranks must ask."""
        blocks = self.place.whole(self.team).blocks
        position = map_tree(concatenate, *(block.position for block in blocks))
        assert isinstance(position, Tensor)
        return position

    @property
    def example(self) -> Tensor:
        """Some walker, to see of which shape, dtype and device they are, `(1, *event)`."""
        return self.shard[:1]

    @property
    def shard(self) -> Tensor:
        """Walkers of one shard that is here, to try things out, `(n, *event)`."""
        position = self.parts[0].position
        assert isinstance(position, Tensor)
        return position

    @property
    def shown(self) -> Tensor:
        """The same; of a network that ranks evaluate together all have those of rank 0."""
        if not self.fully_sharded:
            return self.shard
        shown = self.shard.clone()
        self.team.ranks.spread([shown])
        return shown

    @property
    def parts(self) -> list[Walkers]:
        """The shards of the active block that are here."""
        return self.team.parts(self.active)

    def sample(self, num: int, seed: int | None) -> Tensor:
        """Draw `num` walkers by their weights, `(num, *event)`; see `draw_index`."""
        return self.position[self.draw_index(num, seed)]

    def draw_index(self, num: int, seed: int | None) -> Tensor:
        """Draw the indices of `num` walkers by their weights, `(num,)`.

        By a seed of their own, or by the next numbers of the cloud's generator of draws.
        """
        count("num", num)
        log_weight = self.here.log_weight
        generator = self.draws
        if seed is not None:
            generator = stream(seed, "sample", log_weight.device)
        chosen = self.resampler(log_weight, num, generator)
        # Ancestors come sorted: shuffled, a part of the draws is a sample as well.
        order = torch.randperm(num, generator=generator, device=chosen.device)
        return chosen[order]

    def _check_even(self, num_walkers: int) -> None:
        """Raise where ranks would not evaluate a network equally often that they share."""
        if self.fully_sharded:
            check_even(num_walkers, self.team.num_shards)

    def _go_to(self, blocks: list[Walkers]) -> None:
        """Stand with these blocks at the present parameters."""
        self.place = Place(tuple(blocks), (0,) * len(blocks), 0)
