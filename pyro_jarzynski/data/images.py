"""Image data sets that torchvision knows: whole, or a few classes in given numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.errors import (
    ArgumentError,
    DataError,
    MissingDependencyError,
    count,
    one_of,
)

# The names of the data sets, and their classes in torchvision.
DATA_SETS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar-10": "CIFAR10"}


@dataclass(frozen=True)
class LabelledImages:
    """Images for training and for the test, with their classes.

    Attributes:
        images: Grey levels 0…255 of the training part, uint8, `(n, C, H, W)`.
        labels: Their classes as positions in `class_names`, int64, `(n,)`.
        test_images: Grey levels of the test part, uint8, `(m, C, H, W)`.
        test_labels: Their classes, int64, `(m,)`.
        class_names: Names of the classes that were asked for, in that order.

    Example:
        >>> images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> data = pj.LabelledImages(images, labels, images, labels, ("zero", "one"))
        >>> data.class_names[int(data.labels[-1])]
        'one'
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]


def load_images(
    name: str,
    root: Path | str,
    *,
    download: bool = False,
    classes: Sequence[int] | None = None,
    counts: Sequence[int] | None = None,
    seed: int = 0,
) -> LabelledImages:
    """Return MNIST, Fashion-MNIST or CIFAR-10, whole or a few classes in given numbers.

    They are on torch's default device, and the same on any. With `counts` the test part is
    thinned to the same proportions, as little as they allow, so that it remains a sample of
    the law that is trained on.

    Args:
        name: `mnist`, `fashion-mnist` or `cifar-10`.
        root: Directory of the files as torchvision lays them out, such as `MNIST/raw`.
        download: Let torchvision fetch files that are missing.
        classes: Numbers of the classes to keep; `None` keeps all.
        counts: Training images of each of these classes; `None` takes all there are.
        seed: Seed of the choice of images.

    Raises:
        ArgumentError: A class is unknown, or the counts do not fit the data.
        DataError: Files are missing or damaged, or cannot be fetched.
        MissingDependencyError: torchvision cannot be imported.
    """
    one_of("name", name, DATA_SETS)
    count("seed", seed, 0)
    train, test = (_part(name, root, train, download) for train in (True, False))
    known = [str(label) for label in train.classes]
    chosen = list(range(len(known))) if classes is None else _check_classes(classes, known)
    images, labels = _select(*_tensors(train), chosen)
    test_images, test_labels = _select(*_tensors(test), chosen)
    if counts is not None:
        wanted = _check_counts(counts, labels.bincount(minlength=len(chosen)).tolist())
        there = test_labels.bincount(minlength=len(chosen)).tolist()
        generator = torch.Generator().manual_seed(seed)
        images, labels = _thin(images, labels, wanted, generator)
        test_images, test_labels = _thin(
            test_images, test_labels, _in_proportion(wanted, there), generator
        )
    names = tuple(known[number] for number in chosen)
    device = torch.get_default_device()
    return LabelledImages(
        images.to(device),
        labels.to(device),
        test_images.to(device),
        test_labels.to(device),
        names,
    )


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
            f"nothing usable in {root}. Fetch it by `load_images('mnist', root, "
            "download=True)`."
        ) from error
    return mnist.data, mnist.targets


def _part(name: str, root: Path | str, train: bool, download: bool) -> Any:  # noqa: FBT001
    data_set = getattr(_torchvision_datasets(), DATA_SETS[name])
    try:
        return data_set(str(root), train=train, download=download)
    except (RuntimeError, OSError, ValueError, AssertionError, EOFError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        advice = (
            "Check the connection, or put the files there yourself."
            if download
            else "Pass `download=True` (`--download`), or another `root` (`--data-root`)."
        )
        raise DataError(
            f"{name} cannot be read from `root`, {root}: {reason}. {advice}"
        ) from error


def _tensors(part: Any) -> tuple[Tensor, Tensor]:
    pixels = torch.as_tensor(part.data, device="cpu")
    # torchvision holds grey images without a channel, and coloured ones with it last.
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return pixels.contiguous(), torch.as_tensor(part.targets, device="cpu")


def _select(pixels: Tensor, targets: Tensor, chosen: list[int]) -> tuple[Tensor, Tensor]:
    same = targets[:, None] == torch.tensor(chosen, device="cpu")
    kept = same.any(1)
    return pixels[kept], same[kept].long().argmax(1)


def _thin(
    images: Tensor, labels: Tensor, wanted: list[int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Keep so many images of each class, in their order."""
    kept = []
    for label, number in enumerate(wanted):
        rows = (labels == label).nonzero().flatten()
        order = torch.randperm(len(rows), generator=generator, device="cpu")
        kept.append(rows[order[:number]])
    index = torch.cat(kept).sort().values
    return images[index], labels[index]


def _in_proportion(wanted: list[int], there: list[int]) -> list[int]:
    """Return the largest numbers in the proportions of `wanted` that are there."""
    most, least = min(zip(there, wanted, strict=True), key=lambda pair: pair[0] / pair[1])
    return [number * most // least for number in wanted]


def _check_classes(classes: Sequence[int], known: list[str]) -> list[int]:
    chosen = [count("classes", number, 0) for number in classes]
    unknown = [number for number in chosen if number >= len(known)]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise ArgumentError(
            f"`classes` must be different numbers in 0…{len(known) - 1}, at least one; "
            f"got {chosen}."
        )
    return chosen


def _check_counts(counts: Sequence[int], there: list[int]) -> list[int]:
    wanted = [count("counts", number) for number in counts]
    if len(wanted) != len(there):
        raise ArgumentError(
            f"`counts` must have one number for each of {len(there)} classes, got "
            f"{len(wanted)}: {wanted}."
        )
    if any(number > most for number, most in zip(wanted, there, strict=True)):
        raise ArgumentError(
            f"`counts` must be at most the images there are of each class, {there}; got "
            f"{wanted}."
        )
    return wanted


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
