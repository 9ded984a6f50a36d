"""Kernels: how walkers move, and what the move does to their log-weights.

A kernel has two methods, with one meaning for all of them:

    switch(walkers, energy)     from the walkers' energy `U_k` to the next, `U_{k+1}`
    move(walkers, energy)       one more move under the energy that they are at

A kernel that leaves `e^{-U}/Z` invariant (MALA, HMC, Gibbs) only reweights to switch,
`A += U_k(X) - U_{k+1}(X)`, and its moves change no weight. An unadjusted kernel (ULA,
underdamped Langevin) switches by moving, and each of its moves is weighted exactly.
"""

import math
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from pyro_jarzynski.core import langevin, weights
from pyro_jarzynski.core.evaluation import Energy, Evaluation
from pyro_jarzynski.core.noise import normal_like
from pyro_jarzynski.core.preconditioner import (
    Covariance,
    Factor,
    factorise,
    scale_transposed,
)
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.transitions import (
    MAX_ENERGY_ERROR,
    Invariant,
    Visit,
    metropolis,
    rows_of,
    weighed,
)
from pyro_jarzynski.core.trees import Position, map_tree, select
from pyro_jarzynski.core.turning import find_turned
from pyro_jarzynski.core.walkers import Walkers, drop, find_outside
from pyro_jarzynski.errors import fraction, positive


class Kernel(Protocol):
    """What the engine asks of a kernel: to switch walkers from energy to energy, and moves.

    `switch(walkers, energy, tools)` carries walkers from their energy `U_k` to `U_{k+1}`;
    `move(walkers, energy, tools)` moves them once more under the energy that they are at.
    A kernel whose moves leave `e^{-U}/Z` invariant takes `switch` from `Invariant`; that of
    an unadjusted one moves the walkers, with the exact ratio of the backward to the forward
    move in their log-weights. The other attributes are read by adaptation.

    Source:
        Del Moral, Doucet, Jasra (2006), J. R. Stat. Soc. B 68(3).
    """

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

    @property
    def needs_gradient(self) -> bool:
        """Whether walkers must carry the gradient of their energy."""

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
    the largest curvature of `U` in the metric of `C`. Moves that end outside of the support
    of an energy with a method `in_support` are turned back, see `core.turning`.

    Args:
        step_size: `h > 0`, in squared units of the position.
        preconditioner: Covariance `C`, see `core.preconditioner`; `None` is the identity.
        temperature: `T > 0`: the walkers stand for `e^{-U/T}`.

    Raises:
        ArgumentError: Step size or temperature is not positive.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), arXiv:2305.19414, Algorithm 1.

    Example:
        >>> kernel = pj.ULA(0.1)
        >>> kernel.moves_on_switch, kernel.with_langevin_step(0.2).step_size
        (True, 0.2)
    """

    step_size: float = 0.05
    preconditioner: Covariance = field(default=None, compare=False)
    temperature: float = 1.0
    target_acceptance: float | None = field(default=None, init=False)
    moves_on_switch: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = True

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
        if visit is None:
            made = _trial(self, walkers, energy, noise, tools, turns=True)
            gain = made.log_ratio / self.temperature
            log_weight = weights.add(walkers.log_weight, gain)
            return self._settled(walkers, made.end, made.there, log_weight, tools)
        slope = scale_transposed(self.factor, here.grad)
        far = langevin.propose(walkers.position, slope, noise, step, self.factor)
        turned = find_turned(energy, walkers.position, far, chunk_size=tools.chunk_size)
        end = far if turned is None else select(turned, walkers.position, far)

        def weigh(rows: slice, there: Evaluation) -> Tensor:
            start, known, stop, back = rows_of((walkers.position, here, far, turned), rows)
            ratio = langevin.log_ratio(
                start, known, stop, there, step, self.factor, turned=back
            )
            return weights.add(walkers.log_weight[rows], ratio / self.temperature)

        there, log_weight = weighed(energy, end, weigh, tools, visit)
        return self._settled(walkers, end, there, log_weight, tools)

    def _settled(
        self,
        walkers: Walkers,
        end: Position,
        there: Evaluation,
        log_weight: Tensor,
        tools: Tools,
    ) -> Walkers:
        moved = walkers._replace(position=end, evaluation=there, log_weight=log_weight)
        outside = find_outside(walkers, there, end, where="moved", faults=tools.faults)
        return drop(moved, outside, stay=walkers)

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
class MALA(Invariant):
    """Metropolis-adjusted Langevin: the move of ULA, accepted or refused.

    `Y = X - h C ∇U(X) + √(2h) L ξ` is accepted with probability
    `min(1, exp(α(X, Y) - α(Y, X)))`.

    Args:
        step_size: `h > 0`, in squared units of the position.
        preconditioner: Covariance `C`, see `core.preconditioner`; `None` is the identity.
        target_acceptance: Acceptance rate at which adaptation keeps the step size; `None`
            leaves the step size as it is.

    Source:
        Roberts, Tweedie (1996), Bernoulli 2(4); optimal rate 0.574 of Roberts,
        Rosenthal (1998), J. R. Stat. Soc. B 60(1).

    Example:
        >>> energy = lambda x: x.square().sum(1) / 2
        >>> generator = torch.Generator().manual_seed(0)
        >>> walkers = pj.init(torch.randn(1000, 3, generator=generator), energy)
        >>> moved, rate = pj.MALA(0.1).move(walkers, energy, pj.Tools(generator))
        >>> 0.9 < float(rate) < 1
        True
    """

    step_size: float = 0.05
    preconditioner: Covariance = field(default=None, compare=False)
    target_acceptance: float | None = 0.6
    needs_gradient: ClassVar[bool] = True

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

    def move(
        self, walkers: Walkers, energy: Energy, tools: Tools
    ) -> tuple[Walkers, Tensor]:
        """Propose one Langevin move for every walker, and accept or refuse it."""
        noise = normal_like(walkers.position, tools.generator)
        made = _trial(self, walkers, energy, noise, tools)
        runaway = made.drift_energy(self.step_size) > MAX_ENERGY_ERROR
        return metropolis(
            walkers, made.end, made.there, made.log_ratio, tools, excused=runaway
        )


def _trial(
    kernel: ULA | MALA,
    walkers: Walkers,
    energy: Energy,
    noise: Position,
    tools: Tools,
    *,
    turns: bool = False,
) -> langevin.Trial:
    """Return a Langevin move of every walker under `energy`, by the kernel's step."""
    return langevin.trial(
        energy,
        walkers.position,
        walkers.evaluation,
        noise,
        kernel.step_size,
        kernel.factor,
        turns=turns,
        chunk_size=tools.chunk_size,
    )


def with_step_size(kernel: Kernel, step_size: float) -> Kernel:
    """Return a kernel of another step size, unless it has none that can change."""
    if math.isnan(kernel.step_size) or not _has_field(kernel, "step_size"):
        return kernel
    settings: Any = kernel
    changed = replace(settings, step_size=step_size)
    if _has_field(kernel, "preconditioner"):
        # It is the same, and so is what is known of it.
        vars(changed)["factor"] = kernel.factor
    return changed


def with_preconditioner(kernel: Kernel, covariance: Covariance) -> Kernel:
    """Return a kernel of another preconditioner, unless it has none that can change."""
    if not _has_field(kernel, "preconditioner"):
        return kernel
    settings: Any = kernel
    return replace(settings, preconditioner=covariance)


def _has_field(kernel: Kernel, name: str) -> bool:
    """Tell whether a kernel is a dataclass with a field of a name."""
    return is_dataclass(kernel) and name in {field.name for field in fields(kernel)}
