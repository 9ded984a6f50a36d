"""The first look at a model: a few runs with all of Pyro's checks, which must agree."""

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace

from pyro_jarzynski.distributions.supports import bijection, support_of
from pyro_jarzynski.errors import ArgumentTypeError, ModelError
from pyro_jarzynski.infer.devices import devices_explained
from pyro_jarzynski.infer.enumeration import Site, is_density
from pyro_jarzynski.infer.site_checks import (
    ImproperError,
    check_bijection,
    check_data,
    check_indices,
    check_latent,
    check_observed,
    check_proper,
    check_shapes,
    check_transformed,
    check_whole,
    known_support,
)
from pyro_jarzynski.infer.site_errors import named_errors, site_of, unusable
from pyro_jarzynski.infer.sites import (
    ExactDraws,
    compute_log_prob,
    innermost,
    is_observation,
    seeded,
)

# Runs of a model that must agree on its sites, and most that are tried for so many: at some
# draws of its prior a model may fail.
NUM_PROBES, MAX_PROBES = 3, 50


def latent_sites(trace: Trace) -> tuple[list[str], list[str]]:
    """Return the names of continuous and of discrete latents, in order."""
    names: tuple[list[str], list[str]] = ([], [])
    for name, site in trace.nodes.items():
        if is_density(site) and not site["is_observed"]:
            names[known_support(name, site).is_discrete].append(name)
    return names


def probe(
    model: Callable[..., Any],
    args: tuple,
    kwargs: dict[str, Any],
    *,
    seed: int,
    improper: bool,
) -> tuple[list[Trace], int]:
    """Run a model several times, with all of Pyro's checks, and check its sites.

    Runs at draws of the prior at which the model fails, by a matrix that cannot be
    factorised or a parameter that is no number, are repeated at others.

    Returns:
        The runs, and how many failed before the first of them.

    Raises:
        ArgumentTypeError: It is no function and no instance of a module.
        ModelError: A site cannot be used, the runs do not have the same sites, or fail.
    """
    check_callable(model)
    _check_numbers(args, kwargs)
    traces: list[Trace] = []
    failure: Exception | None = None
    num_failed = 0
    with seeded(seed, "probe"), pyro.validation_enabled(is_validate=True):
        for _ in range(MAX_PROBES):
            if len(traces) == NUM_PROBES:
                break
            try:
                with named_errors():
                    trace = _checked_trace(model, args, kwargs, improper=improper)
                traces.append(trace)
            except ModelError:
                raise
            except (ValueError, torch.linalg.LinAlgError) as error:
                failure = error
                num_failed += not traces
            except RuntimeError as error:
                told = _types_told(error, args, kwargs)
                if told:
                    raise ModelError(told) from error
                site = site_of(error)
                if site is None:
                    raise
                raise unusable(site, error) from error
            except ZeroDivisionError as error:
                raise ModelError(
                    f"The model cannot be run with these data: {error}. Pyro has no plate "
                    "of size zero; leave the plate out where there are no data."
                ) from error
    if not traces and isinstance(failure, ImproperError):
        raise ModelError(str(failure)) from failure
    if not traces:
        raise ModelError(
            f"The model cannot be run with these data, at any of {MAX_PROBES} draws of its "
            f"prior: {failure} Mend what fails there. `pyro.enable_validation()` and "
            "`pyro.poutine.trace(model).get_trace(*args, **kwargs).compute_log_prob()` "
            "show it."
        ) from failure
    _check_alike(traces)
    _check_data(traces)
    return traces, num_failed


def _types_told(error: RuntimeError, args: tuple, kwargs: dict[str, Any]) -> str:
    """Return what types do not go together, if that is what an error is about."""
    if not ("dtype" in str(error) or "scalar type" in str(error)):
        return ""
    named = {f"number {k}": x for k, x in enumerate(args)} | kwargs
    kinds = [
        f"the argument {name} is {x.dtype}"
        for name, x in named.items()
        if isinstance(x, torch.Tensor) and x.is_floating_point()
    ]
    return (
        f"The model cannot be run with these data: {error}. Give all of its tensors one "
        "type: parameters of distributions that are Python numbers have torch's default, "
        f"{'; '.join([str(torch.get_default_dtype()), *kinds])}."
    )


