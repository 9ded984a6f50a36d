"""Laws of the exported draws, in closed form, with weights and without.

Limits are six standard errors: false alarms below 1e-8 each by a normal law, below 1e-6 for
all of this file.
"""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski import ULA
from tests.diagnostics.trees import dataset, datasets
from tests.export.exports import EXPORTS, result_of, run, tree_of

DATA = torch.tensor([3.1, 2.2, 4.0, 2.9], dtype=torch.float64)
PRIOR_SCALE = 2.0
PRECISION = 1 / PRIOR_SCALE**2 + len(DATA)
MEAN, SCALE = float(DATA.sum()) / PRECISION, PRECISION**-0.5
LIMIT = 6
# A fixed path of few temperatures that hardly moves and never resamples.
UNEVEN = {"adapt": "off", "schedule": [0.0, 0.3, 1.0], "ess_threshold": 0.0}


def conjugate(y):
    m = pyro.sample("m", dist.Normal(y.new_zeros(()), PRIOR_SCALE))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@pytest.fixture(scope="module")
def uneven():
    return run(conjugate, DATA, num_walkers=2048, kernel=ULA(1e-4), **UNEVEN)


@pytest.fixture(scope="module")
def cloud():
    """A run with everything, of walkers that start from the prior."""
    result = run(conjugate, DATA, num_walkers=1024, learn_base=False)
    return result.to_arviz(posterior_predictive=True, prior_predictive=True)


def flat(found):
    return torch.tensor(found.to_numpy()).flatten(0, 1)


def total(log_weight):
    return float(np.logaddexp.reduce(log_weight.to_numpy().ravel()))


@pytest.mark.parametrize("name", EXPORTS)
def test_weights_are_normalised_over_all_draws(name):
    raw = result_of(name).to_arviz(weighted=True, log_likelihood=False)
    for found in (
        dataset(tree_of(name), "weighted_posterior")["log_weight"],
        dataset(tree_of(name), "sample_stats")["log_weight"],
        dataset(raw, "sample_stats")["log_weight"],
    ):
        assert found.dtype == np.float64
        assert total(found) == pytest.approx(0, abs=1e-12)
        each = np.logaddexp.reduce(found.to_numpy(), axis=1)
        np.testing.assert_allclose(each, -math.log(2), atol=1e-12)


def test_draws_of_equal_weight_have_it():
    found = dataset(tree_of("regression"), "sample_stats")["log_weight"]
    np.testing.assert_allclose(found, -math.log(found.size), rtol=1e-15)


@pytest.mark.parametrize("name", EXPORTS)
def test_weighted_export_is_the_cloud_itself(name):
    raw = result_of(name).to_arviz(weighted=True)
    cloud = dataset(tree_of(name), "weighted_posterior")
    for site, values in dataset(raw).items():
        np.testing.assert_array_equal(values, cloud[site])
    weights = dataset(raw, "sample_stats")["log_weight"]
    np.testing.assert_array_equal(weights, cloud["log_weight"])
    assert raw.attrs["weighted"] == 1
    samples, log_weight = result_of(name).weighted_samples()
    for site, values in samples.items():
        assert torch.equal(flat(cloud[site]), values)
    # The weights are those of the result, up to a constant.
    gap = weights.to_numpy() - log_weight.reshape(2, -1).numpy()
    assert np.ptp(gap) < 1e-9
    likelihoods = result_of(name).log_likelihood()["y"]
    assert torch.equal(flat(dataset(raw, "log_likelihood")["y"]), likelihoods)


