"""A classifier trained on the spot: images of bars, and real digits where they are."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_jarzynski import inception_distance, train_classifier
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    MissingDependencyError,
)

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist" / "MNIST" / "raw"


def bars(num=300, seed=0, side=8):
    """Noisy images with a bar that lies, stands, or is not there."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 3
    images = 0.3 * torch.randn(num, 1, side, side, generator=generator)
    place = torch.randint(side, (num,), generator=generator)
    for image, label, where in zip(images, labels, place, strict=True):
        if label == 0:
            image[0, where] += 1
        elif label == 1:
            image[0, :, where] += 1
    return images, labels


def trained(images, labels, **settings):
    return train_classifier(images, labels, num_epochs=30, batch_size=50, **settings)


@pytest.fixture(scope="module")
def classifier():
    return trained(*bars())


def test_it_learns_what_it_has_not_seen(classifier):
    images, labels = bars(seed=1)
    assert classifier.accuracy(images, labels) > 0.97
    assert torch.equal(classifier.classify(images), classifier(images).argmax(1))
    assert torch.equal(classifier.classify(images.flatten(1)), classifier.classify(images))


def test_features_are_the_layer_before_the_last(classifier):
    images, _ = bars()
    features = classifier.features(images)
    assert features.shape == (300, 64)
    assert not features.requires_grad
    torch.testing.assert_close(classifier.head(features), classifier(images))


def test_the_seed_decides_and_the_global_stream_stays(classifier):
    before = torch.get_rng_state()
    again, other = trained(*bars()), trained(*bars(), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    images, _ = bars(seed=1)
    assert torch.equal(again(images), classifier(images))
    assert not torch.equal(other(images), classifier(images))


def test_noise_is_learned_to_be_ignored():
    images, labels = bars()
    calm = images.round()
    used = trained(calm.flatten(1), labels, image_shape=(1, 8, 8), noise=0.4)
    generator = torch.Generator().manual_seed(5)
    noisy = calm + 0.4 * torch.randn(calm.shape, generator=generator)
    assert used.accuracy(noisy, labels) > 0.03 + trained(calm, labels).accuracy(
        noisy, labels
    )


def test_what_cannot_be_learned():
    images, labels = bars(6)
    with pytest.raises(ArgumentTypeError, match="`images` must be of a floating type"):
        train_classifier(images.to(torch.uint8), labels)
    with pytest.raises(DataError, match="one class for each"):
        train_classifier(images, labels[:-1])
    with pytest.raises(DataError, match="`labels` must be integers from 0"):
        train_classifier(images, labels - 1)
    with pytest.raises(DataError, match="`images` has NaN"):
        train_classifier(images.log(), labels)
    with pytest.raises(ArgumentError, match="channels, height and width"):
        train_classifier(images[:, 0], labels)
    with pytest.raises(ArgumentError, match="`num_epochs` must be at least 1"):
        train_classifier(images, labels, num_epochs=0)


def read(part, kind):
    """Read one of MNIST's files, whose header ends after 16 or 8 bytes."""
    content = (MNIST / f"{part}-{kind}").read_bytes()
    values = np.frombuffer(content, np.uint8, offset=16 if "idx3" in kind else 8)
    return torch.from_numpy(values.copy())


def digits(part):
    images, labels = read(part, "images-idx3-ubyte"), read(part, "labels-idx1-ubyte")
    kept = torch.isin(labels, torch.tensor([2, 3, 6]))
    known = torch.tensor([0, 0, 0, 1, 0, 0, 2])
    return images.view(-1, 1, 28, 28)[kept] / 255, known[labels[kept].long()]


@pytest.mark.skipif(not MNIST.is_dir(), reason=f"the MNIST files are not at {MNIST}")
def test_real_digits():
    """The accuracy that the experiment needs, on 2, 3 and 6."""
    images, labels = digits("train")
    found = train_classifier(images[:4000], labels[:4000])
    assert found.accuracy(*digits("t10k")) > 0.98


def test_inception_without_torchmetrics(monkeypatch):
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(MissingDependencyError, match=r"install 'torchmetrics\[image\]'"):
        inception_distance(images, images)


def test_inception_takes_grey_levels():
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ArgumentTypeError, match="`draws` must hold grey levels"):
        inception_distance(images / 255, images)
    with pytest.raises(DataError, match=r"`images` must be .* got \(4, 8, 8\)"):
        inception_distance(images, images[:, 0])


class Inception:
    """As torchmetrics' metric: the means of what came, squared apart."""

    def __init__(self):
        self.sums = {True: [], False: []}

    def to(self, device):
        return self

    def update(self, images, *, real):
        assert images.shape[1] == 3
        self.sums[real].append(images.double().mean((1, 2, 3)))

    def compute(self):
        real, fake = (torch.cat(self.sums[kind]).mean() for kind in (True, False))
        return (real - fake) ** 2


class Offline:
    def __init__(self):
        raise OSError("no route to host")


class Bare:
    def __init__(self):
        raise ModuleNotFoundError("torch-fidelity is not installed")


def stand_in(monkeypatch, metric):
    module = type(sys)("torchmetrics.image.fid")
    module.FrechetInceptionDistance = metric
    monkeypatch.setitem(sys.modules, "torchmetrics", type(sys)("torchmetrics"))
    monkeypatch.setitem(sys.modules, "torchmetrics.image", type(sys)("image"))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", module)


def test_inception_gets_all_images_in_colour(monkeypatch):
    stand_in(monkeypatch, Inception)
    dark = torch.full((5, 1, 8, 8), 10, dtype=torch.uint8)
    assert inception_distance(dark, dark + 2, batch_size=2) == pytest.approx(4)


@pytest.mark.parametrize(
    ("metric", "kind", "message"),
    [
        (
            Offline,
            DataError,
            "weights of .* cannot be fetched: no route",
        ),
        (Bare, MissingDependencyError, "lacks the Inception network; install it"),
    ],
)
def test_inception_out_of_reach(monkeypatch, metric, kind, message):
    stand_in(monkeypatch, metric)
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(kind, match=message):
        inception_distance(images, images)
