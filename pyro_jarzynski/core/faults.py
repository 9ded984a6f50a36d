"""What is wrong with walkers, told at once or, on a GPU, at the end of a step.

To read a number of a tensor on a GPU, the processor waits for all that it has asked of it.
So moves do not look there: they treat walkers as the masks say, whether these hold anywhere
or not, and leave a few numbers behind. A step reads these, once, and tells what moves
found in their order: the same errors and warnings as without waiting.
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.errors import (
    NonFiniteEnergyError,
    NonFiniteEnergyWarning,
    SupportWarning,
)

# Share of walkers that may meet a NaN in one step before it is an error.
MAX_BROKEN = 0.01


class Finding(NamedTuple):
    """What one move found wrong.

    Attributes:
        steps: Energies visited before it, `()`.
        infinite: Walkers whose energy is minus infinity, `(N,)`.
        broken: Walkers whose energy or gradient is not finite, of those that are told.
        left: Walkers that left the support by a move that nobody refuses.
    """

    steps: Tensor
    infinite: Tensor
    broken: Tensor
    left: Tensor

    def numbers(self) -> Tensor:
        """Return step, sizes and first walkers of the masks, `(7,)`, int64."""
        masks = torch.stack([self.infinite, self.broken, self.left]).to(torch.int64)
        return torch.cat([self.steps[None], masks.sum(1), masks.argmax(1)])


class Faults:
    """Gathers what the moves of a step find."""

    def __init__(self) -> None:
        """Start without findings."""
        self._numbers: list[Tensor] = []
        self._size = 0

    def note(self, found: Finding) -> None:
        """Tell what was found at once, unless the processor had to wait for it.

        Raises:
            NonFiniteEnergyError: As `tell` does.
        """
        self._size = len(found.broken)
        self._numbers.append(found.numbers())
        if not waits(found.broken.device):
            self.tell()

    def tell(self) -> None:
        """Tell what was found so far, by a single read.

        Raises:
            NonFiniteEnergyError: More than 1 % are NaN, or an energy is minus infinity.
        """
        if not self._numbers:
            return
        rows = torch.stack(self._numbers).tolist()
        self._numbers = []
        for row in rows:
            _tell(row, self._size)


def waits(device: torch.device) -> bool:
    """Tell whether the processor waits for a device when it reads one of its numbers."""
    return device.type != "cpu"


def may_hold(mask: Tensor) -> bool:
    """Tell whether a mask holds somewhere; without waiting for it, it may."""
    return waits(mask.device) or bool(mask.any())


def read(*numbers: Tensor) -> list[float]:
    """Return numbers of the same device, each `()`, by one wait for it."""
    return torch.stack([x.to(torch.float64) for x in numbers]).tolist()


def _tell(numbers: list[int], size: int) -> None:
    step, num_infinite, num_broken, num_left, infinite, broken, _ = numbers
    if num_infinite:
        raise NonFiniteEnergyError(
            f"The energy of walker {infinite} is minus infinity: the density is infinite "
            "there, so it cannot be normalised. Bound the energy from below."
        )
    if num_broken:
        _tell_broken(num_broken, size, step, broken)
    if num_left:
        warnings.warn(
            f"{num_left} of {size} walkers left the support in step {step}: the weights of "
            "a kernel without acceptance step are too small there. Use MALA or HMC, or "
            "transform to unconstrained space.",
            SupportWarning,
            stacklevel=2,
        )


def _tell_broken(number: int, size: int, step: int, first: int) -> None:
    found = (
        f"The energy or its gradient is not finite at {number} of {size} walkers in "
        f"step {step}, first at walker {first}"
    )
    if number > MAX_BROKEN * size:
        raise NonFiniteEnergyError(
            f"{found}; more than {MAX_BROKEN:.0%}. Check the energy there, use a smaller "
            "step size, or bound the parameters."
        )
    warnings.warn(
        f"{found}; they stay where they were and the points are given density zero. Check "
        "the energy there, or use a smaller step size.",
        NonFiniteEnergyWarning,
        stacklevel=2,
    )
