"""Sets of values that torch and Pyro have no constraint for, or none that can be mapped.

Each checks many walkers at once under `vmap`, and is exact up to rounding in the type of
the values.
"""

import math
from collections.abc import Sequence

import torch
from pyro.distributions import constraints as pyro_constraints
from pyro.distributions import transforms
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.distributions.constraints import Constraint

from pyro_jarzynski.distributions.transforms import exact, flattened

# Largest error of sums that should be one: of any, and per term in units of rounding.
TOLERANCE, ROUNDING = 1e-6, 10


class Range(constraints.interval):
    """Numbers strictly between two bounds, each a number or a tensor, finite or not."""

    def __repr__(self) -> str:
        """Return the bounds."""
        return f"Range({self.lower_bound}, {self.upper_bound})"

    def check(self, value: Tensor) -> Tensor:
        """Tell which values are inside."""
        return (self.lower_bound < value) & (value < self.upper_bound)


class NamedConstraint(Constraint):
    """A constraint that is shown by the name of its class."""

    def __repr__(self) -> str:
        """Return the name."""
        return type(self).__name__


class Image(NamedConstraint):
    """The image of a set under transforms.

    Args:
        base: The set.
        links: Bijective transforms, in the order in which they are applied.
    """

    def __init__(self, base: Constraint, links: Sequence[Transform]) -> None:
        """Find the rightmost dimensions that are one event."""
        self.base, self.links = base, list(links)
        self.is_discrete, self.event_dim = base.is_discrete, base.event_dim
        for link in self.links:
            self.event_dim = max(self.event_dim, link.domain.event_dim)
            self.event_dim += link.codomain.event_dim - link.domain.event_dim

    def check(self, value: Tensor) -> Tensor:
        """Tell which values are the images of values in the set."""
        sets, event_dim, found = [self.base, *map(codomain, self.links)], self.event_dim, []
        while sets:
            inner = sets.pop()
            if not is_whole(inner):
                found.append(check_events(inner, value, event_dim))
            if all(map(is_whole, sets)):
                break
            link = self.links[len(sets) - 1]
            event_dim += link.domain.event_dim - link.codomain.event_dim
            value = link.inv(value)
        return torch.stack(torch.broadcast_tensors(*found)).all(0)


class Simplex(NamedConstraint):
    """Vectors of numbers that are not negative and sum to one."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Tell which vectors are, to 1e-6 or the rounding of their sum."""
        return (value >= 0).all(-1) & _equal(value.sum(-1), 1.0, value.shape[-1])


class OpenSimplex(Simplex):
    """Vectors of positive numbers that sum to one."""

    def check(self, value: Tensor) -> Tensor:
        """Tell which vectors are, to 1e-6 or the rounding of their sum."""
        return (value > 0).all(-1) & super().check(value)


class LogSimplex(NamedConstraint):
    """Vectors of numbers whose exponentials sum to one."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Tell which vectors are, to 1e-6 or the rounding of their sum."""
        return _equal(value.exp().sum(-1), 1.0, value.shape[-1])


class LowerCholesky(NamedConstraint):
    """Lower triangular matrices of positive diagonal."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        """Tell which matrices are."""
        is_lower = (value.tril() == value).flatten(-2).all(-1)
        return is_lower & (diagonal(value) > 0).all(-1)


class PositiveDefinite(NamedConstraint):
    """Symmetric matrices of positive eigenvalues."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        """Tell which matrices are."""
        is_symmetric = torch.isclose(value, value.mT, atol=1e-6).flatten(-2).all(-1)
        return is_symmetric & (torch.linalg.cholesky_ex(value).info == 0)


class Correlations(PositiveDefinite):
    """Positive definite matrices of unit diagonal."""

    def check(self, value: Tensor) -> Tensor:
        """Tell which matrices are."""
        has_ones = _equal(diagonal(value), 1.0, value.shape[-1]).all(-1)
        return has_ones & super().check(value)


class PositiveOrdered(NamedConstraint):
    """Vectors of increasing positive numbers."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Tell which vectors are."""
        return pyro_constraints.ordered_vector.check(value) & (value > 0).all(-1)


