"""Sets of values that torch and Pyro have no constraint for, or none that can be mapped.

Each checks many walkers at once under `vmap`, is exact up to rounding in the type of the
values, and has a bijection from unconstrained space, which `biject_to` finds.
"""

import math
from collections.abc import Iterator, Sequence
from numbers import Number

import torch
from pyro.distributions import constraints as pyro_constraints
from pyro.distributions import transforms
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.utils import tril_matrix_to_vec, vec_to_tril_matrix
from torch.nn.functional import softplus

# Largest error of sums that should be one, per term, in units of rounding.
ROUNDING = 10


class Range(constraints.interval):
    """Numbers strictly between two bounds, each a number or a tensor, finite or not."""

    def check(self, value: Tensor) -> Tensor:
        """Tell which values are inside."""
        return (self.lower_bound < value) & (value < self.upper_bound)


class Image(Constraint):
    """The image of a set under transforms, of which not the whole domain is in the set.

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
        event_dim, checks = self.event_dim, []
        for link in reversed(self.links):
            checks.append((codomain(link), value, event_dim))
            event_dim += link.domain.event_dim - link.codomain.event_dim
            value = link.inv(value)
        checks.append((self.base, value, event_dim))
        found = [check_events(*check) for check in checks if not is_whole(check[0])]
        return torch.stack(torch.broadcast_tensors(*found)).all(0)


class _Counts(Constraint):
    """Vectors of counts, of any total."""

    is_discrete = True
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Tell which vectors are counts."""
        return ((value >= 0) & (value % 1 == 0)).all(-1)


class _Simplex(Constraint):
    """Vectors of numbers that are not negative and sum to one."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Tell which vectors are, to 1e-6 or the rounding of their sum."""
        return (value >= 0).all(-1) & _equal(value.sum(-1), 1.0, value.shape[-1])


class _LowerCholesky(Constraint):
    """Lower triangular matrices of positive diagonal."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        """Tell which matrices are."""
        is_lower = (value.tril() == value).flatten(-2).all(-1)
        return is_lower & (_diagonal(value) > 0).all(-1)


class _PositiveDefinite(Constraint):
    """Symmetric matrices of positive eigenvalues."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        """Tell which matrices are."""
        is_symmetric = torch.isclose(value, value.mT, atol=1e-6).flatten(-2).all(-1)
        return is_symmetric & (torch.linalg.cholesky_ex(value).info == 0)


class _Correlations(_PositiveDefinite):
    """Positive definite matrices of unit diagonal."""

    def check(self, value: Tensor) -> Tensor:
        """Tell which matrices are."""
        has_ones = _equal(_diagonal(value), 1.0, value.shape[-1]).all(-1)
        return has_ones & super().check(value)


class _PositiveOrdered(Constraint):
    """Vectors of increasing positive numbers."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Tell which vectors are."""
        return pyro_constraints.ordered_vector.check(value) & (value > 0).all(-1)


COUNTS = _Counts()
_LOWER_CHOLESKY, _POSITIVE_DEFINITE = _LowerCholesky(), _PositiveDefinite()
# In the place of constraints by their type.
_IN_PLACE_OF: dict[type, Constraint] = {
    type(constraints.simplex): _Simplex(),
    type(constraints.lower_cholesky): _LOWER_CHOLESKY,
    type(constraints.positive_definite): _POSITIVE_DEFINITE,
    type(pyro_constraints.corr_matrix): _Correlations(),
    type(pyro_constraints.positive_ordered_vector): _PositiveOrdered(),
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
    return isinstance(_stripped(constraint)[0], type(constraints.real))


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
    all_links, links = list(_flattened(through)), list[Transform]()
    if base is None:
        base = mappable(all_links[0].domain) if all_links else constraints.real
    for link in all_links:
        domain = mappable(link.domain)
        if not links and (domain is base or (is_whole(domain) and is_whole(base))):
            base = codomain(link)
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
    base, event_dim = _stripped(support)
    bounds = _bounds(base)
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
    bases, event_dims = zip(*map(_stripped, (if_not, if_so)), strict=True)
    if bases[0] is bases[1] or all(map(is_whole, bases)):
        return if_not
    bounds = [_bounds(base) for base in bases]
    if bounds[0] is None or bounds[1] is None:
        raise NotImplementedError("the supports of the components differ")
    mask = mask.reshape(mask.shape + (1,) * event_dims[0])
    low, high = (torch.where(mask, b, a) for a, b in zip(*bounds, strict=True))
    return independent(Range(low, high), event_dims[0])


def independent(constraint: Constraint, event_dim: int) -> Constraint:
    """Return the set of tensors with all elements in a set, over rightmost dimensions."""
    return constraints.independent(constraint, event_dim) if event_dim else constraint


def _stripped(constraint: Constraint) -> tuple[Constraint, int]:
    """Return the constraint of single elements, and the dimensions declared events."""
    event_dim = 0
    while isinstance(constraint, constraints.independent):
        event_dim += constraint.reinterpreted_batch_ndims
        constraint = constraint.base_constraint
    return constraint, event_dim


def _bounds(support: Constraint) -> tuple[Tensor, Tensor] | None:
    """Return the ends of an interval, or nothing if a set has no bounds at all.

    Raises:
        NotImplementedError: It is the image of a set of vectors, or of integers.
    """
    if isinstance(support, Image):
        ends = _bounds(support.base)
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


def _flattened(links: Sequence[Transform]) -> Iterator[Transform]:
    """Yield the parts of composed transforms."""
    for link in links:
        if isinstance(link, transforms.ComposeTransform):
            yield from _flattened(link.parts)
        elif isinstance(link, transforms.IndependentTransform):
            event_dim = link.reinterpreted_batch_ndims
            for part in _flattened([link.base_transform]):
                yield transforms.IndependentTransform(part, event_dim)
        else:
            yield link


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)


def _equal(value: Tensor, number: float, num_terms: int) -> Tensor:
    """Tell which sums of so many terms are a number, up to rounding."""
    limit = max(1e-6, ROUNDING * torch.finfo(value.dtype).eps * num_terms)
    return (value - number).abs() < limit


# Bijections.


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
    codomain = _LOWER_CHOLESKY
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        matrix = vec_to_tril_matrix(x)
        return matrix.tril(-1) + _diagonal(matrix).exp().diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        return tril_matrix_to_vec(y.tril(-1) + _diagonal(y).log().diag_embed())

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return _diagonal(y).log().sum(-1)

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


@biject_to.register(_LowerCholesky)
def _to_lower_cholesky(support: Constraint) -> Transform:
    return _ToLowerCholesky()


@biject_to.register(_PositiveDefinite)
def _to_positive_definite(support: Constraint) -> Transform:
    return transforms.ComposeTransform(
        [_ToLowerCholesky(), transforms.CholeskyTransform().inv]
    )


# As the constraints in whose place they are.
biject_to.register(_Simplex, lambda _: biject_to(constraints.simplex))
biject_to.register(_Correlations, lambda _: biject_to(pyro_constraints.corr_matrix))
biject_to.register(
    _PositiveOrdered, lambda _: biject_to(pyro_constraints.positive_ordered_vector)
)
