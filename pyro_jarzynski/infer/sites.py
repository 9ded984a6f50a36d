"""The sample sites of a Pyro model: which there are, and how they are set and read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.distributions.coordinates import Coordinate
from pyro_jarzynski.distributions.draws import with_exact_draws
from pyro_jarzynski.distributions.parts import parts_of, rebuilt
from pyro_jarzynski.distributions.supports import seen, within_support
from pyro_jarzynski.errors import ModelError
from pyro_jarzynski.infer.enumeration import Site, is_density

# Distributions whose values are indices.
INDICES = (dist.SpanningTree, dist.OneOneMatching, dist.OneTwoMatching)


class Unconstrain(Messenger):
    """Sets latents to the images of unconstrained values, and keeps the log-Jacobians.

    Args:
        values: Unconstrained values by site.
        padding: With particles along dimension 0, the number of dimensions of size one
            between them and each value.
    """

    def __init__(
        self, values: dict[str, Tensor], padding: dict[str, int] | None = None
    ) -> None:
        """Start before the model runs."""
        super().__init__()
        self.values, self.padding = values, padding
        self.constrained: dict[str, Tensor] = {}
        self.log_jacobians: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["is_observed"] or msg["done"] or not is_density(msg):
            return
        if name not in self.values:
            raise ModelError(
                f"The model has a latent {name!r} that it did not have before: the sites "
                "of a model must not depend on the values of its latents."
            )
        value = self.values[name]
        if self.padding is not None:
            ones = (1,) * self.padding[name]
            value = value.reshape(value.shape[:1] + ones + value.shape[1:])
        latent = Coordinate(msg["fn"])
        msg["fn"], msg["value"], msg["done"] = latent.fn, latent.constrain(value), True
        self.constrained[name] = msg["value"]
        jacobian = latent.transform.log_abs_det_jacobian(value, msg["value"])
        self.log_jacobians.append(jacobian)


class Given(Messenger):
    """Sets latents to given values, leaving them latents."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        """Keep the values."""
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


class ExactDraws(Messenger):
    """Draws latents from the distributions that their densities are of."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_density(msg) and not msg["is_observed"] and not msg["done"]:
            msg["fn"] = with_exact_draws(msg["fn"])


class Unmask(Messenger):
    """Takes the masks off latents, continuous and discrete.

    Under a mask Pyro gives a latent no density, which leaves it improper where it is
    continuous and counts its values where it is discrete. Here it keeps its own density:
    what is masked of it changes neither the evidence nor any other site, unless other sites
    use its value. Scales apply where the mask does not.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or not is_density(msg):
            return
        fn, mask = msg["fn"], True if msg["mask"] is None else msg["mask"]
        while isinstance(fn, dist.MaskedDistribution):
            fn, mask = fn.base_dist, mask & fn._mask
        scaled = is_scaled(msg)
        msg["fn"], msg["mask"] = unmasked(fn), None
        if not scaled or mask is True:
            pass
        elif mask is False:
            msg["scale"] = 1.0
        else:
            msg["scale"] = torch.where(mask, msg["scale"], 1.0)
        if scaled and msg["fn"] is not fn:
            raise ModelError(
                f"The latent {msg['name']!r} has a mask inside of its distribution and is "
                "under a scale, which cannot be applied to a part of an event. Put its "
                "parts into a plate under `poutine.mask`, or leave out the scale."
            )


class Simulate(Messenger):
    """Puts draws in the place of data: the same in every run of the model."""

    def __init__(self) -> None:
        """Start without draws."""
        super().__init__()
        self.data: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if not is_observation(msg) or is_broadcast(msg):
            return
        if msg["name"] not in self.data:
            fn, value = msg["fn"], msg["value"]
            # As many as the data are, also where no plate declares how many.
            places = value.shape[: value.ndim - fn.event_dim]
            batch = torch.broadcast_shapes(fn.batch_shape, places)
            drawn = fn if batch == fn.batch_shape else fn.expand(batch)
            self.data[msg["name"]] = with_exact_draws(drawn).sample().detach()
        msg["value"] = self.data[msg["name"]]


def compute_log_prob(trace: Trace) -> None:
    """Compute the log-density of each site, minus infinity outside of its support.

    As the method of `Trace` of this name, in `"unscaled_log_prob"` and `"log_prob"`.
    Latents are in their supports: by bijections, or as values of an enumeration.
    """
    sites: dict[str, Site] = dict(trace.nodes)
    for site in sites.values():
        if not is_density(site):
            continue
        fn, value, mask = site["fn"], site["value"], site["mask"]
        if is_observation(site):
            value = as_floats(fn, value)
        fn = within_support(fn, inside=not site["is_observed"])
        if site["is_observed"] and isinstance(mask, Tensor) and isinstance(value, Tensor):
            value = seen(fn, value, mask)
        log_prob = fn.log_prob(value, *site["args"], **site["kwargs"])
        site["unscaled_log_prob"] = log_prob
        site["log_prob"] = scale_and_mask(log_prob, site["scale"], mask)
    # The indices of plates.
    trace.compute_log_prob()


def as_floats(fn: Any, value: Any) -> Any:
    """Return data of integers or booleans in the floating type of their distribution.

    Densities of torch and Pyro are written for floats. With integers that of Bernoulli
    fails, and that of Geometric is wrong if they are unsigned, since it negates them.
    Distributions of others may use their values as indices, so that these are not changed.
    """
    if not isinstance(value, Tensor) or value.is_floating_point() or not _takes_floats(fn):
        return value
    dtype = _floating_dtype(fn)
    return value if dtype is None else value.to(dtype)


def _takes_floats(fn: Any) -> bool:
    """Tell whether a distribution and its parts are written for floats."""
    known = type(fn).__module__.startswith(("torch.distributions.", "pyro.distributions."))
    return (
        known
        and not isinstance(fn, INDICES)
        and all(_takes_floats(part) for part in parts_of(fn).values())
    )


def _floating_dtype(fn: Any) -> torch.dtype | None:
    """Return the floating type of a distribution's parameters, if it has any."""
    for parameter in vars(fn).values():
        if isinstance(parameter, Tensor) and parameter.is_floating_point():
            return parameter.dtype
    found = [_floating_dtype(part) for part in parts_of(fn).values()]
    return next((dtype for dtype in found if dtype is not None), None)


