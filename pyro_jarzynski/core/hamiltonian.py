"""Kernels with momenta: Hamiltonian Monte Carlo and underdamped Langevin.

Momenta `p` are standard normal in the coordinates whitened by the preconditioner
`C = L Lᵀ`. The leapfrog step `p -= ½ε Lᵀ∇U(x)`, `x += ε L p`, `p -= ½ε Lᵀ∇V(x)` keeps
volume and is undone by flipping `p`, also when `U` and `V` differ, so its exact weight is
the change of total energy, `U(x) + ½|p|² - V(x') - ½|p'|²`.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.evaluation import Energy, Evaluation, evaluate
from pyro_jarzynski.core.faults import may_hold
from pyro_jarzynski.core.noise import normal_like
from pyro_jarzynski.core.preconditioner import (
    Covariance,
    Factor,
    factorise,
    scale,
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
from pyro_jarzynski.core.trees import Position, inner, map_tree, select
from pyro_jarzynski.core.turning import find_turned
from pyro_jarzynski.core.walkers import Walkers, drop, find_outside
from pyro_jarzynski.errors import count, fraction, positive

# Leapfrog steps of a move of which neither number nor length is given.
NUM_LEAPFROG = 10


@dataclass(frozen=True)
class HMC(Invariant):
    """Hamiltonian Monte Carlo: leapfrog steps from fresh momenta, accepted or refused.

    Trajectories that diverge, by 1,000 nats or into overflow, are refused.

    Args:
        step_size: Leapfrog step `ε > 0`, in units of the position.
        num_leapfrog: Leapfrog steps, and gradients, per move; at most so many if there is a
            `trajectory`. `None` is as many as `trajectory` takes, or 10 without one;
            `AnnealedSMC` then takes a `trajectory` of `π / 2` in at most 10 steps.
        trajectory: Length `ε L` of a move, in units of the position whitened by the
            preconditioner. After a quarter period, `π / 2`, a Gaussian is independent of
            its start.
        preconditioner: Covariance `C`, see `core.preconditioner`; `None` is the identity.
        target_acceptance: Acceptance rate at which adaptation keeps the step size; `None`
            leaves the step size as it is.

    Source:
        Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901.

    Example:
        >>> pj.HMC(0.2, num_leapfrog=20, trajectory=2.0).steps_per_move
        10
    """

    step_size: float = 0.1
    num_leapfrog: int | None = None
    preconditioner: Covariance = field(default=None, compare=False)
    target_acceptance: float | None = 0.8
    trajectory: float | None = None
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        positive("step_size", self.step_size)
        if self.num_leapfrog is not None:
            count("num_leapfrog", self.num_leapfrog)
        if self.trajectory is not None:
            positive("trajectory", self.trajectory)
        if self.target_acceptance is not None:
            fraction("target_acceptance", self.target_acceptance)

    @property
    def steps_per_move(self) -> int:
        """Leapfrog steps of a move."""
        if self.trajectory is None:
            return self.num_leapfrog or NUM_LEAPFROG
        needed = max(1, round(self.trajectory / self.step_size))
        return min(self.num_leapfrog or needed, needed)

    def with_quarter_period(self) -> "HMC":
        """Return this kernel with moves of `π / 2`, unless their length was given."""
        if self.num_leapfrog is not None or self.trajectory is not None:
            return self
        return replace(self, num_leapfrog=NUM_LEAPFROG, trajectory=math.pi / 2)

    @property
    def langevin_step(self) -> float:
        """The Langevin step `h` that a move is made of, in squared units."""
        return self.step_size**2 / 2

    def with_langevin_step(self, langevin_step: float) -> "HMC":
        """Return this kernel with moves made of another Langevin step."""
        return replace(self, step_size=math.sqrt(2 * langevin_step))

    @cached_property
    def factor(self) -> Factor:
        """Factor `L` of the preconditioner."""
        return factorise(self.preconditioner)

    def move(
        self, walkers: Walkers, energy: Energy, tools: Tools
    ) -> tuple[Walkers, Tensor]:
        """Follow a trajectory of leapfrog steps, and accept or refuse its end."""
        first = normal_like(walkers.position, tools.generator)
        start = walkers.position, walkers.evaluation, map_tree(torch.zeros_like, first)
        position, there, momentum = walkers.position, walkers.evaluation, first
        diverged = torch.zeros_like(walkers.log_weight, dtype=torch.bool)
        for _ in range(self.steps_per_move):
            middle = kick(momentum, there, self.step_size, self.factor)
            position = drift(position, middle, self.step_size, self.factor)
            there = evaluate(energy, position, chunk_size=tools.chunk_size)
            momentum = kick(middle, there, self.step_size, self.factor)
            gain = energy_drop(walkers.evaluation, first, there, momentum)
            runaway = ~(inner(middle, middle) / 2 <= MAX_ENERGY_ERROR)
            lost = (gain < -MAX_ENERGY_ERROR) | (gain.isnan() & runaway)
            if may_hold(lost):
                # At rest where they began, so that they do not overflow on their way.
                diverged = diverged | lost
                position, there, momentum = select(
                    diverged, start, (position, there, momentum)
                )
        gain = gain.masked_fill(diverged, -math.inf)
        return metropolis(walkers, position, there, gain, tools)


@dataclass(frozen=True)
class UnderdampedLangevin:
    """Underdamped Langevin without rejection, with its exact log-weight.

    Momenta are refreshed, `p ← e^{-γε} p + √(1 - e^{-2γε}) ξ`, then one leapfrog step is
    made whose last half is already under the new energy. `γ = ∞` is ULA of step `ε²/2`.
    A walker that would leave the support of an energy with a method `in_support` stays and
    turns its momentum, see `core.turning`.

    Args:
        step_size: Leapfrog step `ε > 0`, in units of the position.
        friction: `γ ≥ 0`, in inverse units of `ε`; may be infinite.
        preconditioner: Covariance `C`, see `core.preconditioner`; `None` is the identity.

    Source:
        Horowitz (1991), Phys. Lett. B 268(2), without its rejection; weight by Nilmeier,
        Crooks, Minh, Chodera (2011), PNAS 108(45).

    Example:
        >>> pj.UnderdampedLangevin(0.2, friction=math.inf).langevin_step  # of this ULA
        0.020000000000000004
    """

    step_size: float = 0.1
    friction: float = 1.0
    preconditioner: Covariance = field(default=None, compare=False)
    target_acceptance: float | None = field(default=None, init=False)
    moves_on_switch: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        positive("step_size", self.step_size)
        if self.friction not in (0, math.inf):
            positive("friction", self.friction)

    @property
    def langevin_step(self) -> float:
        """The Langevin step `h` that a move is made of, in squared units."""
        return self.step_size**2 / 2

    def with_langevin_step(self, langevin_step: float) -> "UnderdampedLangevin":
        """Return this kernel with moves made of another Langevin step."""
        return replace(self, step_size=math.sqrt(2 * langevin_step))

    @cached_property
    def factor(self) -> Factor:
        """Factor `L` of the preconditioner."""
        return factorise(self.preconditioner)

    def switch(
        self, walkers: Walkers, energy: Energy, tools: Tools, visit: Visit | None = None
    ) -> Walkers:
        """Move every walker once and weight the move from its energy to `energy`."""
        here, step = walkers.evaluation, self.step_size
        first = self._refresh(walkers, tools)
        middle = kick(first, here, step, self.factor)
        end = drift(walkers.position, middle, step, self.factor)
        turned = find_turned(energy, walkers.position, end, chunk_size=tools.chunk_size)
        if turned is not None:
            back = map_tree(torch.neg, middle)
            end, middle = select(turned, (walkers.position, back), (end, middle))

        def weigh(rows: slice, there: Evaluation) -> Tensor:
            known, before, halfway = rows_of((here, first, middle), rows)
            after = kick(halfway, there, step, self.factor)
            gain = energy_drop(known, before, there, after)
            return weights.add(walkers.log_weight[rows], gain)

        there, log_weight = weighed(energy, end, weigh, tools, visit)
        moved = walkers._replace(
            position=end,
            evaluation=there,
            log_weight=log_weight,
        )
        outside = find_outside(walkers, there, end, where="moved", faults=tools.faults)
        # The kick of a walker that has no density there may be NaN: it keeps the old one.
        after = select(outside, first, kick(middle, there, step, self.factor))
        return drop(moved._replace(momentum=after), outside, stay=walkers)

    def move(
        self, walkers: Walkers, energy: Energy, tools: Tools
    ) -> tuple[Walkers, Tensor]:
        """Move every walker once under its energy, weighting the discretisation."""
        return self.switch(walkers, energy, tools), torch.ones_like(walkers.log_banked)

    def _refresh(self, walkers: Walkers, tools: Tools) -> Position:
        fresh = normal_like(walkers.position, tools.generator)
        if walkers.momentum is None:
            return fresh
        keep = math.exp(-self.friction * self.step_size)
        renew = math.sqrt(-math.expm1(-2 * self.friction * self.step_size))
        return map_tree(lambda p, xi: keep * p + renew * xi, walkers.momentum, fresh)


def kick(momentum: Position, at: Evaluation, step_size: float, factor: Factor) -> Position:
    """Return `p - ½ε Lᵀ∇U`."""
    force = scale_transposed(factor, at.grad)
    return map_tree(lambda p, g: p.sub(g, alpha=step_size / 2), momentum, force)


def drift(
    position: Position, momentum: Position, step_size: float, factor: Factor
) -> Position:
    """Return `x + ε L p`."""
    velocity = scale(factor, momentum)
    return map_tree(lambda x, v: x.add(v, alpha=step_size), position, velocity)


def energy_drop(
    here: Evaluation, before: Position, there: Evaluation, after: Position
) -> Tensor:
    """Return `U(x) + ½|p|² - V(x') - ½|p'|²`, `(N,)`, float64."""
    potential = here.energy.to(torch.float64) - there.energy.to(torch.float64)
    kinetic = inner(before, before) - inner(after, after)
    return potential + kinetic.to(torch.float64) / 2
