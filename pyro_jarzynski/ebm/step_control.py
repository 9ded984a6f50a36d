"""Steps of the optimiser that are no longer than walkers can follow."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from pyro_jarzynski.core.kernels import Kernel
from pyro_jarzynski.errors import fraction

GAIN = 0.1


class StepControl:
    """Shortens the steps of an optimiser while the conditional ESS is below a target.

    After each update `log s += 0.1 (c - c*) / (1 - c*)`, and `s ≤ 1`, with `c` the
    conditional effective sample size of that update's weights as a fraction. The next
    change of the parameters is `s` times what the optimiser asks for. Weights remain exact:
    they follow the parameters as they are.

    Args:
        target: `c*`, in [0, 1); `None` leaves all steps as they are.
        kernel: How walkers move. The weights of unadjusted kernels vary also where no
            parameter changes, so that steps are left as they are.
    """

    def __init__(self, target: float | None, kernel: Kernel) -> None:
        """Start with whole steps."""
        if target is not None:
            fraction("conditional_ess", target)
        self.target = None if kernel.moves_on_switch else target
        self.scale = 1.0

    @contextmanager
    def shortened(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Shorten the change of the parameters that is made within."""
        if self.scale == 1:
            yield
            return
        before = [parameter.detach().clone() for parameter in parameters]
        yield
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.lerp_(old, 1 - self.scale)

    def learn(self, conditional_ess: float) -> None:
        """Take note of what an update did to the weights.

        Args:
            conditional_ess: As a fraction of the walkers; NaN for those without weights.
        """
        if self.target is None or self.target == 1 or math.isnan(conditional_ess):
            return
        excess = (conditional_ess - self.target) / (1 - self.target)
        self.scale = min(1.0, self.scale * math.exp(GAIN * excess))
