"""How fine the energies of walkers are: what their dtype can tell apart."""

import warnings

import torch
from torch import Tensor

from pyro_jarzynski.errors import PrecisionWarning

# Nats between neighbouring energies from which the weights are told to be rounded.
MAX_RESOLUTION = 0.25


def resolution(energy: Tensor) -> float:
    """Return the nats between an energy and the next that its dtype has, at the median.

    `ε |U|` with `ε` the distance from 1 to the next number: float32 has no two energies
    of size 10⁸ that are less than 8 nats apart.

    Args:
        energy: Energies, `(N,)`, finite.
    """
    return torch.finfo(energy.dtype).eps * float(energy.abs().median())


def coarseness(energy: Tensor) -> str:
    """Say what is lost of energies that are too large for their dtype, or nothing."""
    step = resolution(energy)
    if not step > MAX_RESOLUTION:
        return ""
    return (
        f"Energies of size {float(energy.abs().median()):.1g} come in steps of {step:.2g} "
        f"nats in {energy.dtype}: smaller differences between walkers are lost, and with "
        "them the weights. Use a wider dtype, or subtract a constant from the energy."
    )


def warn_if_coarse(energy: Tensor) -> None:
    """Warn if energies are too large for their dtype."""
    message = coarseness(energy)
    if message:
        warnings.warn(message, PrecisionWarning, stacklevel=3)
