"""A small classifier of images, trained on the spot, to judge the draws of a model.

It counts the draws in each class, and has features in which to compare them with data:

    classifier = train_classifier(images, labels, noise=0.3)
    class_masses(learner.audit.cloud.walkers, classifier.classify)
    frechet_distance(classifier.features(draws), classifier.features(images))

Its images are in the coordinates of the draws, with the same noise.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, DataError, count

CHUNK = 1024


class ImageClassifier(nn.Module):
    """Two convolutions and a hidden layer, from images to log-odds of classes.

    Args:
        image_shape: `(C, H, W)` of an image; images may come flat as well.
        num_classes: Number of classes.
        width: Channels of the first convolution; the second has twice, the hidden layer
            four times as many.
        seed: Seed of the initial weights.

    Raises:
        ArgumentError: A size cannot be used.

    Example:
        >>> classifier = pj.ImageClassifier((1, 8, 8), num_classes=3)
        >>> classifier(torch.zeros(2, 64)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, image_shape: Sequence[int], num_classes: int, width: int = 16, seed: int = 0
    ) -> None:
        """Build the layers."""
        super().__init__()
        if len(image_shape) != 3:
            raise ArgumentError(
                "`image_shape` must be channels, height and width, got "
                f"{tuple(image_shape)}."
            )
        channels, height, width_ = (count("image_shape", side) for side in image_shape)
        self.image_shape = (channels, height, width_)
        count("num_classes", num_classes)
        left = math.ceil(height / 4) * math.ceil(width_ / 4)
        with global_stream(seed):
            self.body = nn.Sequential(
                nn.Conv2d(channels, width, 5, 2, 2),
                nn.ReLU(),
                nn.Conv2d(width, 2 * width, 3, 2, 1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(2 * width * left, 4 * width),
                nn.ReLU(),
            )
            self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return log-odds, `(n, classes)`."""
        return self.head(self.body(x.reshape(len(x), *self.image_shape)))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the hidden layer of images, `(n, 4 width)`: the space of distances."""
        images = x.reshape(len(x), *self.image_shape)
        return torch.cat([self.body(part) for part in images.split(CHUNK)])

    def classify(self, x: Tensor) -> Tensor:
        """Return the class of each image, `(n,)`, int64."""
        with torch.no_grad():
            return self.head(self.features(x)).argmax(1)

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        """Return the share of images `(n, *event)` whose class is found."""
        return float((self.classify(x) == labels).double().mean())


def train_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    image_shape: Sequence[int] | None = None,
    noise: float = 0.0,
    num_epochs: int = 12,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> ImageClassifier:
    """Return a classifier of images, in seconds for a few thousand small ones.

    Args:
        images: Images in the coordinates of the draws that it shall judge, of a floating
            type, `(n, C, H, W)`, or of another shape with `image_shape`.
        labels: Their classes from 0, `(n,)`.
        image_shape: `(C, H, W)`; `None` is that of `images`.
        noise: Standard deviation of Gaussian noise, fresh in every epoch, for draws of a
            model of noisy images.
        num_epochs: Passes over the images.
        batch_size: Images per update.
        learning_rate: Learning rate of Adam, which falls to zero along a cosine.
        seed: Seed of weights, order and noise.

    Raises:
        ArgumentError: A number cannot be used.
        ArgumentTypeError: Images are of a whole type.
        DataError: There are no images, not one label for each, or NaN.

    Example:
        >>> labels = torch.arange(200) % 2
        >>> images = labels[:, None, None, None] + 0.1 * torch.randn(200, 1, 8, 8)
        >>> classifier = pj.train_classifier(images, labels)
        >>> classifier.accuracy(images, labels)
        1.0
    """
    _check(images, labels)
    net = ImageClassifier(
        images.shape[1:] if image_shape is None else image_shape,
        int(labels.max()) + 1,
        seed=seed,
    ).to(images)
    count("batch_size", batch_size)
    batches = math.ceil(len(images) / batch_size)
    optimizer = torch.optim.Adam(net.parameters(), learning_rate)
    labels = labels.to(images.device)
    steps = count("num_epochs", num_epochs) * batches
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = stream(seed, "classifier", images.device)
    for _ in range(num_epochs):
        order = torch.randperm(len(images), generator=generator, device=images.device)
        for rows in order.split(batch_size):
            x = images[rows]
            if noise:
                x = x + noise * torch.empty_like(x).normal_(generator=generator)
            optimizer.zero_grad()
            functional.cross_entropy(net(x), labels[rows]).backward()
            optimizer.step()
            scheduler.step()
    return net.requires_grad_(requires_grad=False)


def _check(images: Tensor, labels: Tensor) -> None:
    if not images.is_floating_point():
        raise ArgumentTypeError(
            f"`images` must be of a floating type, got {images.dtype}; scale the grey "
            "levels to the coordinates of the draws."
        )
    if not len(images) or labels.shape != (len(images),):
        raise DataError(
            f"`labels` must hold one class for each of `images`, of which there must be "
            f"some; got {tuple(labels.shape)} and {tuple(images.shape)}."
        )
    if labels.is_floating_point() or int(labels.min()) < 0:
        raise DataError(
            f"`labels` must be integers from 0, got {labels.dtype} from {labels.min():g}; "
            "number the classes 0, 1, 2, …"
        )
    if not torch.isfinite(images).all():
        raise DataError("`images` has NaN or infinity; leave such images out.")
