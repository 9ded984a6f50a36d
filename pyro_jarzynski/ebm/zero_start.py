"""Networks that return zero: their last layer is found and set to zero."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.errors import ArgumentError, JarzynskiError

# By which parameter a parametrised weight is zero: the norms of its rows.
NORMS = {"_WeightNorm": "parametrizations.weight.original0", "WeightNorm": "weight_g"}
APPEND = (
    "Leave the last layer as it is and append one: `EnergyModel(SumNet([net]), base)` has "
    "a weight on top that starts at zero."
)


def values_of(net: nn.Module, probe: Tensor) -> Tensor:
    """Return what a network returns at some draws of the base, and change nothing in it.

    Raises:
        ArgumentError: The network cannot be evaluated there.
    """
    # Buffers are copied: BatchNorm writes into its own.
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with _explained(net, probe), global_stream(0), torch.no_grad():
        return torch.func.functional_call(net, buffers, (probe,))


def initialise_lazy(net: nn.Module, probe: Tensor) -> None:
    """Let the lazy layers of a network make their parameters, by one call."""
    if any(map(is_lazy, (*net.parameters(), *net.buffers()))):
        with _explained(net, probe), global_stream(0), torch.no_grad():
            net(probe)


def zero_last_layer(net: nn.Module, probe: Tensor | None) -> None:
    """Set the last layer with a weight to zero: the one that a call comes to last.

    Args:
        net: The network.
        probe: Draws of the base, `(n, *event)`; `None` takes the last registered layer.

    Raises:
        ArgumentError: There is no such layer, or it cannot be zero, or the network does not
            return zero with it; the network is as it was.
    """
    name, layer = _last_layer(net, probe)
    changed = _zeroed_by(name, layer)
    kept = [(parameter, parameter.detach().clone()) for parameter in changed]
    for parameter in changed:
        nn.init.zeros_(parameter)
    if probe is None:
        return
    largest = float(values_of(net, probe).abs().max())
    if largest == 0:
        return
    with torch.no_grad():
        for parameter, value in kept:
            parameter.copy_(value)
    raise ArgumentError(
        "`net` must start at zero, so that the first walkers are exact draws of the base. "
        f"Its last layer with a weight is {name!r}, and with that set to zero it still "
        f"returns up to {largest:.3g}: something is added after it. {APPEND}"
    )


def _last_layer(net: nn.Module, probe: Tensor | None) -> tuple[str, nn.Module]:
    layers = {name: m for name, m in net.named_modules() if _has_weight(m)}
    if not layers:
        raise ArgumentError(
            "`net` has no layer with a weight to set to zero; set its output to zero "
            "yourself and pass `zero_last_layer=False`."
        )
    called: list[str] = []
    handles = [m.register_forward_hook(_noted(called, n)) for n, m in layers.items()]
    try:
        if probe is not None:
            values_of(net, probe)
    finally:
        for handle in handles:
            handle.remove()
    # A network that uses weights without a call of their layers is taken as registered.
    name = called[-1] if called else list(layers)[-1]
    return name, layers[name]


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)


def _noted(called: list[str], name: str) -> Callable[..., None]:
    return lambda *_: called.append(name)


def _zeroed_by(name: str, layer: nn.Module) -> list[Tensor]:
    """Return the parameters of a layer that make its output zero if they are."""
    own = dict(layer.named_parameters(recurse=False))
    kinds = [type(hook).__name__ for hook in layer._forward_pre_hooks.values()]
    if is_parametrized(layer, "weight"):
        kinds += [
            type(each).__name__
            for each in layer.get_submodule("parametrizations.weight").children()
        ]
    made = [kind for kind in kinds if kind in NORMS]
    if made:
        norm = layer.get_parameter(NORMS[made[0]])
        return [norm, *(p for key, p in own.items() if key == "bias")]
    if "weight" not in own:
        raise ArgumentError(
            f"`net` must start at zero, but its last layer {name!r} cannot: its weight is "
            f"made by {', '.join(kinds) or type(layer).__name__}, which keeps the norm of "
            f"it. {APPEND}"
        )
    return list(own.values())


@contextmanager
def _explained(net: nn.Module, probe: Tensor) -> Iterator[None]:
    """Raise an `ArgumentError` where a network fails at draws of the base."""
    try:
        yield
    except JarzynskiError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        kinds = {p.dtype for p in net.parameters() if p.is_floating_point()}
        dtype = ""
        if kinds and probe.dtype not in kinds:
            own = ", ".join(map(str, kinds))
            dtype = (
                f" Its parameters are of {own}: build the base with numbers of that dtype, "
                f"or call `net.to({probe.dtype})`."
            )
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArgumentError(
            f"`net` cannot be evaluated at draws of `base`, of shape {tuple(probe.shape)} "
            f"and {probe.dtype}: {first}.{dtype}"
        ) from error
