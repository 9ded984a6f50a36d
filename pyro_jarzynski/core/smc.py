"""The one engine: carry weighted walkers along a path, resampling when they degenerate.

    walkers = init(draws, path[0])
    walkers, infos = run(walkers, path, ULA(step_size=0.1))
    walkers.log_normalizer, walkers.log_normalizer_error

`step` makes one stage, and is all that tempering and training share: switch to the next
energy, resample if the effective sample size (ESS) is low, move.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.curvature import warn_if_unstable
from pyro_jarzynski.core.evaluation import Energy
from pyro_jarzynski.core.kernels import Kernel, Tools, Visit
from pyro_jarzynski.core.paths import Path
from pyro_jarzynski.core.resampling import Resampler, get_resampler, systematic
from pyro_jarzynski.core.walkers import Walkers, resample
from pyro_jarzynski.errors import ArgumentError, count, fraction


class StepInfo(NamedTuple):
    """What one step did; read by diagnostics, never by the next step.

    Attributes:
        ess: Effective sample size before resampling, between 1 and `N`, `()`.
        conditional_ess: That of this step's increment alone, `()`.
        log_normalizer: Estimate of `log Z` after the step, `()`.
        acceptance_rate: Mean acceptance probability of the moves, `()`; 1 if unadjusted.
        resampled: Whether this step resampled.
    """

    ess: Tensor
    conditional_ess: Tensor
    log_normalizer: Tensor
    acceptance_rate: Tensor
    resampled: bool


def step(
    walkers: Walkers,
    energy: Energy,
    kernel: Kernel,
    *,
    num_moves: int = 1,
    ess_threshold: float = 0.5,
    resampler: Resampler = systematic,
    tools: Tools = Tools(),  # noqa: B008
    visit: Visit | None = None,
) -> tuple[Walkers, StepInfo]:
    """Carry walkers to `energy`: switch, resample if `ESS < ess_threshold N`, move.

    Args:
        walkers: Weighted walkers at any energy.
        energy: The next energy of the path.
        kernel: How to move; see `core.kernels`.
        num_moves: Moves of every walker, at least 1.
        ess_threshold: Fraction of `N` in [0, 1]; 0 never resamples.
        resampler: Draws ancestors; see `core.resampling`.
        tools: Generator and chunk size.
        visit: Sees the walkers under `energy` while their graph is alive.

    Returns:
        Walkers weighted for `energy`, and what the step did.

    Raises:
        NonFiniteEnergyError: More than 1 % of the walkers met a NaN.
        WeightCollapseError: All weights are zero.
    """
    before = walkers.log_weight
    walkers = walkers._replace(steps=walkers.steps + 1)
    walkers = kernel.switch(walkers, energy, tools, visit)
    ess = weights.ess(walkers.log_weight)
    cess = weights.conditional_ess(before, walkers.log_weight)
    resampled = bool(ess < ess_threshold * walkers.num_walkers)
    if resampled:
        num = walkers.num_walkers
        ancestors = resampler(walkers.log_weight, num, tools.generator)
        walkers = resample(walkers, ancestors)
    left = num_moves - kernel.moves_on_switch
    walkers, rate = move(walkers, energy, kernel, num_moves=left, tools=tools)
    return walkers, StepInfo(ess, cess, walkers.log_normalizer, rate, resampled)


def move(
    walkers: Walkers, energy: Energy, kernel: Kernel, *, num_moves: int, tools: Tools
) -> tuple[Walkers, Tensor]:
    """Move walkers under their energy; return them and the mean acceptance rate, `()`."""
    rates = [walkers.log_weight.new_ones(())] if num_moves == 0 else []
    for _ in range(num_moves):
        walkers, rate = kernel.move(walkers, energy, tools)
        rates.append(rate)
    return walkers, torch.stack(rates).mean()


def run(
    walkers: Walkers,
    path: Path,
    kernel: Kernel,
    *,
    num_moves: int = 1,
    ess_threshold: float = 0.5,
    resampler: str | Resampler = systematic,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> tuple[Walkers, list[StepInfo]]:
    """Carry walkers from `path[0]` to the last energy of `path`.

    The estimate `Ẑ` is unbiased for every number of walkers and every step size, as long
    as path, kernel and step size were fixed without looking at these walkers.

    Args:
        walkers: Walkers weighted for `path[0]`, from `init`.
        path: `K + 1` energies, in nats.
        kernel: How to move; see `core.kernels`.
        num_moves: Moves of every walker per energy, at least 1.
        ess_threshold: Resample when `ESS < ess_threshold N`, in [0, 1]; 0 never does.
        resampler: A name or function of `core.resampling`.
        generator: Source of randomness on the walkers' device; `None` is torch's own.
        chunk_size: Walkers per call of an energy; `None` takes all at once.

    Returns:
        The walkers at `path[-1]`, and one `StepInfo` for each of the `K` steps.

    Raises:
        ArgumentError: A number is out of its range, or the resampler is unknown.
        NonFiniteEnergyError: More than 1 % of the walkers met a NaN.
        WeightCollapseError: All weights are zero.

    Source:
        Del Moral, Doucet, Jasra (2006), J. R. Stat. Soc. B 68(3); for ULA Carbone, Hua,
        Coste, Vanden-Eijnden (2023), arXiv:2305.19414.
    """
    count("num_moves", num_moves)
    fraction("ess_threshold", ess_threshold)
    draw = get_resampler(resampler)
    tools = Tools(generator, chunk_size)
    if len(path) == 0:
        raise ArgumentError("`path` must have at least one energy, got none.")
    warn_if_unstable(kernel, path[len(path) - 1], walkers.position)
    infos = []
    for index in range(1, len(path)):
        walkers, info = step(
            walkers,
            path[index],
            kernel,
            num_moves=num_moves,
            ess_threshold=ess_threshold,
            resampler=draw,
            tools=tools,
        )
        infos.append(info)
    return walkers, infos
