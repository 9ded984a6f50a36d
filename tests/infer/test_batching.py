"""Walkers at which a model cannot be evaluated cost themselves alone."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski import AnnealedSMC
from pyro_jarzynski.infer.batching import Guarded


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
