"""The shape of the largest weights, whichever ArviZ is installed."""

import math

import pytest
import torch

from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.diagnostics.psis import pareto_k


@pytest.mark.parametrize("shape", [0.3, 1.0, 2.0])
def test_shape_of_pareto_weights(shape):
    """Exponential log-weights of mean `k` are Pareto weights of shape `k`.

    The standard error is about `(1 + k) / √m` for the `m = 424` largest of 20,000.
    """
    uniform = torch.rand(20_000, dtype=torch.float64, generator=stream(0, "test"))
    error = (1 + shape) / math.sqrt(3 * math.sqrt(20_000))
    assert pareto_k(-shape * uniform.log()) == pytest.approx(shape, abs=5 * error)


@pytest.mark.parametrize("count", [3, 1000])
def test_equal_weights_have_no_tail(count):
    assert pareto_k(torch.zeros(count, dtype=torch.float64)) == 0


def test_walkers_of_weight_zero_are_left_out():
    log_weight = torch.full((1000,), -math.inf, dtype=torch.float64)
    log_weight[:500] = 1.0
    assert pareto_k(log_weight) == 0