def check_callable(model: Any) -> None:
    """Raise unless a model can be called to sample."""
    if inspect.isclass(model):
        raise ArgumentTypeError(
            f"`model` must be a function or an instance of a module, got the class "
            f"{model.__name__}: calling it makes an instance and samples nothing. Give "
            f"`{model.__name__}(...)`."
        )
    if not callable(model):
        raise ArgumentTypeError(
            f"`model` must be a Pyro model or a `Target`, got {type(model).__name__}."
        )


def _check_sampled(trace: Trace, returned: Any) -> None:
    """Raise if a run of a model has neither latents nor data nor factors."""
    sites: list[Site] = list(trace.nodes.values())
    if any(is_density(site) for site in sites):
        return
    hint = "Sample latents by `pyro.sample`, and give it data by `obs`."
    if callable(returned):
        hint = (
            f"It returns something to be called ({type(returned).__name__}): if it makes "
            "models, give the model that it makes."
        )
    raise ModelError(f"The model has no sample sites: there is nothing to infer. {hint}")


def _check_numbers(args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise if tensors have shapes alone."""
    named = {f"number {k}": x for k, x in enumerate(args)} | kwargs
    for name, value in named.items():
        if isinstance(value, torch.Tensor) and value.is_meta:
            raise ModelError(
                f"The argument {name} of the model is on the meta device, which holds "
                "shapes and no numbers: create it on another."
            )
    if torch.get_default_device().type == "meta":
        raise ModelError(
            "torch's default device is meta, which holds shapes and no numbers: run the "
            'model inside `torch.device("cpu")`.'
        )


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


def _check_data(traces: list[Trace]) -> None:
    """Raise if data are outside of their supports, whatever the latents."""
    for name, site in traces[0].nodes.items():
        alike = [trace.nodes.get(name) for trace in traces]
        if is_observation(site) and all(other is not None for other in alike):
            check_data(name, alike)


def _checked_trace(
    model: Callable[..., Any], args: tuple, kwargs: dict[str, Any], *, improper: bool
) -> Trace:
    recorder, draws = poutine.trace(), ExactDraws()
    explained = partial(devices_explained, recorder, model, args, kwargs)
    improper_draws = _DrawImproper(allowed=improper)
    with explained(), poutine.block(), recorder, improper_draws, draws:
        returned = model(*args, **kwargs)
    trace = recorder.trace
    _check_sampled(trace, returned)
    sites: dict[str, Site] = dict(trace.nodes)
    for name, site in sites.items():
        if poutine.util.site_is_subsample(site):
            check_indices(name, site)
        elif is_density(site):
            check_whole(site)
            check_transformed(name, site)
            if site["is_observed"]:
                check_observed(name, site)
            else:
                check_latent(name, site)
    with warnings.catch_warnings(), explained():
        # Sites that are not finite are named by an error where walkers meet them.
        warnings.filterwarnings("ignore", "Encountered")
        compute_log_prob(trace)
    # Sums over discrete latents use the dimensions to the left of the plates.
    summed = bool(latent_sites(trace)[1])
    for name, site in sites.items():
        if is_density(site):
            check_shapes(name, site, in_plates=summed)
    return trace


class _DrawImproper(Messenger):
    """Gives a value to latents of improper priors, and refuses those that seem proper."""

    def __init__(self, *, allowed: bool) -> None:
        super().__init__()
        self.allowed = allowed

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["is_observed"] or not isinstance(innermost(fn), dist.ImproperUniform):
            return
        if not self.allowed:
            raise ModelError(
                f"The latent {msg['name']!r} has an improper prior, which cannot be drawn "
                "and leaves the evidence undefined. Give it a proper prior, or give "
                '`base="normal"` for draws of the posterior alone.'
            )
        check_bijection(msg["name"], support_of(fn))
        transform = bijection(fn)
        shape = transform.inverse_shape(fn.shape())
        drawn = torch.randn(shape, device=torch.get_default_device())
        msg["value"], msg["done"] = transform(drawn / 10), True

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_density(msg) and not msg["is_observed"]:
            check_proper(msg["name"], msg["fn"], msg["value"])
