"""A cloud of which only some walkers move per update, at the cost of these alone.

A walker that stays where it is while the parameters change from `θ_j` to `θ_k` gets

    A += U_{θ_j}(X) - U_{θ_k}(X),

whatever they were in between: its weight telescopes. So it is evaluated only when it is
touched, or when all weights are asked for, and has then exactly the weight that it would
have if it had been reweighted at every update.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.smc import StepInfo
from pyro_jarzynski.core.transitions import Visit, reweight
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.ebm.cloud import Cloud
from pyro_jarzynski.ebm.energy import StartableEnergy
from pyro_jarzynski.errors import ArgumentError, count


class Place(NamedTuple):
    """Where a pass stands: the rows that moved last, those to come, and the update."""

    active: Tensor
    pending: Tensor
    update: int


class Change(NamedTuple):
    """Some walkers as they were before a change, to undo it."""

    rows: Tensor
    walkers: Walkers
    touched: Tensor


class BatchedCloud(Cloud):
    """Walkers of which a batch moves at each update, every one once per pass.

    After each pass all weights are evaluated, and the cloud is resampled if its effective
    sample size is low.

    Args:
        model: The energy under training.
        batch_size: Walkers that move per update.
        num_walkers: Number of walkers `N`, at least `batch_size`.
        **settings: As of `Cloud`.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), arXiv:2305.19414: the batches of
        walkers of its code for images, which evaluates all of them at every update.
    """

    def __init__(
        self, model: StartableEnergy, *, batch_size: int, num_walkers: int, **settings: Any
    ) -> None:
        """Draw the first walkers."""
        if count("walker_batch_size", batch_size) > num_walkers:
            raise ArgumentError(
                f"`walker_batch_size` must be at most {num_walkers}, the number of "
                f"walkers, got {batch_size}."
            )
        self.batch_size = batch_size
        super().__init__(model, num_walkers=num_walkers, **settings)

    @property
    def walkers(self) -> Walkers:
        """All walkers, weighted for the present parameters of the model."""
        self.settle()
        # Those here are changed in place, so that an update costs no more than its batch.
        return map_tree(Tensor.clone, self._walkers)

    @walkers.setter
    def walkers(self, walkers: Walkers) -> None:
        self._walkers = map_tree(Tensor.clone, walkers)
        rows = torch.arange(walkers.num_walkers, device=walkers.log_weight.device)
        self._touched = torch.zeros_like(rows)
        self._place = Place(rows[: self.batch_size], rows[:0], 0)
        self._changes: list[Change] = []

    @property
    def position(self) -> Tensor:
        """Positions of the walkers, `(N, *event)`."""
        assert isinstance(self._walkers.position, Tensor)
        return self._walkers.position

    @property
    def active(self) -> Walkers:
        """The walkers that moved last, which give the gradient."""
        return take(self._walkers, self._place.active)

    @property
    def num_walkers(self) -> int:
        """Number of walkers."""
        return self._walkers.num_walkers

    def prepare(self) -> None:
        """Weight the next batch for the parameters before an update.

        A kernel that moves walkers from one energy to the next needs their gradient there;
        the weights of others telescope without.
        """
        if self.kernel.moves_on_switch:
            self._refresh(self._next())

    def follow(self, visit: Visit | None = None) -> StepInfo:
        """Carry the next batch to the present parameters of the model."""
        rows = self._next()
        moved, info = smc.step(
            take(self._walkers, rows),
            self.model,
            self.kernel,
            num_moves=self.num_moves,
            ess_threshold=0.0,
            tools=self.tools,
            visit=visit,
        )
        if moved.momentum is not None:
            raise ArgumentError(
                "`walker_batch_size` needs a kernel without momenta that it keeps: ULA, "
                f"MALA or HMC, got {type(self.kernel).__name__}."
            )
        left = self._place.pending[len(rows) :]
        self._place = Place(rows, left, self._place.update + 1)
        self._put(rows, moved)
        if not len(left):
            self._finish_pass()
        return info

    def settle(self) -> None:
        """Weight all walkers for the present parameters of the model."""
        stale = (self._touched < self._place.update).nonzero().squeeze(1)
        if len(stale):
            self._refresh(stale)

    def mark(self) -> Any:
        """Return what `undo` needs to come back here, without a copy of the cloud."""
        self._changes = []
        return self._place, self._walkers.log_banked, self._walkers.steps

    def undo(self, mark: Any) -> None:
        """Put the cloud back to where it was at the last mark."""
        for rows, walkers, touched in reversed(self._changes):
            place(self._walkers, rows, walkers)
            self._touched[rows] = touched
        self._place, banked, steps = mark
        self._walkers = self._walkers._replace(log_banked=banked, steps=steps)
        self._changes = []

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a continuation needs beside the parameters of the model."""
        place = self._place
        return super().state_dict() | {"active": place.active, "pending": place.pending}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore walkers that belong to the present parameters of the model."""
        super().load_state_dict(state)
        self._place = Place(state["active"], state["pending"], self._place.update)

    def _next(self) -> Tensor:
        """Return the rows of the next batch, `(B,)`."""
        if not len(self._place.pending):
            order = torch.randperm(
                self.num_walkers, generator=self.generator, device=self._touched.device
            )
            self._place = self._place._replace(pending=order)
        return self._place.pending[: self.batch_size]

    def _refresh(self, rows: Tensor) -> None:
        self._put(rows, reweight(take(self._walkers, rows), self.model, self.tools, None))

    def _put(self, rows: Tensor, walkers: Walkers) -> None:
        """Change some walkers, which are now weighted for the present parameters."""
        before = take(self._walkers, rows)
        self._changes.append(Change(rows, before, self._touched[rows]))
        place(self._walkers, rows, walkers)
        self._touched[rows] = self._place.update
        scalars = {"log_banked": walkers.log_banked, "steps": walkers.steps}
        self._walkers = self._walkers._replace(**scalars)

    def _finish_pass(self) -> None:
        """Resample if the effective sample size is low."""
        self.settle()
        walkers = self._walkers
        resampled, low = smc.resample_if_low(
            walkers, walkers.ess, self.ess_threshold, self.resampler, self.tools
        )
        if low:
            self.num_resamplings += 1
            self._put(torch.arange(self.num_walkers, device=low.device), resampled)


def take(walkers: Walkers, rows: Tensor) -> Walkers:
    """Return some walkers, with all that is known of the cloud."""
    return map_tree(lambda x: x[rows] if x.ndim else x, walkers)


def place(walkers: Walkers, rows: Tensor, part: Walkers) -> None:
    """Write some walkers over those at `rows`."""

    def write(whole: Tensor, some: Tensor) -> Tensor:
        return whole.index_copy_(0, rows, some) if whole.ndim else whole

    map_tree(write, walkers, part)
