"""The one engine: carry weighted walkers along a path, resampling when they degenerate.

    walkers = init(draws, path[0])
    walkers, infos = run(walkers, path, ULA(step_size=0.1))
    walkers.log_normalizer, walkers.log_normalizer_error

`step` makes one stage, and is all that tempering and training share: switch to the next
energy, resample if the effective sample size (ESS) is low, move.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.curvature import warn_if_unstable
from pyro_jarzynski.core.evaluation import Energy
from pyro_jarzynski.core.kernels import Kernel
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.paths import Path
from pyro_jarzynski.core.precision import warn_if_coarse
from pyro_jarzynski.core.resampling import Resampler, get_resampler, systematic
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.transitions import Visit, gathered
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.core.waste_free import visit_all
from pyro_jarzynski.errors import ArgumentError, count, fraction


class StepInfo(NamedTuple):
    """What one step did; read by diagnostics, never by the next step.

    Each is `()`, or `(C,)` for walkers on `C` islands.

    Attributes:
        ess: Effective sample size before resampling, between 1 and `N`.
        conditional_ess: That of this step's increment alone.
        log_normalizer: Estimate of `log Z` after the step.
        acceptance_rate: Mean acceptance probability of the moves; 1 if unadjusted.
        resampled: Whether this step resampled.
        log_weight: Log-weights before resampling, `(N,)`.
    """

    ess: Tensor
    conditional_ess: Tensor
    log_normalizer: Tensor
    acceptance_rate: Tensor
    resampled: Tensor
    log_weight: Tensor


class Stage(NamedTuple):
    """One step of a plan that was made before the walkers set out.

    Attributes:
        energy: Energy to carry walkers to.
        kernel: How to move them.
        num_moves: Moves of every walker.
        ess_threshold: Fraction of `N` below which to resample.
    """

    energy: Energy
    kernel: Kernel
    num_moves: int = 1
    ess_threshold: float = 0.5


@standard_modes()
def step(
    walkers: Walkers,
    energy: Energy,
    kernel: Kernel,
    *,
    num_moves: int = 1,
    ess_threshold: float = 0.5,
    resampler: str | Resampler = systematic,
    waste_free: bool = False,
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
        resampler: A name or function of `core.resampling`, which draws ancestors.
        waste_free: Resample only `N / (num_moves + 1)` walkers, always, and keep all the
            points that they visit (Dau, Chopin 2022, J. R. Stat. Soc. B 84(1)). For
            kernels that leave the law invariant.
        tools: Generator and chunk size.
        visit: Sees the walkers under `energy` while their graph is alive.

    Returns:
        Walkers weighted for `energy`, and what the step did.

    Raises:
        ArgumentError: A number is out of its range, or the resampler is unknown.
        NonFiniteEnergyError: More than 1 % of the walkers met a NaN, more than half of the
            proposed moves did, or the energy of a walker is minus infinity.
        WeightCollapseError: All weights are zero.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> path = [lambda x, k=k: k * x.square().sum(1) / 2 for k in (1, 2, 3, 4)]
        >>> draws = torch.randn(4096, 2, generator=generator)
        >>> walkers = pj.init(draws, path[0], log_normalizer=math.log(2 * math.pi))
        >>> walkers, info = pj.step(
        ...     walkers, path[1], pj.MALA(0.1), tools=pj.Tools(generator)
        ... )
        >>> bool(info.resampled), info.log_weight.shape
        (False, torch.Size([4096]))
    """
    count("num_moves", num_moves)
    fraction("ess_threshold", ess_threshold)
    resampler = get_resampler(resampler)
    before = walkers.by_island(walkers.log_weight)
    walkers = walkers._replace(steps=walkers.steps + 1)
    with gathered(tools) as tools:
        walkers = switch(walkers, energy, kernel, tools=tools, visit=visit)
        log_weight = walkers.by_island(walkers.log_weight)
        ess = weights.ess(log_weight)
        cess = weights.conditional_ess(before, log_weight)
        if waste_free:
            resampled = torch.ones_like(ess, dtype=torch.bool)
            walkers, rate = visit_all(walkers, energy, kernel, num_moves, resampler, tools)
        else:
            walkers, resampled = resample_if_low(
                walkers, ess, ess_threshold, resampler, tools
            )
            left = num_moves - kernel.moves_on_switch
            walkers, rate = move(walkers, energy, kernel, num_moves=left, tools=tools)
    info = StepInfo(
        ess, cess, walkers.log_normalizer, rate, resampled, log_weight.flatten()
    )
    return walkers, info


