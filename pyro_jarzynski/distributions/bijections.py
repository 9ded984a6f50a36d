"""Bijections from unconstrained space to sets for which torch has none.

They are registered with `biject_to` and `transform_to`, which find them by the class of a
constraint.
"""

import math
from numbers import Number

import torch
from pyro.distributions import constraints as pyro_constraints
from pyro.distributions import transforms
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.utils import tril_matrix_to_vec, vec_to_tril_matrix
from torch.nn.functional import softplus

from pyro_jarzynski.distributions.constraints import (
    LOWER_CHOLESKY,
    Correlations,
    Image,
    LowerCholesky,
    OpenSimplex,
    PositiveDefinite,
    PositiveOrdered,
    Range,
    Simplex,
    diagonal,
)


class _ToRange(Transform):
    """A bijection from the real line to the numbers between two bounds.

    By the logistic function where both are finite, by the exponential function where one
    is, and else by identity.
    """

    domain = constraints.real
    bijective = True
    sign = 1

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.codomain = Range(low, high)
        self.has_low, self.has_high = torch.isfinite(low), torch.isfinite(high)
        self.has_both = self.has_low & self.has_high
        self.has_one = self.has_low ^ self.has_high
        # Zeros keep infinity out of the branches that are not taken.
        self.low = torch.where(self.has_low, low, 0.0)
        self.high = torch.where(self.has_high, high, 0.0)
        self.width = torch.where(self.has_both, self.high - self.low, 1.0)
        # An upper bound alone is approached downwards, which keeps the map increasing.
        self.side = torch.where(self.has_high, -1.0, 1.0)

    def _call(self, x: Tensor) -> Tensor:
        between = self.low + self.width * _SIGMOID(x)
        distance = torch.where(self.has_one, self.side * x, 0.0).exp()
        beyond = self.low + self.high + self.side * distance
        return self._chosen(between, beyond, x)

    def _inverse(self, y: Tensor) -> Tensor:
        share = torch.where(self.has_both, (y - self.low) / self.width, 0.5)
        distance = self.side * (y - self.low - self.high)
        return self._chosen(
            _SIGMOID.inv(share),
            self.side * torch.where(self.has_one, distance, 1.0).log(),
            y,
        )

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        between = self.width.log() - softplus(-x) - softplus(x)
        return self._chosen(between, self.side * x, torch.zeros_like(x))

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.broadcast_shapes(shape, self.width.shape)

    inverse_shape = forward_shape

    def _chosen(self, if_both: Tensor, if_one: Tensor, if_none: Tensor) -> Tensor:
        found = torch.where(self.has_one, if_one, if_none)
        return torch.where(self.has_both, if_both, found)


class _ToLowerCholesky(Transform):
    """A bijection from vectors of `n (n + 1) / 2` numbers to lower Cholesky factors."""

    domain = constraints.real_vector
    codomain = LOWER_CHOLESKY
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        matrix = vec_to_tril_matrix(x)
        return matrix.tril(-1) + diagonal(matrix).exp().diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        return tril_matrix_to_vec(y.tril(-1) + diagonal(y).log().diag_embed())

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return diagonal(y).log().sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        size = (math.isqrt(8 * shape[-1] + 1) - 1) // 2
        return torch.Size([*shape[:-1], size, size])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size([*shape[:-2], shape[-1] * (shape[-1] + 1) // 2])


_SIGMOID = transforms.SigmoidTransform()


@biject_to.register(Range)
def _to_range(support: Range) -> Transform:
    low, high = support.lower_bound, support.upper_bound
    if isinstance(low, Number) and isinstance(high, Number):
        return biject_to(constraints.interval(low, high))
    return _ToRange(low, high)


@biject_to.register(Image)
def _to_image(support: Image) -> Transform:
    return transforms.ComposeTransform([biject_to(support.base), *support.links])


@biject_to.register(LowerCholesky)
def _to_lower_cholesky(support: Constraint) -> Transform:
    return _ToLowerCholesky()


@biject_to.register(PositiveDefinite)
def _to_positive_definite(support: Constraint) -> Transform:
    return transforms.ComposeTransform(
        [_ToLowerCholesky(), transforms.CholeskyTransform().inv]
    )


# As the constraints in whose place they are.
biject_to.register(Simplex, lambda _: biject_to(constraints.simplex))
biject_to.register(OpenSimplex, lambda _: biject_to(constraints.simplex))
biject_to.register(Correlations, lambda _: biject_to(pyro_constraints.corr_matrix))
biject_to.register(
    PositiveOrdered, lambda _: biject_to(pyro_constraints.positive_ordered_vector)
)
# Guides of Pyro start from `transform_to`.
for _kind in (
    *(Range, Image, LowerCholesky, PositiveDefinite),
    *(Simplex, OpenSimplex, Correlations, PositiveOrdered),
):
    transform_to.register(_kind, biject_to)
