"""Block-Gibbs moves: walkers drawn anew from the conditional laws of their energy.

An energy with hidden variables summed out offers what the kernel needs beside its values,

    energy(position) -> (N,)                    nats
    energy.gibbs(position, generator)           new positions, in the shape of the old

where `gibbs` leaves `e^{-U}/Z` invariant. It draws the hidden variables at the positions
and forgets them, so that weights are those of `U` alone: they vary less than weights that
carry hidden variables along (Rao-Blackwell). No gradient by the position is taken, and
positions may be discrete.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from pyro_jarzynski.core.evaluation import Energy, evaluate
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.transitions import Invariant, metropolis
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.errors import EnergyError, count


@runtime_checkable
class GibbsEnergy(Protocol):
    """An energy whose walkers can be drawn anew, block by block, as `BlockGibbs` needs it.

    Called with walkers it returns their energies, `(N,)`, in nats. `gibbs(position,
    generator)` returns positions of the same shape after one sweep, which must leave
    `e^{-U}/Z` invariant. `BinaryRBMEnergy` is one.
    """

    def __call__(self, position: Any) -> Tensor:
        """Return the energies of walkers, `(N,)`, in nats."""

    def gibbs(self, position: Any, generator: torch.Generator | None) -> Any:
        """Return positions after one sweep, which leaves the law invariant."""


@dataclass(frozen=True)
class BlockGibbs(Invariant):
    """Block-Gibbs sweeps of an energy that knows its conditional laws.

    A sweep is always accepted; walkers are weighted where they are when the energy
    changes, `A += U_k(X) - U_{k+1}(X)`. There is no step size, which is told as NaN.

    Args:
        num_sweeps: Sweeps per move. The energy is evaluated once after the last, so that
            many sweeps in one move cost less than many moves.

    Source:
        Salakhutdinov, Murray (2008), ICML, for the annealing of Boltzmann machines.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> machine = pj.BinaryRBMEnergy(6, 4, probs=torch.full((6,), 0.3))
        >>> walkers = pj.init(machine.draw(100, generator), machine, gradient=False)
        >>> walkers, rate = pj.BlockGibbs(3).move(walkers, machine, pj.Tools(generator))
        >>> walkers.position.unique(), float(rate)
        (tensor([0., 1.]), 1.0)
    """

    num_sweeps: int = 1
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the argument."""
        count("num_sweeps", self.num_sweeps)

    def move(
        self, walkers: Walkers, energy: Energy, tools: Tools
    ) -> tuple[Walkers, Tensor]:
        """Draw every walker anew, `num_sweeps` times.

        Raises:
            EnergyError: The energy has no method `gibbs`.
        """
        if not isinstance(energy, GibbsEnergy):
            raise EnergyError(
                "`BlockGibbs` needs an energy with a method `gibbs(position, generator)`, "
                f"such as `BinaryRBMEnergy`; {type(energy).__name__} has none. Use MALA or "
                "HMC."
            )
        end = walkers.position
        with torch.no_grad():
            for _ in range(self.num_sweeps):
                end = energy.gibbs(end, tools.generator)
        gradient = walkers.evaluation.grad_or_none is not None
        there = evaluate(energy, end, chunk_size=tools.chunk_size, gradient=gradient)
        always = torch.zeros_like(walkers.log_weight)
        return metropolis(walkers, end, there, always, tools)
