"""A cloud of walkers that follows the parameters of a model under training."""

from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.evaluation import evaluate
from pyro_jarzynski.core.kernels import Kernel, with_step_size
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import Resampler, get_resampler
from pyro_jarzynski.core.transitions import Tools, Visit
from pyro_jarzynski.core.walkers import Walkers, init
from pyro_jarzynski.ebm.energy import StartableEnergy, device_of
from pyro_jarzynski.ebm.soundness import check_kernel
from pyro_jarzynski.errors import ArgumentError, count, fraction

# What of walkers is kept; energies are evaluated anew.
KEPT = ("position", "log_weight", "log_banked", "ancestor", "steps")


class Cloud:
    """Walkers weighted for a model, carried along whenever its parameters change.

    Args:
        model: The energy under training.
        num_walkers: Number of walkers `N`.
        kernel: How the walkers move.
        num_moves: Moves per change of the parameters.
        ess_threshold: Resample when `ESS < ess_threshold N`; 0 never does.
        resampler: A name or function of `core.resampling`.
        seed: Seed of the run.
        purpose: What the cloud is for; clouds of one run differ in it.
        chunk_size: Walkers per call of the model; `None` takes all at once.
    """

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
        chunk_size: int | None,
    ) -> None:
        """Draw the first walkers."""
        count("num_walkers", num_walkers)
        check_kernel(kernel, model)
        self.model, self.kernel = model, kernel
        self.num_moves = count("moves_per_update", num_moves)
        self.ess_threshold = fraction("ess_threshold", ess_threshold)
        self.resampler = get_resampler(resampler)
        if chunk_size is not None:
            count("chunk_size", chunk_size)
        self.generator = stream(seed, purpose, device_of(model))
        self.tools = Tools(self.generator, chunk_size)
        self.num_resamplings = 0
        first = model.draw(num_walkers, self.generator)
        self.restart(first, log_normalizer=model.start_log_normalizer())

    def restart(self, position: Tensor, *, log_normalizer: float = 0.0) -> None:
        """Put the walkers elsewhere, with equal weights."""
        self.walkers = init(
            position,
            self.model,
            log_normalizer=log_normalizer,
            chunk_size=self.tools.chunk_size,
            gradient=self.kernel.needs_gradient,
        )

    @property
    def position(self) -> Tensor:
        """Positions of the walkers, `(N, *event)`."""
        position = self.walkers.position
        assert isinstance(position, Tensor)
        return position

    @property
    def active(self) -> Walkers:
        """The walkers that give the gradient."""
        return self.walkers

    @property
    def num_walkers(self) -> int:
        """Number of walkers."""
        return self.walkers.num_walkers

    def prepare(self) -> None:
        """Make ready for an update of the parameters."""

    def mark(self) -> Any:
        """Return what `undo` needs to come back here."""
        return self.walkers

    def undo(self, mark: Any) -> None:
        """Put the cloud back to where it was at the last mark."""
        self.walkers = mark

    def follow(self, visit: Visit | None = None) -> smc.StepInfo:
        """Carry the walkers to the present parameters of the model."""
        self.walkers, info = smc.step(
            self.walkers,
            self.model,
            self.kernel,
            num_moves=self.num_moves,
            ess_threshold=self.ess_threshold,
            resampler=self.resampler,
            tools=self.tools,
            visit=visit,
        )
        self.num_resamplings += int(info.resampled)
        return info

    def relax(self) -> Tensor:
        """Move the walkers under the model they are at; return the acceptance rate."""
        self.walkers, rate = smc.move(
            self.walkers,
            self.model,
            self.kernel,
            num_moves=self.num_moves,
            tools=self.tools,
        )
        return rate

    def forget_weights(self) -> None:
        """Make all weights equal again, as contrastive divergence does."""
        zero = torch.zeros_like(self.walkers.log_weight)
        self.walkers = self.walkers._replace(log_weight=zero)

    def set_step_size(self, step_size: float) -> None:
        """Use another step size from now on."""
        self.kernel = with_step_size(self.kernel, step_size)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a continuation needs beside the parameters of the model."""
        walkers = self.walkers
        state = {name: getattr(walkers, name) for name in KEPT}
        if isinstance(walkers.momentum, Tensor):
            state["momentum"] = walkers.momentum
        return state | {
            "step_size": torch.tensor(self.kernel.step_size, dtype=torch.float64),
            "num_resamplings": torch.tensor(self.num_resamplings),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore walkers that belong to the present parameters of the model.

        Raises:
            ArgumentError: They are of another shape.
        """
        if state["position"].shape[1:] != self.position.shape[1:]:
            raise ArgumentError(
                f"`state` must have walkers of shape {tuple(self.position.shape[1:])}, got "
                f"{tuple(state['position'].shape[1:])}: it is of another model."
            )
        kept = {name: state[name].to(self.position.device) for name in KEPT}
        evaluation = evaluate(
            self.model,
            kept["position"],
            chunk_size=self.tools.chunk_size,
            gradient=self.kernel.needs_gradient,
        )
        self.walkers = self.walkers._replace(
            **kept, evaluation=evaluation, momentum=state.get("momentum")
        )
        self.set_step_size(float(state["step_size"]))
        self.num_resamplings = int(state["num_resamplings"])
        self.generator.set_state(state["generator"].cpu())

    def sample(self, num: int, seed: int) -> Tensor:
        """Draw `num` walkers by their weights, `(num, *event)`."""
        return self.position[self.draw_index(num, seed)]

    def draw_index(self, num: int, seed: int) -> Tensor:
        """Draw the indices of `num` walkers by their weights, `(num,)`."""
        generator = stream(seed, "sample", self.walkers.log_weight.device)
        chosen = self.resampler(self.walkers.log_weight, num, generator)
        # Ancestors come sorted: shuffled, a part of the draws is a sample as well.
        order = torch.randperm(num, generator=generator, device=chosen.device)
        return chosen[order]
