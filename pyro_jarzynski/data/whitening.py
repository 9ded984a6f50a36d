"""Whitened coordinates of images, and batches with fresh dequantisation noise."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_jarzynski.data.logit import LogitTransform

SQUEEZE = 0.05


@dataclass(frozen=True)
class Whitening:
    """Maps grey levels to unconstrained, whitened coordinates and back.

    `y = logit(.05 + .9 (k + u) / levels)` with `u` uniform in [0, 1), then
    `x = (y - mean) W`, with `W` such that `x` has unit covariance on the training data.

    Args:
        mean: Mean of `y`, `(d,)`.
        whiten: `W`, `(d, d)`.
        color: Inverse of `W`, `(d, d)`.
        levels: Number of grey levels.
        shape: Rows and columns of an image.
    """

    mean: Tensor
    whiten: Tensor
    color: Tensor
    levels: int
    shape: tuple[int, int]

    def to_coordinates(self, grey: Tensor, generator: torch.Generator) -> Tensor:
        """Return whitened coordinates of dequantised grey levels, `(n, d)` each."""
        logits = _logits(grey, self.levels, generator).to(self.mean.dtype)
        return (logits - self.mean) @ self.whiten

    def to_grey(self, x: Tensor) -> Tensor:
        """Return grey levels in [0, levels), `(n, rows, columns)`, of coordinates."""
        unit = torch.sigmoid(x.to(self.mean.dtype) @ self.color + self.mean)
        grey = (unit - SQUEEZE) / (1 - 2 * SQUEEZE) * self.levels
        return grey.clamp(0, self.levels).reshape(-1, *self.shape)

    def to(self, device: torch.device) -> "Whitening":
        """Return the same map for images and coordinates on a device."""
        mean, whiten, color = (x.to(device) for x in (self.mean, self.whiten, self.color))
        return replace(self, mean=mean, whiten=whiten, color=color)

    def state(self) -> dict[str, Tensor]:
        """Return its tensors, for saving."""
        return {"mean": self.mean, "whiten": self.whiten, "color": self.color}

    @classmethod
    def fit(
        cls,
        grey: Tensor,
        levels: int,
        shape: tuple[int, int],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> "Whitening":
        """Return the whitening of grey levels `(n, d)` by their principal components."""
        logits = _logits(grey, levels, generator)
        mean = logits.mean(0)
        variance, axes = torch.linalg.eigh(torch.cov(logits.T))
        whiten, color = axes * variance.rsqrt(), (axes * variance.sqrt()).T
        return cls(mean.to(dtype), whiten.to(dtype), color.to(dtype), levels, shape)


@dataclass(frozen=True)
class DequantisedBatches:
    """Shuffled batches of images, with fresh dequantisation noise in every epoch.

    A model of the dequantised density then never sees a point twice, which keeps it from
    learning the noise.

    Args:
        grey: Grey levels, `(n, d)`.
        whitening: Map to coordinates.
        batch_size: Rows per batch; the rest of an epoch waits for the next.
        generator: Shuffles and dequantises, on the device of `grey`.
    """

    grey: Tensor
    whitening: Whitening
    batch_size: int
    generator: torch.Generator

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches of one epoch, `(batch_size, d)` each."""
        device = self.grey.device
        order = torch.randperm(len(self.grey), generator=self.generator, device=device)
        size = min(self.batch_size, len(order))
        for start in range(0, len(order) - size + 1, size):
            rows = self.grey[order[start : start + size]]
            yield self.whitening.to_coordinates(rows, self.generator)


def _logits(grey: Tensor, levels: int, generator: torch.Generator) -> Tensor:
    return LogitTransform(levels, SQUEEZE, torch.float64).forward(grey, generator)
