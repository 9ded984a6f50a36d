"""Gaussian noise: its law, its shape and its source."""

import math

import pytest
import torch

from pyro_jarzynski.core.noise import normal_like
from tests.identities import Z_THREE, z_score
from tests.scenarios import FLOAT

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@dtypes
def test_moments(dtype, generator):
    """False alarms: 1e-4 for the largest of three z."""
    noise = normal_like(torch.empty(200_000, dtype=dtype), generator).to(FLOAT)
    scores = [z_score(noise**power, mean) for power, mean in ((1, 0), (2, 1), (4, 3))]
    assert max(map(abs, scores)) < Z_THREE


@dtypes
def test_distribution_function(dtype, generator):
    """By the Dvoretzky-Kiefer-Wolfowitz bound: at most 1e-4."""
    size = 100_000
    noise = normal_like(torch.empty(size, dtype=dtype), generator).to(FLOAT)
    level = (1 + torch.erf(noise.sort().values / math.sqrt(2))) / 2
    gap = (level - torch.arange(1, size + 1, dtype=FLOAT) / size).abs().max()
    assert gap < math.sqrt(math.log(2 / 1e-4) / (2 * size)) + 1 / size


@pytest.mark.parametrize("value", [math.nextafter(-1.0, 0.0), math.nextafter(1.0, 0.0)])
def test_rarest_numbers_are_finite(value, monkeypatch):
    """The ends of the uniform numbers that are turned into normal ones."""
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda x, *_, **__: x.fill_(value))
    noise = normal_like(torch.empty(3, dtype=FLOAT), None)
    assert torch.isfinite(noise).all()
    assert (noise.abs() > 8).all()


@dtypes
@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 2, 3)])
def test_shape_and_dtype(dtype, shape, generator):
    noise = normal_like(torch.empty(shape, dtype=dtype), generator)
    assert (noise.shape, noise.dtype) == (shape, dtype)


def test_layout_of_the_position_does_not_change_the_noise():
    position = torch.zeros((4, 6), dtype=FLOAT)
    first, second = (
        normal_like(x, torch.Generator().manual_seed(2))
        for x in (position, position.T.contiguous().T)
    )
    assert torch.equal(first, second)


def test_dictionary_has_independent_parts(generator):
    position = {"a": torch.zeros((4, 2), dtype=FLOAT), "b": torch.zeros(4, dtype=FLOAT)}
    noise = normal_like(position, generator)
    assert noise["a"].shape == (4, 2)
    assert not torch.isin(noise["b"], noise["a"]).any()
