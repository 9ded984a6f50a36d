"""Resampling without waste: few walkers move on, and all points that they visit stay."""

import torch
from torch import Tensor

from pyro_jarzynski.core.evaluation import Energy
from pyro_jarzynski.core.kernels import Kernel
from pyro_jarzynski.core.resampling import Resampler
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import Walkers, resample
from pyro_jarzynski.errors import ArgumentError


def visit_all(
    walkers: Walkers,
    energy: Energy,
    kernel: Kernel,
    num_moves: int,
    resampler: Resampler,
    tools: Tools,
) -> tuple[Walkers, Tensor]:
    """Resample few walkers, move each `num_moves` times, and keep every point.

    Args:
        walkers: Walkers weighted for the energy.
        energy: The energy of the moves.
        kernel: How they move; it leaves the law invariant.
        num_moves: Moves of each of `N / (num_moves + 1)` walkers.
        resampler: Draws these.
        tools: Generator and chunk size.

    Returns:
        `N` walkers of equal weight, and the mean acceptance rate.

    Raises:
        ArgumentError: The kernel does not leave the law invariant.

    Source:
        Dau, Chopin (2022), J. R. Stat. Soc. B 84(1).
    """
    if kernel.moves_on_switch:
        raise ArgumentError(
            f"`waste_free` needs a kernel that leaves the law invariant (MALA, HMC), got "
            f"{type(kernel).__name__}."
        )
    log_weight = walkers.by_island(walkers.log_weight)
    size = log_weight.shape[-1]
    few = -(-size // (num_moves + 1))
    ancestors = resampler(log_weight, few, tools.generator)
    # In random order: the last ancestors' points may be cut off, and must be like any.
    order = torch.rand(
        ancestors.shape, generator=tools.generator, device=ancestors.device
    ).argsort(-1)
    ancestors = ancestors.gather(-1, order)
    visited, rates = [resample(walkers, ancestors)], []
    for _ in range(num_moves):
        moved, rate = kernel.move(visited[-1], energy, tools)
        visited.append(moved)
        rates.append(rate)

    def gather(*points: Tensor) -> Tensor:
        if not points[0].ndim or len(points[0]) != len(visited[0].log_weight):
            return points[0]
        islands = [p.unflatten(0, (-1, few)) for p in points]
        return torch.cat(islands, 1)[:, :size].flatten(0, 1)

    banked = visited[0].log_banked
    walkers = map_tree(gather, *visited)._replace(log_banked=banked)
    return walkers, torch.stack(rates).mean(0)
