"""Inverse temperatures that are chosen by the weights they would leave."""

import math

import torch

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.walkers import Walkers

# Bisections of an inverse temperature: to 1e-12 of the rest of the path.
NUM_BISECTIONS = 40


def next_beta(walkers: Walkers, beta: float, target: float) -> float:
    """Return the inverse temperature at which the conditional ESS falls to a target.

    Args:
        walkers: Walkers at `(1 - β) E_0 + β E_1`, evaluated as a `CombinedEnergy`.
        beta: The present `β`.
        target: Share of the walkers.

    Source:
        Zhou, Johansen, Aston (2016), J. Comput. Graph. Stat. 25(3), section 3.3.
    """
    first, second = walkers.evaluation.terms
    gap = second.energy.to(torch.float64) - first.energy.to(torch.float64)
    gap = torch.where(second.energy == math.inf, math.inf, gap)
    log_weight = walkers.log_weight

    def share(delta: float) -> float:
        after = weights.add(log_weight, -delta * gap)
        return float(weights.conditional_ess(log_weight, after)) / walkers.num_walkers

    low, high = 0.0, 1 - beta
    # Walkers of likelihood zero are lost at any temperature: only the others count.
    goal = target * share(math.ulp(0.0))
    if share(high) >= goal:
        return 1.0
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) >= goal else (low, middle)
    return min(beta + high, 1.0)
