"""Every model of the zoo in ArviZ: shapes and dimensions agree across all groups."""

import warnings
from functools import cache

import numpy as np
import pytest

from pyro_jarzynski import AnnealedSMC
from pyro_jarzynski.errors import EvidenceWarning, NonFiniteEnergyWarning, SlowModelWarning
from tests.diagnostics.trees import dataset, datasets, names
from tests.infer.zoo import NUM_WALKERS, ZOO

# A short path, of as many walkers as some models have data or latents.
SETTINGS = {"schedule": [0, 0.1, 1], "adapt": "off", "num_walkers": NUM_WALKERS}
every_model = pytest.mark.parametrize("name", ZOO)


@cache
def exported(name):
    model, args, kwargs = ZOO[name][:3]
    with warnings.catch_warnings():
        for category in (EvidenceWarning, NonFiniteEnergyWarning, SlowModelWarning):
            warnings.simplefilter("ignore", category)
        smc = AnnealedSMC(model, num_chains=1, seed=1, progress=False, **SETTINGS)
        result = smc.run(*args, **kwargs)
    return result.to_arviz(posterior_predictive=True, prior_predictive=True)


@every_model
def test_a_dimension_has_one_size_in_all_groups(name):
    sizes = {}
    for group, found in datasets(exported(name)).items():
        for dim, size in found.sizes.items():
            if not (dim == "draw" and group == "warmup_sample_stats"):
                assert sizes.setdefault(dim, size) == size, (group, dim)


@every_model
def test_predictions_have_the_shape_of_the_data(name):
    tree = exported(name)
    observed = dataset(tree, "observed_data")
    for group in ("posterior_predictive", "prior_predictive"):
        found = dataset(tree, group)
        assert set(found.data_vars) == set(observed.data_vars)
        for site, values in found.items():
            assert values.dims[2:] == observed[site].dims
            assert values.shape == (1, NUM_WALKERS, *observed[site].shape)


@every_model
def test_each_likelihood_is_of_places_of_the_data(name):
    tree = exported(name)
    observed, found = dataset(tree, "observed_data"), dataset(tree, "log_likelihood")
    assert set(found.data_vars) == set(observed.data_vars)
    for site, values in found.items():
        batch = values.dims[2:]
        assert batch == observed[site].dims[: len(batch)]
        assert np.isfinite(values).all()


@every_model
def test_prior_and_posterior_have_the_same_latents(name):
    tree = exported(name)
    latents = set(dataset(tree, "log_prior").data_vars)
    for group in ("posterior", "weighted_posterior", "prior"):
        found = dataset(tree, group)
        assert latents <= set(found.data_vars)
        for site in latents:
            assert found[site].dims == dataset(tree)[site].dims
            assert found[site].dtype == dataset(tree)[site].dtype
    assert "sample_stats" in names(tree)
