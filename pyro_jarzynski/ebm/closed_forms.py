"""Energies whose normaliser is known: a Gaussian, and a Boltzmann machine.

They are models of their own, and measures of what training and its audit are worth.
`GaussianMixtureEnergy` in `networks.py` is another.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.noise import normal_like, standard_normal, stream
from pyro_jarzynski.ebm.startable import StartableEnergy
from pyro_jarzynski.errors import ArgumentError, count, positive

# 2¹⁶ hidden states: a sum over them takes milliseconds.
MAX_ENUMERATED = 16


class QuadraticEnergy(StartableEnergy):
    """`U(x) = ½ (x - m)ᵀ P (x - m)` with `P = L Lᵀ`: a Gaussian, and its closed forms.

    `Z = (2π)^{d/2} / det L`. The diagonal of the lower triangular `L` is learned by its
    logarithm, so that `P` stays positive definite.

    Args:
        mean: Mean `m`, `(d,)`.
        precision: `P`, `(d, d)`, symmetric and positive definite; `None` is the identity.

    Raises:
        ArgumentError: The mean is no vector, or the precision no positive definite matrix.

    Example:
        >>> energy = pj.QuadraticEnergy(torch.zeros(2))
        >>> energy(torch.tensor([[3.0, 4.0]])).detach()
        tensor([12.5000])
        >>> round(float(energy.log_normalizer()), 4)  # log 2π
        1.8379
    """

    def __init__(self, mean: Tensor, precision: Tensor | None = None) -> None:
        """Make the parameters."""
        super().__init__()
        if mean.ndim != 1 or not len(mean) or not mean.is_floating_point():
            raise ArgumentError(
                "`mean` must be a floating tensor of shape (d,), got "
                f"{tuple(mean.shape)} of {mean.dtype}."
            )
        factor = torch.diag(torch.ones_like(mean))
        if precision is not None:
            factor = _cholesky(precision, mean)
        self.mean = nn.Parameter(mean.detach().clone())
        self.log_diagonal = nn.Parameter(factor.diagonal().log())
        self.below_diagonal = nn.Parameter(factor[self._below()])

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one walker, `(d,)`."""
        return self.mean.shape

    @property
    def factor(self) -> Tensor:
        """The lower triangular `L`, `(d, d)`."""
        below = torch.zeros_like(torch.diag(self.log_diagonal))
        below = below.index_put(self._below(), self.below_diagonal)
        return below + torch.diag(self.log_diagonal.exp())

    def precision(self) -> Tensor:
        """Return `P`, `(d, d)`."""
        factor = self.factor.detach()
        return factor @ factor.T

    def covariance(self) -> Tensor:
        """Return the covariance `P⁻¹`, `(d, d)`."""
        return torch.cholesky_inverse(self.factor.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Return the energies of `(N, d)` walkers, `(N,)`, in nats."""
        return ((x - self.mean) @ self.factor).square().sum(1) / 2

    def log_normalizer(self) -> Tensor:
        """Return the exact `log Z`, `()`."""
        dimension = len(self.mean)
        return dimension / 2 * math.log(2 * math.pi) - self.log_diagonal.detach().sum()

    def start_log_normalizer(self) -> float:
        """Return the exact `log Z`."""
        return float(self.log_normalizer())

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw `num` independent points, `(num, d)`."""
        noise = _normal(num, self.mean, generator)
        # Rows y of `y L = noise` have covariance (L Lᵀ)⁻¹.
        factor = self.factor.detach()
        return self.mean.detach() + torch.linalg.solve_triangular(
            factor, noise, upper=False, left=False
        )

    def _below(self) -> tuple[Tensor, Tensor]:
        size = len(self.log_diagonal)
        rows, columns = torch.tril_indices(size, size, -1, device=self.log_diagonal.device)
        return rows, columns


class RBMEnergy(StartableEnergy):
    """A Gaussian–Bernoulli restricted Boltzmann machine, summed over its hidden units.

    `U(v) = |v - b|² / (2σ²) - Σ_j softplus(c_j + w_j·v / σ)`; given hidden units `h` in
    {0, 1}, `v` is normal with mean `b + σ W h` and standard deviation `σ`.

    Hidden units whose weights are zero multiply `Z` by `1 + e^{c_j}`; over the others `Z`
    is a sum, which is taken for up to 16 of them. All weights are zero in a new machine,
    or, for a few hidden units, small and random, which spares training the saddle there.

    Args:
        visible: Number of visible units `d`.
        hidden: Number of hidden units.
        sd: Standard deviation `σ` of a visible unit, held fixed.
        weight_scale: Standard deviation of the first weights.
        seed: Seed of the first weights, and of the biases `c`, which are standard normal,
            since equal hidden units would remain equal.

    Source:
        Welling, Rosen-Zvi, Hinton (2005), NIPS.

    Example:
        >>> energy = pj.RBMEnergy(4, 3)
        >>> energy(torch.zeros(5, 4)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        visible: int,
        hidden: int,
        *,
        sd: float = 1.0,
        weight_scale: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Make the parameters."""
        super().__init__()
        count("visible", visible)
        count("hidden", hidden)
        self.sd = positive("sd", sd)
        if weight_scale:
            positive("weight_scale", weight_scale)
        generator = stream(seed, "first weights")
        device = torch.get_default_device()
        weight = standard_normal(visible, hidden, generator=generator) * weight_scale
        self.weight = nn.Parameter(weight.to(device))
        self.bias = nn.Parameter(torch.zeros(visible, device=device))
        hidden_bias = standard_normal(hidden, generator=generator)
        self.hidden_bias = nn.Parameter(hidden_bias.to(device))

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one walker, `(visible,)`."""
        return self.bias.shape

    def forward(self, x: Tensor) -> Tensor:
        """Return the energies of `(N, visible)` walkers, `(N,)`, in nats."""
        active = softplus(torch.addmm(self.hidden_bias, x / self.sd, self.weight))
        return (x - self.bias).square().sum(1) / (2 * self.sd**2) - active.sum(1)

    def gibbs(self, position: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw the hidden units, and from them new visible ones, `(N, visible)`."""
        chance = torch.addmm(self.hidden_bias, position / self.sd, self.weight).sigmoid()
        hidden = torch.bernoulli(chance, generator=generator)
        centre = torch.addmm(self.bias, hidden, self.weight.T, alpha=self.sd)
        return torch.normal(centre, self.sd, generator=generator)

    @standard_modes(gradients=False)
    def exact_log_normalizer(self) -> Tensor:
        """Return the exact `log Z`, `()`, float64, by a sum over hidden states.

        Raises:
            ArgumentError: More than 16 hidden units have weights that are not zero.
        """
        scores, _ = self._hidden_states()
        free = self.hidden_bias.detach().double()[~self._coupled()]
        volume = len(self.bias) / 2 * math.log(2 * math.pi * self.sd**2)
        return scores.logsumexp(0) + softplus(free).sum() + volume

    def start_log_normalizer(self) -> float:
        """Return the exact `log Z`."""
        return float(self.exact_log_normalizer())

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw `num` independent points, `(num, visible)`; errors as for `log Z`."""
        scores, states = self._hidden_states()
        chosen = torch.multinomial(
            scores.softmax(0), num, replacement=True, generator=generator
        )
        weight = self.weight.detach()[:, self._coupled()]
        shift = states[chosen].to(weight) @ weight.T
        noise = _normal(num, self.bias, generator)
        return self.bias.detach() + self.sd * (shift + noise)

    def _coupled(self) -> Tensor:
        return (self.weight.detach() != 0).any(0)

    def _hidden_states(self) -> tuple[Tensor, Tensor]:
        """Return log-masses and values of the states of units with weights, float64."""
        coupled = self._coupled()
        number = int(coupled.sum())
        if number > MAX_ENUMERATED:
            raise ArgumentError(
                f"`RBMEnergy` sums over at most {MAX_ENUMERATED} hidden units with weights "
                f"that are not zero, this one has {number}. Start training and tracking at "
                "`weight_scale=0`, and read log Z from the audit."
            )
        states = binary_states(number, coupled.device)
        weight = self.weight.detach().double()[:, coupled]
        # c·h + b·Wh / σ + ½ |Wh|², without the (states, visible) matrix of all Wh.
        linear = self.hidden_bias.detach().double()[coupled]
        linear = linear + self.bias.detach().double() @ weight / self.sd
        pairs = (states @ (weight.T @ weight) * states).sum(1)
        return states @ linear + pairs / 2, states


def binary_states(number: int, device: torch.device) -> Tensor:
    """Return all states of some binary units, `(2ⁿ, n)`, float64."""
    bits = torch.arange(number, device=device)
    states = (torch.arange(2**number, device=device)[:, None] >> bits) & 1
    return states.double()


def _normal(num: int, like: Tensor, generator: torch.Generator) -> Tensor:
    noise = normal_like(like.detach().expand(num, -1), generator)
    assert isinstance(noise, Tensor)
    return noise


def _cholesky(precision: Tensor, mean: Tensor) -> Tensor:
    shape = (len(mean), len(mean))
    if precision.shape != shape or not torch.allclose(precision, precision.T):
        raise ArgumentError(
            f"`precision` must be a symmetric matrix of shape {shape}, got shape "
            f"{tuple(precision.shape)}."
        )
    factor, info = torch.linalg.cholesky_ex(precision.detach().to(mean))
    if info != 0:
        raise ArgumentError(
            "`precision` must be positive definite, got a matrix whose Cholesky factor "
            f"fails at row {int(info)}."
        )
    return factor
