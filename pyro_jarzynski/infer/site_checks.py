"""What the sites of a model must be: supports, shapes and whole plates."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.trace_struct import Trace
from pyro.util import check_site_shape
from torch import Tensor
from torch.distributions import biject_to

from pyro_jarzynski.distributions.constraints import check_events, stripped
from pyro_jarzynski.distributions.parts import made_of
from pyro_jarzynski.distributions.supports import (
    declared_support,
    is_image,
    support_of,
)
from pyro_jarzynski.errors import ModelError
from pyro_jarzynski.infer.enumeration import Site, check_enumerable, is_density
from pyro_jarzynski.infer.sites import (
    innermost,
    is_broadcast,
    is_deterministic,
    is_factor,
    plate_frames,
)


class ImproperError(ValueError):
    """A prior has no density anywhere."""


# Distributions with points of positive probability among real numbers.
ATOMS = {
    dist.Delta: "use `pyro.deterministic`",
    dist.Empirical: "draw an index from `Categorical`, and take the sample of that index",
    dist.ZeroInflatedDistribution: "draw the gate from `Bernoulli`, as a latent of its own",
}


def check_latent(name: str, site: Site) -> None:
    """Raise if a latent can be neither enumerated nor moved."""
    support = known_support(name, site)
    if support.is_discrete:
        check_enumerable(name, site)
        return
    for part in made_of(site["fn"]):
        for kind, remedy in ATOMS.items():
            if isinstance(part, kind):
                raise ModelError(
                    f"The latent {name!r} has a {kind.__name__} distribution, which has no "
                    f"density; {remedy}."
                )
    if site["value"].numel() == 0:
        raise ModelError(f"The latent {name!r} holds no number; leave it out.")
    check_bijection(name, support)


def check_proper(name: str, fn: Any, value: Tensor) -> None:
    """Raise if a latent has an infinite parameter, and with it no density at its draw.

    Raises:
        ImproperError: That is so, at this draw at least.
    """
    infinite = [
        parameter
        for part in made_of(fn)
        for parameter in part.arg_constraints
        if isinstance(found := getattr(part, parameter, None), Tensor)
        and torch.isinf(found).any()
    ]
    if not infinite or known_support(name, {"fn": fn}).is_discrete:
        return
    try:
        if torch.isfinite(fn.log_prob(value)).all():
            return
    except ValueError:
        # The draw is no number.
        pass
    raise ImproperError(
        f"The latent {name!r} has an infinite `{infinite[0]}` in {value.dtype}, and so a "
        "prior without density anywhere. Give it a finite one; or, for draws of the "
        "posterior without an evidence, take `dist.ImproperUniform` on its support and "
        '`base="normal"`.'
    )


def check_transformed(name: str, site: Site) -> None:
    """Raise if a distribution is transformed whose probabilities have no Jacobian."""
    for part in made_of(site["fn"]):
        if not is_image(part):
            continue
        base = part.base_dist
        if isinstance(base, dist.GroupedNormalNormal) or support_of(base).is_discrete:
            raise ModelError(
                f"The site {name!r} is a transform of {type(innermost(base)).__name__}, "
                "and torch changes its probabilities by a Jacobian, which they do not "
                "have. Give the site the distribution itself, and transform its value or "
                "its data."
            )


def check_enumerated(trace: Trace, max_plate_nesting: int) -> None:
    """Raise if sites share a dimension for different discrete latents.

    Args:
        trace: Trace of a model of which the discrete latents are enumerated.
        max_plate_nesting: Dimensions to the right that plates use.
    """
    for name, site in dict[str, Site](trace.nodes).items():
        if not is_density(site):
            continue
        try:
            check_site_shape(site, max_plate_nesting)
        except ValueError as error:
            told = " ".join(str(error).split())
            raise ModelError(
                f"The site {name!r} cannot be summed over the discrete latents: {told}. In "
                "`pyro.markov`, let `history` be the number of states before that one "
                "depends on."
            ) from error


def check_bijection(name: str, support: Any) -> None:
    """Raise if there is no way from unconstrained space to the support of a latent."""
    try:
        biject_to(support)
    except NotImplementedError as error:
        kind = type(stripped(support)).__name__.strip("_")
        raise ModelError(
            f"The latent {name!r} has support {kind}, to which no bijection is known. "
            "Write it as a function of latents that have one, by `poutine.reparam` where "
            "Pyro has a reparametrisation, as `ProjectedNormalReparam` for directions."
        ) from error


def known_support(name: str, site: Site) -> Any:
    """Return the support of a latent."""
    try:
        return support_of(site["fn"])
    except NotImplementedError as error:
        raise ModelError(
            f"The latent {name!r} ({type(site['fn']).__name__}) declares no support. "
            "Give its distribution a `support`, a constraint of torch or Pyro."
        ) from error


def check_observed(name: str, site: Site) -> None:
    """Raise if data are of a type of which a distribution of tensors has no density."""
    of_tensors = isinstance(site["fn"], torch.distributions.Distribution)
    if of_tensors and not isinstance(site["value"], Tensor):
        raise ModelError(
            f"The data of the site {name!r} must be a tensor, got "
            f"{type(site['value']).__name__}; give `obs=torch.as_tensor(...)`."
        )


def check_whole(site: Site) -> None:
    """Raise if one of the plates that a site is in does not hold all of its places."""
    for frame in site["cond_indep_stack"]:
        if frame.full_size not in (None, frame.size):
            raise _subsampled(frame.name, frame.size, frame.full_size)


def check_indices(name: str, site: Site) -> None:
    """Raise if the indices of a plate are not those of all of its places, in any order."""
    indices = torch.as_tensor(site["value"], device="cpu")
    size = site["fn"].size
    if len(indices) != size:
        raise _subsampled(name, len(indices), size)
    if not torch.equal(indices.sort().values, torch.arange(size, device="cpu")):
        raise ModelError(
            f"The plate {name!r} has some of its {size} places twice and lacks others; the "
            "posterior needs each of the data once. Leave out `subsample`."
        )


def _subsampled(name: str, part: int, size: int) -> ModelError:
    return ModelError(
        f"The plate {name!r} is subsampled ({part} of {size}); the posterior needs all of "
        "the data. Leave out `subsample_size` and `subsample`."
    )


def check_shapes(name: str, site: Site, *, in_plates: bool) -> None:
    """Raise if a log-density has more terms than its site has values.

    Data against a distribution of another shape are broadcast, `(n, 1)` against `(n,)` to
    `n²` terms, and so are masks and scales. Inside of plates shapes must be theirs, as for
    Pyro's ELBOs; outside of all plates a batch may be undeclared, as for Pyro's NUTS.

    Args:
        name: Name of the site.
        site: The site, with its log-density.
        in_plates: Whether all batches must be declared by plates.
    """
    fn, value = site["fn"], site["value"]
    if is_deterministic(site) or not isinstance(value, Tensor) or not hasattr(fn, "shape"):
        return
    kind = "factor" if is_factor(site) else "latent"
    if site["is_observed"] and kind == "latent":
        kind = "observed site"
    declared, given = fn.shape(), value.shape
    terms, found = site["unscaled_log_prob"].shape, site["log_prob"].shape
    if is_broadcast(site):
        raise ModelError(
            f"The {kind} {name!r} must have the shape of its distribution, "
            f"{tuple(declared)}; it has shape {tuple(given)}, which is broadcast to "
            f"{tuple(torch.broadcast_shapes(declared, given))}. Reshape or expand it."
        )
    if in_plates or plate_frames(site):
        try:
            check_site_shape(site, len(found))
        except ValueError as error:
            told = " ".join(str(error).split())
            raise ModelError(
                f"The shape of the {kind} {name!r} does not fit its plates: {told}"
            ) from error
    elif found.numel() > terms.numel():
        raise ModelError(
            f"The log-density of the {kind} {name!r} must have shape {tuple(terms)}, and a "
            f"mask or a scale broadcasts it to {tuple(found)}. Put the site into a plate "
            "of that size, or outside of the mask."
        )


def check_data(name: str, sites: list[Site]) -> None:
    """Raise if data are impossible at any latents: outside of a support that is the same.

    Args:
        name: Name of the site.
        sites: The site in several runs, with its log-density.
    """
    supports = [declared_support(site["fn"]) for site in sites]
    values = [site["value"] for site in sites]
    if supports[0] is None or not all(isinstance(value, Tensor) for value in values):
        return
    known = [vars(support) for support in supports]
    if not all(_same(found, known[0]) for found in known[1:]):
        return
    if not all(_same(value, values[0]) for value in values[1:]):
        return
    value, event_dim = values[0], len(sites[0]["fn"].event_shape)
    outside = ~check_events(supports[0], value, event_dim)
    for site in sites:
        outside = outside & ~torch.isfinite(site["log_prob"])
    if not outside.any():
        return
    value = value.expand(outside.shape + value.shape[value.ndim - event_dim :])
    found = f"{int(outside.sum())} of {outside.numel()} of the site {name!r}"
    raise ModelError(
        f"The model cannot be run with these data: {found} are outside of the support "
        f"{supports[0]}, the first of them {value[outside][0].tolist()}. Mend the "
        "data or take another distribution; hide what is missing by `poutine.mask`."
    )


def _same(a: Any, b: Any) -> bool:
    """Tell whether numbers, tensors, or what is in dictionaries of them are equal."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    return bool(a is b or a == b)
