"""The energy `-log base(x)` of a base density, plus infinity outside of its support."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions.constraints import Constraint
from torch.nn.functional import mse_loss

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.distributions.constraints import bounds_of, is_whole, stripped
from pyro_jarzynski.distributions.draws import with_exact_draws
from pyro_jarzynski.distributions.edges import moved_inside
from pyro_jarzynski.distributions.supports import support_of, within_support
from pyro_jarzynski.errors import ArgumentError, NonFiniteEnergyWarning

# Share of draws without a density from which a base is refused.
MAX_LOST = 0.01
# Roundings by which a draw is moved at most.
MAX_NUDGES = 4


def energy_of(base: Distribution) -> "BaseEnergy":
    """Return `-log base(x)` as a function of `(N, *event)`, `(N,)`, in nats.

    That of independent normals costs three passes over `x` with its gradient; the density
    of the distribution takes four times as many, which shows beside a small network.
    """
    normal: Any = base
    while isinstance(normal, Independent):
        normal = normal.base_dist
    # Subclasses may mean something else.
    plain = not normal.event_shape and type(normal).log_prob is Normal.log_prob
    trained = plain and (normal.loc.requires_grad or normal.scale.requires_grad)
    if not plain or trained or normal.loc.is_meta:
        return BaseEnergy(base)
    return NormalEnergy(base, normal)


class BaseEnergy:
    """`-log base(x)`, plus infinity outside of the support.

    It is plus infinity as well at points where the density is infinite, ends of a support
    for instance. Its gradient is finite wherever it is finite itself: zero where torch has
    none, at an end of a support for instance.

    Args:
        base: A distribution with batch shape `()`.

    Attributes:
        support: Where the density is positive.
        has_walls: Whether it is zero somewhere.
    """

    def __init__(self, base: Distribution) -> None:
        """Find the support, and a point of it."""
        self.base = base
        self.density: Any = within_support(base, periodic=False, parameters=False)
        self.support = known_support(base)
        self.has_walls = not is_whole(self.support)
        if self.has_walls:
            with global_stream(0), torch.no_grad():
                self.point = self._find_point()

    def __call__(self, x: Tensor) -> Tensor:
        """Return the energies of `(N, *event)`, `(N,)`."""
        if not self.has_walls:
            return -self.density.log_prob(x)
        log_prob = self.density.log_prob(_FiniteGradient.apply(x))
        return torch.where(log_prob == math.inf, math.inf, -log_prob)

    def draw(self, num: int) -> Tensor:
        """Draw `(num, *event)` from torch's global generator.

        Draws that rounding has put on an end of the support are moved inside.

        Raises:
            ArgumentError: Some draws have no density.
        """
        drawn = self._sample(num)
        if not self.has_walls:
            return drawn
        lost = ~torch.isfinite(self(drawn))
        if lost.any():
            drawn, lost = self._nudged(drawn, lost)
        if lost.any():
            self._report(drawn, lost)
        return drawn

    def in_support(self, x: Tensor) -> Tensor | None:
        """Return where the energy is not plus infinity, `(N,)`; `None` is everywhere."""
        return self(x) != math.inf if self.has_walls else None

    def moved_inside(self, x: Tensor, energy: Tensor) -> Tensor:
        """Return walkers `(N, *event)`, with a point of the support for those outside."""
        inside = (energy < math.inf).reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(inside, x, self.point.to(x))

    def _sample(self, num: int) -> Tensor:
        drawn = with_exact_draws(self.base).sample(torch.Size([num])).contiguous()
        return moved_inside(drawn, self._ends()) if self.has_walls else drawn

    def _find_point(self) -> Tensor:
        """Return a point of high density, `(1, *event)`."""
        drawn = self._sample(64)
        if drawn.is_meta:
            return drawn[:1]
        energy = self(drawn)
        lost = ~torch.isfinite(energy)
        if lost.all():
            self._report(drawn, lost)
        return drawn[energy.masked_fill(lost, math.inf).argmin()][None]

    def _ends(self) -> tuple[Tensor | None, Tensor | None]:
        try:
            return bounds_of(stripped(self.support)) or (None, None)
        except NotImplementedError:
            return None, None

    def _nudged(self, drawn: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
        """Move finite draws without a density by single roundings towards the support.

        The ends of a transformed support are not known, and the transform rounds to them.
        """
        events = (-1, *[1] * (drawn.ndim - 1))
        for _ in range(MAX_NUDGES):
            moves = lost.reshape(events) & torch.isfinite(drawn)
            nearer = torch.nextafter(drawn, self.point.to(drawn).expand_as(drawn))
            drawn = torch.where(moves, nearer, drawn)
            lost = ~torch.isfinite(self(drawn))
        return drawn, lost

    def _report(self, drawn: Tensor, lost: Tensor) -> None:
        first = drawn[int(lost.int().argmax())].flatten()[:5].tolist()
        told = (
            f"`base` has no finite density at {int(lost.sum())} of {len(drawn)} of its own "
            f"draws, of {drawn.dtype}; the first is at {first}. Use float64, or parameters "
            "whose draws do not overflow"
        )
        # Beyond the share, by three standard errors of the count of few draws.
        most = MAX_LOST * len(drawn)
        if lost.sum() > most + 3 * math.sqrt(most):
            raise ArgumentError(f"{told}.")
        warnings.warn(
            f"{told}. They have weight zero.", NonFiniteEnergyWarning, stacklevel=4
        )


class NormalEnergy(BaseEnergy):
    """`Σ_i ½ ((x_i - m_i) / s_i)² + log s_i + ½ log 2π`.

    Args:
        base: Independent normal distributions.
        normal: The same without event dimensions, of means `m` and scales `s`.
    """

    def __init__(self, base: Distribution, normal: Normal) -> None:
        """Take out of the sum what all terms have in common."""
        super().__init__(base)
        loc, scale = normal.loc, normal.scale
        first = scale.flatten()[0]
        self.precision = 1 / (2 * first.square())
        self.scale = None if (scale == first).all() else scale / first
        self.loc = loc if self.scale is None else loc / self.scale
        self.level = scale.log().sum() + scale.numel() * math.log(2 * math.pi) / 2

    def __call__(self, x: Tensor) -> Tensor:
        """Return the energies of `(N, *event)`, `(N,)`."""
        white = x if self.scale is None else x / self.scale
        # The loss of two dtypes has no gradient in every release of torch.
        dtype = torch.promote_types(white.dtype, self.loc.dtype)
        loc = self.loc.to(dtype).expand_as(white)
        squares = mse_loss(white.to(dtype), loc, reduction="none")
        return squares.reshape(len(x), -1).sum(1) * self.precision + self.level


class _FiniteGradient(torch.autograd.Function):
    """The identity, whose derivative is zero where what comes back is not finite."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.where(torch.isfinite(grad), grad, 0.0)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)


def known_support(base: Distribution) -> Constraint:
    """Return the support of a base; all numbers where it declares none."""
    try:
        return support_of(base)
    except NotImplementedError:
        return constraints.independent(constraints.real, len(base.event_shape))
