"""Energy-based models of images: the paper's experiment on digits of unequal numbers.

The model is one of noisy images. Noise makes all directions alike in scale, so that
walkers move, and the model itself takes it off again: the least-squares estimate of an
image is `x - s² ∇U(x)`. It starts at a mixture of one Gaussian per class, of the masses
that one likes, so that a training can be seen to find those of the data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core.evaluation import evaluate
from pyro_jarzynski.core.hamiltonian import HMC
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.data.images import LabelledImages
from pyro_jarzynski.data.smoothing import SmoothingTransform
from pyro_jarzynski.ebm.bases import ComponentMasses, PCAMixture
from pyro_jarzynski.ebm.classifier import ImageClassifier, train_classifier
from pyro_jarzynski.ebm.convolutional import ConvNet, cifar_network, mnist_network
from pyro_jarzynski.ebm.energy import EnergyModel
from pyro_jarzynski.ebm.learner import Learner
from pyro_jarzynski.errors import (
    ArgumentError,
    DataError,
    count,
    fraction,
    one_of,
    positive,
)
from pyro_jarzynski.experiments.mixture import LEARNERS

# Of one Gaussian for all images, of one per class with the masses of the data, and of
# those with equal masses, from which a training has to find the masses itself.
STARTS = ("gaussian", "classes", "equal")
# Share of the training images that choose the best parameters.
HELD_OUT = 0.1
# First learning rate of the masses of the classes in the base.
MASS_RATE = 0.02
# The power with which the learning rate falls after its hold.
POWER = 1.0


@dataclass(frozen=True)
class NoisyBatches:
    """Shuffled batches of images, with fresh noise in every epoch.

    Args:
        images: Grey levels, `(n, C, H, W)`.
        transform: Map to coordinates.
        batch_size: Images per batch; the rest of an epoch waits for the next.
        generator: Shuffles, and draws the noise, on the device of the images.
    """

    images: Tensor
    transform: SmoothingTransform
    batch_size: int
    generator: torch.Generator

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches of one epoch, `(batch_size, C H W)` each."""
        device = self.images.device
        order = torch.randperm(len(self.images), generator=self.generator, device=device)
        size = min(self.batch_size, len(order))
        for start in range(0, len(order) - size + 1, size):
            rows = self.images[order[start : start + size]]
            yield self.transform.forward(rows, self.generator).flatten(1)


@dataclass(frozen=True)
class ImagesRun:
    """A learner with its data, in the coordinates in which it trains.

    Attributes:
        learner: The learner.
        train: Batches with fresh noise.
        validation: Data of the validation NLL, `(m, C H W)`.
        test: Data of the test NLL, `(n, C H W)`.
        transform: Map from grey levels to the coordinates.
        classifier: Tells the classes of noisy images.
        accuracy: Share of the noisy test images whose class it finds.
        base_nll: Test NLL of the base from which the model starts, nats.
    """

    learner: Learner
    train: NoisyBatches
    validation: Tensor
    test: Tensor
    transform: SmoothingTransform
    classifier: ImageClassifier
    accuracy: float
    base_nll: float


