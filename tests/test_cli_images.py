"""Training on images from the command line, on a stand-in and in torchvision's layout."""

import struct
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from pyro_jarzynski import History, load_model
from pyro_jarzynski.cli import images as cli
from pyro_jarzynski.experiments.images import STARTS
from pyro_jarzynski.experiments.output import IMAGE_EXPERIMENTS
from tests.command_line import MODEL, call, names_in

LEFT = MODEL | {"samples.png", "training.png", "report.html"}
TINY = (
    "--data-root there --steps 4 --walkers 24 --audit-walkers 12 --leapfrog 1 --rank 5 "
    "--features 2 --batch-size 32 --eval-every 2 --hold 2"
)


def shapes(num, size, channels=1, seed=0):
    """Images of squares in one of four corners, and the corner."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 40, (num, size, size, channels), dtype=np.uint8)
    labels = np.arange(num) % 4
    for image, label in zip(images, labels, strict=True):
        row, column = 2 + 12 * (label // 2), 2 + 12 * (label % 2)
        image[row : row + 10, column : column + 10] += 180
    return images, labels


class Grey:
    classes = ("cat", "dog", "frog", "ship")

    def __init__(self, root, train, download):
        if "absent" in root:
            raise RuntimeError("Dataset not found.")
        images, labels = shapes(80 if train else 40, 28)
        self.data, self.targets = torch.from_numpy(images[..., 0]), torch.from_numpy(labels)


class Coloured(Grey):
    def __init__(self, root, train, download):
        images, labels = shapes(80 if train else 40, 32, 3)
        self.data, self.targets = images, labels.tolist()


@pytest.fixture
def _stand_in(monkeypatch):
    module = ModuleType("torchvision")
    module.datasets = SimpleNamespace(MNIST=Grey, FashionMNIST=Grey, CIFAR10=Coloured)
    monkeypatch.setitem(sys.modules, "torchvision", module)


def train(kind, out, *options):
    return call("train", kind, "--out", out, *TINY.split(), *options)


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mnist", ["--start", "equal", "--classes", "0,2,3", "--counts", "20,10,5"]),
        ("fashion-mnist", ["--algorithm", "pcd", "--start", "gaussian"]),
        ("cifar10", ["--algorithm", "cd", "--walkers", "8", "--audit-walkers", "8"]),
        ("mnist", ["--walker-batch-size", "8"]),
    ],
    ids=["mnist", "fashion-mnist", "cifar10", "batches"],
)
def test_a_run_leaves_everything(tmp_path, kind, options):
    answer = train(kind, tmp_path, *options)
    assert answer.code == 0, answer.error
    assert names_in(tmp_path) == LEFT
    for part in ("Test NLL: ", "bits per dimension", "Masses, audit walkers: 0."):
        assert part in answer.shown
    assert History.from_csv(tmp_path / "history.csv")["step"] == [2, 4]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"pyro-jarzynski: {kind}" in page
    assert "there" not in load_model(tmp_path).notes["settings"].values()
    for path in (tmp_path / "samples.png", tmp_path / "report.html"):
        path.unlink()
    assert call("report", tmp_path).code == 0
    assert names_in(tmp_path) == LEFT


@pytest.mark.usefixtures("_stand_in")
def test_what_is_saved_is_the_model(tmp_path):
    """The likelihood from the files is the one that was reported, in every unit."""
    options = ["--classes", "1,3", "--counts", "20,10"]
    assert train("mnist", tmp_path, *options).code == 0
    saved = load_model(tmp_path)
    results = saved.notes["results"]
    assert results["class_names"] == ["dog", "ship"]
    assert results["data_masses"] == pytest.approx([2 / 3, 1 / 3])
    assert sum(results["audit_masses"]["mass"]) == pytest.approx(1)
    assert results["gradients"] == 4 * (24 + 12) * 2
    noise, _, scale = saved.extras["transform"].tolist()
    nats = results["test_nll"] + 784 * np.log(255 * scale)
    assert results["image_nll"] == pytest.approx(nats)
    assert results["bits_per_dimension"] == pytest.approx(nats / 784 / np.log(2))
    variance = (noise / scale) ** 2
    entropy = 784 * np.log(2 * np.pi * np.e * variance) / 2
    assert results["noise_nll"] == pytest.approx(entropy)
    energy = saved.model(saved.position)
    base = -saved.model.base.log_prob(saved.position)
    assert torch.isfinite(energy).all()
    assert not torch.equal(energy, base)
    assert saved.model.net.net.convolutions[1].channels == 2


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--classes", "2,9"], 1, "`classes` must be different numbers in 0…3"),
        (["--classes", "2,x"], 1, "`classes` must be whole numbers with commas"),
        (["--counts", "9"], 1, "`counts` must have one number for each of 4 classes"),
        (["--counts", "1,1,1,99"], 1, "`counts` must be at most the images there are"),
        (["--data-root", "absent"], 1, "mnist cannot be read from `root`, absent"),
        (["--start", "data"], 2, "gaussian"),
        (["--noise", "0"], 1, "`noise` must be a positive finite float"),
        (["--rank", "784"], 1, "`rank` must be below 784"),
        (["--features", "1"], 1, "`features` must be at least 2, got 1"),
        (["--leapfrog", "0"], 1, "`num_leapfrog` must be at least 1, got 0"),
        (["--hold", "0"], 1, "`hold` must be at least 1, got 0"),
        (["--steps", "0"], 1, "`steps` must be at least 1, got 0"),
        (["--patience", "0"], 1, "`patience` must be at least 1, got 0"),
        (
            ["--algorithm", "cd", "--walker-batch-size", "8"],
            1,
            "has no meaning for walkers that",
        ),
    ],
)
def test_wrong_commands_leave_nothing(tmp_path, options, code, message):
    answer = train("mnist", tmp_path / "out", *options)
    assert answer.code == code
    assert message in answer.error
    assert names_in(tmp_path / "out") == set()


def test_the_data_have_to_be_named(tmp_path):
    answer = call("train", "mnist", "--out", tmp_path)
    assert answer.code == 2
    assert "--data-root" in answer.error


def test_without_torchvision(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    answer = train("mnist", tmp_path / "out")
    assert answer.code == 1
    assert "torchvision cannot be imported" in answer.error


def test_names_are_those_of_the_experiments():
    assert tuple(cli.COMMANDS) == IMAGE_EXPERIMENTS
    assert tuple(start.value for start in cli.Start) == STARTS


def write_idx(path, values):
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def test_real_layout(tmp_path):
    # A torchvision built for another torch fails with a RuntimeError, not ImportError.
    try:
        import torchvision  # noqa: F401
    except Exception as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, num in (("train", 80), ("t10k", 40)):
        images, labels = shapes(num, 28)
        write_idx(raw / f"{part}-images-idx3-ubyte", images[..., 0])
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)
    options = ["--data-root", str(tmp_path), "--classes", "0,1", "--counts", "20,10"]
    answer = train("mnist", tmp_path / "out", *options)
    assert answer.code == 0, answer.error
    assert names_in(tmp_path / "out") == LEFT
    assert load_model(tmp_path / "out").notes["results"]["class_names"][0] == "0 - zero"
