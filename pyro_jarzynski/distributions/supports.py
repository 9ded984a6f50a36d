"""Supports of distributions: the sets outside of which their densities are zero.

Torch and Pyro check supports by validation, which `vmap` refuses and which raises instead
of returning minus infinity. Without it many of their densities are finite where they
should be zero. So a walker is evaluated with `within_support(fn)` in the place of each
distribution `fn`, and latents are set by `bijection(fn)`, which is onto the same set.
"""

import copy
import math
from collections.abc import Callable, Hashable
from functools import cache, partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
from torch.distributions.utils import lazy_property

from pyro_jarzynski.core.faults import waits
from pyro_jarzynski.core.recording import is_recording
from pyro_jarzynski.distributions.bijections import biject_to
from pyro_jarzynski.distributions.constraints import (
    TOLERANCE,
    LogSimplex,
    OpenSimplex,
    Range,
    check_events,
    either,
    hull,
    image,
    independent,
    is_bounded,
    is_whole,
    mappable,
    rounded,
    stripped,
)
from pyro_jarzynski.distributions.parts import parts_of, rebuilt
from pyro_jarzynski.distributions.structures import (
    Coalescences,
    Counts,
    Matchings,
    Structure,
    Trees,
)
from pyro_jarzynski.distributions.transforms import exact

# Densities of angles are periodic: positive everywhere, and normalised on a circle.
ANGLES = (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)
# Densities that are sums of those of other distributions, or one of them.
MIXTURES = (
    torch.distributions.MixtureSameFamily,
    dist.MaskedMixture,
    dist.FoldedDistribution,
    dist.ZeroInflatedDistribution,
    dist.DiscreteHMM,
)
# Distributions with the supports of those that they are made of.
WRAPPERS = (
    torch.distributions.Independent,
    dist.ExpandedDistribution,
    dist.MaskedDistribution,
    dist.IndependentHMM,
    dist.Rejector,
)
# Distributions with a finite density at a negative scale or rate: at a count of zero, and
# by powers that are even.
WITHOUT_LOGARITHM = (torch.distributions.Poisson, torch.distributions.Weibull)
# Probabilities that are each positive, up to rounding.
CHANCES = independent(constraints.greater_than_eq(-TOLERANCE), 1)
# Supports that Pyro declares wrongly, or not at all.
DECLARED = {
    dist.FoldedDistribution: constraints.nonnegative,
    dist.GaussianScaleMixture: constraints.real_vector,
    ExpRelaxedCategorical: LogSimplex(),
    # Without the ends, where torch gives NaN or the density of another place.
    torch.distributions.Kumaraswamy: Range(0, 1),
    torch.distributions.RelaxedBernoulli: Range(0, 1),
    torch.distributions.RelaxedOneHotCategorical: OpenSimplex(),
    torch.distributions.LogisticNormal: OpenSimplex(),
    dist.TruncatedPolyaGamma: Range(0, 2.5),
    # Their densities are those of counts of any total, as torch documents it.
    torch.distributions.Multinomial: Counts(),
    dist.DirichletMultinomial: Counts(),
    dist.SpanningTree: Trees(),
}


def support_of(fn: Any) -> Constraint:
    """Return the set onto which a latent of a distribution is mapped.

    It is the support, except that angles, whose densities are periodic, are between -π
    and π, and that a mixture has the smallest interval that holds the supports of all its
    components.

    Raises:
        NotImplementedError: The support is not known.
    """
    if isinstance(fn, ANGLES):
        return independent(Range(-math.pi, math.pi), len(fn.event_shape))
    if isinstance(fn, torch.distributions.Independent):
        return independent(support_of(fn.base_dist), fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.ExpandedDistribution | dist.MaskedDistribution):
        return support_of(fn.base_dist)
    if isinstance(fn, dist.Rejector) and "propose" in parts_of(fn):
        return support_of(fn.propose)
    if isinstance(fn, torch.distributions.MixtureSameFamily):
        parts = fn.component_distribution
        return hull(support_of(parts), parts.batch_shape[-1])
    if isinstance(fn, dist.MaskedMixture):
        supports = support_of(fn.component0), support_of(fn.component1)
        return either(vars(fn)["mask"], *supports)
    if isinstance(fn, torch.distributions.GeneralizedPareto):
        # Its upper end is infinite for some shapes.
        return Range(fn.support.lower_bound, fn.support.upper_bound)
    if is_image(fn):
        found = image(support_of(fn.base_dist), fn.transforms)
        return independent(found, len(fn.event_shape) - found.event_dim)
    return _declared(fn)


def declared_support(fn: Any) -> Constraint | None:
    """Return the support of a distribution below masks, expansions and declared events.

    None if it is not declared.
    """
    while isinstance(fn, WRAPPERS):
        inner = parts_of(fn).get(
            "propose" if isinstance(fn, dist.Rejector) else "base_dist"
        )
        if inner is None:
            break
        fn = inner
    try:
        return _declared(fn)
    except NotImplementedError:
        return None


