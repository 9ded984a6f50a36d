"""What one update of a training did, for the loop and its history."""

import math
from typing import NamedTuple

from torch import Tensor


class Advance(NamedTuple):
    """What walkers met on the way to new parameters.

    Attributes:
        slopes: `E_ρ[∂_θ U]` for each parameter.
        acceptance_rate: Mean acceptance of the moves.
        ess: Effective sample size, as a fraction of the walkers; NaN without weights.
        conditional_ess: That of this update's weights alone, likewise.
    """

    slopes: list[Tensor]
    acceptance_rate: float
    ess: float = math.nan
    conditional_ess: float = math.nan


class Update(NamedTuple):
    """What one update did.

    Attributes:
        nll: NLL of its batch before it, nats; NaN where `log Z` was not evaluated.
        grad_norm: Norm of the gradient of the cross-entropy.
        learning_rate: That of the first parameter group, times the factor of `StepControl`.
        walkers: What the walkers met.
    """

    nll: float
    grad_norm: float
    learning_rate: float
    walkers: Advance
