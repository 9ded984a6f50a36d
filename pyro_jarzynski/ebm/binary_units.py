"""Two sides of binary units: conditional laws, and sums over all states of one side."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyro_jarzynski.ebm.closed_forms import MAX_ENUMERATED, binary_states
from pyro_jarzynski.errors import ArgumentError

# States of one side that are summed at a time: a matrix of the other side's units each.
STATES_AT_ONCE = 4096


class States(NamedTuple):
    """All states of the coupled units of one side, with the other side summed out.

    Attributes:
        of_hidden: Whether they are of hidden units.
        coupled: Which units of that side have weights that are not zero.
        values: Their states, `(2ⁿ, n)`, float64.
        log_mass: Log of the mass of each state, `(2ⁿ,)`, float64, without the factor of the
            units of that side that are not coupled.
    """

    of_hidden: bool
    coupled: Tensor
    values: Tensor
    log_mass: Tensor


class Units(NamedTuple):
    """Parameters of a machine: `e^{b·v + c·h + v·Wh}` up to its normaliser.

    Attributes:
        bias: `b`, `(visible,)`.
        weight: `W`, `(visible, hidden)`.
        hidden_bias: `c`, `(hidden,)`.
    """

    bias: Tensor
    weight: Tensor
    hidden_bias: Tensor

    def free_energy(self, v: Tensor) -> Tensor:
        """Return `-b·v - Σ_j softplus(c_j + w_j·v)`, `(N,)`."""
        active = softplus(torch.addmm(self.hidden_bias, v, self.weight))
        return -(v @ self.bias) - active.sum(1)

    def hidden(self, v: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw hidden units given visible ones, `(N, hidden)`."""
        chance = torch.addmm(self.hidden_bias, v, self.weight).sigmoid()
        return torch.bernoulli(chance, generator=generator)

    def visible(self, h: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw visible units given hidden ones, `(N, visible)`."""
        chance = torch.addmm(self.bias, h, self.weight.T).sigmoid()
        return torch.bernoulli(chance, generator=generator)

    def gibbs(self, v: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw hidden units, and from them new visible ones, `(N, visible)`."""
        return self.visible(self.hidden(v, generator), generator)

    def transposed(self) -> "Units":
        """Return the machine with its sides exchanged."""
        return Units(self.hidden_bias, self.weight.T, self.bias)

    def states(self) -> States:
        """Return the states of the coupled units of the smaller side.

        Raises:
            ArgumentError: They are more than 16.
        """
        units = Units(*(parameter.detach().double() for parameter in self))
        linked = units.weight != 0
        hidden, visible = linked.any(0), linked.any(1)
        of_hidden = bool(hidden.sum() <= visible.sum())
        side = units if of_hidden else units.transposed()
        coupled = hidden if of_hidden else visible
        number = int(coupled.sum())
        if number > MAX_ENUMERATED:
            raise ArgumentError(
                f"`BinaryRBMEnergy` sums over at most {MAX_ENUMERATED} units with weights "
                f"that are not zero, this one has {number} on its smaller side. Start "
                "training and tracking at `weight_scale=0`, and read log Z from the audit."
            )
        values = binary_states(number, side.weight.device)
        weight, bias = side.weight[:, coupled].T, side.hidden_bias[coupled]
        log_mass = [
            part @ bias + softplus(side.bias + part @ weight).sum(1)
            for part in values.split(STATES_AT_ONCE)
        ]
        return States(of_hidden, coupled, values, torch.cat(log_mass))

    def log_normalizer(self) -> Tensor:
        """Return the exact `log Z`, `()`, float64; errors as for `states`."""
        states = self.states()
        bias = self.hidden_bias if states.of_hidden else self.bias
        alone = bias.detach().double()[~states.coupled]
        return states.log_mass.logsumexp(0) + softplus(alone).sum()

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw `num` visible points exactly, `(num, visible)`; errors as for `states`."""
        states = self.states()
        chosen = torch.multinomial(
            states.log_mass.softmax(0), num, replacement=True, generator=generator
        )
        known = states.values[chosen].to(self.bias)
        if states.of_hidden:
            # Hidden units without weights do not matter.
            hidden = self.hidden_bias.new_zeros(num, len(self.hidden_bias))
            hidden[:, states.coupled] = known
            return self.visible(hidden, generator)
        chance = self.bias.sigmoid().expand(num, -1)
        visible = torch.bernoulli(chance, generator=generator)
        visible[:, states.coupled] = known
        return visible
