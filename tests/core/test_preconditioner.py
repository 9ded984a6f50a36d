"""Preconditioners against explicit matrices, and on events of every shape."""

import pytest
import torch

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.evaluation import evaluate
from pyro_jarzynski.core.kernels import ULA
from pyro_jarzynski.core.langevin import log_ratio, trial
from pyro_jarzynski.core.preconditioner import factorise, scale, scale_transposed
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.walkers import init
from tests.identities import DENSE, DIAGONAL
from tests.scenarios import FLOAT


@pytest.fixture
def vector(generator):
    return torch.randn((30, 2), dtype=FLOAT, generator=generator)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("covariance", [DIAGONAL, DENSE], ids=["diagonal", "dense"])
def test_factor_against_matrices(covariance, vector):
    matrix = covariance if covariance.ndim == 2 else torch.diag(covariance)
    lower = torch.linalg.cholesky(matrix)
    factor = factorise(covariance)
    assert_close(scale(factor, vector), vector @ lower.T)
    assert_close(scale_transposed(factor, vector), vector @ lower)
    assert_close(scale(factor, scale_transposed(factor, vector)), vector @ matrix)


def test_no_preconditioner_is_the_identity(vector):
    factor = factorise(None)
    assert scale(factor, vector) is vector
    assert scale_transposed(factor, vector) is vector


def test_dictionary_is_preconditioned_part_by_part(vector):
    position = {"a": vector, "b": vector[:, 0]}
    factor = factorise({"a": DENSE, "b": torch.tensor(4.0, dtype=FLOAT)})
    moved = scale(factor, position)
    assert_close(moved["a"], vector @ torch.linalg.cholesky(DENSE).T)
    assert_close(moved["b"], 2 * vector[:, 0])


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 2), (1, 4, 4)])
def test_diagonal_for_events_of_any_shape(shape, generator):
    """Noise is scaled number by number, also where the event is square."""
    variance = 0.5 + torch.rand(shape, dtype=FLOAT, generator=generator)
    position = torch.zeros((20_000, *shape), dtype=FLOAT)

    def flat(x):
        return 0 * x.reshape(len(x), -1).sum(1)

    kernel = ULA(0.5, preconditioner=variance)
    moved, _ = smc.step(init(position, flat), flat, kernel, tools=Tools(generator))
    # The variance of a variance of 20 000 normal numbers is 1e-4: seven deviations.
    torch.testing.assert_close(moved.position.var(0), variance, rtol=0.07, atol=0)


def test_matrix_over_one_number(generator):
    position = torch.randn((10, 1), dtype=FLOAT, generator=generator)
    factor = factorise(torch.tensor([[4.0]], dtype=FLOAT))
    assert_close(scale(factor, position), 2 * position)


@pytest.mark.parametrize("covariance", [None, DIAGONAL, DENSE])
def test_a_move_knows_the_slope_that_its_log_ratio_would_compute(covariance, vector):
    """A mutant with another slope is one of another log-ratio."""

    def energy(x):
        return x.pow(4).sum(1)

    factor = factorise(covariance)
    here = evaluate(energy, vector)
    noise = torch.ones_like(vector)
    made = trial(energy, vector, here, noise.clone(), 0.1, factor)
    found = log_ratio(vector, here, made.end, made.there, 0.1, factor)
    assert torch.equal(made.log_ratio, found)
    slope = scale_transposed(factor, here.grad)
    assert_close(made.slope_sq, slope.square().sum(1))
    wrong = {"slope_sq": 2 * made.slope_sq}
    other = log_ratio(vector, here, made.end, made.there, 0.1, factor, **wrong)
    assert not torch.allclose(other, found)