def images_run(
    data: LabelledImages,
    algorithm: str = "jarzynski",
    *,
    start: str = "classes",
    noise: float = 0.4,
    rank: int = 100,
    features: int | None = None,
    num_walkers: int = 512,
    audit_walkers: int = 512,
    walker_batch_size: int | None = None,
    moves_per_update: int = 1,
    leapfrog_steps: int = 2,
    learning_rate: float = 5e-4,
    hold: int = 100,
    batch_size: int = 512,
    ess_threshold: float = 0.5,
    resampler: str = "systematic",
    seed: int = 0,
) -> ImagesRun:
    """Return a learner of a convolutional energy on noisy images, ready to fit.

    Args:
        data: Images, from `load_images`: of 28×28 grey or 32×32 coloured pixels.
        algorithm: `jarzynski`, `pcd` or `cd`.
        start: The base: `gaussian`, `classes`, or `equal`, which starts all classes at the
            same mass whatever their share of the data.
        noise: Standard deviation of the noise, where grey levels span [0, 1].
        rank: Principal axes of the base.
        features: Channels of the network; `None` is the paper's number.
        num_walkers: Walkers that train the model.
        audit_walkers: Walkers that report its likelihood.
        walker_batch_size: Walkers that move per update; `None` moves all.
        moves_per_update: Hamiltonian moves per update.
        leapfrog_steps: Leapfrog steps per move; with one it is a move of MALA.
        learning_rate: First learning rate of Adam.
        hold: Updates for which it stays, before it falls.
        batch_size: Images per update.
        ess_threshold: Resample when `ESS < ess_threshold N`, in [0, 1].
        resampler: Resampling scheme.
        seed: Seed of network, walkers and noise.

    Raises:
        ArgumentError: A setting cannot be used.
        DataError: There are too few images, or they are of another size.
    """
    one_of("algorithm", algorithm, LEARNERS)
    count("hold", hold)
    count("batch_size", batch_size)
    positive("learning_rate", learning_rate)
    device = data.images.device
    network = network_of(data, features, seed).to(device)
    rows, held_out = _split(len(data.images))
    transform = SmoothingTransform.fit(data.images[rows], noise=noise)
    clean = transform.clean(data.images[rows]).flatten(1)
    base = _base(start, clean, data.labels[rows], rank, transform.noise_in_coordinates)
    # What is measured is the same for every seed of the training.
    fixed = stream(0, "fixed noise", device)
    validation = transform.forward(data.images[held_out], fixed).flatten(1)
    test = transform.forward(data.test_images, fixed).flatten(1)
    classifier = train_classifier(
        clean,
        data.labels[rows],
        image_shape=data.images.shape[1:],
        noise=transform.noise_in_coordinates,
    )
    net = ComponentMasses(network, base)
    model = EnergyModel(net, base)
    optimizer = torch.optim.Adam(
        [
            {"params": list(network.parameters()), "lr": learning_rate},
            {"params": [net.log_ratio], "lr": MASS_RATE},
        ]
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (hold / max(step, 1)) ** POWER)
    )
    # The paths of walkers through noise alone are good to a third of its width.
    step_size = transform.noise_in_coordinates / 3
    learner = LEARNERS[algorithm](
        model,
        optimizer,
        num_walkers=num_walkers,
        audit_walkers=audit_walkers,
        walker_batch_size=walker_batch_size,
        kernel=HMC(step_size, leapfrog_steps, target_acceptance=0.7),
        moves_per_update=moves_per_update,
        ess_threshold=ess_threshold,
        resampler=resampler,
        lr_scheduler=scheduler,
        seed=seed,
    )
    noisy = stream(seed, "noise of images", device)
    return ImagesRun(
        learner=learner,
        train=NoisyBatches(data.images[rows], transform, batch_size, noisy),
        validation=validation,
        test=test,
        transform=transform,
        classifier=classifier,
        accuracy=classifier.accuracy(test, data.test_labels),
        base_nll=-float(base.log_prob(test).double().mean()),
    )


def network_of(data: LabelledImages, features: int | None, seed: int) -> ConvNet:
    """Return the paper's network for images of this shape, or raise."""
    shape = tuple(data.images.shape[1:])
    builders = {(1, 28, 28): mnist_network, (3, 32, 32): cifar_network}
    if shape not in builders:
        raise DataError(
            f"`data` must hold images of shape {' or '.join(map(str, builders))}, for "
            f"which there is a network; got {shape}."
        )
    settings: dict[str, Any] = {} if features is None else {"features": features}
    return builders[shape](seed=seed, **settings)


def denoised(model: EnergyModel, x: Tensor, noise: float) -> Tensor:
    """Return the least-squares estimates `x - s² ∇U(x)` of images without noise.

    Args:
        model: A model of noisy images.
        x: Draws of it, `(n, d)`.
        noise: Standard deviation `s` of the noise, in its coordinates.
    """
    gradient = evaluate(model, x).grad
    assert isinstance(gradient, Tensor)
    return x - noise**2 * gradient


def _split(size: int) -> tuple[Tensor, Tensor]:
    generator = stream(0, "split of images")
    order = torch.randperm(size, generator=generator, device=generator.device)
    held_out = max(2, round(fraction("held out", HELD_OUT) * size))
    if size < 2 * held_out:
        raise DataError(f"`data` must hold at least 4 images to train on, got {size}.")
    return order[held_out:].sort().values, order[:held_out]


def _base(start: str, clean: Tensor, labels: Tensor, rank: int, noise: float) -> PCAMixture:
    one_of("start", start, STARTS)
    if rank >= clean.shape[1]:
        raise ArgumentError(
            f"`rank` must be below {clean.shape[1]}, the pixels of an image, got {rank}."
        )
    if start == "gaussian":
        return PCAMixture.fit(clean, rank=rank, noise=noise)
    each = clean.new_ones(int(labels.max()) + 1)
    equal = each if start == "equal" else None
    return PCAMixture.fit(clean, labels, rank=rank, noise=noise, masses=equal)
