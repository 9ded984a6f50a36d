"""Data sets, and the way from pixels to coordinates and back."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from pyro_jarzynski.data import DequantisedBatches, Whitening, load_digits, load_mnist
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    MissingDependencyError,
)
from pyro_jarzynski.experiments.digits import digits_run

FLOAT = torch.float64
MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist"


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_digits_are_split_without_overlap(digits):
    parts = digits.train, digits.validation, digits.test
    assert [tuple(part.shape) for part in parts] == [(1350, 64), (150, 64), (297, 64)]
    everything = torch.cat(parts)
    assert everything.min() == 0
    assert everything.max() == 16
    assert torch.equal(everything, everything.round())
    # Every image of the whole set is in exactly one part.
    whole = load_digits(num_validation=0, num_test=0).train
    assert images(everything) == images(whole)


def images(grey):
    return Counter(bytes(row.to(torch.uint8).numpy()) for row in grey)


def test_the_split_is_decided_by_the_seed(digits):
    again, other = load_digits(), load_digits(seed=1)
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(again, name), getattr(digits, name))
        assert not torch.equal(getattr(other, name), getattr(digits, name))
    for name, tensor in digits.whitening.state().items():
        assert torch.equal(again.whitening.state()[name], tensor)


@pytest.mark.parametrize("sizes", [(1000, 700), (0, 1698), (1797, 0)])
def test_enough_digits_must_be_left(sizes):
    validation, test = sizes
    with pytest.raises(
        DataError, match=f"must leave 100 of 1797 .*{validation} [+] {test}"
    ):
        load_digits(num_validation=validation, num_test=test)


def test_sizes_of_the_split():
    with pytest.raises(ArgumentError, match="`num_test` must be at least 0, got -1"):
        load_digits(num_test=-1)
    with pytest.raises(ArgumentTypeError, match="`num_validation` must be an integer"):
        load_digits(num_validation=0.1)


def test_what_was_whitened_has_mean_zero_and_unit_covariance(digits):
    whitening = Whitening.fit(digits.train, 17, (8, 8), seeded(5), dtype=FLOAT)
    x = whitening.to_coordinates(digits.train, seeded(5))
    assert x.mean(0).abs().max() < 1e-10
    torch.testing.assert_close(torch.cov(x.T), torch.eye(64, dtype=FLOAT))


def test_digits_come_whitened(digits):
    """Fresh noise moves single variances: few digits light some pixels at all."""
    x = digits.whitening.to_coordinates(digits.train, seeded(3)).double()
    assert x.mean(0).abs().max() < 0.1
    assert (torch.cov(x.T) - torch.eye(64)).abs().mean() < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT])
def test_the_way_back_is_exact(digits, dtype):
    whitening = Whitening.fit(digits.train, 17, (8, 8), seeded(0), dtype=dtype)
    x = whitening.to_coordinates(digits.test, seeded(1))
    assert x.dtype == dtype
    grey = whitening.to_grey(x)
    assert grey.shape == (297, 8, 8)
    expected = digits.test.reshape(-1, 8, 8)
    if dtype == FLOAT:
        assert torch.equal(grey.floor(), expected)
    # In single precision a noise within rounding of 0 or 1 may show as the next level.
    inside = (grey > expected - 1e-2) & (grey < expected + 1 + 1e-2)
    assert inside.all()
    assert (grey.floor() != expected).double().mean() < 1e-3


def test_the_way_back_stays_within_the_grey_levels(digits):
    grey = digits.whitening.to_grey(torch.full((2, 64), 50.0))
    assert grey.min() >= 0
    assert grey.max() <= 17


def test_logits_are_dequantised_grey_levels():
    """`y = logit(.05 + .9 (k + u) / 17)`, with `W` the identity."""
    eye, zero = torch.eye(2, dtype=FLOAT), torch.zeros(2, dtype=FLOAT)
    plain = Whitening(zero, eye, eye, 17, (1, 2))
    grey = torch.tensor([[0.0, 16.0], [3.0, 9.0]], dtype=FLOAT)
    noise = torch.rand((2, 2), dtype=FLOAT, generator=seeded(2))
    expected = torch.logit(0.05 + 0.9 * (grey + noise) / 17)
    torch.testing.assert_close(plain.to_coordinates(grey, seeded(2)), expected)


def test_likelihood_of_a_gaussian_on_the_test_digits(digits):
    run = digits_run(digits, num_walkers=2, audit_walkers=2, hidden=2)
    assert 92.8 < run.gaussian_nll < 93.9
    assert run.test.shape == (297, 64)
    assert run.validation.shape == (150, 64)


def test_batches_have_fresh_noise_and_the_same_images(digits):
    grey = digits.train[:90]
    batches = DequantisedBatches(grey, digits.whitening, 30, seeded(0))
    first, second = list(batches), list(batches)
    assert [tuple(b.shape) for b in first] == [(30, 64)] * 3
    x, y = torch.cat(first), torch.cat(second)
    assert (torch.cdist(x, y).min(1).values > 1e-3).all()
    shown = [images(nearest_levels(digits.whitening, part)) for part in (x, y)]
    assert shown[0] == shown[1] == images(grey)
    assert [images(nearest_levels(digits.whitening, b)) for b in first] != [
        images(nearest_levels(digits.whitening, b)) for b in second
    ]


def nearest_levels(whitening, x):
    return whitening.to_grey(x).floor().reshape(len(x), -1)


def test_the_rest_of_an_epoch_waits(digits):
    batches = DequantisedBatches(digits.train[:100], digits.whitening, 30, seeded(0))
    assert [len(b) for b in batches] == [30, 30, 30]
    large = DequantisedBatches(digits.train[:10], digits.whitening, 30, seeded(0))
    assert [len(b) for b in large] == [10]


STUBS = {
    "built for another torch": "raise RuntimeError('operator torchvision::nms does not "
    "exist')",
    "absent": "raise ImportError('No module named torchvision')",
}


@pytest.mark.parametrize("stub", STUBS)
def test_without_a_usable_torchvision_the_message_says_what_to_install(
    stub, tmp_path, monkeypatch
):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(STUBS[stub])
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    match = r"torchvision cannot be imported beside torch .*pip install torch torchvision"
    with pytest.raises(MissingDependencyError, match=match):
        load_mnist(tmp_path)


@pytest.fixture
def torchvision():
    try:
        import torchvision
    except Exception as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    return torchvision


@pytest.mark.usefixtures("torchvision")
def test_mnist_reads_real_files():
    if not (MNIST / "MNIST" / "raw").is_dir():
        pytest.skip(f"the MNIST files are not at {MNIST}")
    pictures, labels = load_mnist(MNIST, train=False)
    assert pictures.shape == (10_000, 28, 28)
    assert pictures.dtype == torch.uint8
    assert labels.shape == (10_000,)
    assert labels.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip


@pytest.mark.usefixtures("torchvision")
def test_mnist_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"`root` must hold MNIST .*MNIST/raw"):
        load_mnist(tmp_path)
