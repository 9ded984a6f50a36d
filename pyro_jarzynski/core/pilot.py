"""Choice of temperatures, step sizes, preconditioners and numbers of moves by a pilot.

What is chosen from walkers biases the evidence of those same walkers, by `O(1/N)`. So the
pilot, a cloud of its own, makes a plan, a list of `Stage`s, and fresh walkers follow it
unchanged: their `Ẑ` is unbiased.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.adaptation import adapted
from pyro_jarzynski.core.curvature import largest_curvature
from pyro_jarzynski.core.decorrelation import SquaredJumps
from pyro_jarzynski.core.evaluation import CombinedEnergy, Energy, reevaluate
from pyro_jarzynski.core.faults import read
from pyro_jarzynski.core.gradients import TermsFn
from pyro_jarzynski.core.hamiltonian import HMC
from pyro_jarzynski.core.kernels import Kernel, with_preconditioner, with_step_size
from pyro_jarzynski.core.metric import metric
from pyro_jarzynski.core.resampling import Resampler, systematic
from pyro_jarzynski.core.smc import Stage, StepInfo, resample_if_low
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.tempering import next_beta
from pyro_jarzynski.core.transitions import reweight
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.errors import NonFiniteEnergyError, NonFiniteEnergyWarning

# Acceptance rates within this of the target end the search for a step size.
TOLERANCE = 0.15
# Share of the conditional ESS that a move of an unadjusted kernel may cost.
TRANSPORT = 0.95
# Bound of (step size times curvature) of unadjusted kernels; their weights have infinite
# variance from 2 on.
MAX_CURVATURE = 0.5
MAX_TRIALS = 12


@dataclass(frozen=True)
class Exploration:
    """Settings of a pilot: what it chooses, and its thresholds.

    Args:
        conditional_ess: Share of the walkers that one temperature step may leave.
        preconditioner: `"dense"`, `"diagonal"`, or `None` to leave the kernel's.
        adapt_step_size: Whether the step size follows acceptance and weights.
        num_moves: Moves per temperature; `None` moves walkers until they decorrelate.
        decorrelation: Mean squared jump at which moves end, as a share of that of
            independent draws.
        max_correlation: Largest correlation with the start, in any direction, at which
            moves end.
        max_moves: At most so many moves per temperature.
        ess_threshold: Fraction of the walkers below which to resample.
    """

    conditional_ess: float = 0.8
    preconditioner: str | None = "dense"
    adapt_step_size: bool = True
    num_moves: int | None = None
    decorrelation: float = 0.7
    max_correlation: float = 0.5
    max_moves: int = 25
    ess_threshold: float = 0.5


class Found(NamedTuple):
    """One stage of a pilot.

    Attributes:
        walkers: The walkers after it.
        stage: What others are to do.
        info: What it did.
        beta: Its inverse temperature.
        decorrelated: Whether the moves went as far as asked.
    """

    walkers: Walkers
    stage: Stage
    info: StepInfo
    beta: float
    decorrelated: bool


def explore(
    walkers: Walkers,
    terms: TermsFn,
    kernel: Kernel,
    how: Exploration,
    *,
    betas: Sequence[float] | None = None,
    beta: float = 0.0,
    resampler: Resampler = systematic,
    tools: Tools = Tools(),  # noqa: B008
) -> Iterator[Found]:
    """Carry a pilot from the first of two energies to the second.

    Args:
        walkers: Walkers weighted for the first energy.
        terms: Function from a position to both energies.
        kernel: How to move; its step size is where the search starts.
        how: What to choose, and how.
        betas: Inverse temperatures from 0 to 1; `None` chooses them.
        beta: Inverse temperature of the walkers, after an interruption.
        resampler: Draws ancestors.
        tools: Generator and chunk size.

    Yields:
        The stages, one by one; the last is at inverse temperature 1.
    """
    if beta == 0:
        start = CombinedEnergy(terms, (1.0, 0.0))
        known, chunk_size = walkers.evaluation, tools.chunk_size
        evaluation = reevaluate(start, walkers.position, known, chunk_size=chunk_size)
        walkers = walkers._replace(evaluation=evaluation)
    whitened = how.preconditioner is not None or kernel.preconditioner is not None
    if isinstance(kernel, HMC) and whitened:
        kernel = kernel.with_quarter_period()
    index = 0 if betas is None else list(betas).index(beta)
    while beta < 1:
        index += 1
        if betas is None:
            beta = next_beta(walkers, beta, how.conditional_ess)
        else:
            beta = float(betas[index])
        stage = stage_of(terms, beta, kernel, how)
        found = _explore_stage(walkers, stage, how, resampler, tools)
        yield found._replace(beta=beta)
        walkers, kernel = found.walkers, found.stage.kernel


def stage_of(terms: TermsFn, beta: float, kernel: Kernel, how: Exploration) -> Stage:
    """Return the stage of an inverse temperature, as it is before a pilot has seen it."""
    energy = CombinedEnergy(terms, (1 - beta, beta))
    # The last draws are all of equal weight, and then move.
    last = beta == 1 and not kernel.moves_on_switch
    return Stage(energy, kernel, how.num_moves or 1, 1.0 if last else how.ess_threshold)


def _explore_stage(
    walkers: Walkers, stage: Stage, how: Exploration, resampler: Resampler, tools: Tools
) -> Found:
    before = walkers.by_island(walkers.log_weight)
    walkers = walkers._replace(steps=walkers.steps + 1)
    reweighted = reweight(walkers, stage.energy, tools, None)
    kernel = stage.kernel
    if how.preconditioner is not None:
        covariance = metric(reweighted, dense=how.preconditioner == "dense")
        kernel = with_preconditioner(kernel, covariance)
    if kernel.moves_on_switch:
        kernel, walkers = _switch(walkers, reweighted, kernel, stage.energy, how, tools)
    else:
        walkers = reweighted
    log_weight = walkers.by_island(walkers.log_weight)
    ess = weights.ess(log_weight)
    walkers, resampled = resample_if_low(
        walkers, ess, stage.ess_threshold, resampler, tools
    )
    moved = _explore_moves(walkers, stage._replace(kernel=kernel), how, tools)
    walkers, stage, rate, decorrelated = moved
    info = StepInfo(
        ess=ess,
        conditional_ess=weights.conditional_ess(before, log_weight),
        log_normalizer=walkers.log_normalizer,
        acceptance_rate=rate,
        resampled=resampled,
        log_weight=log_weight.flatten(),
    )
    return Found(walkers, stage, info, math.nan, decorrelated)


def _switch(
    walkers: Walkers,
    reweighted: Walkers,
    kernel: Kernel,
    energy: Energy,
    how: Exploration,
    tools: Tools,
) -> tuple[Kernel, Walkers]:
    """Find a step size whose moves hardly add to the variance of the weights."""
    if not how.adapt_step_size:
        return kernel, kernel.switch(walkers, energy, tools)
    before = walkers.by_island(walkers.log_weight)
    plain = _conditional_ess(before, reweighted)
    curvature = largest_curvature(
        energy, reweighted.position, factor=kernel.factor, num_iterations=5
    )
    safe = MAX_CURVATURE / max(float(curvature), torch.finfo().tiny)
    step = min(1.5 * kernel.langevin_step, safe)
    for _ in range(MAX_TRIALS):
        kernel = kernel.with_langevin_step(step)
        trial = _unless_broken(kernel.switch, walkers, energy, tools)
        if trial is not None and _conditional_ess(before, trial) >= TRANSPORT * plain:
            return kernel, trial
        step /= 2
    return kernel, kernel.switch(walkers, energy, tools)


def _explore_moves(
    walkers: Walkers, stage: Stage, how: Exploration, tools: Tools
) -> tuple[Walkers, Stage, Tensor, bool]:
    """Move until the walkers have decorrelated, and the step size is right."""
    kernel, energy = stage.kernel, stage.energy
    jumps = SquaredJumps(walkers.position, kernel.factor)
    target = kernel.target_acceptance if how.adapt_step_size else None
    rate = torch.ones_like(walkers.log_banked)
    moves, broken, jump, fast = int(kernel.moves_on_switch), 0, 0.0, 0.0
    most = how.num_moves or how.max_moves
    while moves < most:
        found = _unless_broken(kernel.move, walkers, energy, tools)
        if found is None and target is not None and broken < MAX_TRIALS:
            broken += 1
            kernel = with_step_size(kernel, kernel.step_size / 4)
            continue
        # Once more, for the error that tells where.
        found = found or kernel.move(walkers, energy, tools)
        walkers, rate = found
        moves += 1
        settled = True
        measured = jumps.record(walkers.position, how.max_correlation)
        jump, fast, accepted = read(*measured, rate.mean())
        if target is not None:
            settled = abs(accepted - target) < TOLERANCE
            kernel = adapted(kernel, accepted, rate=0.5 if settled else 2.0)
        # Long trajectories overshoot: a jump beyond 1 is a correlation below zero.
        done = bool(fast) and abs(1 - jump) <= 1 - how.decorrelation
        if how.num_moves is None and settled and done:
            break
    decorrelated = how.num_moves is not None or bool(fast and jump >= how.decorrelation)
    stage = stage._replace(kernel=kernel, num_moves=max(moves, 1))
    return walkers, stage, rate, decorrelated


def _conditional_ess(before: Tensor, walkers: Walkers) -> float:
    after = walkers.by_island(walkers.log_weight)
    return float(weights.conditional_ess(before, after).mean())


def _unless_broken(attempt: Callable[..., Any], *args: Any) -> Any:
    """Return what an attempt returns, or `None` if its steps were far too large."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonFiniteEnergyWarning)
        try:
            return attempt(*args)
        except NonFiniteEnergyError:
            return None
