"""Kernels: how walkers move, and what the move does to their log-weights.

A kernel has two methods, with one meaning for all of them:

    switch(walkers, energy)     from the walkers' energy `U_k` to the next, `U_{k+1}`
    move(walkers, energy)       one more move under the energy that they are at

A kernel that leaves `e^{-U}/Z` invariant (MALA, HMC) only reweights when it switches,
`A += U_k(X) - U_{k+1}(X)`, and its moves change no weight. An unadjusted kernel (ULA,
underdamped Langevin) switches by moving, and each of its moves is weighted exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.core import langevin, weights
from pyro_jarzynski.core.evaluation import (
    Energy,
    Evaluation,
    evaluate,
    is_outside,
    reevaluate,
)
from pyro_jarzynski.core.noise import normal_like
from pyro_jarzynski.core.preconditioner import Covariance, Factor, factorise
from pyro_jarzynski.core.trees import Position, map_tree, select
from pyro_jarzynski.core.walkers import Walkers, drop, find_outside
from pyro_jarzynski.errors import fraction, positive

# Called on chunks of walkers under the new energy, as `visit(rows, energy, log_weight)`,
# while the graph of their energies `(n,)` is alive.
Visit: TypeAlias = Callable[[slice, Tensor, Tensor], None]


# A move whose total energy rises by more, in nats, has diverged: it is refused as it would
# be anyway, and a NaN that it ran into is no fault of the energy.
MAX_ENERGY_ERROR = 1000.0


class Tools(NamedTuple):
    """What a move needs beside walkers and energy.

    Attributes:
        generator: Source of randomness on the walkers' device; `None` is torch's own.
        chunk_size: Walkers per call of the energy; `None` takes all at once.
    """

    generator: torch.Generator | None = None
    chunk_size: int | None = None


class Kernel(Protocol):
    """What the loop asks of a kernel; the module's docstring has the meaning."""

    @property
    def step_size(self) -> float:
        """Size of a move."""

    @property
    def langevin_step(self) -> float:
        """The Langevin step `h` that a move is made of, in squared units."""

    def with_langevin_step(self, langevin_step: float) -> "Kernel":
        """Return this kernel with moves made of another Langevin step."""

    @property
    def preconditioner(self) -> Covariance:
        """Covariance `C` that scales moves."""

    @property
    def factor(self) -> Factor:
        """Factor `L` of the preconditioner."""

    @property
    def target_acceptance(self) -> float | None:
        """Acceptance rate at which adaptation keeps the step size, if there is one."""

    @property
    def moves_on_switch(self) -> bool:
        """Whether `switch` moves the walkers, so that every move is weighted."""

    def switch(
        self, walkers: Walkers, energy: Energy, tools: Tools, visit: Visit | None = None
    ) -> Walkers:
        """Carry walkers to another energy, with the exact weight of doing so."""

    def move(
        self, walkers: Walkers, energy: Energy, tools: Tools
    ) -> tuple[Walkers, Tensor]:
        """Move walkers under their energy; return them and their acceptance rate."""