LOWER_CHOLESKY = LowerCholesky()
# In the place of constraints by their type.
_IN_PLACE_OF: dict[type, Constraint] = {
    type(constraints.simplex): Simplex(),
    type(constraints.lower_cholesky): LOWER_CHOLESKY,
    type(constraints.positive_definite): PositiveDefinite(),
    type(pyro_constraints.corr_matrix): Correlations(),
    type(pyro_constraints.positive_ordered_vector): PositiveOrdered(),
}
# Images of the whole line that torch and Pyro declare with their ends, or wrongly.
_CODOMAINS: dict[type, Constraint] = {
    transforms.SigmoidTransform: Range(0, 1),
    transforms.TanhTransform: Range(-1, 1),
    transforms.CumulativeDistributionTransform: Range(0, 1),
    transforms.ELUTransform: constraints.greater_than(-1.0),
}


def mappable(constraint: Constraint) -> Constraint:
    """Return a constraint for the same set that `vmap` can map."""
    if isinstance(constraint, constraints.independent):
        base = mappable(constraint.base_constraint)
        if base is constraint.base_constraint:
            return constraint
        return constraints.independent(base, constraint.reinterpreted_batch_ndims)
    return _IN_PLACE_OF.get(type(constraint), constraint)


def is_whole(constraint: Constraint) -> bool:
    """Tell whether a set holds all real numbers, or vectors."""
    return isinstance(stripped(constraint), type(constraints.real))


def is_bounded(constraint: Constraint) -> bool:
    """Tell whether a set is that of all real numbers on one side of a bound, or of two."""
    kinds = (
        constraints.interval,
        constraints.half_open_interval,
        constraints.greater_than,
        constraints.greater_than_eq,
        constraints.less_than,
    )
    return isinstance(stripped(constraint), kinds)


def rounded(constraint: Constraint) -> Constraint:
    """Return a set with the numbers that rounding can put beyond both of its bounds.

    A probability that is a sum of others can be above one.
    """
    base, event_dim = _elements(constraint)
    if not isinstance(base, constraints.interval | constraints.half_open_interval):
        return constraint
    low, high = base.lower_bound, base.upper_bound
    wider = constraints.interval(low - TOLERANCE, high + TOLERANCE)
    return independent(wider, event_dim)


def check_events(constraint: Constraint, value: Tensor, event_dim: int) -> Tensor:
    """Tell which values are in a set, with their rightmost dimensions as one."""
    found = constraint.check(value)
    for _ in range(event_dim - constraint.event_dim):
        found = found.all(-1)
    return found


def image(base: Constraint | None, through: Sequence[Transform]) -> Constraint:
    """Return the image of a set under transforms, one after the other.

    Args:
        base: The set; `None` is the domain of the first transform.
        through: The transforms.
    """
    all_links, links = list(flattened(map(exact, through))), list[Transform]()
    if base is None:
        base = mappable(all_links[0].domain) if all_links else constraints.real
    for link in all_links:
        domain, onto = mappable(link.domain), codomain(link)
        covered = domain is base or (is_whole(domain) and is_whole(base))
        if covered and is_whole(onto) and not links:
            base = onto
        else:
            links.append(link)
    return Image(base, links) if links else base


def codomain(link: Transform) -> Constraint:
    """Return the image of the domain of a transform."""
    if isinstance(link, transforms.IndependentTransform):
        inner = codomain(link.base_transform)
        return constraints.independent(inner, link.reinterpreted_batch_ndims)
    return _CODOMAINS.get(type(link), mappable(link.codomain))


