"""Paths: sequences of energies `U_0, U_1, …, U_K` along which walkers are carried.

Any sequence of energies is a path. Two make one from what users have: `Tempering` goes
from a law that can be drawn to one that cannot, `ParameterPath` follows a network whose
parameters change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn

from pyro_jarzynski.core.evaluation import CombinedEnergy, Energy, EnergyFn
from pyro_jarzynski.core.trees import Position
from pyro_jarzynski.core.turning import common_support
from pyro_jarzynski.errors import ArgumentError

Path: TypeAlias = Sequence[Energy]


@dataclass(frozen=True)
class Tempering:
    """The path `U_β = (1 - β) U_base + β U_target` at given inverse temperatures.

    Both energies are evaluated once per walker; a change of `β` costs no evaluation.

    Args:
        base: Energy of the law that the first walkers are drawn from.
        target: Energy of the law to reach.
        betas: Increasing numbers from 0 to 1, at least two.

    Raises:
        ArgumentError: The inverse temperatures do not increase from 0 to 1.

    Example:
        >>> path = pj.Tempering(
        ...     base=lambda x: x.square().sum(1) / 2,
        ...     target=lambda x: 2 * (x - 1).square().sum(1),
        ...     betas=[0.0, 0.5, 1.0],
        ... )
        >>> len(path), path[1].coefficients
        (3, (0.5, 0.5))
    """

    base: EnergyFn
    target: EnergyFn
    betas: Sequence[float]

    def __post_init__(self) -> None:
        """Check the inverse temperatures."""
        check_betas("betas", self.betas)

    def __len__(self) -> int:
        """Number of energies, `K + 1`."""
        return len(self.betas)

    def __getitem__(self, index: int) -> CombinedEnergy:
        """Energy at one inverse temperature."""
        beta = float(self.betas[index])
        shares = (self.base, 1 - beta), (self.target, beta)
        used = [energy for energy, share in shares if share != 0]
        return CombinedEnergy(self.terms, (1 - beta, beta), common_support(used))

    def terms(self, position: Position) -> tuple[Tensor, Tensor]:
        """Return the energies of base and target, each `(N,)`."""
        return self.base(position), self.target(position)


def check_betas(name: str, betas: Sequence[float]) -> None:
    """Raise unless inverse temperatures increase from 0 to 1."""
    values = [float(b) for b in betas]
    if len(values) < 2 or values[0] != 0 or values[-1] != 1:
        raise ArgumentError(
            f"`{name}` must be at least two numbers, the first 0 and the last 1; got "
            f"{len(values)}: {values[:1]} … {values[-1:]}."
        )
    for index, (low, high) in enumerate(pairwise(values), 1):
        if not high > low:
            raise ArgumentError(
                f"`{name}` must increase; number {index} is {high} after {low}."
            )


@dataclass(frozen=True)
class ParameterPath:
    """The energies `U_k = U_{θ_k}` of one module at recorded parameters `θ_0, …, θ_K`.

    Args:
        module: Energy as a module, `(N, *event) -> (N,)`.
        states: State dictionaries, one per energy.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Flatten(0))
        >>> first = {name: value.clone() for name, value in net.state_dict().items()}
        >>> last = {name: 2 * value for name, value in first.items()}
        >>> path = pj.ParameterPath(net, [first, last])
        >>> x = torch.ones(3, 2)
        >>> torch.equal(path[1](x), 2 * path[0](x))
        True
    """

    module: nn.Module
    states: Sequence[Mapping[str, Tensor]]

    def __len__(self) -> int:
        """Number of energies, `K + 1`."""
        return len(self.states)

    def __getitem__(self, index: int) -> EnergyFn:
        """Energy at one state of the parameters."""
        return _AtState(self.module, dict(self.states[index]))


class _AtState:
    """The energy of a module at a state of its parameters."""

    def __init__(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        self.module, self.state = module, state
        self.in_support = getattr(module, "in_support", None)

    def __call__(self, position: Position) -> Tensor:
        return torch.func.functional_call(self.module, self.state, (position,))
