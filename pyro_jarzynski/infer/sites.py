"""The sample sites of a Pyro model: which there are, and how they are set and read."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.errors import ModelError
from pyro_jarzynski.infer.enumeration import Site, check_enumerable, is_density

# Runs of a model that must agree on its sites.
NUM_PROBES = 3


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
        transform = bijection(msg["fn"])
        msg["value"], msg["done"] = transform(value), True
        self.constrained[name] = msg["value"]
        self.log_jacobians.append(transform.log_abs_det_jacobian(value, msg["value"]))


def support_of(fn: Any) -> Any:
    """Return the set on which the density of a distribution is one.

    Torch gives angles the whole line, on which their densities are periodic, and mixtures
    a support that no bijection knows.
    """
    if isinstance(_innermost(fn), dist.VonMises):
        return constraints.interval(-math.pi, math.pi)
    support = fn.support
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        return support.base_constraint
    return support


def bijection(fn: Any) -> Transform:
    """Return the bijection from unconstrained space to the support of a distribution."""
    return biject_to(support_of(fn))


def prior_log_prob(site: Site) -> Tensor:
    """Return the normalised log-density of a latent, without scales and masks."""
    fn = site["fn"]
    if isinstance(fn, dist.MaskedDistribution):
        return proper(fn).log_prob(site["value"])
    return site["unscaled_log_prob"]


def proper(fn: Any) -> Any:
    """Return the distribution below any mask, which is the one that draws are of."""
    while isinstance(fn, dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def is_deterministic(site: Site) -> bool:
    """Tell whether a site holds a function of others: by name, or left by `reparam`."""
    if site["type"] != "sample" or not site["is_observed"]:
        return False
    masked = isinstance(site["fn"], dist.MaskedDistribution)
    named = (site["infer"] or {}).get("_deterministic", False)
    return named or (masked and isinstance(_innermost(site["fn"]), dist.Delta))


def is_masked_imputation(name: str, site: Site) -> bool:
    """Tell whether a site holds the unobserved part of an `obs_mask`.

    Its observed entries have no density in Pyro, which makes the law improper there; they
    are given the one of the unobserved.
    """
    return (
        name.endswith("_unobserved")
        and site["mask"] is not None
        and not site["is_observed"]
    )


def latent_sites(trace: Trace) -> tuple[list[str], list[str]]:
    """Return the names of continuous and of discrete latents, in order."""
    names: tuple[list[str], list[str]] = ([], [])
    for name, site in trace.nodes.items():
        if is_density(site) and not site["is_observed"]:
            names[_support_of(name, site).is_discrete].append(name)
    return names


def probe(
    model: Callable[..., Any],
    args: tuple,
    kwargs: dict[str, Any],
    *,
    seed: int,
    improper: bool,
) -> list[Trace]:
    """Run a model several times, with all of Pyro's checks, and check its sites.

    Raises:
        ModelError: A site cannot be used, or the runs do not have the same sites.
    """
    traces: list[Trace] = []
    failure: ValueError | None = None
    with seeded(seed, "probe"), pyro.validation_enabled(is_validate=True):
        for _ in range(NUM_PROBES):
            try:
                traces.append(_checked_trace(model, args, kwargs, improper=improper))
            except ModelError:
                raise
            except ValueError as error:
                failure = error
            except ZeroDivisionError as error:
                raise ModelError(
                    f"The model cannot be run with these data: {error}. Pyro has no plate "
                    "of size zero; leave the plate out where there are no data."
                ) from error
    if failure is not None and not traces:
        raise ModelError(f"The model cannot be run with these data: {failure}") from failure
    _check_alike(traces)
    return traces


def _check_alike(traces: list[Trace]) -> None:
    """Raise if the runs of a model differ in their latents."""
    continuous, discrete = latent_sites(traces[0])
    for trace in traces[1:]:
        others = latent_sites(trace)
        differing = {*continuous, *discrete} ^ {*others[0], *others[1]}
        if differing:
            raise ModelError(
                f"The latent {sorted(differing)[0]!r} is there in some runs of the model "
                "and not in others: the sites of a model must not depend on the values of "
                "its latents."
            )
        for name in continuous:
            values: list[Any] = [t.nodes[name]["value"] for t in (traces[0], trace)]
            before, after = (tuple(value.shape) for value in values)
            if before != after:
                raise ModelError(
                    f"The latent {name!r} changes its shape between runs of the model, "
                    f"from {before} to {after}."
                )


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seed torch's global generator, which Pyro draws from, and put it back after."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(stream(seed, purpose).initial_seed())
        yield


def _checked_trace(
    model: Callable[..., Any], args: tuple, kwargs: dict[str, Any], *, improper: bool
) -> Trace:
    with poutine.block(), poutine.trace() as recorder, _DrawImproper(allowed=improper):
        model(*args, **kwargs)
    trace = recorder.trace
    for name, site in trace.nodes.items():
        if poutine.util.site_is_subsample(site):
            _check_whole(name, site)
        elif is_density(site) and not site["is_observed"]:
            _check_latent(name, site)
    with warnings.catch_warnings():
        # Sites that are not finite are named by an error where walkers meet them.
        warnings.filterwarnings("ignore", "Encountered")
        trace.compute_log_prob()
    return trace


def _check_whole(name: str, site: Site) -> None:
    size, part = site["fn"].size, site["fn"].subsample_size
    if part is not None and part < size:
        raise ModelError(
            f"The plate {name!r} is subsampled ({part} of {size}); the posterior needs all "
            "of the data. Leave out `subsample_size`."
        )


def _check_latent(name: str, site: Site) -> None:
    support = _support_of(name, site)
    if support.is_discrete:
        check_enumerable(name, site)
        return
    if isinstance(_innermost(site["fn"]), dist.Delta):
        raise ModelError(
            f"The latent {name!r} has a Delta distribution, which has no density; use "
            "`pyro.deterministic`."
        )
    try:
        biject_to(support)
    except NotImplementedError as error:
        raise ModelError(_no_bijection(name, support)) from error


def _no_bijection(name: str, support: Any) -> str:
    return f"The latent {name!r} has support {support}, to which torch knows no bijection."


def _support_of(name: str, site: Site) -> Any:
    try:
        return support_of(site["fn"])
    except NotImplementedError as error:
        raise ModelError(
            f"The latent {name!r} ({type(site['fn']).__name__}) does not tell its support."
        ) from error


def _innermost(fn: Any) -> Any:
    wrappers = dist.MaskedDistribution | dist.Independent | dist.ExpandedDistribution
    while isinstance(fn, wrappers):
        fn = fn.base_dist
    return fn


class _DrawImproper(Messenger):
    """Gives a value to latents of improper priors, which cannot be drawn."""

    def __init__(self, *, allowed: bool) -> None:
        super().__init__()
        self.allowed = allowed

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["is_observed"] or not isinstance(_innermost(fn), dist.ImproperUniform):
            return
        if not self.allowed:
            raise ModelError(
                f"The latent {msg['name']!r} has an improper prior, which cannot be drawn "
                "and leaves the evidence undefined. Give it a proper prior, or give "
                '`base="normal"` for draws of the posterior alone.'
            )
        try:
            transform = biject_to(fn.support)
        except NotImplementedError as error:
            raise ModelError(_no_bijection(msg["name"], fn.support)) from error
        shape = transform.inverse_shape(fn.shape())
        msg["value"], msg["done"] = transform(torch.randn(shape) / 10), True
