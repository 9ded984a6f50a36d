"""ArviZ's own reading of `pyro.infer.MCMC`, where it has one, beside the one here.

It is right about draws. It takes likelihoods from one run of the model with all draws in
front, which leaves them out, or gets them wrong without a word, where a model was not
written for that.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest

import pyro_jarzynski as pj
from tests.diagnostics.trees import arviz_is_old, calls_of_arviz, dataset, names
from tests.export.exports import EXPORTS, GROUP, X, Y
from tests.export.known_likelihoods import normal
from tests.export.test_mcmc import linear, sampled

pytestmark = [
    pytest.mark.global_state,
    pytest.mark.skipif(
        not arviz_is_old(), reason="ArviZ reads nothing of Pyro from its version 1 on"
    ),
]


def test_from_pyro_has_the_draws():
    regression = sampled(EXPORTS["regression"].model, *EXPORTS["regression"].args)
    with calls_of_arviz() as arviz:
        theirs = arviz.from_pyro(regression, log_likelihood=False)
    ours = dataset(pj.to_arviz(regression))
    for name, values in ours.items():
        np.testing.assert_array_equal(theirs.posterior[name].to_numpy(), values.to_numpy())


def differences(group, y):
    """In one run with all draws, the mean would be that of all draws."""
    with pyro.plate("groups", 3):
        a = pyro.sample("a", dist.Normal(y.new_zeros(()), 1.0))
    a = a - a.mean()
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a[..., group], 1.0), obs=y)


def undeclared(y):
    """Without a plate, twelve draws and twelve data are one dimension."""
    m = pyro.sample("m", dist.Normal(y.new_zeros(()), 1.0))
    pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def of_differences(draws):
    centred = draws["a"] - draws["a"].mean(-1, keepdim=True)
    return normal(Y, centred[..., GROUP], 1.0)


def of_undeclared(draws):
    return normal(Y, draws["m"][..., None], 1.0)


SILENT = [
    (differences, (GROUP, Y), 40, of_differences),
    (undeclared, (Y,), len(Y), of_undeclared),
]


@pytest.mark.parametrize(("model", "args", "num", "truth"), SILENT)
def test_from_pyro_may_be_silently_wrong_of_likelihoods(model, args, num, truth):
    """It runs the model once with all draws in front, whatever the model does there."""
    mcmc = sampled(model, *args, num_samples=num)
    expected = truth(mcmc.get_samples(group_by_chain=True))
    ours = dataset(pj.to_arviz(mcmc), "log_likelihood")["y"]
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    with calls_of_arviz() as arviz:
        theirs = arviz.from_pyro(mcmc).log_likelihood["y"].to_numpy()
    assert theirs.shape != expected.shape or not np.allclose(theirs, expected, atol=0.01)


def test_from_pyro_leaves_out_the_likelihood_of_a_matrix_product():
    mcmc = sampled(linear, X, Y)
    with calls_of_arviz() as arviz, pytest.warns(UserWarning, match="vectorized trace"):
        theirs = arviz.from_pyro(mcmc)
    assert "log_likelihood" not in theirs.groups()
    assert "log_likelihood" in names(pj.to_arviz(mcmc))
