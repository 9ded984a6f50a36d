"""Base densities near the data, which are drawn exactly and cost little per walker."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.linalg import solve_triangular

from pyro_jarzynski.core.resampling import cumulative
from pyro_jarzynski.core.slices import whole
from pyro_jarzynski.ebm.distribution_parts import moved
from pyro_jarzynski.errors import ArgumentError, DataError, count


class PCAMixture(Distribution):
    """A mixture of Gaussians along the principal axes of data, and noise across them.

    `x = c + A z + √v (I - A Aᵀ) ξ` with standard normal `ξ`, and `z` of a mixture of
    Gaussians in the few coordinates of the orthonormal axes `A`. A density costs
    `d r + K r²` products instead of the `K d²` of full covariances.

    Args:
        masses: Mass of each component, `(K,)`; they sum to one.
        means: Their means in the coordinates of the axes, `(K, r)`.
        scale_tril: Lower Cholesky factors of their covariances there, `(K, r, r)`.
        axes: The axes `A`, `(d, r)`, orthonormal.
        centre: The point `c`, `(d,)`.
        rest: Variance `v` in every direction across the axes, `()`.

    Source:
        Tipping, Bishop (1999), Neural Computation 11(2), with axes that are shared.

    Raises:
        ArgumentError: Shapes do not fit each other.

    Example:
        >>> x = torch.cat([torch.randn(30, 5) - 4, torch.randn(90, 5) + 4])
        >>> base = pj.PCAMixture.fit(x, (torch.arange(120) >= 30).long(), rank=2)
        >>> base.masses
        tensor([0.2500, 0.7500])
        >>> base.sample((7,)).shape, base.log_prob(x).shape
        (torch.Size([7, 5]), torch.Size([120]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(
        self,
        masses: Tensor,
        means: Tensor,
        scale_tril: Tensor,
        axes: Tensor,
        centre: Tensor,
        rest: Tensor,
    ) -> None:
        """Keep the parameters, and what the density needs of them."""
        size, rank = axes.shape
        if means.shape[1:] != (rank,) or scale_tril.shape != (len(means), rank, rank):
            raise ArgumentError(
                f"`means` and `scale_tril` must have shapes (K, {rank}) and (K, {rank}, "
                f"{rank}) with `axes` {tuple(axes.shape)}, got {tuple(means.shape)} and "
                f"{tuple(scale_tril.shape)}."
            )
        super().__init__(event_shape=torch.Size([size]), validate_args=False)
        self.masses, self.means, self.scale_tril = masses, means, scale_tril
        self.axes, self.centre, self.rest = axes, centre, rest
        identity = torch.eye(rank, device=scale_tril.device).to(scale_tril)
        # All components whiten at once, in one product.
        whiten = solve_triangular(scale_tril, identity, upper=False).transpose(1, 2)
        self._whiten = whiten.permute(1, 0, 2).reshape(rank, -1)
        self._shift = torch.einsum("kr,krs->ks", means, whiten)
        volume = scale_tril.diagonal(dim1=1, dim2=2).log().sum(1)
        volume = volume + (size - rank) * rest.log() / 2 + size * math.log(2 * math.pi) / 2
        self._log_scale = masses.log() - volume

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Its arguments by name."""
        names = ("masses", "means", "scale_tril", "axes", "centre", "rest")
        return {name: getattr(self, name) for name in names}

    def _moved(self, fn: Callable[[Tensor], Tensor]) -> "PCAMixture":
        """Return the mixture with a function applied to its parameters."""
        return type(self)(**{name: fn(x) for name, x in self.parameters.items()})

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of `(*batch, d)`, `(*batch,)`, in nats."""
        components, across = self.components_and_rest(value)
        return components.logsumexp(-1) - across

    def components_and_rest(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density of each component along the axes, and what is across.

        Args:
            value: Points, `(*batch, d)`.

        Returns:
            `log m_k p_k`, `(*batch, K)`, and the nats that all of them lose across the
            axes, `(*batch,)`.
        """
        x = value - self.centre
        along = x @ self.axes
        across = (x.square().sum(-1) - along.square().sum(-1)) / self.rest
        return self._along(along), across / 2

    def log_components(self, value: Tensor) -> Tensor:
        """Return the log density of each component, `(*batch, K)`, up to one constant."""
        return self._along((value - self.centre) @ self.axes)

    def _along(self, along: Tensor) -> Tensor:
        white = (along @ self._whiten).unflatten(-1, self.means.shape) - self._shift
        return self._log_scale - white.square().sum(-1) / 2

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw points, `(*sample_shape, d)`, from the global generator.

        The components have their shares of the points but for rounding, in random order,
        so that a cloud of walkers starts without the noise of drawing these.
        """
        shape, device = torch.Size(sample_shape), self.means.device
        num = shape.numel()
        first = torch.rand((), dtype=self.means.dtype, device=device)
        level = (torch.arange(num, device=device) + first) / max(num, 1)
        edges = cumulative(self.masses.double())[:-1]
        mode = torch.bucketize(level, edges)[torch.randperm(num, device=device)]
        white = self.means.new_empty(num, self.means.shape[1]).normal_()
        along = self.means[mode] + torch.einsum("nrs,ns->nr", self.scale_tril[mode], white)
        noise = self.means.new_empty(num, len(self.centre)).normal_()
        across = self.rest.sqrt() * (noise - noise @ self.axes @ self.axes.T)
        return (self.centre + along @ self.axes.T + across).reshape(*shape, -1)

    @classmethod
    def fit(
        cls,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        rank: int = 100,
        noise: float = 0.0,
        masses: Tensor | None = None,
    ) -> "PCAMixture":
        """Return the mixture with one component for each class of data.

        Args:
            x: Data, `(n, d)`.
            labels: Component of each, `(n,)`, from 0; `None` is one component.
            rank: Number of axes, below `d` and `n`.
            noise: Standard deviation of noise that will be added to the data, and is
                added to the mixture.
            masses: Masses of the components; `None` is those of the data.

        Raises:
            ArgumentError: The rank does not fit the data.
            DataError: A component has fewer than two data, or no variance.
        """
        if count("rank", rank) >= min(x.shape):
            raise ArgumentError(
                f"`rank` must be below {min(x.shape)}, the lesser of the dimension and the "
                f"number of data; got {rank}."
            )
        if labels is None:
            labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
        groups = labels.to(x.device)
        numbers = groups.bincount()
        if not len(numbers) or int(numbers.min()) < 2:
            raise DataError(
                f"`labels` must give every component two data, got {numbers.tolist()}."
            )
        centred = x.double() - x.double().mean(0)
        axes, rest = _principal(centred, rank)
        parts = [(centred @ axes)[groups == k] for k in range(len(numbers))]
        floor = noise**2 * torch.eye(rank, dtype=torch.float64, device=x.device)
        covariances = torch.stack([torch.cov(part.T).reshape(rank, -1) for part in parts])
        scale_tril, failed = torch.linalg.cholesky_ex(covariances + floor)
        if failed.any() or not rest + noise**2 > 0:
            raise DataError(
                f"A component has no variance along some of {rank} axes; use a smaller "
                "`rank`, or `noise`."
            )
        given = (numbers if masses is None else masses).to(x.device, torch.float64)
        means = torch.stack([part.mean(0) for part in parts])
        arguments = (given / given.sum(), means, scale_tril, axes, x.double().mean(0))
        return cls(*(a.to(x.dtype) for a in (*arguments, rest + noise**2)))


class ComponentMasses(nn.Module):
    """A network beside trainable masses of the components of its base.

    `f(x) = net(x) - log Σ_k e^{δ_k} r_k(x)` with the shares `r_k` of the components in the
    density of the base, so that `e^{-f(x)} base(x)` has a base of masses `∝ e^{δ_k} m_k`.
    At the start `δ = 0`. Their gradient is the difference of two masses, which weighted
    walkers know well: masses are right in fifty updates, which take a network thousands.

    Args:
        net: Module from `(N, ...)` to `(N,)` or `(N, 1)`, in the event shape of the base.
        base: The base of the `EnergyModel` that this becomes the network of.

    Example:
        >>> x = torch.cat([torch.randn(50, 3) - 4, torch.randn(50, 3) + 4])
        >>> base = pj.PCAMixture.fit(x, torch.arange(100) // 50, rank=1)
        >>> net = pj.ComponentMasses(pj.MLP([3, 8]), base)
        >>> model = pj.EnergyModel(net, base)
        >>> net.masses()
        tensor([0.5000, 0.5000])
    """

    def __init__(self, net: nn.Module, base: PCAMixture) -> None:
        """Start at the masses of the base."""
        super().__init__()
        self.net, self.base = net, base
        self.log_ratio = nn.Parameter(torch.zeros_like(base.masses))

    def _apply(self, fn: Callable[[Tensor], Tensor], *recurse: bool) -> Self:
        """Change parameters and buffers, and the tensors of the base, as `to` does."""
        super()._apply(fn, *recurse)
        self.base = moved(self.base, fn, {})
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return `f`, `(N,)`."""
        known = self.base.log_components(x)
        # Both terms, though the second is that of the base: so it is zero at the start.
        change = (known + self.log_ratio).logsumexp(-1) - known.logsumexp(-1)
        return self.net(x).reshape(len(x)) - change

    def with_base(self, x: Tensor) -> Tensor:
        """Return `f(x) - log base(x)`, `(N,)`, by one pass over the components."""
        known, across = self.base.components_and_rest(x)
        return self.net(x).reshape(len(x)) - (known + self.log_ratio).logsumexp(-1) + across

    def masses(self) -> Tensor:
        """Return the masses of the components of the base by now, `(K,)`."""
        return (self.base.masses.log() + whole(self.log_ratio.detach())).softmax(0)


def _principal(centred: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the principal axes of centred data, `(d, r)`, and the variance across them."""
    total = centred.square().sum() / (len(centred) - 1)
    if len(centred) < centred.shape[1]:
        axes = torch.linalg.svd(centred, full_matrices=False).Vh[:rank].T
    else:
        axes = torch.linalg.eigh(torch.cov(centred.T)).eigenvectors[:, -rank:]
    known = (centred @ axes).square().sum() / (len(centred) - 1)
    return axes, (total - known).clamp(min=0) / (centred.shape[1] - rank)
