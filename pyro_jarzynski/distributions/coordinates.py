"""Latents in unconstrained coordinates, where their densities do not underflow.

A value that rounding has put on the edge of its support has lost its coordinate: the
logarithm of zero is minus infinity. So a coordinate is kept beside its value, and a density
that is a function of the coordinate is computed from it. Values on an edge are moved to
the next number inside.
"""

import copy
from numbers import Number
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    IndependentTransform,
)

from pyro_jarzynski.distributions.constraints import Image, codomain, is_whole, stripped
from pyro_jarzynski.distributions.edges import edges_of, moved_inside
from pyro_jarzynski.distributions.parts import rebuilt
from pyro_jarzynski.distributions.supports import bijection, support_of
from pyro_jarzynski.distributions.transforms import exact, flattened

# Distributions that have the values of those that they are made of.
WRAPPERS = (
    torch.distributions.Independent,
    dist.ExpandedDistribution,
    dist.MaskedDistribution,
)


class Coordinate:
    """A latent as a function of its unconstrained coordinate.

    With `T` the bijection from unconstrained space to the support, a distribution may be
    known as the image of another one under transforms that end like `T`: under all of `T`,
    as a lognormal distribution is under the exponential function, or under its last
    transforms alone. Both have these transforms in common, which remember their last
    argument and value: so the density of a value is computed from what it is made of,
    however much of that is lost by rounding.

    Args:
        fn: Distribution of the latent.

    Attributes:
        fn: A distribution of the same density, that shares transforms with the bijection.
        transform: The bijection.
        innermost: The bijection onto what the transforms of the distribution start from.
        exact: Whether the density is one of the coordinate.
    """

    def __init__(self, fn: Any) -> None:
        """Find what distribution and bijection have in common."""
        self.fn = _remembering(_as_image(fn))
        base: Any = stripped(support_of(self.fn))
        links: list[Transform] = []
        while isinstance(base, Image):
            base, links = stripped(base.base), [*base.links, *links]
        self.innermost, self.transform = biject_to(base), bijection(self.fn)
        self.edges = edges_of(stripped(codomain(links[-1])) if links else base)
        known = _transforms_of(self.fn)
        before = known[: len(known) - len(links)]
        shared = bool(before) and _are_equal(before[-1], _essential(self.innermost))
        if shared:
            # A composition, since others are copied without what they remember.
            chain = ComposeTransform([before[-1], *links])
            dims = self.transform.domain.event_dim - chain.domain.event_dim
            self.transform = IndependentTransform(chain, dims) if dims else chain
        self.exact = shared or (bool(links) and is_whole(base))
        self.last: Any = known[-1] if self.exact else None

    def constrain(self, coordinate: Tensor) -> Tensor:
        """Return the value of a coordinate."""
        return self._moved(self.transform(coordinate))

    def unconstrain(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coordinate of a draw of `fn`, and the draw, moved inside."""
        if not self.exact:
            value = moved_inside(value, self.edges)
        return self.transform.inv(value), self._moved(value)

    def _moved(self, value: Tensor) -> Tensor:
        """Return a value inside, with its argument in the cache of the last transform."""
        inside = moved_inside(value, self.edges)
        if self.exact and inside is not value:
            argument, known = self.last._cached_x_y
            if known is value:
                self.last._cached_x_y = argument, inside
        return inside


class LogGamma(dist.TorchDistribution):
    """The logarithm of a number of a gamma distribution.

    Its draws do not underflow, as those of small concentrations do.

    Args:
        gamma: The gamma distribution.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.real

    def __init__(self, gamma: Any) -> None:
        """Keep the distribution."""
        self.gamma = gamma
        super().__init__(gamma.batch_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogGamma":
        """Return the distribution for more dimensions."""
        return LogGamma(self.gamma.expand(batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw logarithms, also of numbers that are smaller than all of their type."""
        drawn = self.gamma.sample(sample_shape)
        concentration, rate = self.gamma.concentration, self.gamma.rate
        # Torch lifts draws to the smallest number, before it divides by the rate and after.
        # Below it the density is a power of the number.
        smallest = torch.finfo(drawn.dtype).tiny / rate.clamp(max=1)
        lifted = drawn <= smallest * (1 + 4 * torch.finfo(drawn.dtype).eps)
        if not lifted.any():
            return drawn.log()
        below = smallest.log() + torch.rand_like(drawn).log() / concentration
        return torch.where(lifted, below, drawn.log())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of logarithms."""
        concentration, rate = self.gamma.concentration, self.gamma.rate
        constant = concentration * rate.log() - concentration.lgamma()
        return constant + concentration * value - rate * value.exp()


def _as_image(fn: Any) -> Any:
    """Return a distribution with the gamma distributions in it as images of `LogGamma`."""
    # No classes that inherit from them: those may have another density.
    if type(fn) in (dist.Gamma, dist.Chi2, torch.distributions.Gamma):
        return _image(LogGamma(fn), [ExpTransform()])
    if type(fn) in (dist.InverseGamma, torch.distributions.InverseGamma):
        return _image(LogGamma(fn.base_dist), [AffineTransform(0.0, -1.0), ExpTransform()])
    return rebuilt(fn, _as_image) if isinstance(fn, WRAPPERS) or _is_plain(fn) else fn


def _image(base: Any, links: list[Transform]) -> Any:
    return dist.TransformedDistribution(base, links, validate_args=False)


def _is_plain(fn: Any) -> bool:
    """Tell whether a distribution is the image of another one, and nothing beside."""
    transformed = torch.distributions.TransformedDistribution
    return type(fn) in (transformed, dist.TransformedDistribution)


def _remembering(fn: Any) -> Any:
    """Return a distribution whose transforms remember what they were applied to last."""
    if isinstance(fn, WRAPPERS):
        return rebuilt(fn, _remembering)
    if not isinstance(fn, torch.distributions.TransformedDistribution):
        return fn
    changed = copy.copy(fn)
    changed.base_dist = _remembering(fn.base_dist)
    try:
        changed.transforms = [exact(link).with_cache() for link in flattened(fn.transforms)]
    except NotImplementedError:
        return fn
    return changed


def _transforms_of(fn: Any) -> list[Transform]:
    """Return the transforms of which a distribution is an image, the first first."""
    while isinstance(fn, WRAPPERS):
        fn = fn.base_dist
    if not isinstance(fn, torch.distributions.TransformedDistribution):
        return []
    return [*_transforms_of(fn.base_dist), *fn.transforms]


def _essential(transform: Transform) -> Transform:
    """Return a transform without parts that change nothing."""
    if not isinstance(transform, ComposeTransform):
        return transform
    parts = [part for part in transform.parts if not _changes_nothing(part)]
    return parts[0] if len(parts) == 1 else transform


def _changes_nothing(transform: Transform) -> bool:
    if not isinstance(transform, AffineTransform):
        return False
    numbers = transform.loc, transform.scale
    return all(isinstance(x, Number) for x in numbers) and numbers == (0, 1)


def _are_equal(a: Transform, b: Transform) -> bool:
    """Tell whether two transforms are of one kind, without parameters."""
    return type(a) is type(b) and type(a).__init__ is Transform.__init__