@dataclass(frozen=True)
class ULA:
    """Unadjusted Langevin, with the exact correction in the log-weight.

    `X' = X - h C ∇U_k(X) + √(2hT) L ξ` and `A' = A + (α_k(X, X') - α_{k+1}(X', X)) / T`.
    The weights are exact for every `h`; their variance is finite for `h λ < 2`, with `λ`
    the largest curvature of `U` in the metric of `C`.

    Args:
        step_size: `h > 0`, in squared units of the position.
        preconditioner: Covariance `C`, see `core.preconditioner`; `None` is the identity.
        temperature: `T > 0`: the walkers stand for `e^{-U/T}`.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), arXiv:2305.19414, Algorithm 1.
    """

    step_size: float = 0.05
    preconditioner: Covariance = field(default=None, compare=False)
    temperature: float = 1.0
    target_acceptance: float | None = field(default=None, init=False)
    moves_on_switch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        positive("step_size", self.step_size)
        positive("temperature", self.temperature)

    @property
    def langevin_step(self) -> float:
        """The Langevin step `h` that a move is made of, in squared units."""
        return self.step_size

    def with_langevin_step(self, langevin_step: float) -> "ULA":
        """Return this kernel with moves made of another Langevin step."""
        return replace(self, step_size=langevin_step)

    @cached_property
    def factor(self) -> Factor:
        """Factor `L` of the preconditioner."""
        return factorise(self.preconditioner)

    def switch(
        self, walkers: Walkers, energy: Energy, tools: Tools, visit: Visit | None = None
    ) -> Walkers:
        """Move every walker once and weight the move from its energy to `energy`."""
        here, step = walkers.evaluation, self.step_size
        noise = self._noise(walkers.position, tools)
        end = langevin.propose(walkers.position, here.grad, noise, step, self.factor)

        def weigh(rows: slice, there: Evaluation) -> Tensor:
            start, known, stop = rows_of((walkers.position, here, end), rows)
            ratio = langevin.log_ratio(start, known, stop, there, step, self.factor)
            return weights.add(walkers.log_weight[rows], ratio / self.temperature)

        there, log_weight = weighed(energy, end, weigh, tools, visit)
        moved = walkers._replace(position=end, evaluation=there, log_weight=log_weight)
        return drop(moved, find_outside(walkers, there, unadjusted=True), stay=walkers)

    def move(
        self, walkers: Walkers, energy: Energy, tools: Tools
    ) -> tuple[Walkers, Tensor]:
        """Move every walker once under its energy, weighting the discretisation."""
        return self.switch(walkers, energy, tools), torch.ones_like(walkers.log_banked)

    def _noise(self, position: Position, tools: Tools) -> Position:
        noise = normal_like(position, tools.generator)
        if self.temperature == 1:
            return noise
        return map_tree(lambda xi: xi * self.temperature**0.5, noise)


@dataclass(frozen=True)
class MALA:
    """Metropolis-adjusted Langevin: the move of ULA, accepted or refused.

    `Y = X - h C ∇U(X) + √(2h) L ξ` is accepted with probability
    `min(1, exp(α(X, Y) - α(Y, X)))`.

    Args:
        step_size: `h > 0`, in squared units of the position.
        preconditioner: Covariance `C`, see `core.preconditioner`; `None` is the identity.
        target_acceptance: Acceptance rate at which adaptation keeps the step size.

    Source:
        Roberts, Tweedie (1996), Bernoulli 2(4); optimal rate 0.574 of Roberts,
        Rosenthal (1998), J. R. Stat. Soc. B 60(1).
    """

    step_size: float = 0.05
    preconditioner: Covariance = field(default=None, compare=False)
    target_acceptance: float | None = 0.6
    moves_on_switch: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        positive("step_size", self.step_size)
        if self.target_acceptance is not None:
            fraction("target_acceptance", self.target_acceptance)

    @property
    def langevin_step(self) -> float:
        """The Langevin step `h` that a move is made of, in squared units."""
        return self.step_size

    def with_langevin_step(self, langevin_step: float) -> "MALA":
        """Return this kernel with moves made of another Langevin step."""
        return replace(self, step_size=langevin_step)

    @cached_property
    def factor(self) -> Factor:
        """Factor `L` of the preconditioner."""
        return factorise(self.preconditioner)

    def switch(
        self, walkers: Walkers, energy: Energy, tools: Tools, visit: Visit | None = None
    ) -> Walkers:
        """Weight the walkers, where they are, for `energy`."""
        return reweight(walkers, energy, tools, visit)

    def move(
        self, walkers: Walkers, energy: Energy, tools: Tools
    ) -> tuple[Walkers, Tensor]:
        """Propose one Langevin move for every walker, and accept or refuse it."""
        here, step = walkers.evaluation, self.step_size
        noise = normal_like(walkers.position, tools.generator)
        end = langevin.propose(walkers.position, here.grad, noise, step, self.factor)
        there = evaluate(energy, end, chunk_size=tools.chunk_size)
        ratio = langevin.log_ratio(walkers.position, here, end, there, step, self.factor)
        runaway = langevin.drift_energy(here, step, self.factor) > MAX_ENERGY_ERROR
        return metropolis(walkers, end, there, ratio, tools, excused=runaway)