def test_uneven_weights_are_needed_and_suffice(uneven):
    """The raw cloud is still near its prior: without weights it is far off."""
    tree = uneven.to_arviz()
    cloud = dataset(tree, "weighted_posterior")
    m, log_weight = flat(cloud["m"]), flat(cloud["log_weight"])
    weight = log_weight.softmax(0)
    error = float((weight * (m - MEAN)).square().sum().sqrt())
    assert 1 / float(weight.square().sum()) < len(m) / 3
    assert abs(float(pj.weighted_mean(m, log_weight)) - MEAN) < LIMIT * error < 0.3
    assert abs(float(m.mean()) - MEAN) > 20 * float(m.std()) / math.sqrt(len(m))
    assert abs(float(m.mean()) - MEAN) > 5 * LIMIT * error
    # Draws of equal weight add the noise of drawing them.
    drawn = flat(dataset(tree)["m"])
    noise = math.hypot(error, SCALE / math.sqrt(len(m)))
    assert abs(float(drawn.mean()) - MEAN) < LIMIT * noise
    spread = float((weight * ((m - MEAN) ** 2 - SCALE**2)).square().sum().sqrt())
    found = float(pj.weighted_sd(m, log_weight))
    assert abs(found**2 - SCALE**2) < LIMIT * spread + LIMIT * error**2
    assert abs(float(drawn.var()) - SCALE**2) < 2 * LIMIT * spread


def test_leaving_one_out_needs_the_weights(uneven):
    """Of the raw cloud, as `az.loo` would take it, against the closed form."""
    cloud = dataset(uneven.to_arviz(weighted=True), "sample_stats")
    log_weight, rows = flat(cloud["log_weight"]), uneven.log_likelihood()["y"]
    exact = []
    for i in range(len(DATA)):
        rest = float(DATA.sum() - DATA[i]) / (PRECISION - 1)
        law = torch.distributions.Normal(rest, math.sqrt(1 + 1 / (PRECISION - 1)))
        exact.append(float(law.log_prob(DATA[i])))
    right = pj.weighted_loo(rows, log_weight)
    wrong = pj.weighted_loo(rows, torch.zeros_like(log_weight))
    # Log densities are known to 0.02 each: the cloud is one of some hundred draws.
    assert right.elpd == pytest.approx(sum(exact), abs=0.2)
    assert abs(wrong.elpd - sum(exact)) > 1


def test_draws_are_of_the_posterior(cloud):
    m = flat(dataset(cloud)["m"])
    # Descendants of one ancestor are alike: as if there were a quarter of the draws.
    assert abs(float(m.mean()) - MEAN) < LIMIT * SCALE / math.sqrt(len(m) / 4)
    assert float(m.std()) == pytest.approx(SCALE, rel=LIMIT / math.sqrt(len(m) / 2))


def test_prior_is_of_the_prior(cloud):
    m = flat(dataset(cloud, "prior")["m"])
    num = len(m)
    assert abs(float(m.mean())) < LIMIT * PRIOR_SCALE / math.sqrt(num)
    variance = PRIOR_SCALE**2
    assert abs(float(m.var()) - variance) < LIMIT * variance * math.sqrt(2 / num)


@pytest.mark.parametrize("learn_base", [True, False])
def test_prior_is_of_the_prior_whatever_the_base(learn_base):
    result = run(conjugate, DATA, num_walkers=1024, learn_base=learn_base)
    test_prior_is_of_the_prior(result.to_arviz(log_likelihood=False))


@pytest.mark.parametrize("group", ["posterior", "prior"])
def test_predictions_are_data_given_each_draw(cloud, group):
    """Around their draw they are unit normal and independent."""
    predicted = dataset(cloud, f"{group}_predictive")["y"]
    m = flat(dataset(cloud, group)["m"])
    noise = flat(predicted) - m[:, None]
    num = noise.numel()
    assert abs(float(noise.mean())) < LIMIT / math.sqrt(num)
    assert abs(float(noise.var()) - 1) < LIMIT * math.sqrt(2 / num)
    correlation = torch.corrcoef(torch.cat([noise, m[:, None]], 1).T)
    off = correlation - torch.eye(len(correlation), dtype=correlation.dtype)
    assert float(off.abs().max()) < LIMIT / math.sqrt(len(m))


