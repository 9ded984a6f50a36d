"""Models as the classes that they are made of, with the arguments of their constructors.

A part is described by a dictionary:

    {"class": "MLP", "sizes": [2, 8], "activation": "silu"}
    {"class": "Normal", "of": "torch.distributions", "loc": tensor, "scale": tensor}
    {"again": 1}                what was described as number 1, counted from 0

Only classes of this package, and distributions and transforms of torch and Pyro, are
described and built. Parameters and buffers are not in it.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.slices import whole
from pyro_jarzynski.ebm.algebra import ConditionedNet, SumNet
from pyro_jarzynski.ebm.bases import ComponentMasses, PCAMixture
from pyro_jarzynski.ebm.boltzmann import BinaryRBMEnergy
from pyro_jarzynski.ebm.classifier import ImageClassifier
from pyro_jarzynski.ebm.closed_forms import QuadraticEnergy, RBMEnergy
from pyro_jarzynski.ebm.convolutional import ConvNet, ResidualMLP
from pyro_jarzynski.ebm.energy import EnergyModel
from pyro_jarzynski.ebm.networks import MLP, GaussianMixtureEnergy
from pyro_jarzynski.ebm.startable import kind_of
from pyro_jarzynski.ebm.wrapped import bare, own_class
from pyro_jarzynski.errors import ModelFileError

# Arguments of the constructors, from which parameters of the same shapes are made.
ARGUMENTS: dict[type, Callable[[Any], dict[str, Any]]] = {
    EnergyModel: lambda model: {"net": model.net, "base": _base_of(model)},
    GaussianMixtureEnergy: lambda model: {
        "means": model.means.detach(),
        "log_masses": model.z.detach(),
    },
    QuadraticEnergy: lambda model: {"mean": model.mean.detach()},
    RBMEnergy: lambda model: _units(model) | {"sd": model.sd},
    BinaryRBMEnergy: lambda model: _units(model) | {"centred": bool(model.hidden_offset)},
    MLP: lambda net: {"sizes": net.sizes, "activation": net.activation},
    ResidualMLP: lambda net: {
        "size": net.first.in_features,
        "width": net.first.out_features,
        "blocks": len(net.blocks),
        "activation": net.activation,
    },
    ConvNet: lambda net: {
        "image_shape": net.image_shape,
        "convolutions": [tuple(layer) for layer in net.convolutions],
        "hidden": net.hidden,
        "activation": net.activation,
    },
    ImageClassifier: lambda net: {
        "image_shape": net.image_shape,
        "num_classes": net.head.out_features,
        "width": net.body[0].out_channels,
    },
    SumNet: lambda net: {"nets": list(net.nets)},
    ConditionedNet: lambda net: {"net": net.net, "condition": net.condition},
    ComponentMasses: lambda net: {"net": net.net, "base": net.base},
    PCAMixture: lambda base: base.parameters,
}
CLASSES = {kind.__name__: kind for kind in ARGUMENTS}
LIBRARIES = ("torch.distributions", "pyro.distributions")
# Attributes that have other names than the arguments that they come from.
ATTRIBUTES = {"base_distribution": "base_dist", "cache_size": "_cache_size"}
# Arguments of distributions of which one determines the others.
ALTERNATIVES = (
    ("probs", "logits"),
    ("scale_tril", "covariance_matrix", "precision_matrix"),
)


class UnknownPartError(TypeError):
    """A part of a model is of a class that is not described."""


def describe(model: nn.Module, position: Tensor) -> dict[str, Any]:
    """Return the description of a model, in tensors and plain values.

    Args:
        model: The model.
        position: Walkers of it, `(N, *event)`, where a base that is built again must have
            the same densities.

    Raises:
        UnknownPartError: It has a part that cannot be built from a description.
    """
    description = _Describer().part(model)
    if isinstance(model, EnergyModel):
        _check_base(model.base, position)
    return description


def build(description: Any) -> Any:
    """Return a new model, or another part, as described, with parameters of its own.

    Raises:
        ModelFileError: It names a class that is not of this package.
    """
    return _Builder().value(description)


class _Describer:
    """Describes parts, each of them once."""

    def __init__(self) -> None:
        """Begin with none."""
        self.known: dict[int, int] = {}

    def part(self, part: Any) -> dict[str, Any]:
        part = bare(part) if isinstance(part, nn.Module) else part
        if id(part) in self.known:
            return {"again": self.known[id(part)]}
        self.known[id(part)] = len(self.known)
        kind = own_class(part)
        if kind in ARGUMENTS:
            named, arguments = {"class": kind.__name__}, ARGUMENTS[kind](part)
            if isinstance(part, nn.Module) and kind is not EnergyModel:
                named["dtype"] = str(kind_of(part)[0]).removeprefix("torch.")
        else:
            named, arguments = _of_library(part, kind)
        return named | {name: self.value(value) for name, value in arguments.items()}

    def value(self, value: Any) -> Any:
        if isinstance(value, nn.Module | Distribution | Transform):
            return self.part(value)
        if isinstance(value, list | tuple):
            return type(value)(map(self.value, value))
        if isinstance(value, Tensor):
            return whole(value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise UnknownPartError(type(value).__qualname__)


class _Builder:
    """Builds parts, each of them once."""

    def __init__(self) -> None:
        """Begin with none."""
        self.built: list[Any] = []

    def value(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(self.value, value))
        if not isinstance(value, Mapping):
            return value
        match value:
            case {"again": int(number), **more} if not more:
                return self.built[number]
            case {"class": str(name), **arguments}:
                number = len(self.built)
                self.built.append(None)
                self.built[number] = self.part(name, arguments)
                return self.built[number]
        raise ModelFileError(f"`model.json` describes a part without a class: {value}.")

    def part(self, name: str, arguments: Mapping[str, Any]) -> Any:
        library = arguments.get("of")
        kind = CLASSES.get(name)
        if library in LIBRARIES:
            kind = getattr(import_module(library), name, None)
            if not isinstance(kind, type) or not issubclass(kind, Distribution | Transform):
                kind = None
        if kind is None:
            raise ModelFileError(f"`model.json` names a class that is not known: {name}.")
        given = {
            key: self.value(value)
            for key, value in arguments.items()
            if key not in ("of", "dtype")
        }
        part = kind(**given)
        dtype = getattr(torch, str(arguments.get("dtype")), None)
        if isinstance(part, nn.Module) and isinstance(dtype, torch.dtype):
            # Not `to`, which would make another base of the one that parts share.
            for x in chain(part.parameters(), part.buffers()):
                if x.is_floating_point():
                    x.data = x.data.to(dtype)
        return part


def _base_of(model: EnergyModel) -> Any:
    """Return the base; where the network knows it, that of the network."""
    shared: Any = model.net
    return model.base if model.joint_energy is None else bare(shared).base


def _units(model: nn.Module) -> dict[str, int]:
    visible, hidden = model.get_parameter("weight").shape
    return {"visible": visible, "hidden": hidden}


def _of_library(part: Any, kind: type) -> tuple[dict[str, str], dict[str, Any]]:
    """Return class and arguments of a distribution or transform of torch or Pyro."""
    found = [
        library
        for library in LIBRARIES
        if getattr(import_module(library), kind.__name__, None) is kind
    ]
    if isinstance(part, nn.Module) or not found:
        raise UnknownPartError(kind.__qualname__)
    constructor: Any = kind
    _, *names = signature(constructor.__init__).parameters
    names = [name for name in names if name != "validate_args"]
    for group in ALTERNATIVES:
        given = [name for name in group if name in vars(part)]
        names = [name for name in names if name not in group or name in given[:1]]
    try:
        arguments = {name: getattr(part, ATTRIBUTES.get(name, name)) for name in names}
    except AttributeError as error:
        raise UnknownPartError(kind.__qualname__) from error
    return {"class": kind.__name__, "of": found[0]}, arguments


@standard_modes(gradients=False)
@torch.no_grad()
def _check_base(base: Distribution, position: Tensor) -> None:
    """Raise unless a base that is built again has the same densities, to the bit."""
    # One tensor for both: the last bits of a sum depend on where it lies in memory.
    points = position[torch.isfinite(base.log_prob(position))]
    expected = base.log_prob(points)
    try:
        again = build(_Describer().part(base)).log_prob(points)
    except (LookupError, RuntimeError, TypeError, ValueError):
        again = None
    if again is None or not torch.equal(again, expected):
        raise UnknownPartError(type(base).__qualname__)
