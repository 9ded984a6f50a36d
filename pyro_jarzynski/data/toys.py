"""Point clouds in the plane that generative models are shown on, drawn independently.

Shapes and scales are those of the papers that use them, so that figures compare. Every
point is drawn by itself, also where the original spaces points evenly along a curve.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_jarzynski.errors import ArgumentTypeError, count, one_of

TAU = 2 * math.pi


def toy(name: str, num: int, seed: int = 0) -> Tensor:
    """Draw independent points of a law in the plane.

    Args:
        name: `moons` as in scikit-learn, of noise 0.1 and unscaled; `circles`, `spirals`,
            `pinwheel`, `checkerboard` or `rings`, which lie within about [-4, 4]².
        num: Number of points `n`.
        seed: Seed of the draws.

    Returns:
        `(n, 2)`, float32, on torch's default device, and the same on any.

    Source:
        `sklearn.datasets.make_moons`; Grathwohl et al. (2019), ICLR, and its code.

    Raises:
        ArgumentError: The name is unknown, or the number not positive.
        ArgumentTypeError: The seed is no integer.

    Example:
        >>> pj.toy("moons", 500, seed=1).shape
        torch.Size([500, 2])
    """
    one_of("name", name, TOYS)
    count("num", num)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ArgumentTypeError(f"`seed` must be an integer, got {seed!r}.")
    generator = torch.Generator().manual_seed(seed)
    return TOYS[name](num, generator).to(torch.get_default_device(), torch.float32)


def _moons(num: int, generator: torch.Generator) -> Tensor:
    angle = math.pi * _uniform(num, generator)
    outer = torch.stack([angle.cos(), angle.sin()], 1)
    inner = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    first = _choice(num, 2, generator)[:, None] == 0
    return torch.where(first, outer, inner) + 0.1 * _normal(num, generator)


def _circles(num: int, generator: torch.Generator) -> Tensor:
    radius = 1 - 0.5 * _choice(num, 2, generator)
    return 3 * (_on_circles(radius, generator) + 0.08 * _normal(num, generator))


def _rings(num: int, generator: torch.Generator) -> Tensor:
    radius = 0.25 * (1 + _choice(num, 4, generator))
    return 3 * _on_circles(radius, generator) + 0.08 * _normal(num, generator)


def _spirals(num: int, generator: torch.Generator) -> Tensor:
    angle = 1.5 * TAU * _uniform(num, generator).sqrt()
    arm = angle[:, None] * torch.stack([-angle.cos(), angle.sin()], 1)
    noise = torch.rand((num, 2), dtype=torch.float64, generator=generator, device="cpu")
    arm += 0.5 * noise
    sign = 1 - 2 * _choice(num, 2, generator)[:, None]
    return sign * arm / 3 + 0.1 * _normal(num, generator)


def _pinwheel(num: int, generator: torch.Generator) -> Tensor:
    blade = _normal(num, generator) * torch.tensor([0.3, 0.1], device="cpu")
    along, across = 1 + blade[:, 0], blade[:, 1]
    angle = TAU / 5 * _choice(num, 5, generator) + 0.25 * along.exp()
    turned = [
        along * angle.cos() + across * angle.sin(),
        across * angle.cos() - along * angle.sin(),
    ]
    return 2 * torch.stack(turned, 1)


def _checkerboard(num: int, generator: torch.Generator) -> Tensor:
    across = 4 * _uniform(num, generator) - 2
    row = across.floor() % 2 - 2 * _choice(num, 2, generator)
    return 2 * torch.stack([across, _uniform(num, generator) + row], 1)


def _on_circles(radius: Tensor, generator: torch.Generator) -> Tensor:
    angle = TAU * _uniform(len(radius), generator)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


def _uniform(num: int, generator: torch.Generator) -> Tensor:
    return torch.rand(num, dtype=torch.float64, generator=generator, device="cpu")


def _normal(num: int, generator: torch.Generator) -> Tensor:
    return torch.randn((num, 2), dtype=torch.float64, generator=generator, device="cpu")


def _choice(num: int, options: int, generator: torch.Generator) -> Tensor:
    return torch.randint(options, (num,), generator=generator, device="cpu").double()


TOYS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "moons": _moons,
    "circles": _circles,
    "spirals": _spirals,
    "pinwheel": _pinwheel,
    "checkerboard": _checkerboard,
    "rings": _rings,
}