def check_dtype(what: str, dtype: torch.dtype) -> None:
    """Raise if walkers cannot be of a type: their covariances have to be factorised."""
    if dtype not in (torch.float32, torch.float64):
        raise ModelError(
            f"{what} is of {dtype}; posteriors need torch.float32 or torch.float64. Give "
            "the distributions parameters of one of these."
        )


def unmasked(fn: Any) -> Any:
    """Return a distribution without the masks in it, at whatever depth they are."""
    while isinstance(fn, dist.MaskedDistribution):
        fn = fn.base_dist
    return rebuilt(fn, unmasked)


def is_deterministic(site: Site) -> bool:
    """Tell whether a site holds a function of others: by name, or left by `reparam`."""
    if site["type"] != "sample" or not site["is_observed"]:
        return False
    masked = isinstance(site["fn"], dist.MaskedDistribution)
    named = (site["infer"] or {}).get("_deterministic", False)
    return named or (masked and isinstance(innermost(site["fn"]), dist.Delta))


def plate_frames(site: Site) -> list[Any]:
    """Return the vectorised plates that a site is in, from left to right."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    return sorted(frames, key=lambda frame: frame.dim)


def is_broadcast(site: Site) -> bool:
    """Tell whether a site has more terms than values, beyond what plates declare.

    A distribution and a value of shapes `(n,)` and `(n, 1)` are broadcast to `n²` terms, an
    event of which the value has one number to all of it, and one datum to a batch.
    """
    fn, value = site["fn"], site["value"]
    declared, given = fn.shape(), value.shape
    try:
        both = torch.broadcast_shapes(declared, given)
    except RuntimeError:
        # Some distributions take values of other shapes.
        return False
    if both.numel() > max(declared.numel(), given.numel()):
        return True
    # An event may be a sequence of which the distribution does not know the length.
    parts = zip(given[len(given) - fn.event_dim :], fn.event_shape, strict=False)
    if any(part == 1 < whole for part, whole in parts):
        return True
    return both.numel() > given.numel() and not (plate_frames(site) or is_factor(site))


def is_factor(site: Site) -> bool:
    """Tell whether a site is of `pyro.factor`: a number without data."""
    return site["type"] == "sample" and isinstance(innermost(site["fn"]), dist.Unit)


def is_scaled(site: Site) -> bool:
    """Tell whether the log-density of a site is multiplied by a number."""
    return isinstance(site["scale"], Tensor) or site["scale"] != 1


def is_observation(site: Site) -> bool:
    """Tell whether a site holds data: observed, and neither computed nor a factor."""
    return (
        is_density(site)
        and site["is_observed"]
        and not is_deterministic(site)
        and not is_factor(site)
    )


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seed torch's global generator, which Pyro draws from, and put it back after."""
    with global_stream(stream(seed, purpose).initial_seed()):
        yield


def innermost(fn: Any) -> Any:
    """Return the distribution below masks, expansions and declared events."""
    wrappers = dist.MaskedDistribution | dist.Independent | dist.ExpandedDistribution
    while isinstance(fn, wrappers):
        fn = fn.base_dist
    return fn
