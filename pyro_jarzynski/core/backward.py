"""A plan carried out from its end to its beginning."""

from collections.abc import Sequence

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.evaluation import Energy
from pyro_jarzynski.core.resampling import Resampler
from pyro_jarzynski.core.smc import Stage
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.walkers import Walkers


def go_back(
    walkers: Walkers,
    stages: Sequence[Stage],
    base: Energy,
    tools: Tools,
    *,
    at_top: bool = False,
    resampler: Resampler | None = None,
) -> Walkers:
    """Carry walkers down again: the moves of the way up, in the opposite order.

    Args:
        walkers: Walkers at the last energy.
        stages: The way up.
        base: The first energy.
        tools: Generator and chunk size.
        at_top: Whether the moves at the last energy have been made.
        resampler: Resamples when the effective sample size is low; `None` never does.

    Returns:
        The walkers at the first energy.
    """
    energies = [base, *(stage.energy for stage in stages)]
    for index in range(len(stages), 0, -1):
        stage = stages[index - 1]
        if not (at_top and index == len(stages)):
            left = stage.num_moves - stage.kernel.moves_on_switch
            walkers, _ = smc.move(
                walkers, stage.energy, stage.kernel, num_moves=left, tools=tools
            )
        walkers = stage.kernel.switch(walkers, energies[index - 1], tools)
        if resampler is not None:
            walkers, _ = smc.resample_if_low(
                walkers, walkers.ess, stage.ess_threshold, resampler, tools
            )
    return walkers
