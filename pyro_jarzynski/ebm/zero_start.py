"""Networks that return zero: their last layer is found and set to zero."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.errors import ArgumentError, JarzynskiError

# By which parameter a weight of weight norm is zero: the norms of its rows.
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
    with _explained(net, probe), _unchanged(net), torch.no_grad():
        return net(probe)


def initialise_lazy(net: nn.Module, probe: Tensor) -> None:
    """Let the lazy layers of a network make their parameters, by one call."""
    if any(map(is_lazy, (*net.parameters(), *net.buffers()))):
        with _explained(net, probe), global_stream(0), torch.no_grad():
            net(probe)


def zero_last_layer(net: nn.Module, probe: Tensor | None) -> None:
    """Set the last layer with a weight to zero: the one that a call comes to last.

    A network that has no gradient there, and starts at zero as it is, stays as it is.

    Args:
        net: The network.
        probe: Draws of the base, `(n, *event)`; `None` takes the last registered layer.

    Raises:
        ArgumentError: There is no such layer, or it cannot be zero, or the network does not
            return zero with it, or has no gradient there; the network is as it was.
    """
    name, layer = _last_layer(net, probe)
    kept = [(each, each.detach().clone()) for each in _zeroed_by(layer)]
    for parameter, _ in kept:
        nn.init.zeros_(parameter)
    if probe is None:
        return
    probe = _within_walls(net, probe)
    largest, made = _largest(net, probe), _made_by(layer)
    if largest == 0 and _learns(net, probe):
        return
    with torch.no_grad():
        for parameter, value in kept:
            parameter.copy_(value)
    if largest == 0 and _largest(net, probe) == 0 and _learns(net, probe):
        # It starts at zero by another parameter.
        return
    if made:
        reason = f"is made by {', '.join(made)}, which cannot make it zero, or leave zero"
    elif largest == 0:
        reason = (
            "was set to zero, where no parameter but biases has a gradient, as if the "
            "output of that layer is squared: training would never leave zero"
        )
    else:
        reason = (
            f"was set to zero, and it still returns up to {largest:.3g}, because something "
            "is added after that layer"
        )
    raise ArgumentError(
        "`net` must start at zero, so that the first walkers are exact draws of the base. "
        f"The weight of its last layer, {name!r}, {reason}. {APPEND}"
    )


def _within_walls(net: nn.Module, probe: Tensor) -> Tensor:
    """Return the finite points at which a network is not plus infinity, or all if none is.

    Walkers at the others get weight zero, as where a base ends.
    """
    try:
        values = values_of(net, probe)
        inside = (values.reshape(len(probe), -1) != math.inf).all(1)
    except (ArgumentError, RuntimeError):
        return probe
    inside &= torch.isfinite(probe).reshape(len(probe), -1).all(1)
    return probe[inside] if inside.any() else probe


def _largest(net: nn.Module, probe: Tensor) -> float:
    """Return the largest output of a network; infinity if it is NaN or has none."""
    try:
        return float(values_of(net, probe).abs().max().nan_to_num(math.inf))
    except ArgumentError:
        return math.inf


def _learns(net: nn.Module, probe: Tensor) -> bool:
    """Return whether a network has a gradient by parameters other than biases.

    Those that are frozen count: they may be trained later.
    """
    named = [(name.rpartition(".")[2], p) for name, p in net.named_parameters()]
    weights = [
        p
        for name, p in named
        if name != "bias" and (p.is_floating_point() or p.is_complex())
    ]
    frozen = [p for p in weights if not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad = True
        with _unchanged(net):
            total = net(probe).sum()
            if not weights or not total.requires_grad:
                return False
            found = torch.autograd.grad(total, weights, materialize_grads=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad = False
    return any(bool(torch.isfinite(slope).all() and slope.any()) for slope in found)


@contextmanager
def _unchanged(net: nn.Module) -> Iterator[None]:
    """Keep the buffers of a network, such as those of BatchNorm, and random numbers."""
    kept = [(buffer, buffer.clone()) for buffer in net.buffers()]
    with global_stream(0):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)


def _last_layer(net: nn.Module, probe: Tensor | None) -> tuple[str, nn.Module]:
    layers = {n: m for n, m in net.named_modules() if _has_weight(m)}
    if not layers:
        raise ArgumentError(
            "`net` has no layer with a weight to set to zero; set its output to zero "
            "yourself and pass `zero_last_layer=False`."
        )
    called: list[str] = []
    handles = [
        layer.register_forward_hook(_noted(called, name))
        for name, layer in layers.items()
        if not isinstance(layer, torch.jit.ScriptModule)
    ]
    try:
        if probe is not None:
            values_of(net, probe)
    finally:
        for handle in handles:
            handle.remove()
    # A network that uses weights without a call of their layers, or is a script, is taken
    # as registered.
    name = called[-1] if called else list(layers)[-1]
    return name, layers[name]


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)


def _noted(called: list[str], name: str) -> Callable[..., None]:
    return lambda *_: called.append(name)


def _made_by(layer: nn.Module) -> list[str]:
    """Return what makes the weight of a layer from other parameters, by its class."""
    if "weight" in layer._parameters:
        return []
    made: list[object] = list(layer._forward_pre_hooks.values())
    if is_parametrized(layer, "weight"):
        made += layer.get_submodule("parametrizations.weight").children()
    return [type(each).__name__ for each in made]


def _zeroed_by(layer: nn.Module) -> list[Tensor]:
    """Return the parameters of a layer to set to zero so that its weight and bias are."""
    named = dict(layer.named_parameters(recurse=False))
    if is_parametrized(layer):
        parts = layer.get_submodule("parametrizations").named_parameters()
        named |= {f"parametrizations.{name}": p for name, p in parts}
    norms = [NORMS[kind] for kind in _made_by(layer) if kind in NORMS]
    if norms:
        return [p for name, p in named.items() if name in norms or name == "bias"]
    return list(named.values())


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
