"""Step sizes by acceptance rate."""

import math

from pyro_jarzynski.core.kernels import Kernel, with_step_size


def adapted(kernel: Kernel, acceptance_rate: float, *, rate: float = 0.1) -> Kernel:
    """Return the kernel with its step size nudged towards its target acceptance.

    `log h += rate (a - a*)`. A step size that follows the walkers it moves biases their
    evidence by O(1/N): adapt on one cloud, and use the step size on another.

    Args:
        kernel: Any kernel; one without a target acceptance is returned as it is.
        acceptance_rate: Mean acceptance `a` of the last moves, in [0, 1].
        rate: Gain of the correction.
    """
    if kernel.target_acceptance is None:
        return kernel
    factor = math.exp(rate * (acceptance_rate - kernel.target_acceptance))
    return with_step_size(kernel, kernel.step_size * factor)
