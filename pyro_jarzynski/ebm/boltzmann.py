"""Restricted Boltzmann machines of binary units, for walkers that move by block Gibbs.

    model = BinaryRBMEnergy(784, 200, data=train)
    learner = JarzynskiLearner(model, optimizer, kernel=BlockGibbs(10))

The energy is the free energy of the visible units, with the hidden ones summed out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.noise import standard_normal, stream
from pyro_jarzynski.core.paths import check_betas
from pyro_jarzynski.ebm.binary_units import Units
from pyro_jarzynski.ebm.data import check_data
from pyro_jarzynski.ebm.startable import Annealing, StartableEnergy
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    EnergyError,
    count,
    positive,
)


class BinaryRBMEnergy(StartableEnergy):
    """A restricted Boltzmann machine of units in {0, 1}, summed over its hidden units.

    `U(v) = -b·v - Σ_j softplus(c_j + w_j·v)`, for walkers that are floating tensors of 0
    and 1. Given `h`, the units `v_i` are independent with chance `sigmoid(b_i + (Wh)_i)`.

    Weights are learned in centred coordinates: with the first rates `m` of the visible
    units as their offsets, and ½ as that of hidden ones,

        b = bias - ½ Σ_j w_j,     c = hidden_bias - Wᵀ m,

    so that the gradient by `W` is that of covariances rather than of products. Otherwise
    all hidden units change the rates of the visible ones together at each update, which the
    weights of walkers do not survive unless the learning rate is several times smaller.

    A unit whose weights are all zero is independent of the others. Over those that are
    coupled `Z` is a sum over the states of the smaller side, which is taken for up to 16
    units there. So a new machine is exact: its weights are zero.

    Args:
        visible: Number of visible units `d`.
        hidden: Number of hidden units.
        data: Data `(n, d)` of 0 and 1 whose smoothed rates, `(1 + Σ v) / (2 + n)`, the
            visible units start with; annealing starts there, too.
        probs: Such rates, `(d,)`, in (0, 1), in place of data. Without either they are ½.
        weight_scale: Standard deviation of the first weights. A machine with more than 16
            units on both sides starts at zero; see `scatter`.
        centred: Whether offsets are used; if not they are zero.
        seed: Seed of the first weights, and of the biases `c`, which are standard normal.

    Attributes:
        units: `b`, `W` and `c` of the energy at present.

    Raises:
        ArgumentError: A number is out of its range, or both `data` and `probs` are given.

    Source:
        Salakhutdinov, Murray (2008), ICML, for the free energy; Montavon, Müller (2012),
        Neural Networks: Tricks of the Trade, for centring.

    Example:
        >>> model = pj.BinaryRBMEnergy(3, 2, probs=torch.tensor([0.5, 0.5, 0.9]))
        >>> model(torch.tensor([[1.0, 0.0, 1.0]])).shape
        torch.Size([1])
    """

    def __init__(
        self,
        visible: int,
        hidden: int,
        *,
        data: Tensor | None = None,
        probs: Tensor | None = None,
        weight_scale: float = 0.0,
        centred: bool = True,
        seed: int = 0,
    ) -> None:
        """Make the parameters."""
        super().__init__()
        count("visible", visible)
        count("hidden", hidden)
        if weight_scale:
            positive("weight_scale", weight_scale)
        rates = _rates(visible, data, probs)
        generator = stream(seed, "first weights")
        weight = standard_normal(visible, hidden, generator=generator) * weight_scale
        hidden_bias = standard_normal(hidden, generator=generator).to(rates)
        self.base_bias: Tensor
        self.offset: Tensor
        self.hidden_offset = 0.5 * centred
        self.register_buffer("base_bias", rates.logit())
        self.register_buffer("offset", rates * centred)
        self.bias = nn.Parameter(self.base_bias.clone())
        self.weight = nn.Parameter(weight.to(rates))
        self.hidden_bias = nn.Parameter(hidden_bias)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one walker, `(visible,)`."""
        return self.bias.shape

    @property
    def support(self) -> Any:
        """Where the density is positive: at 0 and 1."""
        return constraints.independent(constraints.boolean, 1)

    @property
    def units(self) -> Units:
        """The machine that the parameters make."""
        return Units(
            self.bias - self.hidden_offset * self.weight.sum(1),
            self.weight,
            self.hidden_bias - self.offset @ self.weight,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the energies of `(N, visible)` walkers, `(N,)`, in nats."""
        if x.requires_grad:
            raise EnergyError(
                "Units of 0 and 1 do not move along gradients: start walkers by "
                "`init(..., gradient=False)`, and use `BlockGibbs`."
            )
        return self.units.free_energy(x)

    def gibbs(self, position: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw the hidden units, and from them new visible ones, `(N, visible)`."""
        return self.units.gibbs(position, generator)

    @torch.no_grad()
    def scatter(self, scale: float = 0.01, *, seed: int = 0) -> None:
        """Add small random weights, by which hidden units begin to differ.

        At `W = 0` and the rates of the data only noise has a gradient by the weights, and
        the same one for all hidden units, so that it takes hundreds of updates to leave. To
        walkers this is a change of parameters like any other, with exact weights. Build the
        learner first, then

            model.scatter()
            learner.followers.update()

        Args:
            scale: Standard deviation of what is added to each weight.
            seed: Seed of it.
        """
        positive("scale", scale)
        generator = stream(seed, "scattered weights")
        shape, dtype = self.weight.shape, self.weight.dtype
        noise = standard_normal(*shape, generator=generator, dtype=dtype)
        self.weight.add_(noise.to(self.weight), alpha=scale)

    @standard_modes(gradients=False)
    def exact_log_normalizer(self) -> Tensor:
        """Return the exact `log Z`, `()`, float64, by a sum over the smaller side.

        Raises:
            ArgumentError: More than 16 units of either side are coupled.
        """
        return self.units.log_normalizer()

    def start_log_normalizer(self) -> float:
        """Return the exact `log Z`."""
        return float(self.exact_log_normalizer())

    @standard_modes()
    @torch.no_grad()
    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw `num` independent points, `(num, visible)`; errors as for `log Z`."""
        return self.units.draw(num, generator)

    def annealing(self, betas: Sequence[float]) -> Annealing:
        """Return the way from independent units at their first rates to this machine.

        At inverse temperature `β` the parameters are `b_0 + β (b - b_0)`, `β W` and `β c`,
        with `b_0` the visible biases of the rates that the machine was made with.

        Args:
            betas: Increasing numbers from 0 to 1.

        Source:
            Salakhutdinov, Murray (2008), ICML, section 4.
        """
        check_betas("betas", betas)
        count_hidden = len(self.hidden_bias)
        log_z = softplus(self.base_bias.double()).sum() + count_hidden * math.log(2)

        def draw(num: int, generator: torch.Generator) -> Tensor:
            chance = self.base_bias.sigmoid().expand(num, -1)
            return torch.bernoulli(chance, generator=generator)

        return Annealing([Tempered(self, beta) for beta in betas], draw, float(log_z))


@dataclass(frozen=True)
class Tempered:
    """A machine at an inverse temperature, as an energy that can move by block Gibbs.

    Args:
        machine: The machine, whose present parameters are used at every call.
        beta: Inverse temperature in [0, 1].
    """

    machine: BinaryRBMEnergy
    beta: float

    @property
    def units(self) -> Units:
        """The machine at this temperature."""
        base, (bias, weight, hidden_bias) = self.machine.base_bias, self.machine.units
        return Units(
            torch.lerp(base, bias, self.beta), self.beta * weight, self.beta * hidden_bias
        )

    def __call__(self, position: Tensor) -> Tensor:
        """Return the energies of walkers, `(N,)`, in nats."""
        return self.units.free_energy(position)

    def gibbs(self, position: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw the hidden units, and from them new visible ones, `(N, visible)`."""
        return self.units.gibbs(position, generator)


def _rates(visible: int, data: Tensor | None, probs: Tensor | None) -> Tensor:
    """Return the first rates of the visible units, `(visible,)`, in (0, 1)."""
    if data is not None and probs is not None:
        raise ArgumentError(
            "Pass `data` or `probs`, not both: each says by itself where the units start."
        )
    if data is not None:
        if not isinstance(data, Tensor) or not data.is_floating_point():
            raise ArgumentTypeError(
                "`data` must be floating tensors of 0 and 1, as the walkers are; got "
                f"{getattr(data, 'dtype', type(data).__name__)}."
            )
        support = constraints.independent(constraints.boolean, 1)
        check_data("`data`", data, data.new_empty(1, visible), support)
        return (1 + data.sum(0)) / (2 + len(data))
    if probs is None:
        return torch.full((visible,), 0.5, device=torch.get_default_device())
    inside = isinstance(probs, Tensor) and probs.shape == (visible,)
    if not inside or not ((probs > 0) & (probs < 1)).all():
        raise ArgumentError(
            f"`probs` must be a tensor of shape ({visible},) with numbers in (0, 1); got "
            f"{probs!r}. Rates of 0 or 1 must be smoothed: pass `data` for that."
        )
    return probs.detach().clone()
