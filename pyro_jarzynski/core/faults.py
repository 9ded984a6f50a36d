"""What is wrong with walkers, told at once or, on a GPU, at the end of a step.

To read a number of a tensor on a GPU, the processor waits for all that it has asked of it.
So moves do not look there: they treat walkers as the masks say, whether these hold anywhere
or not, and leave a few numbers behind. A step reads these, once, and tells what moves
found in their order: the same errors and warnings as without waiting.
"""

import warnings
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.core.trees import Position, map_tree
from pyro_jarzynski.errors import (
    NonFiniteEnergyError,
    NonFiniteEnergyWarning,
    SupportWarning,
)

# Where an energy was evaluated: at walkers where they stand, where they went by a move
# that nobody refuses, or at the ends of moves that are refused where it is not finite.
Where: TypeAlias = Literal["standing", "moved", "proposed"]

# Share of the walkers of an evaluation that may not be finite before it is an error.
MAX_BROKEN: dict[str, float] = {"standing": 0.01, "moved": 0.01, "proposed": 0.5}


class Finding(NamedTuple):
    """What one evaluation found wrong.

    Attributes:
        where: Where it was.
        position: The points of it, `(N, *event)`.
        steps: Energies visited before it, `()`.
        infinite: Walkers whose energy is minus infinity, `(N,)`.
        broken: Walkers whose energy is not finite, of those that are told.
        left: Walkers that left the support by a move that nobody refuses.
    """

    where: Where
    position: Position
    steps: Tensor
    infinite: Tensor
    broken: Tensor
    left: Tensor

    def numbers(self) -> Tensor:
        """Return step, sizes and first walkers of the masks, `(7,)`, int64."""
        masks = torch.stack([self.infinite, self.broken, self.left]).to(torch.int64)
        return torch.cat([self.steps[None], masks.sum(1), masks.argmax(1)])


class Fault(NamedTuple):
    """A finding in plain numbers.

    Attributes:
        where: Where the energy was evaluated.
        size: Walkers of the evaluation.
        first: The first point that is not finite, `(*event)`; any point if all are.
        step: Energies visited before.
        num_infinite: Walkers whose energy is minus infinity.
        num_broken: Walkers whose energy is not finite.
        num_left: Walkers that left the support.
        first_infinite: The first of each.
        first_broken: The first of each.
        first_left: The first of each.
    """

    where: Where
    size: int
    first: Position
    step: int
    num_infinite: int
    num_broken: int
    num_left: int
    first_infinite: int
    first_broken: int
    first_left: int

    @property
    def told(self) -> str:
        """Count and place of what is not finite, as a clause."""
        ends = "the ends of " if self.where == "proposed" else ""
        moves = "proposed moves" if ends else "walkers"
        return (
            f"The energy is not finite at {ends}{self.num_broken} of "
            f"{self.size} {moves} in step {self.step}, first at walker {self.first_broken}"
        )


class Faults:
    """Gathers what the moves of a step find; a context, at whose end it is told.

    Attributes:
        is_open: Whether the context is entered.
    """

    def __init__(self) -> None:
        """Start without findings."""
        self._found: list[tuple[Where, int, Position, Tensor]] = []
        self.is_open = False

    def __enter__(self) -> "Faults":
        """Begin a step."""
        self.is_open = True
        return self

    def __exit__(self, *_: object) -> None:
        """Tell what was found, before whatever came of it."""
        self.is_open = False
        self.tell()

    def note(self, found: Finding) -> None:
        """Tell what was found at once, unless the processor had to wait for it.

        Raises:
            NonFiniteEnergyError: As `tell` does.
        """
        # An index that stays where it is: to read it would be to wait.
        at = found.broken.to(torch.int64).argmax()[None]
        first = map_tree(lambda x: x.index_select(0, at)[0], found.position)
        self._found.append((found.where, len(found.broken), first, found.numbers()))
        if not waits(found.broken.device):
            self.tell()

    def tell(self) -> None:
        """Tell what was found so far, by a single read.

        Raises:
            NonFiniteEnergyError: Too many are NaN, or an energy is minus infinity.
        """
        if not self._found:
            return
        rows = torch.stack([numbers for *_, numbers in self._found]).tolist()
        known, self._found = self._found, []
        for (where, size, first, _), row in zip(known, rows, strict=True):
            self.report(Fault(where, size, first, *row))

    def report(self, fault: Fault) -> None:
        """Raise an error or warn of one finding."""
        if fault.num_infinite:
            raise NonFiniteEnergyError(
                f"The energy of walker {fault.first_infinite} is minus infinity: the "
                "density is infinite there, so it cannot be normalised. Bound the energy "
                "from below."
            )
        if fault.num_broken:
            self.report_broken(fault)
        if fault.num_left:
            warnings.warn(
                f"{fault.num_left} of {fault.size} walkers left the support in step "
                f"{fault.step}: the weights of a kernel without acceptance step are too "
                "small there. Use MALA or HMC, or transform to unconstrained space.",
                SupportWarning,
                stacklevel=2,
            )

    def report_broken(self, fault: Fault) -> None:
        """Raise an error or warn of energies that are not finite."""
        most = MAX_BROKEN[fault.where]
        if fault.num_broken > most * fault.size:
            raise NonFiniteEnergyError(
                f"{fault.told}; more than {most:.0%}. Check the energy there, use a "
                "smaller step size, or bound the parameters."
            )
        warnings.warn(
            f"{fault.told}; they stay where they were and the points are given density "
            "zero. Check the energy there, or use a smaller step size.",
            NonFiniteEnergyWarning,
            stacklevel=2,
        )


def waits(device: torch.device) -> bool:
    """Tell whether the processor waits for a device when it reads one of its numbers."""
    return device.type != "cpu"


def may_hold(mask: Tensor) -> bool:
    """Tell whether a mask holds somewhere; without waiting for it, it may."""
    return waits(mask.device) or bool(mask.any())


def read(*numbers: Tensor) -> list[float]:
    """Return numbers of the same device, each `()`, by one wait for it."""
    return torch.stack([x.to(torch.float64) for x in numbers]).tolist()