def bijection(fn: Any) -> Transform:
    """Return the bijection from unconstrained space to the support of a distribution.

    Raises:
        NotImplementedError: None is known.
    """
    return biject_to(support_of(fn))


def within_support(
    fn: Any, *, inside: bool = False, periodic: bool = True, parameters: bool = True
) -> Any:
    """Return a distribution with the same densities, which are zero outside the support.

    They are zero as well where a parameter is outside of its constraint, unless torch gives
    NaN there. Gradients of its log-density are those of the distribution where the density
    is positive. It does not validate. Where nothing is to be done it is the distribution
    itself.

    Args:
        fn: A distribution of torch or Pyro.
        inside: Whether values are known to be in the support. Then only the components of
            mixtures are checked, whose supports can be smaller.
        periodic: Whether angles may be any numbers. If not their densities, which are
            periodic, are zero outside of -π to π.
        parameters: Whether parameters are checked, which differ from call to call.
    """
    if not isinstance(fn, torch.distributions.Distribution):
        return fn
    is_users = _is_user_defined(fn)
    inner = partial(
        within_support,
        inside=inside and not (isinstance(fn, MIXTURES) or is_users),
        periodic=periodic,
        parameters=parameters,
    )
    is_composed = isinstance(fn, (*MIXTURES, *WRAPPERS)) or is_image(fn) or is_users
    checked = _with_links(rebuilt(fn, inner) if is_composed else fn, exact)
    support = None if inside else _checked_support(fn, periodic=periodic)
    limited = _checked_parameters(fn) if parameters else []
    validates = checked._validate_args
    if support is not None or limited or validates:
        checked = copy.copy(checked)
    if validates:
        checked._validate_args = False
    if support is not None:
        checked.log_prob = partial(_log_prob, checked.log_prob, fn, support)
    if limited:
        checked.log_prob = partial(_log_prob_if_valid, checked.log_prob, limited)
    if isinstance(fn, dist.MaskedDistribution) and isinstance(fn._mask, Tensor):
        checked = copy.copy(checked)
        checked.log_prob = partial(_log_prob_seen, checked.log_prob, fn)
    return checked


def _is_user_defined(fn: Any) -> bool:
    """Return whether the class of a distribution is defined by a user."""
    package = type(fn).__module__.partition(".")[0]
    return package not in {"torch", "pyro", "pyro_jarzynski"}


def _with_links(fn: Any, change: Callable[[Transform], Transform]) -> Any:
    """Return a distribution with a function applied to its transforms, if it has any."""
    if not isinstance(fn, torch.distributions.TransformedDistribution):
        return fn
    links = [change(link) for link in fn.transforms]
    if all(a is b for a, b in zip(links, fn.transforms, strict=True)):
        return fn
    new = copy.copy(fn)
    new.transforms = links
    return new


def inner_point(fn: Any, value: Tensor) -> Tensor:
    """Return a point of the support of a distribution, or a value if none is known."""
    try:
        support = support_of(fn)
        plain = stripped(support)
        if isinstance(plain, Structure):
            return plain.point(value)
        if support.is_discrete:
            return _first(support, value)
        transform = biject_to(support)
    except NotImplementedError:
        return value
    return transform(value.new_zeros(transform.inverse_shape(value.shape)))


def seen(fn: Any, value: Tensor, mask: Tensor) -> Tensor:
    """Return a value with a point of the support wherever it is masked.

    What a mask hides can be anything, NaN for a missing number say, whose derivatives
    would be NaN. A mask of more dimensions than the value, that depends on a discrete
    latent say, leaves the value as it is.
    """
    if mask.dim() > value.dim() - len(fn.event_shape):
        return value
    mask = mask.reshape(mask.shape + (1,) * len(fn.event_shape))
    return torch.where(mask, value, inner_point(fn, value))


def _log_prob_seen(log_prob: Callable[[Tensor], Tensor], fn: Any, value: Tensor) -> Tensor:
    return log_prob(seen(fn, value, fn._mask))


def _log_prob(
    log_prob: Callable[[Tensor], Tensor], fn: Any, support: Constraint, value: Tensor
) -> Tensor:
    """Return the log-density of a value, minus infinity outside a support."""
    event_dim = len(fn.event_shape)
    inside = check_events(support, value, event_dim)
    if _all_hold(inside):
        return log_prob(value)
    # Twice, since a derivative that is NaN outside would remain NaN when it is masked.
    events = inside.reshape(inside.shape + (1,) * event_dim)
    found = log_prob(torch.where(events, value, inner_point(fn, value)))
    # NaN is a failure to compute a value, and remains one.
    lost = torch.isnan(value)
    for _ in range(event_dim):
        lost = lost.any(-1)
    return torch.where(inside, found, torch.where(lost, math.nan, -math.inf).to(found))


