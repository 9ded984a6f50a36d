"""Data sets: read, brought to unconstrained space, and back to pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.errors import DataError, MissingDependencyError, count

DIGITS_LEVELS = 17
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
        generator: Shuffles and dequantises.
    """

    grey: Tensor
    whitening: Whitening
    batch_size: int
    generator: torch.Generator

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches of one epoch, `(batch_size, d)` each."""
        order = torch.randperm(len(self.grey), generator=self.generator)
        size = min(self.batch_size, len(order))
        for start in range(0, len(order) - size + 1, size):
            rows = self.grey[order[start : start + size]]
            yield self.whitening.to_coordinates(rows, self.generator)


@dataclass(frozen=True)
class ImageData:
    """Images split for training, with a whitening that never saw the test part.

    Attributes:
        train: Grey levels `(n, d)`.
        validation: Grey levels held out of training to choose the best parameters.
        test: Grey levels never looked at in training.
        whitening: Map to the coordinates in which models are trained.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    whitening: Whitening


def load_digits(
    *, seed: int = 0, num_validation: int = 150, num_test: int = 297
) -> ImageData:
    """Return the 1,797 handwritten digits of 8×8 pixels that ship with scikit-learn.

    Args:
        seed: Seed of the split and of the dequantisation for the whitening.
        num_validation: Digits held out of training for validation.
        num_test: Digits held out for the test.
    """
    # Takes a second, which nobody who asks the command line for help should wait.
    from sklearn.datasets import load_digits as read_digits

    grey = torch.as_tensor(read_digits().data)
    count("num_validation", num_validation, 0)
    count("num_test", num_test, 0)
    if num_validation + num_test > len(grey) - 100:
        raise DataError(
            f"`num_validation` + `num_test` must leave 100 of {len(grey)} digits to train "
            f"on, got {num_validation} + {num_test}."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(grey), generator=generator)
    sizes = [len(grey) - num_test - num_validation, num_validation, num_test]
    train, validation, test = grey[order].split(sizes)
    known = torch.cat([train, validation])
    whitening = Whitening.fit(known, DIGITS_LEVELS, (8, 8), generator)
    return ImageData(train, validation, test, whitening)


def load_mnist(root: Path | str, *, train: bool = True) -> tuple[Tensor, Tensor]:
    """Return images `(n, 28, 28)` in 0…255 and labels `(n,)` of MNIST on disk.

    Args:
        root: Directory that holds `MNIST/raw`, as torchvision lays it out.
        train: Read the training images; if false the test images.

    Raises:
        MissingDependencyError: torchvision cannot be imported.
        DataError: The files are not there.
    """
    datasets = _torchvision_datasets()
    try:
        mnist = datasets.MNIST(str(root), train=train, download=False)
    except RuntimeError as error:
        raise DataError(
            f"`root` must hold MNIST in torchvision's layout, `MNIST/raw/*-ubyte`; "
            f"nothing usable in {root}."
        ) from error
    return mnist.data, mnist.targets


def _torchvision_datasets() -> Any:
    try:
        from torchvision import datasets
    except Exception as error:
        # A torchvision built for another torch fails with a RuntimeError, not ImportError.
        raise MissingDependencyError(
            f"torchvision cannot be imported beside torch {torch.__version__}: {error}. "
            "Install the pair that belongs together: `pip install torch torchvision`, or "
            "both from the same index of PyTorch builds (CPU with CPU)."
        ) from error
    return datasets


def _logits(grey: Tensor, levels: int, generator: torch.Generator) -> Tensor:
    noise = torch.rand(grey.shape, dtype=torch.float64, generator=generator)
    unit = SQUEEZE + (1 - 2 * SQUEEZE) * (grey + noise) / levels
    return torch.logit(unit)
