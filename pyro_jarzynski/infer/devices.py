"""The device of a run: that of the model's latents, on which its data must be as well."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from pyro.poutine.trace_messenger import TraceMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyro_jarzynski.errors import JarzynskiError, ModelError
from pyro_jarzynski.infer.enumeration import Site, is_density
from pyro_jarzynski.infer.sites import is_observation

# Names of sites and arguments with their devices.
Places: TypeAlias = list[tuple[str, torch.device]]


def device_of(trace: Trace) -> torch.device:
    """Return the device of the latents and data of a model.

    A number, `()`, may be observed on any device, as torch allows it.

    Raises:
        ModelError: There are several devices; names a site on each of two.
    """
    places = list(_places_of_sites(trace))
    _check_one_device(places)
    return places[0][1] if places else torch.get_default_device()


@contextmanager
def devices_explained(
    recorder: TraceMessenger,
    model: Callable[..., Any],
    args: tuple,
    kwargs: dict[str, Any],
) -> Iterator[None]:
    """Name what is on which device, where torch refuses a model that runs on several.

    Args:
        recorder: Has the sites of the model that came before the error.
        model: The model.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Raises:
        ModelError: Names a site or an argument on each of two devices, or on the only one
            that is known.
    """
    try:
        yield
    except JarzynskiError:
        raise
    except RuntimeError as error:
        sites = _places_of_sites(recorder.trace)
        places = [*sites, *_places_of_arguments(model, args, kwargs)]
        if "device" not in str(error) or not places:
            raise
        _check_one_device(places, error)
        name, device = places[0]
        raise ModelError(
            f"The model uses something on another device than {device}, on which are "
            f"{name}, all other sites and the arguments: {_first_line(error)}. Move it by "
            f"`.to('{device}')`; what is made of numbers is there after "
            f"`torch.set_default_device('{device}')`."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


def _check_one_device(places: Places, error: RuntimeError | None = None) -> None:
    for name, device in places[1:]:
        first, expected = places[0]
        if device == expected:
            continue
        common = expected if device.type == "cpu" else device
        raise ModelError(
            f"The model runs on two devices: {first} is on {expected}, and {name} is on "
            f"{device}. Move tensors by `.to('{common}')`; priors of numbers are "
            f"there after `torch.set_default_device('{common}')`."
        ) from error


def _places_of_sites(trace: Trace) -> Iterator[tuple[str, torch.device]]:
    sites: dict[str, Site] = dict(trace.nodes)
    for name, site in sites.items():
        if not is_density(site) or not isinstance(site["value"], Tensor):
            continue
        if not site["is_observed"]:
            yield f"the latent {name!r}", site["value"].device
        elif is_observation(site) and site["value"].ndim:
            yield f"the observed {name!r}", site["value"].device


def _places_of_arguments(
    model: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
) -> Iterator[tuple[str, torch.device]]:
    if isinstance(model, nn.Module):
        yield from ((f"the parameter {n!r}", x.device) for n, x in model.named_parameters())
    try:
        called = model.forward if isinstance(model, nn.Module) else model
        named = inspect.signature(called).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        named = {f"number {k}": value for k, value in enumerate(args)} | kwargs
    for name, value in named.items():
        yield from ((f"the argument {name!r}", x.device) for x in _tensors_in(value))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of some size in lists and dictionaries."""
    if isinstance(value, Tensor) and value.ndim:
        yield value
    elif isinstance(value, dict):
        yield from _tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors_in(entry)