def hull(support: Constraint, num_parts: int) -> Constraint:
    """Return the smallest range that holds the supports of all components of a mixture.

    Args:
        support: That of the components, which are along the last batch dimension.
        num_parts: Number of components.

    Raises:
        NotImplementedError: The supports differ, and are not intervals.
    """
    base, event_dim = _elements(support)
    bounds = bounds_of(base)
    if not any(bound.dim() for bound in bounds or ()):
        return support
    assert bounds is not None
    parts, dim = (num_parts,) + (1,) * event_dim, -1 - event_dim
    device = max(bounds, key=Tensor.dim).device
    low, high = (
        x.to(device).expand(torch.broadcast_shapes(x.shape, parts)) for x in bounds
    )
    return independent(Range(low.amin(dim), high.amax(dim)), event_dim)


def either(mask: Tensor, if_not: Constraint, if_so: Constraint) -> Constraint:
    """Return the set that is one where a mask holds, and another elsewhere.

    Raises:
        NotImplementedError: They differ, and are not intervals.
    """
    bases, event_dims = zip(*map(_elements, (if_not, if_so)), strict=True)
    if bases[0] is bases[1] or all(map(is_whole, bases)):
        return if_not
    bounds = [bounds_of(base) for base in bases]
    if bounds[0] is None or bounds[1] is None:
        raise NotImplementedError("the supports of the components differ")
    mask = mask.reshape(mask.shape + (1,) * event_dims[0])
    low, high = (torch.where(mask, b, a) for a, b in zip(*bounds, strict=True))
    return independent(Range(low, high), event_dims[0])


def independent(constraint: Constraint, event_dim: int) -> Constraint:
    """Return the set of tensors with all elements in a set, over rightmost dimensions."""
    return constraints.independent(constraint, event_dim) if event_dim else constraint


def stripped(constraint: Constraint) -> Constraint:
    """Return a constraint below all dimensions that are declared events."""
    return _elements(constraint)[0]


def _elements(constraint: Constraint) -> tuple[Constraint, int]:
    """Return the constraint of single elements, and the dimensions declared events."""
    event_dim = 0
    while isinstance(constraint, constraints.independent):
        event_dim += constraint.reinterpreted_batch_ndims
        constraint = constraint.base_constraint
    return constraint, event_dim


def bounds_of(support: Constraint) -> tuple[Tensor, Tensor] | None:
    """Return the ends of an interval, infinite or not; `None` if a set is no interval.

    Raises:
        NotImplementedError: It is the image of another set.
    """
    if isinstance(support, Image):
        ends = bounds_of(support.base)
        if ends is None or support.event_dim:
            raise NotImplementedError("a mixture of such transformed distributions")
        for link in support.links:
            a, b = map(link, ends)
            ends = torch.minimum(a, b), torch.maximum(a, b)
        return ends
    if isinstance(support, constraints.interval | constraints.half_open_interval):
        return _number(support.lower_bound), _number(support.upper_bound)
    if isinstance(support, constraints.greater_than | constraints.greater_than_eq):
        return _number(support.lower_bound), _number(math.inf)
    if isinstance(support, constraints.less_than):
        return _number(-math.inf), _number(support.upper_bound)
    return (_number(-math.inf), _number(math.inf)) if is_whole(support) else None


def _number(bound: float | Tensor) -> Tensor:
    """Return a bound as a tensor: a number on the CPU, from where any device takes it."""
    return bound if isinstance(bound, Tensor) else torch.tensor(bound, device="cpu")


def diagonal(matrix: Tensor) -> Tensor:
    """Return the diagonals of matrices."""
    return matrix.diagonal(dim1=-2, dim2=-1)


def _equal(value: Tensor, number: float, num_terms: int) -> Tensor:
    """Tell which sums of so many terms are a number, up to rounding."""
    limit = max(TOLERANCE, ROUNDING * torch.finfo(value.dtype).eps * num_terms)
    return (value - number).abs() < limit
