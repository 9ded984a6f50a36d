"""Inverse temperatures that are chosen by the weights they would leave."""

import math
import sys
from collections.abc import Callable

import torch

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.walkers import Walkers

# How closely an inverse temperature is known, as a share of the rest of the path.
TOLERANCE = 2.0**-40
# Guesses after which a bracket is halved instead, at most 41 times.
NUM_GUESSES = 20


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

    # Walkers of likelihood zero are lost at any temperature: only the others count. The
    # smallest normal number, since processors may take smaller ones for zero.
    goal = target * share(sys.float_info.min)
    rest = 1 - beta
    at_end = share(rest)
    if at_end >= goal:
        return 1.0
    whole = goal / target

    def loss(kept: float) -> float:
        """Return `log` of the nats lost over those that may be: it is near `2 log δ`."""
        nats = math.log(whole / kept) if kept > 0 else math.inf
        return math.log(nats / -math.log(target)) if nats > 0 else -math.inf

    def falls(delta: float) -> tuple[bool, float]:
        kept = share(delta)
        return kept < goal, loss(kept)

    return min(beta + _crossing(falls, rest, loss(at_end)), 1.0)


def _crossing(
    falls: Callable[[float], tuple[bool, float]], high: float, at_high: float
) -> float:
    """Return where a function has become positive, by regula falsi in logarithms.

    Args:
        falls: Tells whether a point lies beyond, and the function there.
        high: A point beyond; 0 lies before.
        at_high: The function there.

    Source:
        Dowell, Jarratt (1971), BIT 11(2), for the halving of the value at an end that
        stays ("Illinois").
    """
    tolerance = TOLERANCE * high
    low, at_low, number, last = 0.0, -math.inf, 0, None
    while high - low > tolerance / 2:
        guess = (low + high) / 2
        if number < NUM_GUESSES:
            guess = _guess(low, at_low, high, at_high, 2.0**number)
            # Beside an end that is close to the crossing, so that the bracket closes.
            guess = min(max(guess, low + tolerance / 4), high - tolerance / 4)
        number += 1
        beyond, value = falls(guess)
        if beyond:
            high, at_high = guess, value
            at_low = at_low / 2 if last is True else at_low
        else:
            low, at_low = guess, value
            at_high = at_high / 2 if last is False else at_high
        last = beyond
    # Not at the crossing itself, where rounding would decide what comes of it.
    return low + tolerance


def _guess(low: float, at_low: float, high: float, at_high: float, far: float) -> float:
    """Return where a line through both ends, in the logarithm of the place, is zero."""
    if low == 0:
        # The slope is 2 where weights are nearly even: less of it goes beyond.
        return high * math.exp(-min(far * at_high, 600.0) / 2)
    if not (math.isfinite(at_low) and math.isfinite(at_high)) or at_high <= at_low:
        return math.sqrt(low * high)
    part = -at_low / (at_high - at_low)
    return low * (high / low) ** part
