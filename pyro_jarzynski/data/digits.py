"""The handwritten digits that need no download, split for training."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_jarzynski.data.whitening import Whitening
from pyro_jarzynski.errors import DataError, count

DIGITS_LEVELS = 17


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

    They are on torch's default device, and the same on any.

    Args:
        seed: Seed of the split and of the dequantisation for the whitening.
        num_validation: Digits held out of training for validation.
        num_test: Digits held out for the test.
    """
    # Takes a second, which nobody who asks the command line for help should wait.
    from sklearn.datasets import load_digits as read_digits

    grey = torch.as_tensor(read_digits().data, device="cpu")
    count("num_validation", num_validation, 0)
    count("num_test", num_test, 0)
    if num_validation + num_test > len(grey) - 100:
        raise DataError(
            f"`num_validation` + `num_test` must leave 100 of {len(grey)} digits to train "
            f"on, got {num_validation} + {num_test}."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(grey), generator=generator, device="cpu")
    sizes = [len(grey) - num_test - num_validation, num_validation, num_test]
    train, validation, test = grey[order].split(sizes)
    known = torch.cat([train, validation])
    whitening = Whitening.fit(known, DIGITS_LEVELS, (8, 8), generator)
    device = torch.get_default_device()
    train, validation, test = (x.to(device) for x in (train, validation, test))
    return ImageData(train, validation, test, whitening.to(device))
