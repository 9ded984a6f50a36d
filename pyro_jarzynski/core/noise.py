"""Randomness: seeded streams, and Gaussian noise in the shape of a position."""

import hashlib
import math
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core.trees import Position, map_tree
from pyro_jarzynski.errors import ArgumentTypeError


class Stream(torch.Generator):
    """A generator that can be sent to a new process.

    torch's own hands a tensor to the pickler that is gone before the process starts, so
    that its file descriptor is another's by then; here the state goes as bytes.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make it again."""
        return _restored, (str(self.device), bytes(self.get_state().tolist()))


def _restored(device: str, state: bytes) -> Stream:
    found = Stream(device)
    found.set_state(torch.tensor(list(state), dtype=torch.uint8, device="cpu"))
    return found


def stream(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator of its own for one purpose of a seeded run.

    torch seeds its CPU generator by the lowest 32 bits alone, so that sums of seeds
    collide; here seed and purpose are hashed together.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ArgumentTypeError(f"`seed` must be an integer, got {seed!r}.")
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return Stream(device).manual_seed(int.from_bytes(digest[:4], "little"))


def set_state(generator: torch.Generator, state: Tensor) -> None:
    """Set a generator to a state that `get_state` of this or another device returned.

    Kinds of devices have other algorithms, and states of other lengths: from the state of
    another kind only the seed of the draws to come is made.
    """
    state = state.cpu()
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
        return
    digest = hashlib.sha256(bytes(state.tolist())).digest()
    generator.manual_seed(int.from_bytes(digest[:4], "little"))


def standard_normal(
    *shape: int, generator: torch.Generator, dtype: torch.dtype | None = None
) -> Tensor:
    """Draw independent standard normal numbers on the device of a generator."""
    return torch.randn(shape, dtype=dtype, generator=generator, device=generator.device)


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
