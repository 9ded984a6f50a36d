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
from pyro_jarzynski.core.kernels import MALA, ULA, Kernel, with_step_size
from pyro_jarzynski.core.memory import chunk_size_for
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.noise import set_state, stream
from pyro_jarzynski.core.resampling import Resampler, get_resampler
from pyro_jarzynski.core.sharing import team_for
from pyro_jarzynski.core.shortage import shortage_told
from pyro_jarzynski.core.slices import is_sliced
from pyro_jarzynski.core.team import WHOLE, Tools
from pyro_jarzynski.core.transitions import Visit
from pyro_jarzynski.core.walkers import Walkers, init
from pyro_jarzynski.ebm.check import Plan
from pyro_jarzynski.ebm.module_modes import ModuleModes, as_checked
from pyro_jarzynski.ebm.soundness import check_kernel, check_parameters
from pyro_jarzynski.ebm.standing import Standing
from pyro_jarzynski.ebm.startable import StartableEnergy, device_of, kind_of
from pyro_jarzynski.ebm.wrapped import check_wrapping, is_fully_sharded
from pyro_jarzynski.errors import ArgumentError, count, fraction


class Cloud(Standing):
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
        start_temperatures: Steps of the inverse temperature by which the first walkers are
            annealed from the base to a model that is trained already; `None` draws them.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), arXiv:2305.19414: the batches of
        walkers of its code for images, which evaluates all of them at every update.
    """

    @standard_modes()
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
        start_temperatures: int | None = None,
    ) -> None:
        """Draw or anneal the first walkers."""
        count("num_walkers", num_walkers)
        check_kernel(kernel, model)
        check_parameters("model", model)
        self.team = team_for(seed=seed, purpose=purpose, device=device_of(model))
        check_wrapping(model, self.team)
        self.fully_sharded = is_fully_sharded(model)
        if jit_compile and self.fully_sharded:
            raise ArgumentError(
                "`jit_compile` must be false for a network that `fully_shard` has sliced: "
                "compiled code would not gather its parameters."
            )
        if jit_compile and not isinstance(kernel, ULA | MALA):
            raise ArgumentError(
                "`jit_compile` must be false for kernels other than ULA() and MALA(), the "
                f"only ones that are compiled; `kernel` is {type(kernel).__name__}."
            )
        self.model, self.kernel = model, kernel
        self.module_modes = ModuleModes(model)
        self.parameter_kind = kind_of(model)
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
        self.draws = stream(seed, f"draws of {purpose}", device_of(model))
        # Each rank may have made its network by random numbers of its own.
        state = model.state_dict().values()
        self.team.ranks.spread(x for x in state if not is_sliced(x))
        with shortage_told(num_walkers):
            first = model.draw(num_walkers, self.generator)
        chunk_size = chunk_size_for(chunk_size, model, first)
        self.tools = Tools(self.generator, chunk_size, self.team)
        self.num_resamplings = 0
        if start_temperatures is None:
            self.restart(first, log_normalizer=model.start_log_normalizer())
        else:
            self._anneal(count("start_temperatures", start_temperatures), num_walkers)

    @as_checked
    def restart(self, position: Tensor, *, log_normalizer: float = 0.0) -> None:
        """Put the walkers elsewhere, with equal weights."""
        # Draws may come sorted, mode by mode: each block takes some of every kind.
        blocks = -(-len(position) // (self.block_size or len(position)))
        position = torch.cat([position[first::blocks] for first in range(blocks)])
        size = self.block_size or len(position)
        self._go_to(
            [
                self._begin(position[first : first + size], first, log_normalizer)
                for first in range(0, len(position), size)
            ]
        )

    @as_checked
    def _anneal(self, num_temperatures: int, num_walkers: int) -> None:
        """Put walkers here that are annealed from the base, each block by itself."""
        seed = torch.randint(2**62, (), generator=self.generator, device=self.draws.device)
        plan = Plan.make(
            self.model,
            num_temperatures=num_temperatures,
            kernel=self.kernel,
            seed=int(seed),
            chunk_size=self.tools.chunk_size,
        )
        size, blocks = self.block_size or num_walkers, []
        for first in range(0, num_walkers, size):
            number = min(size, num_walkers - first)
            self._check_even(number)
            block = plan.go_up(number)
            blocks.append(self.team.own(block._replace(ancestor=block.ancestor + first)))
        self._go_to(blocks)

    def _begin(self, position: Tensor, first: int, log_normalizer: float) -> Walkers:
        """Return the block from walker `first` on, of which each rank evaluates its own."""

        def place(rows: slice, generator: torch.Generator, shard: str) -> Walkers:
            del generator, shard
            return init(
                position[rows],
                self.model,
                log_normalizer=log_normalizer,
                chunk_size=self.tools.chunk_size,
                gradient=self.kernel.needs_gradient,
            )

        self._check_even(len(position))
        block = self.team.start(len(position), self.generator, place, None)
        return block._replace(ancestor=block.ancestor + first)

    def gather(self) -> None:
        """Give every rank all walkers, to go on alone; all must ask."""
        self.place = self.place.whole(self.team)
        self.team = WHOLE
        self.tools = self.tools._replace(team=WHOLE)

    def mark(self) -> Any:
        """Return what `undo` needs to come back here."""
        return self.place, self.num_resamplings, self.kernel

    def undo(self, mark: Any) -> None:
        """Put the cloud back to where it was at the mark."""
        self.place, self.num_resamplings, self.kernel = mark

    @as_checked
    def follow(self, visit: Visit | None = None) -> smc.StepInfo:
        """Carry the next block to the present parameters of the model."""
        self.check_kind()
        turn = self.place.next
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
        self.place = self.place.later().put(turn, block)._replace(turn=turn)
        self.num_resamplings += int(info.resampled)
        return info

    def wait(self) -> None:
        """Take note that the parameters have changed, without following them."""
        self.place = self.place.later()

    @as_checked
    def replace_next(self, draw: Callable[[int], Walkers]) -> None:
        """Put so many walkers of the present parameters in the place of the next block."""
        number = self.place.next
        fresh = self.team.own(draw(self.place.blocks[number].num_walkers))
        self.place = self.place.put(number, fresh)

    @as_checked
    def relax(self) -> Tensor:
        """Move the block that followed last once more; return the acceptance rate."""
        block, rate = smc.move(
            self.active,
            self.energy,
            self.kernel,
            num_moves=self.num_moves,
            tools=self.tools,
        )
        self.place = self.place.put(self.place.turn, block)
        return rate

    def forget_weights(self) -> None:
        """Make the last block's weights equal again, as contrastive divergence does."""
        zero = torch.zeros_like(self.active.log_weight)
        equal = self.active._replace(log_weight=zero)
        self.place = self.place.put(self.place.turn, equal)

    def set_step_size(self, step_size: float) -> None:
        """Use another step size from now on."""
        self.kernel = with_step_size(self.kernel, step_size)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a continuation needs beside the parameters of the model."""
        return {
            "place": self.place.state(self.team),
            "step_size": self.kernel.step_size,
            "num_resamplings": self.num_resamplings,
            "generator": self.generator.get_state(),
            "draws": self.draws.get_state(),
            "generators": self.team.generators_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore walkers that belong to the present parameters of the model.

        Raises:
            ArgumentError: They are of another shape or dtype.
        """
        place = self.place.restored(state["place"], self.team)
        self.set_step_size(float(state["step_size"]))
        self.num_resamplings = int(state["num_resamplings"])
        set_state(self.generator, state["generator"])
        set_state(self.draws, state["draws"])
        self.team.set_generators(state["generators"])
        self.place = place
