"""Gaussian noise in the shape, dtype and device of a position."""

import math

import torch
from torch import Tensor

from pyro_jarzynski.core.trees import Position, map_tree


def normal_like(position: Position, generator: torch.Generator | None) -> Position:
    """Draw independent standard normal numbers in the shape of `position`."""
    return map_tree(lambda x: _normal_like(x, generator), position)


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    noise = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.device.type == "cpu" and x.dtype == torch.float64:
        # torch's own float64 normals are scalar code on the CPU: inverting the normal
        # distribution function takes a third of the time and reaches 8 sigma.
        smallest = math.nextafter(-1.0, 0.0)
        return noise.uniform_(smallest, 1, generator=generator).erfinv_().mul_(2**0.5)
    return noise.normal_(generator=generator)
