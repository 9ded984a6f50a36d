"""Images with Gaussian noise: coordinates in which every direction has density."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_jarzynski.data.logit import ImageTransform, check_levels
from pyro_jarzynski.errors import ArgumentTypeError, count, positive


@dataclass(frozen=True)
class SmoothingTransform(ImageTransform):
    """Maps grey levels to standardised coordinates of noisy images, and back.

    `x = (k / (levels - 1) + noise ξ - centre) / scale` with standard normal `ξ`. Noise of
    a tenth to a third of the range makes the law of images smooth, with one length scale
    in all directions, so that walkers can move; a Gaussian is the law of pixels that never
    change. Likelihoods are those of noisy images: comparable between models at the same
    `noise`, not with those of other transforms.

    Args:
        noise: Standard deviation of the noise, where the grey levels span [0, 1].
        centre: What is subtracted, such as the mean of the data.
        scale: What is divided by, such as their standard deviation with the noise.
        levels: Number of grey levels.
        dtype: Floating type of the coordinates.

    Raises:
        ArgumentError: A setting has a value that cannot be used.

    Source:
        Saremi, Hyvärinen (2019), J. Mach. Learn. Res. 20: densities of noisy images, and
        the least-squares estimate `x - s² ∇U(x)` of the image without noise `s`.

    Example:
        >>> transform = pj.SmoothingTransform(noise=0.3, centre=0.5, scale=0.5)
        >>> transform.clean(torch.tensor([[0, 255]]))
        tensor([[-1.,  1.]])
        >>> transform.noise_in_coordinates
        0.6
    """

    noise: float = 0.3
    centre: float = 0.0
    scale: float = 1.0
    levels: int = 256
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        """Check the settings."""
        positive("noise", self.noise)
        positive("scale", self.scale)
        count("levels", self.levels, 2)
        if not self.dtype.is_floating_point:
            raise ArgumentTypeError(
                f"`dtype` must be a floating type, got {self.dtype}; use torch.float32."
            )

    @classmethod
    def fit(cls, images: Tensor, *, noise: float = 0.3) -> "SmoothingTransform":
        """Return the transform to zero mean and unit variance over all pixels.

        Args:
            images: Grey levels 0…255, uint8, of any shape.
            noise: As of the class.
        """
        pixels = images.double() / 255
        spread = float((pixels.var() + noise**2).sqrt())
        return cls(positive("noise", noise), float(pixels.mean()), spread)

    @property
    def noise_in_coordinates(self) -> float:
        """Standard deviation of the noise in the coordinates."""
        return self.noise / self.scale

    def clean(self, images: Tensor) -> Tensor:
        """Return coordinates of whole grey levels without noise, of the same shape."""
        check_levels(images, self.levels)
        unit = images.double() / (self.levels - 1)
        return ((unit - self.centre) / self.scale).to(self.dtype)

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return coordinates with fresh noise, of the same shape `(n, *event)`.

        Args:
            images: Whole grey levels in 0…levels - 1, of any type.
            generator: Draws the noise, on the device of the images.

        Raises:
            DataError: A grey level lies outside.
        """
        x = self.clean(images)
        noise = torch.empty_like(x).normal_(generator=generator)
        return x + self.noise_in_coordinates * noise

    def inverse(self, x: Tensor) -> Tensor:
        """Return the nearest grey levels of coordinates, int64 in 0…levels - 1."""
        unit = x.double() * self.scale + self.centre
        return (unit * (self.levels - 1)).round().long().clamp(0, self.levels - 1)

    def log_jacobian(self, x: Tensor) -> Tensor:
        """Return `log |det ∂x/∂v|`, `(n,)`, float64, nats; `v` are noisy grey levels."""
        each = -math.log(self.scale * (self.levels - 1))
        return x.new_full((len(x),), each * x[0].numel(), dtype=torch.float64)

    def noise_nll(self, size: int) -> float:
        """Return the entropy of the noise of `size` pixels in the coordinates, in nats.

        The mean negative log-likelihood of a law that knew each image before the noise:
        what a model is above it, it has to say about images.
        """
        return size * math.log(2 * math.pi * math.e * self.noise_in_coordinates**2) / 2