def _log_prob_if_valid(
    log_prob: Callable[[Tensor], Tensor],
    parameters: list[tuple[Tensor, Constraint]],
    value: Tensor,
) -> Tensor:
    """Return the log-density of a value, minus infinity for invalid parameters."""
    found = log_prob(value)
    for parameter, constraint in parameters:
        valid = _over_events(constraint.check(parameter), found.shape)
        if not _all_hold(valid):
            found = torch.where(valid | torch.isnan(found), found, -math.inf)
    return found


def _over_events(valid: Tensor, shape: torch.Size) -> Tensor:
    """Reduce conditions over the dimensions of an event that their constraint leaves out.

    Of a mixture of diagonal normal distributions for example, whose scales `(K, D)` are
    declared positive one by one.

    Args:
        valid: Conditions of a parameter.
        shape: Shape of the log-density.

    Returns:
        Conditions that broadcast to `shape`.
    """
    while valid.dim() > len(shape) or any(
        size not in (1, most)
        for size, most in zip(reversed(valid.shape), reversed(shape), strict=False)
    ):
        valid = valid.all(-1)
    return valid


def _all_hold(conditions: Tensor) -> bool:
    """Return whether conditions hold, none of which depends on what `vmap` maps.

    False on a GPU, where to read them is to wait for it, and in a record of operations,
    which would hold for such values alone.
    """
    alike = torch.func.debug_unwrap(conditions) is conditions
    is_free = alike and not waits(conditions.device) and not is_recording()
    return is_free and bool(conditions.all())


def _checked_parameters(fn: Any) -> list[tuple[Tensor, Constraint]]:
    """Return the parameters of a distribution for which it can be wrong, and finite."""
    found = []
    chances = _given_probabilities(fn)
    if chances is not None:
        found.append((chances, CHANCES))
    for name, constraint in _parameters_of(type(fn)):  # type: ignore[arg-type]
        computed = name not in vars(fn)
        if computed and isinstance(getattr(type(fn), name, None), lazy_property):
            continue
        parameter = getattr(fn, name)
        if isinstance(parameter, Tensor):
            found.append((parameter, constraint))
    return found


def _given_probabilities(fn: Any) -> Tensor | None:
    """Return the probabilities of a categorical distribution, unless it has logits.

    Torch divides them by their sum, and takes the logarithm of the smallest positive number
    for that of a negative one.
    """
    if isinstance(fn, torch.distributions.MixtureSameFamily):
        fn = fn.mixture_distribution
    fn = vars(fn).get("_categorical", fn)
    if not isinstance(fn, torch.distributions.Categorical):
        return None
    chances = vars(fn).get("probs")
    return chances if chances is fn._param else None


@cache
def _parameters_of(kind: Hashable) -> list[tuple[str, Constraint]]:
    """Return the parameters of a class that are between bounds.

    Scales and rates are left out: most densities have the logarithm of a negative one,
    which is NaN.
    """
    declared = getattr(kind, "arg_constraints", None)
    if not isinstance(declared, dict):
        return []
    assert isinstance(kind, type)
    left_out = () if issubclass(kind, WITHOUT_LOGARITHM) else ("scale", "rate")
    return [
        (name, rounded(constraint))
        for name, constraint in declared.items()
        if name not in left_out and is_bounded(constraint)
    ]


def _first(support: Constraint, value: Tensor) -> Tensor:
    """Return a point of a discrete set."""
    support = stripped(support)
    if isinstance(support, type(constraints.one_hot)):
        ones = torch.zeros_like(value)
        return torch.cat([ones[..., :1] + 1, ones[..., 1:]], -1)
    lowest = getattr(support, "lower_bound", 0)
    return torch.as_tensor(lowest, dtype=value.dtype, device=value.device)


def _checked_support(fn: Any, *, periodic: bool) -> Constraint | None:
    """Return the set for which values are checked beside the checks of parts."""
    if isinstance(fn, ANGLES):
        return None if periodic else support_of(fn)
    if isinstance(fn, WRAPPERS):
        return None
    if isinstance(fn, MIXTURES) and not isinstance(fn, dist.FoldedDistribution):
        return None
    try:
        found = image(None, fn.transforms) if is_image(fn) else _declared(fn)
    except NotImplementedError:
        return None
    return None if is_whole(found) else found


def _declared(fn: Any) -> Constraint:
    """Return the support that a class declares, corrected where that is wrong."""
    for kind, support in DECLARED.items():
        if isinstance(fn, kind):
            return support
    if isinstance(fn, dist.CoalescentTimes | dist.CoalescentTimesWithRate):
        return Coalescences(fn.leaf_times)
    if isinstance(fn, dist.OneOneMatching):
        return Matchings(fn.num_nodes, 1)
    if isinstance(fn, dist.OneTwoMatching):
        return Matchings(fn.num_destins, 2)
    if constraints.is_dependent(fn.support):
        raise NotImplementedError
    return mappable(fn.support)


def is_image(fn: Any) -> bool:
    """Return whether the support of a distribution is the image under its transforms."""
    transformed = torch.distributions.TransformedDistribution
    if not isinstance(fn, transformed):
        return False
    return type(fn).support is transformed.support