def with_step_size(kernel: Kernel, step_size: float) -> Kernel:
    """Return a kernel of another step size; kernels are dataclasses."""
    settings: Any = kernel
    return replace(settings, step_size=step_size)


def with_preconditioner(kernel: Kernel, covariance: Covariance) -> Kernel:
    """Return a kernel of another preconditioner."""
    settings: Any = kernel
    return replace(settings, preconditioner=covariance)


def reweight(
    walkers: Walkers, energy: Energy, tools: Tools, visit: Visit | None
) -> Walkers:
    """Return the walkers, where they are, with `A += U_k(X) - U_{k+1}(X)`."""
    here = walkers.evaluation

    def weigh(rows: slice, there: Evaluation) -> Tensor:
        gain = here.energy[rows].to(torch.float64) - there.energy.to(torch.float64)
        return weights.add(walkers.log_weight[rows], gain)

    there, log_weight = weighed(energy, walkers.position, weigh, tools, visit, here)
    switched = walkers._replace(evaluation=there, log_weight=log_weight)
    return drop(switched, find_outside(walkers, there))


def metropolis(
    walkers: Walkers,
    end: Position,
    there: Evaluation,
    log_ratio: Tensor,
    tools: Tools,
    *,
    excused: Tensor | None = None,
) -> tuple[Walkers, Tensor]:
    """Accept moves to `end` with probability `min(1, e^{log_ratio})`.

    Points of density zero are refused, and so is NaN, which is told unless `excused`.
    Returns the walkers and their mean acceptance probability, `()` or one per island.
    """
    refused = find_outside(walkers, there, excused=excused)
    probability = torch.where(refused, 0.0, log_ratio.clamp(max=0).exp())
    uniform = torch.rand(
        probability.shape,
        dtype=torch.float64,
        device=probability.device,
        generator=tools.generator,
    )
    position, evaluation = select(
        uniform < probability, (end, there), (walkers.position, walkers.evaluation)
    )
    moved = walkers._replace(position=position, evaluation=evaluation)
    return moved, walkers.by_island(probability).mean(-1)


def weighed(
    energy: Energy,
    position: Position,
    weigh: Callable[[slice, Evaluation], Tensor],
    tools: Tools,
    visit: Visit | None,
    known: Evaluation | None = None,
) -> tuple[Evaluation, Tensor]:
    """Evaluate an energy and the log-weights under it, showing chunks to `visit`.

    Args:
        energy: The energy to evaluate.
        position: Where to evaluate it.
        weigh: Returns the new log-weights of some rows from their evaluation.
        tools: Chunk size.
        visit: Sees each chunk while its graph is alive.
        known: An evaluation of another energy at the same position.

    Returns:
        The evaluation and the log-weights, `(N,)`.
    """
    chunk_size = tools.chunk_size
    if visit is None:
        if known is None:
            there = evaluate(energy, position, chunk_size=chunk_size)
        else:
            there = reevaluate(energy, position, known, chunk_size=chunk_size)
        return there, weigh(slice(None), there)
    parts: list[Tensor] = []

    def on_chunk(rows: slice, values: Tensor, there: Evaluation) -> None:
        parts.append(weigh(rows, there))
        outside, broken = is_outside(there)
        visit(rows, values, parts[-1].masked_fill(outside | broken, -torch.inf))

    there = evaluate(energy, position, chunk_size=chunk_size, visit=on_chunk)
    return there, torch.cat(parts)


def rows_of(tree: tuple, rows: slice) -> tuple:
    """Return some rows of all tensors of a tree."""
    return map_tree(lambda x: x[rows], tree)