def test_predictions_of_prior_and_posterior_and_of_two_seeds_are_independent():
    """In the order of the walkers, in which the same noise would meet."""
    options = {"weighted": True, "posterior_predictive": True, "prior_predictive": True}
    parts = []
    for seed in (1, 2):
        tree = run(conjugate, DATA, seed=seed).to_arviz(**options)
        for group in ("posterior", "prior"):
            m = flat(dataset(tree, group)["m"])[:, None]
            noise = flat(dataset(tree, f"{group}_predictive")["y"]) - m
            parts.append(noise.flatten())
    off = torch.corrcoef(torch.stack(parts)) - torch.eye(4, dtype=m.dtype)
    assert float(off.abs().max()) < LIMIT / math.sqrt(len(parts[0]))


def test_the_seed_of_the_run_decides():
    def exported(seed):
        result = run(conjugate, DATA, seed=seed, num_walkers=64)
        tree = result.to_arviz(posterior_predictive=True, prior_predictive=True)
        return {name: found.copy() for name, found in datasets(tree).items()}

    one, same, other = exported(1), exported(1), exported(2)
    timed = {"warmup_sample_stats"}
    for group in one.keys() - timed:
        assert one[group].equals(same[group])
    for group in ("posterior", "prior", "posterior_predictive", "prior_predictive"):
        for variable in one[group]:
            assert not np.isin(one[group][variable], other[group][variable]).any()


def test_prior_predictive_has_its_closed_form(cloud):
    y = flat(dataset(cloud, "prior_predictive")["y"])
    variance = PRIOR_SCALE**2 + 1
    # The four data of one draw share its mean: the variance of their mean is 4 + ¼.
    error = math.sqrt((PRIOR_SCALE**2 + 1 / 4) / len(y))
    assert abs(float(y.mean())) < LIMIT * error
    found = y.var(0)
    assert ((found - variance).abs() < LIMIT * variance * math.sqrt(2 / len(y))).all()


@pytest.mark.parametrize("ess_threshold", [0.0, 1.0])
def test_ancestors_are_walkers_of_the_prior(ess_threshold):
    """Of walkers that hardly move, each is where its ancestor was drawn."""
    settings = UNEVEN | {"ess_threshold": ess_threshold, "kernel": ULA(1e-12)}
    result = run(conjugate, DATA, **settings)
    tree = result.to_arviz(log_likelihood=False)
    prior = flat(dataset(tree, "prior")["m"])
    ancestor = flat(dataset(tree, "sample_stats")["ancestor"])
    torch.testing.assert_close(flat(dataset(tree)["m"]), prior[ancestor], rtol=0, atol=1e-4)
    raw = result.to_arviz(log_likelihood=False, weighted=True)
    ancestor = flat(dataset(raw, "sample_stats")["ancestor"])
    torch.testing.assert_close(flat(dataset(raw)["m"]), prior[ancestor], rtol=0, atol=1e-4)
    assert (len(ancestor.unique()) < len(ancestor)) == (ess_threshold > 0)


def test_statistics_are_those_of_the_last_moves(cloud):
    found = dataset(cloud, "sample_stats")
    path = dataset(cloud, "warmup_sample_stats")
    for name in ("acceptance_rate", "step_size"):
        last = path[name].to_numpy()[:, -1:]
        np.testing.assert_array_equal(found[name], np.broadcast_to(last, (2, 1024)))
    assert not found["diverging"].any()
    m = dataset(cloud)["m"].to_numpy()
    prior = dist.Normal(0.0, PRIOR_SCALE).log_prob(torch.tensor(m))
    data = dist.Normal(torch.tensor(m)[..., None], 1.0).log_prob(DATA).sum(-1)
    np.testing.assert_allclose(found["lp"], prior + data, rtol=1e-9)


def test_discrete_latents_are_drawn_for_the_predictions():
    """Around its centre each prediction of the mixture is unit normal."""
    tree = tree_of("mixture")
    centre = flat(dataset(tree)["centre"])
    noise = flat(dataset(tree, "posterior_predictive")["y"]) - centre
    num = noise.numel()
    assert abs(float(noise.mean())) < LIMIT / math.sqrt(num)
    assert abs(float(noise.var()) - 1) < LIMIT * math.sqrt(2 / num)
