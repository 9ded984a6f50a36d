"""The energy `-log base(x)` of a base density, in few passes over the walkers."""

import math
from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import mse_loss


def energy_of(base: Distribution) -> Callable[[Tensor], Tensor]:
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
        return lambda x: -base.log_prob(x)
    return NormalEnergy(normal.loc, normal.scale)


class NormalEnergy:
    """`Σ_i ½ ((x_i - m_i) / s_i)² + log s_i + ½ log 2π`.

    Args:
        loc: Means `m`, of the shape of an event.
        scale: Standard deviations `s`, likewise.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        """Take out of the sum what all terms have in common."""
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


def unvalidated(base: Distribution) -> Distribution:
    """Return a distribution that gives no density outside its support, but no error.

    Walkers step there, and their weights tell; `torch.func.vmap` refuses the checks, too.
    """
    plain = copy(base)
    plain._validate_args = False
    for inner in ("base_dist", "_component_distribution"):
        if isinstance(getattr(plain, inner, None), Distribution):
            setattr(plain, inner, unvalidated(getattr(plain, inner)))
    return plain
