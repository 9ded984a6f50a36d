"""Networks and closed-form energies to put into an EBM."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.core.resampling import cumulative
from pyro_jarzynski.ebm.startable import StartableEnergy
from pyro_jarzynski.errors import ArgumentError, count, one_of

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class MLP(nn.Module):
    """A fully connected network from `(N, sizes[0])` to `(N, 1)`.

    Args:
        sizes: Widths from the input to the last hidden layer.
        activation: `silu`, `softplus` or `tanh`; smooth, so that Langevin moves are good.
        seed: Seed of the initial weights.

    Raises:
        ArgumentError: There is no width, one is not positive, or the activation is unknown.

    Example:
        >>> pj.MLP([2, 64, 64])(torch.zeros(5, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self, sizes: Sequence[int], activation: str = "silu", seed: int = 0
    ) -> None:
        """Build the layers."""
        super().__init__()
        if not sizes:
            raise ArgumentError(
                "`sizes` must have at least the width of the input; got []."
            )
        for size in sizes:
            count("sizes", size)
        one_of("activation", activation, ACTIVATIONS)
        self.sizes, self.activation = list(sizes), activation
        layers: list[nn.Module] = []
        with global_stream(seed):
            for width, after in zip(sizes, [*sizes[1:], 1], strict=True):
                layers += [nn.Linear(width, after), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, 1)`."""
        return self.layers(x)


class GaussianMixtureEnergy(StartableEnergy):
    """`U(x) = -log Σ_j exp(-z_j - ½|x - a_j|²)`: modes of unit variance, closed forms.

    `Z = (2π)^{d/2} Σ_j e^{-z_j}`, and mode `j` has mass `e^{-z_j} / Σ e^{-z}`.

    Args:
        means: Centres `a`, `(modes, d)`.
        log_masses: `z`, `(modes,)`: logarithms of the masses with the sign changed, up to a
            constant. The first is held fixed, which sets the scale of `Z`.

    Raises:
        ArgumentError: Shapes do not fit, or there are fewer than two modes.

    Example:
        >>> means = torch.tensor([[-10.0, 0.0], [6.0, 0.0]])
        >>> model = pj.GaussianMixtureEnergy(means, torch.tensor([0.0, -1.0986]))
        >>> model.masses().round(decimals=3)
        tensor([0.2500, 0.7500])
        >>> model.draw(4, torch.Generator().manual_seed(0))[:, 0] < 0
        tensor([ True, False, False, False])
    """

    def __init__(self, means: Tensor, log_masses: Tensor) -> None:
        """Make the parameters."""
        super().__init__()
        if means.ndim != 2 or log_masses.shape != means.shape[:1] or len(means) < 2:
            raise ArgumentError(
                "`means` must have shape (modes, d) with at least 2 modes and "
                f"`log_masses` (modes,); got {tuple(means.shape)} and "
                f"{tuple(log_masses.shape)}."
            )
        self.means = nn.Parameter(means.clone())
        self.first_z: Tensor
        self.register_buffer("first_z", log_masses[:1].clone())
        self.free_z = nn.Parameter(log_masses[1:].clone())

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one walker, `(d,)`."""
        return self.means.shape[1:]

    @property
    def z(self) -> Tensor:
        """Negative log-masses, `(modes,)`."""
        return torch.cat([self.first_z, self.free_z])

    def forward(self, x: Tensor) -> Tensor:
        """Return the energies of `(N, d)` walkers, `(N,)`, in nats."""
        # |x - a|² is expanded, so that no (N, modes, d) tensor is ever formed.
        offset = self.z + self.means.square().sum(1) / 2
        overlap = torch.addmm(-offset, x, self.means.T)
        return x.square().sum(1) / 2 - overlap.logsumexp(1)

    def masses(self) -> Tensor:
        """Return the mass of each mode, `(modes,)`."""
        return torch.softmax(-self.z.detach(), 0)

    def log_normalizer(self) -> Tensor:
        """Return the exact `log Z`, `()`."""
        dimension = self.means.shape[1]
        return dimension / 2 * math.log(2 * math.pi) + (-self.z.detach()).logsumexp(0)

    def start_log_normalizer(self) -> float:
        """Return the exact `log Z`."""
        return float(self.log_normalizer())

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw `num` points, `(num, d)`, each mode with its exact share of them."""
        means, masses = self.means.detach(), self.masses()
        level = torch.arange(num, device=means.device, dtype=means.dtype)
        mode = torch.searchsorted(cumulative(masses), (level + 0.5) / num).clamp(
            max=len(masses) - 1
        )
        noise = torch.randn(
            (num, means.shape[1]),
            dtype=means.dtype,
            device=means.device,
            generator=generator,
        )
        return means[mode] + noise
