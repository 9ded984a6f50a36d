"""Image data sets: of torchvision where it is here, of a stand-in everywhere."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch

from pyro_jarzynski.data import load_images
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    MissingDependencyError,
)

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
NAMES = ["cat", "dog", "frog", "ship"]
TRAIN, TEST = [40, 30, 20, 10], [12, 10, 8, 6]


def labels_of(counts):
    """Labels in a mixed order, as in real files."""
    ordered = torch.arange(4).repeat_interleave(torch.tensor(counts))
    return ordered[torch.randperm(len(ordered), generator=torch.Generator().manual_seed(0))]


class Grey:
    """As torchvision's MNIST: the first pixel is the class, the next the row."""

    classes = NAMES

    def __init__(self, root, train, download):
        if "absent" in root and not download:
            raise RuntimeError("Dataset not found.")
        if "absent" in root:
            raise URLError("no route to host")
        if "damaged" in root:
            raise AssertionError
        self.targets = labels_of(TRAIN if train else TEST)
        self.data = torch.zeros(len(self.targets), 4, 5, dtype=torch.uint8)
        self.data[:, 0, 0] = self.targets
        self.data[:, 0, 1] = torch.arange(len(self.targets))


class Coloured(Grey):
    """As torchvision's CIFAR10: arrays with the channel last, and a list of labels."""

    def __init__(self, root, train, download):
        super().__init__(root, train, download)
        grey = self.data.numpy()
        self.data = np.stack([grey, grey + 100, grey + 200], -1)
        self.targets = self.targets.tolist()


@pytest.fixture
def _stand_in(monkeypatch):
    module = ModuleType("torchvision")
    module.datasets = SimpleNamespace(MNIST=Grey, FashionMNIST=Grey, CIFAR10=Coloured)
    monkeypatch.setitem(sys.modules, "torchvision", module)


def chosen(**settings):
    return load_images("mnist", "there", **settings)


@pytest.mark.usefixtures("_stand_in")
class TestSelection:
    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar-10"])
    def test_whole_sets(self, name):
        found = load_images(name, Path("there"))
        channels = 3 if name == "cifar-10" else 1
        assert found.images.shape == (100, channels, 4, 5)
        assert found.test_images.shape == (36, channels, 4, 5)
        assert found.images.dtype == found.test_images.dtype == torch.uint8
        assert found.labels.dtype == torch.int64
        assert found.class_names == tuple(NAMES)
        assert found.images.is_contiguous()
        for channel in range(channels):
            first = found.images[:, channel, 0, 0]
            assert torch.equal(first.long(), found.labels + 100 * channel)

    def test_classes_are_numbered_in_the_order_asked_for(self):
        found = chosen(classes=[3, 0])
        assert found.class_names == ("ship", "cat")
        assert found.labels.bincount().tolist() == [10, 40]
        assert found.test_labels.bincount().tolist() == [6, 12]
        for images, labels in (
            (found.images, found.labels),
            (found.test_images, found.test_labels),
        ):
            assert torch.equal(images[:, 0, 0, 0] == 3, labels == 0)

    def test_numbers_of_each_class(self):
        found = chosen(classes=[0, 1, 2], counts=[20, 10, 4])
        assert found.labels.bincount().tolist() == [20, 10, 4]
        # 10 of 12, 5 of 10 and 2 of 8 would do as well; these are the most there are.
        assert found.test_labels.bincount().tolist() == [12, 6, 2]
        rows = found.images[:, 0, 0, 1].tolist()
        assert rows == sorted(set(rows))

    def test_all_counts_leave_everything(self):
        whole, same = chosen(), chosen(counts=TRAIN)
        assert torch.equal(whole.images, same.images)
        assert same.test_labels.bincount().tolist() == [12, 9, 6, 3]

    def test_the_seed_decides(self):
        first, again, other = (chosen(counts=[5] * 4, seed=s) for s in (0, 0, 1))
        assert torch.equal(first.images, again.images)
        assert not torch.equal(first.images, other.images)

    @pytest.mark.parametrize("classes", [[0, 4], [1, 1], []])
    def test_unknown_classes(self, classes):
        with pytest.raises(ArgumentError, match=r"`classes` must be different .* 0…3"):
            chosen(classes=classes)

    def test_counts_that_do_not_fit(self):
        match = r"`counts` must be at most .* \[30, 20\]; got \[30, 21\]"
        with pytest.raises(ArgumentError, match=match):
            chosen(classes=[1, 2], counts=[30, 21])
        with pytest.raises(ArgumentError, match=r"each of 4 classes, got 2: \[1, 2\]"):
            chosen(counts=[1, 2])
        with pytest.raises(ArgumentError, match="`counts` must be at least 1, got 0"):
            chosen(classes=[1], counts=[0])
        with pytest.raises(ArgumentTypeError, match="`classes` must be an integer"):
            chosen(classes=["cat"])

    def test_unknown_set(self):
        with pytest.raises(ArgumentError, match="one of cifar-10, fashion-mnist, mnist"):
            load_images("cifar", "there")

    def test_what_is_missing_or_damaged(self):
        with pytest.raises(
            DataError, match=r"not found. Pass `download=True` \(`--download`"
        ):
            load_images("mnist", "absent")
        with pytest.raises(DataError, match=r"no route to host.* Check the connection"):
            load_images("mnist", "absent", download=True)
        with pytest.raises(DataError, match=r"from `root`, damaged: AssertionError"):
            load_images("cifar-10", "damaged")


def test_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingDependencyError, match="torchvision cannot be imported"):
        load_images("mnist", "there")


@pytest.fixture
def _torchvision() -> Iterator[None]:
    # A torchvision built for another torch fails with a RuntimeError, not ImportError.
    try:
        import torchvision  # noqa: F401
    except Exception as error:
        pytest.skip(f"torchvision cannot be imported: {error}")


@pytest.mark.usefixtures("_torchvision")
def test_real_digits_in_given_numbers():
    if not (MNIST / "MNIST" / "raw").is_dir():
        pytest.skip(f"the MNIST files are not at {MNIST}")
    found = load_images("mnist", MNIST, classes=[2, 3, 6], counts=[2200, 1100, 550])
    assert found.images.shape == (3850, 1, 28, 28)
    assert found.labels.bincount().tolist() == [2200, 1100, 550]
    assert found.test_labels.bincount().tolist() == [1032, 516, 258]
    assert found.class_names == ("2 - two", "3 - three", "6 - six")


@pytest.mark.usefixtures("_torchvision")
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar-10"])
def test_real_sets_that_are_not_there(name, tmp_path):
    with pytest.raises(DataError, match=r"not found.* Pass `download=True`"):
        load_images(name, tmp_path)


@pytest.mark.usefixtures("_torchvision")
def test_a_real_file_that_is_cut_off(tmp_path):
    if not (MNIST / "MNIST" / "raw").is_dir():
        pytest.skip(f"the MNIST files are not at {MNIST}")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (MNIST / "MNIST" / "raw").iterdir():
        (raw / file.name).write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"mnist cannot be read from `root`"):
        load_images("mnist", tmp_path)
