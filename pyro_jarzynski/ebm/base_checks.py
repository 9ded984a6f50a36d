"""Checks of the base of an energy: it can be drawn, and has a density on real numbers."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.distributions.bijections import biject_to
from pyro_jarzynski.distributions.dimensions import dimension
from pyro_jarzynski.distributions.parts import made_of
from pyro_jarzynski.ebm.base_energy import BaseEnergy, energy_of, known_support
from pyro_jarzynski.errors import ArgumentError

# Distributions with points of positive probability, and what to take in their place.
ATOMS = {
    dist.Delta: "Use a `Normal` of small scale",
    dist.Empirical: "Use a `MixtureSameFamily` of normal distributions at its points",
    dist.ZeroInflatedDistribution: "Leave out data that are zero, and use its `base_dist`",
}
# Errors of distributions that cannot be drawn or evaluated.
FAILURES = (
    AssertionError,
    AttributeError,
    IndexError,
    RuntimeError,
    TypeError,
    ValueError,
)


def check_density(base: Distribution) -> None:
    """Raise unless a base has a density in the space of its values, where walkers move.

    Raises:
        ArgumentError: It is discrete, improper, or lives on a set of measure zero.
    """
    name = name_of(base)
    support = known_support(base)
    if support.is_discrete:
        raise ArgumentError(
            f"`base` must have a density on real numbers, and {name} has discrete values. "
            "Make whole numbers continuous by uniform noise, `x + torch.rand_like(x)`, and "
            "use a base such as `Normal`; for binary data use `BinaryRBMEnergy`."
        )
    for part in made_of(base):
        for kind, remedy in ATOMS.items():
            if isinstance(part, kind):
                raise ArgumentError(
                    "`base` must have a density on real numbers, and "
                    f"{kind.__name__} has points of positive probability. {remedy}."
                )
        if isinstance(part, dist.MaskedDistribution) and not _is_all(part._mask):
            raise ArgumentError(
                "`base` must have a density that integrates to one, and a mask sets that "
                "of what it hides to 1 everywhere. Use the distribution without its mask, "
                "its `base_dist`."
            )
    # A few distributions of Pyro have a tuple.
    shape = torch.Size(base.event_shape)
    if not shape.numel():
        raise ArgumentError(
            f"`base` must have at least one number, and the event shape of {name} is "
            f"{tuple(shape)}. Use another base."
        )
    size, found = shape.numel(), dimension(support, shape)
    if found != size:
        raise ArgumentError(
            f"`base` must have a density in the space of its {size} numbers, and the "
            f"support of {name} has dimension {found}: walkers that move would leave it. "
            + _remedy(support)
        )


def checked_energy(base: Distribution, device: torch.device) -> BaseEnergy:
    """Return the energy of a base, or raise if it cannot be drawn and evaluated.

    Args:
        base: The base.
        device: Where the network is.

    Raises:
        ArgumentError: The base has no sampler, no density, or none at its own draws, or is
            on another device.
    """
    name = name_of(base)
    with global_stream(0), torch.no_grad():
        try:
            drawn = base.sample(torch.Size([4]))
        except FAILURES as error:
            raise ArgumentError(
                "`base` must be a distribution that can be drawn: `sample((4,))` of "
                f"{name} raises {_first_line(error)}. Use another base."
            ) from error
        if drawn.device != device:
            raise ArgumentError(
                f"`base` draws on {drawn.device}, but `net` is on {device}: build the base "
                "with parameters on the device of the network."
            )
        if device.type == "meta":
            raise ArgumentError(
                "`net` and `base` are on the meta device, which holds shapes and no "
                "numbers: build them on another."
            )
        try:
            energy = energy_of(base)
            values = energy(energy.draw(4))
        except ArgumentError:
            raise
        except NotImplementedError as error:
            raise ArgumentError(
                f"`base` must have a density: {name} has no `log_prob`, as where it "
                "is made by a transform without inverse. Use another base, or map the "
                "data to unconstrained space."
            ) from error
        except FAILURES as error:
            raise ArgumentError(
                f"`base` must have a density: `log_prob` of {name} raises "
                f"{_first_line(error)} at draws of shape {tuple(drawn.shape)}. Use another "
                "base."
            ) from error
    if not torch.isfinite(values).all():
        raise ArgumentError(
            f"`base` must have a finite density at its own draws; the logarithm of that of "
            f"{name} is {(-values).tolist()} at four of them."
        )
    return energy


def name_of(base: Distribution) -> str:
    """Return the name of a distribution below declared events."""
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    return type(base).__name__


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _is_all(mask: Any) -> bool:
    return bool(mask.all()) if isinstance(mask, Tensor) else bool(mask)


def _remedy(support: Any) -> str:
    try:
        biject_to(support)
    except NotImplementedError:
        return (
            "Describe the data by independent coordinates, points of a sphere by their "
            "angles, and use a base for these."
        )
    return (
        "Go to unconstrained coordinates: with `to = "
        "pyro_jarzynski.distributions.supports.bijection(base).inv`, use "
        "`pyro.distributions.TransformedDistribution(base, [to])` as base, and `to(x)` as "
        "data."
    )
