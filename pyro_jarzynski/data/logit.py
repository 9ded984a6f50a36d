"""Images in unconstrained space: dequantised, and through the logit."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, DataError, count


class ImageTransform(ABC):
    """A map of images to coordinates `x`, whose Jacobian carries likelihoods back."""

    @abstractmethod
    def log_jacobian(self, x: Tensor) -> Tensor:
        """Return `log |det ∂x/∂v|` at coordinates `(n, *event)`, `(n,)`, float64, nats."""

    def image_nll(self, nll: float, x: Tensor) -> float:
        """Return the mean negative log-likelihood of grey levels `v`, in nats.

        Args:
            nll: Mean negative log-likelihood of the coordinates `x`, in nats.
            x: The coordinates, `(n, *event)`.
        """
        return nll - float(self.log_jacobian(x).mean())

    def bits_per_dimension(self, nll: float, x: Tensor) -> float:
        """Return `image_nll` in bits per pixel and channel; arguments as there."""
        return self.image_nll(nll, x) / (x[0].numel() * math.log(2))


@dataclass(frozen=True)
class LogitTransform(ImageTransform):
    """Maps grey levels to unconstrained coordinates and back, with its Jacobian.

    `x = logit(α + (1 - 2α) v / levels)` with `v = k + u` of a level `k` in 0…levels - 1
    and `u` uniform in [0, 1).

    A density of `v` integrates over the unit cube at `k` to the probability of the image,
    so that its mean negative log-likelihood bounds that of the images from above.

    Args:
        levels: Number of grey levels.
        alpha: Margin `α` at both ends of the unit interval, in (0, ½).
        dtype: Floating type of the coordinates.

    Raises:
        ArgumentError: A setting has a value that cannot be used.

    Source:
        Dinh, Sohl-Dickstein, Bengio (2017), ICLR; for the bound Theis, van den Oord,
        Bethge (2016), ICLR.

    Example:
        >>> logit = pj.LogitTransform(levels=17)
        >>> grey = torch.tensor([[0, 8, 16]])
        >>> x = logit.forward(grey, torch.Generator().manual_seed(0))
        >>> logit.inverse(x)
        tensor([[ 0,  8, 16]])
    """

    levels: int = 256
    alpha: float = 0.05
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        """Check the settings."""
        count("levels", self.levels, 2)
        if not isinstance(self.alpha, float) or not 0 < self.alpha < 0.5:
            raise ArgumentError(
                "`alpha` must be a float above 0, where the logit is finite, and below "
                f"0.5; got {self.alpha!r}."
            )
        if not self.dtype.is_floating_point:
            raise ArgumentTypeError(
                f"`dtype` must be a floating type, got {self.dtype}; use torch.float32."
            )

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return coordinates of dequantised grey levels, of the same shape `(n, *event)`.

        Args:
            images: Whole grey levels in 0…levels - 1, of any type.
            generator: Draws the dequantisation noise, on the device of the images.

        Raises:
            DataError: A grey level lies outside.
        """
        check_levels(images, self.levels)
        noise = torch.rand(
            images.shape, dtype=torch.float64, generator=generator, device=images.device
        )
        unit = self.alpha + (1 - 2 * self.alpha) * (images + noise) / self.levels
        return torch.logit(unit).to(self.dtype)

    def inverse(self, x: Tensor) -> Tensor:
        """Return the grey levels of coordinates, int64 in 0…levels - 1.

        The round trip is exact but for noise within rounding of 0 or 1, in single
        precision one pixel of some hundred thousand, which is one level off.
        """
        inside = (torch.sigmoid(x.double()) - self.alpha) / (1 - 2 * self.alpha)
        return (inside * self.levels).floor().long().clamp(0, self.levels - 1)

    def log_jacobian(self, x: Tensor) -> Tensor:
        """Return `log |det ∂x/∂v|` at coordinates `(n, *event)`, `(n,)`, float64, nats."""
        x = x.double().reshape(len(x), -1)
        scale = math.log((1 - 2 * self.alpha) / self.levels)
        return (scale - logsigmoid(x) - logsigmoid(-x)).sum(1)


def check_levels(images: Tensor, levels: int) -> None:
    """Raise if images hold anything but grey levels in 0…levels - 1."""
    if not images.numel():
        return
    # As numbers: 256 is no value of uint8, in which torch would compare.
    least, most = (float(value) for value in images.aminmax())
    if not (least >= 0 and most < levels):
        raise DataError(
            f"`images` must hold grey levels in 0…{levels - 1}, got values from "
            f"{least:g} to {most:g}; set `levels`, or undo the scaling."
        )
