"""Walkers at which a model cannot be evaluated cost themselves alone."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski import AnnealedSMC
from pyro_jarzynski.infer.batching import Guarded
from pyro_jarzynski.infer.model import PyroModel
from tests.infer.batches import batched


def fails_above_zero(walkers):
    if (walkers > 0).any():
        raise torch.linalg.LinAlgError("not positive definite")
    return walkers[:, 0], 2 * walkers[:, 0]


@pytest.mark.parametrize("bad", [[], [0], [4], [1, 2, 6], list(range(7))])
def test_a_matrix_that_cannot_be_factorised_is_a_nan_of_its_walker(bad):
    walkers = -torch.arange(1.0, 8.0)[:, None]
    walkers[bad] *= -1
    prior, joint = Guarded(fails_above_zero)(walkers)
    expected = walkers[:, 0].clone()
    expected[bad] = torch.nan
    torch.testing.assert_close(prior, expected, equal_nan=True)
    torch.testing.assert_close(joint, 2 * expected, equal_nan=True)


def test_discrete_values_that_index_python_numbers_are_told():
    def model():
        z = pyro.sample("z", dist.Categorical(torch.ones(2)))
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m + [0.0, 1.0][int(z)], 1.0), obs=torch.tensor(0.3))

    with pytest.raises(Exception, match="all values of its discrete latents at once"):
        AnnealedSMC(model, num_walkers=8, progress=False).run()


def correlated(y, by="covariance"):
    """Two numbers of correlation `r`, which is none for a third of the prior's draws."""
    r = pyro.sample("r", dist.Normal(0.0, 1.0))
    one = torch.ones_like(r)
    matrix = torch.stack([torch.stack([one, r]), torch.stack([r, one])])
    if by == "one at a time":
        r.item()
    if by == "inverse":
        # A matrix without an inverse, where the other has no factor.
        matrix = torch.where(r.abs() < 1, matrix, torch.zeros_like(matrix))
        solved = matrix.inverse() @ y
    elif by == "solution":
        matrix = torch.where(r.abs() < 1, matrix, torch.zeros_like(matrix))
        solved = torch.linalg.solve(matrix, y)
    else:
        law = dist.MultivariateNormal(torch.zeros(2), covariance_matrix=matrix)
        pyro.sample("y", law, obs=y)
        return
    log_det = torch.log(1 - r * r)
    pyro.factor("y", -(y @ solved + log_det) / 2 - math.log(2 * math.pi))


METHODS = {"covariance": "vmap", "inverse": "vmap", "solution": "vmap"}


@pytest.mark.parametrize("by", [*METHODS, "one at a time"])
def test_walkers_without_a_factor_do_not_decide_how_others_are_evaluated(by):
    y = torch.tensor([0.5, -0.3])
    model = PyroModel(correlated, (y, by), {})
    walkers = torch.linspace(-2, 2, 16)[:, None]
    found = batched(model, walkers)
    assert found.method == METHODS.get(by, "loop")
    prior, joint = found.densities(walkers)
    inside = walkers[:, 0].abs() < 1
    assert torch.isfinite(joint).equal(inside)
    r = walkers[inside, 0]
    quadratic = (y.square().sum() - 2 * r * y.prod()) / (1 - r * r)
    expected = -(quadratic + (1 - r * r).log()) / 2 - math.log(2 * math.pi)
    torch.testing.assert_close((joint - prior)[inside], expected, rtol=1e-4, atol=1e-5)


def test_matrices_that_cannot_be_factorised_are_watched_only_where_there_are_some():
    calls = []

    def densities(walkers):
        calls.append(len(walkers))
        lower = torch.linalg.cholesky(walkers[:, :, None])
        return lower[:, 0, 0], lower[:, 0, 0]

    guarded, sound = Guarded(densities), torch.ones(8, 1)
    guarded(sound)
    assert not guarded.watches
    mixed = sound.clone()
    mixed[3] = -1
    for _ in range(2):
        prior, _ = guarded(mixed)
        assert prior.isnan().nonzero().tolist() == [[3]]
    # The first time again, and never one by one.
    assert calls == [8, 8, 8, 8]
