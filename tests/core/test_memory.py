"""Memory per walker: what autograd keeps is counted, and chunks follow from it."""

import gc

import pytest
import torch

from pyro_jarzynski.core import memory
from pyro_jarzynski.core.evaluation import CombinedEnergy, evaluate
from pyro_jarzynski.core.memory import bytes_per_walker, chunk_size_for
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.errors import ArgumentError


def walkers(num: int, size: int = 1) -> torch.Tensor:
    return torch.randn(num, size, generator=stream(0, "walkers"))


def wide(width: int):
    """An energy that keeps `width` float32 numbers per walker, the arguments of sines."""
    return lambda x: (x * torch.ones(width)).sin().sum(1)


@pytest.mark.parametrize("width", [100, 1000])
def test_what_one_operation_keeps_is_counted(width):
    assert bytes_per_walker(wide(width), walkers(100)) == 4 * width


def test_data_count_once_however_many_walkers_there_are():
    data = torch.ones(3, 10**5)
    few = bytes_per_walker(lambda x: (x @ data[:, :5]).sin().sum(1), walkers(30, 3))
    # A product keeps the matrix, 1.2 MB, and the sine its argument.
    many = bytes_per_walker(lambda x: (x @ data).mean(1).sin(), walkers(30, 3))
    assert few == 4 * 5
    assert many == 4


def test_combined_energies_are_counted_together():
    both = CombinedEnergy(lambda x: (wide(10)(x), wide(30)(x)), (0.5, 0.5))
    assert bytes_per_walker(both, walkers(50)) == 4 * 40


@pytest.mark.parametrize(("width", "expected"), [(25, 64), (2500, 1), (10**5, 1)])
def test_chunks_are_the_largest_power_of_two_that_fits(monkeypatch, width, expected):
    monkeypatch.setattr(memory, "CACHE", 10_000)
    assert chunk_size_for("auto", wide(width), walkers(200)) == expected


def test_few_walkers_are_enough_to_tell():
    assert bytes_per_walker(wide(10), walkers(1)) == 40


def test_numbers_are_kept():
    assert chunk_size_for(None, wide(10), walkers(5)) is None
    assert chunk_size_for(7, wide(10), walkers(5)) == 7


@pytest.mark.parametrize(
    ("wrong", "told"), [(0, "at least 1, got 0"), ("big", "one of auto, got 'big'")]
)
def test_other_sizes_are_refused(wrong, told):
    with pytest.raises(ArgumentError, match=f"`chunk_size`.*{told}"):
        chunk_size_for(wrong, wide(10), walkers(5))


def test_chunks_give_the_same_numbers(monkeypatch):
    monkeypatch.setattr(memory, "CACHE", 2700)
    x, energy = walkers(70), wide(10)
    chunk_size = chunk_size_for("auto", energy, x)
    assert chunk_size == 64
    whole, parts = evaluate(energy, x), evaluate(energy, x, chunk_size=chunk_size)
    torch.testing.assert_close(parts.energy, whole.energy)
    torch.testing.assert_close(parts.grad, whole.grad)


def test_dictionaries_of_tensors():
    position = {"a": walkers(50), "b": walkers(50)}
    # Positions are there anyway: what counts is the sine.
    energy = lambda p: (p["a"].sin() * p["b"]).squeeze(1)  # noqa: E731
    assert bytes_per_walker(energy, position) == 4


def test_nothing_is_left_of_the_count():
    """An exponential keeps its result, whose graph keeps it: a circle for the garbage."""

    def energy(x):
        # The second is not on the way to the gradient, which therefore never frees it.
        return (x.exp() + 0 * (2 * x).exp().detach()).sum(1)

    def tensors():
        gc.collect()
        return sum(type(kept) is torch.Tensor for kept in gc.get_objects())

    before = tensors()
    for _ in range(3):
        bytes_per_walker(energy, walkers(5))
    assert tensors() == before
