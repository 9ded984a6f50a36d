"""Binary Boltzmann machines written by hand, with brute-force truths."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

FLOAT = torch.float64


def all_states(num: int) -> Tensor:
    """Return all points of `{0, 1}^num`, `(2^num, num)`."""
    side = torch.tensor([0.0, 1.0], dtype=FLOAT)
    return torch.cartesian_prod(*[side] * num).reshape(-1, num)


class Machine(NamedTuple):
    """`U(v) = -b·v - Σ softplus(c + Wᵀv)`, an energy for the core without torch modules."""

    weight: Tensor
    bias: Tensor
    hidden_bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return -(x @ self.bias) - softplus(self.hidden_bias + x @ self.weight).sum(1)

    def gibbs(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        chance = (self.hidden_bias + x @ self.weight).sigmoid()
        hidden = torch.bernoulli(chance, generator=generator)
        chance = (self.bias + hidden @ self.weight.T).sigmoid()
        return torch.bernoulli(chance, generator=generator)

    @property
    def log_z(self) -> float:
        """The exact `log Z`, by all visible states."""
        return float((-Machine.__call__(self, all_states(len(self.bias)))).logsumexp(0))

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw exactly, by all visible states."""
        states = all_states(len(self.bias))
        chance = (-Machine.__call__(self, states)).softmax(0)
        return states[torch.multinomial(chance, num, True, generator=generator)]


def machine_path(num: int = 5) -> list[Machine]:
    """Machines of 6 visible and 4 hidden units, from independence to strong couplings."""
    generator = torch.Generator().manual_seed(7)
    weight = 1.5 * torch.randn(6, 4, dtype=FLOAT, generator=generator)
    bias = torch.randn(6, dtype=FLOAT, generator=generator)
    hidden_bias = torch.randn(4, dtype=FLOAT, generator=generator)
    return [
        Machine(k / num * weight, (1 - k / num) * bias, hidden_bias) for k in range(num + 1)
    ]
