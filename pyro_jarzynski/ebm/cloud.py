"""Walkers that follow the parameters of a model under training.

A walker that stays where it is while the parameters change from `θ_j` to `θ_k` gets

    A += U_{θ_j}(X) - U_{θ_k}(X),

whatever they were in between: its weight telescopes. So a cloud need not follow every
update. It can wait, or send its walkers in blocks of which one follows per update, and has
exactly the weights that it would have if all had been evaluated every time.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.compiled_moves import CompiledEnergy
from pyro_jarzynski.core.kernels import Kernel, with_step_size
from pyro_jarzynski.core.memory import chunk_size_for
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import Resampler, get_resampler
from pyro_jarzynski.core.shortage import shortage_told
from pyro_jarzynski.core.states import walkers_state
from pyro_jarzynski.core.transitions import Tools, Visit, reweight
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import Walkers, init
from pyro_jarzynski.ebm.blocks import Place, concatenate, join, split
from pyro_jarzynski.ebm.energy import StartableEnergy, device_of
from pyro_jarzynski.ebm.soundness import check_kernel
from pyro_jarzynski.errors import ArgumentError, count, fraction


class Cloud:
    """Walkers weighted for a model, carried along when its parameters change.

    Args:
        model: The energy under training.
        num_walkers: Number of walkers `N`.
        kernel: How the walkers move.
        num_moves: Moves whenever walkers follow.
        ess_threshold: Resample a block when its `ESS` is below this share; 0 never does.
        resampler: A name or function of `core.resampling`.
        seed: Seed of the run.
        purpose: What the cloud is for; clouds of one run differ in it.
        block_size: Walkers of a block, of which one follows per update, each in its turn.
            Blocks are resampled by themselves. `None` is one block of all.
        chunk_size: Walkers per call of the model; `"auto"` takes as many as a cache holds,
            or a part of the memory of a GPU; `None` takes all at once.
        jit_compile: Whether to compile the moves of ULA and MALA.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), arXiv:2305.19414: the batches of
        walkers of its code for images, which evaluates all of them at every update.
    """

    place: Place
    _present: Walkers | None

    @torch.inference_mode(mode=False)
    def __init__(
        self,
        model: StartableEnergy,
        *,
        num_walkers: int,
        kernel: Kernel,
        num_moves: int,
        ess_threshold: float,
        resampler: str | Resampler,
        seed: int,
        purpose: str,
        block_size: int | None = None,
        chunk_size: int | str | None = None,
        jit_compile: bool = False,
    ) -> None:
        """Draw the first walkers."""
        count("num_walkers", num_walkers)
        check_kernel(kernel, model)
        self.model, self.kernel = model, kernel
        self.energy = CompiledEnergy(model) if jit_compile else model
        self.num_moves = count("moves_per_update", num_moves)
        self.ess_threshold = fraction("ess_threshold", ess_threshold)
        self.resampler = get_resampler(resampler)
        self.block_size = block_size
        size = num_walkers if block_size is None else block_size
        if count("walker_batch_size", size) > num_walkers:
            raise ArgumentError(
                f"`walker_batch_size` must be at most {num_walkers}, the number of "
                f"walkers, got {block_size}."
            )
        self.generator = stream(seed, purpose, device_of(model))
        with shortage_told(num_walkers):
            first = model.draw(num_walkers, self.generator)
        self.tools = Tools(self.generator, chunk_size_for(chunk_size, model, first))
        self.num_resamplings = 0
        self.restart(first, log_normalizer=model.start_log_normalizer())

    def restart(self, position: Tensor, *, log_normalizer: float = 0.0) -> None:
        """Put the walkers elsewhere, with equal weights."""
        # Draws may come sorted, mode by mode: each block takes some of every kind.
        blocks = -(-len(position) // (self.block_size or len(position)))
        rows = torch.arange(len(position), device=position.device)
        self.walkers = init(
            torch.cat([position[rows[first::blocks]] for first in range(blocks)]),
            self.model,
            log_normalizer=log_normalizer,
            chunk_size=self.tools.chunk_size,
            gradient=self.kernel.needs_gradient,
        )

    @property
    def walkers(self) -> Walkers:
        """All walkers, weighted for the present parameters: no block is resampled or moved.

        What is evaluated for this is kept for the next who asks, and used by nobody else:
        to look at the walkers does not change the course of a run.
        """
        if self._present is None:
            known = zip(self.place.blocks, self.place.behind, strict=True)
            present = [
                reweight(block, self.model, self.tools, None) if behind else block
                for block, behind in known
            ]
            self._present = join(present, self.active.steps)
        return self._present

    @walkers.setter
    def walkers(self, walkers: Walkers) -> None:
        blocks = split(walkers, self.block_size)
        self._go(Place(blocks, (0,) * len(blocks), 0))

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
        """Positions of the walkers, `(N, *event)`."""
        position = map_tree(concatenate, *(b.position for b in self.place.blocks))
        assert isinstance(position, Tensor)
        return position

    def mark(self) -> Any:
        """Return what `undo` needs to come back here."""
        return self.place, self.num_resamplings

    def undo(self, mark: Any) -> None:
        """Put the cloud back to where it was at the mark."""
        place, self.num_resamplings = mark
        self._go(place)

    def follow(self, visit: Visit | None = None) -> smc.StepInfo:
        """Carry the next block to the present parameters of the model."""
        turn = (self.place.turn + 1) % self.num_blocks
        block, info = smc.step(
            self.place.blocks[turn],
            self.energy,
            self.kernel,
            num_moves=self.num_moves,
            ess_threshold=self.ess_threshold,
            resampler=self.resampler,
            tools=self.tools,
            visit=visit,
        )
        self.wait()
        self._put(turn, block)
        self.num_resamplings += int(info.resampled)
        return info

    def wait(self) -> None:
        """Take note that the parameters have changed, without following them."""
        behind = tuple(number + 1 for number in self.place.behind)
        self._go(self.place._replace(behind=behind))

    def replace_next(self, draw: Callable[[int], Walkers]) -> None:
        """Put so many walkers of the present parameters in the place of the next block."""
        turn = (self.place.turn + 1) % self.num_blocks
        blocks, behind = list(self.place.blocks), list(self.place.behind)
        blocks[turn], behind[turn] = draw(blocks[turn].num_walkers), 0
        self._go(self.place._replace(blocks=tuple(blocks), behind=tuple(behind)))

    def relax(self) -> Tensor:
        """Move the block that followed last once more; return the acceptance rate."""
        block, rate = smc.move(
            self.active,
            self.energy,
            self.kernel,
            num_moves=self.num_moves,
            tools=self.tools,
        )
        self._put(self.place.turn, block)
        return rate

    def forget_weights(self) -> None:
        """Make the last block's weights equal again, as contrastive divergence does."""
        zero = torch.zeros_like(self.active.log_weight)
        self._put(self.place.turn, self.active._replace(log_weight=zero))

    def set_step_size(self, step_size: float) -> None:
        """Use another step size from now on."""
        self.kernel = with_step_size(self.kernel, step_size)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a continuation needs beside the parameters of the model."""
        return {
            "blocks": [walkers_state(block) for block in self.place.blocks],
            "behind": list(self.place.behind),
            "turn": self.place.turn,
            "step_size": self.kernel.step_size,
            "num_resamplings": self.num_resamplings,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore walkers that belong to the present parameters of the model.

        Raises:
            ArgumentError: They are of another shape or dtype.
        """
        place = self.place.restored(state)
        self.set_step_size(float(state["step_size"]))
        self.num_resamplings = int(state["num_resamplings"])
        self.generator.set_state(state["generator"].cpu())
        self._go(place)

    def sample(self, num: int, seed: int) -> Tensor:
        """Draw `num` walkers by their weights, `(num, *event)`."""
        return self.position[self.draw_index(num, seed)]

    def draw_index(self, num: int, seed: int) -> Tensor:
        """Draw the indices of `num` walkers by their weights, `(num,)`."""
        log_weight = self.walkers.log_weight
        generator = stream(seed, "sample", log_weight.device)
        chosen = self.resampler(log_weight, num, generator)
        # Ancestors come sorted: shuffled, a part of the draws is a sample as well.
        order = torch.randperm(num, generator=generator, device=chosen.device)
        return chosen[order]

    def _go(self, place: Place) -> None:
        self.place, self._present = place, None

    def _put(self, turn: int, block: Walkers) -> None:
        """Replace a block by walkers at the present parameters."""
        blocks, behind = list(self.place.blocks), list(self.place.behind)
        blocks[turn], behind[turn] = block, 0
        self._go(Place(tuple(blocks), tuple(behind), turn))