def resample_if_low(
    walkers: Walkers, ess: Tensor, threshold: float, resampler: Resampler, tools: Tools
) -> tuple[Walkers, Tensor]:
    """Resample the islands whose `ESS < threshold N`; return also which they were."""
    low = ess < threshold * (walkers.num_walkers // walkers.log_banked.numel())
    if low.any():
        return tools.team.resample(walkers, low, threshold, resampler, tools.generator)
    return walkers, low


def switch(
    walkers: Walkers,
    energy: Energy,
    kernel: Kernel,
    *,
    tools: Tools,
    visit: Visit | None = None,
) -> Walkers:
    """Carry walkers to another energy, with the exact weight of doing so."""

    def act(part: Walkers, own: Tools) -> tuple[Walkers, Tensor]:
        return kernel.switch(part, energy, own, visit), torch.ones_like(part.log_banked)

    return tools.team.each(walkers, tools, act, weighs=True)[0]


def move(
    walkers: Walkers, energy: Energy, kernel: Kernel, *, num_moves: int, tools: Tools
) -> tuple[Walkers, Tensor]:
    """Move walkers under their energy; return them and their mean acceptance rate."""

    def act(part: Walkers, own: Tools) -> tuple[Walkers, Tensor]:
        rates = [torch.ones_like(part.log_banked)] if num_moves == 0 else []
        for _ in range(num_moves):
            part, rate = kernel.move(part, energy, own)
            rates.append(rate)
        return part, torch.stack(rates).mean(0)

    with gathered(tools) as tools:
        return tools.team.each(walkers, tools, act, weighs=kernel.moves_on_switch)


def follow(
    walkers: Walkers,
    stages: Iterable[Stage],
    *,
    resampler: Resampler = systematic,
    waste_free: bool = False,
    tools: Tools = Tools(),  # noqa: B008
) -> Iterator[tuple[Walkers, StepInfo]]:
    """Carry walkers through the stages of a plan, yielding them after each."""
    for stage in stages:
        walkers, info = step(
            walkers,
            stage.energy,
            stage.kernel,
            num_moves=stage.num_moves,
            ess_threshold=stage.ess_threshold,
            resampler=resampler,
            waste_free=waste_free,
            tools=tools,
        )
        yield walkers, info


@standard_modes()
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
        NonFiniteEnergyError: More than 1 % of the walkers met a NaN, more than half of the
            proposed moves did, or the energy of a walker is minus infinity.
        WeightCollapseError: All weights are zero.

    Warns:
        PrecisionWarning: The energies are too large for their dtype.

    Source:
        Del Moral, Doucet, Jasra (2006), J. R. Stat. Soc. B 68(3); for ULA Carbone, Hua,
        Coste, Vanden-Eijnden (2023), arXiv:2305.19414.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> path = [lambda x, k=k: k * x.square().sum(1) / 2 for k in (1, 2, 3, 4)]
        >>> draws = torch.randn(4096, 2, generator=generator)
        >>> walkers = pj.init(draws, path[0], log_normalizer=math.log(2 * math.pi))
        >>> walkers, infos = pj.run(walkers, path, pj.MALA(0.1), generator=generator)
        >>> truth = math.log(2 * math.pi / 4)
        >>> error = float(walkers.log_normalizer) - truth
        >>> abs(error) < 4 * float(walkers.log_normalizer_error)
        True
        >>> len(infos)
        3
    """
    count("num_moves", num_moves)
    fraction("ess_threshold", ess_threshold)
    draw = get_resampler(resampler)
    tools = Tools(generator, chunk_size)
    if len(path) == 0:
        raise ArgumentError("`path` must have at least one energy, got none.")
    warn_if_unstable(kernel, path[len(path) - 1], walkers.position)
    stages = [
        Stage(path[index], kernel, num_moves, ess_threshold)
        for index in range(1, len(path))
    ]
    infos = []
    for moved, info in follow(walkers, stages, resampler=draw, tools=tools):
        walkers = moved
        infos.append(info)
    if infos:
        warn_if_coarse(walkers.evaluation.energy)
    return walkers, infos
