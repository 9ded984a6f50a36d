"""The Fréchet inception distance (FID) of images, by torchmetrics."""

from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from pyro_jarzynski.errors import ArgumentTypeError, DataError, MissingDependencyError


def inception_distance(draws: Tensor, images: Tensor, *, batch_size: int = 64) -> float:
    """Return the Fréchet distance of two sets of images in Inception's features (FID).

    The network's weights are fetched at the first call. FID is made for thousands of
    colour photographs; for digits, the features of `train_classifier` tell more.

    Args:
        draws: Grey levels of a model's images, uint8, `(n, C, H, W)` with 1 or 3 channels.
        images: Grey levels of real images, uint8, `(m, C, H, W)`.
        batch_size: Images per call of the network.

    Raises:
        ArgumentTypeError: Images are not uint8.
        DataError: Images have another shape, or the network's weights cannot be fetched.
        MissingDependencyError: torchmetrics or torch-fidelity cannot be imported.
    """
    for name, given in (("draws", draws), ("images", images)):
        if given.dtype != torch.uint8:
            raise ArgumentTypeError(
                f"`{name}` must hold grey levels 0…255 of type torch.uint8, got "
                f"{given.dtype}."
            )
        if given.ndim != 4 or given.shape[1] not in (1, 3) or len(given) < 2:
            raise DataError(
                f"`{name}` must be at least two images (n, C, H, W) with 1 or 3 channels, "
                f"got {tuple(given.shape)}."
            )
    metric = _metric(draws.device)
    for real, given in ((True, images), (False, draws)):
        for part in given.split(batch_size):
            metric.update(part.to(draws.device).expand(-1, 3, -1, -1), real=real)
    return float(metric.compute())


def _metric(device: torch.device) -> Any:
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except Exception as error:
        # A torchvision built for another torch fails with a RuntimeError, not ImportError.
        raise MissingDependencyError(
            f"torchmetrics cannot be imported: {error}. Install it: "
            "`pip install 'torchmetrics[image]'`."
        ) from error
    try:
        return FrechetInceptionDistance().to(device)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "torchmetrics lacks the Inception network; install it: "
            "`pip install 'torchmetrics[image]'`."
        ) from error
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            f"The weights of the Inception network cannot be fetched: {error}. Connect "
            "once, or use `frechet_distance` on the features of `train_classifier`."
        ) from error
