"""What a run exports: groups, names, shapes, and numbers that equal those of the result."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.infer.export.groups import PATH
from tests.diagnostics.trees import dataset, datasets, names
from tests.export.exports import (
    CHAINS,
    EXPORTS,
    HUMPS,
    NAMES,
    WALKERS,
    X,
    Y,
    result_of,
    run,
    tree_of,
)
from tests.export.known_likelihoods import KNOWN, normal
from tests.infer.zoo.case import SCHOOLS, SCHOOLS_ERROR

GROUPS = {
    "posterior",
    "sample_stats",
    "warmup_sample_stats",
    "log_prior",
    "log_likelihood",
    "weighted_posterior",
    "prior",
    "observed_data",
    "posterior_predictive",
    "prior_predictive",
}
every_model = pytest.mark.parametrize("name", EXPORTS)
SAMPLE = ("chain", "draw")


@every_model
def test_groups_are_those_of_the_schema(name):
    constant = {"constant_data"} if name != "mixture" else set()
    assert names(tree_of(name)) == GROUPS | constant


@every_model
def test_what_was_not_asked_for_is_not_there(name):
    tree = result_of(name).to_arviz(log_likelihood=False)
    absent = {"log_likelihood", "posterior_predictive", "prior_predictive"}
    assert not names(tree) & absent
    assert "weighted_posterior" not in names(
        result_of(name).to_arviz(log_likelihood=False, weighted=True)
    )


DIMS = {
    "eight_schools": {"mu": (), "tau": (), "z": ("school",), "theta": ("school",)},
    "regression": {"spread": (), "slope": ("feature",), "a": ("groups",)},
    "mixture": {
        "share": ("share_dim_0",),
        "mean": ("components",),
        "z": ("data",),
        "centre": ("data",),
    },
}


@every_model
def test_dimensions_are_called_as_the_plates(name):
    tree = tree_of(name)
    for group in ("posterior", "weighted_posterior"):
        dims = {n: v.dims[2:] for n, v in dataset(tree, group).items()}
        dims.pop("log_weight", None)
        assert dims == DIMS[name]
    data = ("school",) if name == "eight_schools" else ("data",)
    assert dataset(tree, "observed_data")["y"].dims == data
    for group in ("log_likelihood", "posterior_predictive", "prior_predictive"):
        assert dataset(tree, group)["y"].dims == SAMPLE + data


@every_model
def test_all_draws_have_chains_and_walkers(name):
    fixed = {"observed_data", "constant_data", "warmup_sample_stats"}
    for group, found in datasets(tree_of(name)).items():
        if group not in fixed:
            for variable in found.values():
                assert variable.dims[:2] == SAMPLE
                assert variable.shape[:2] == (CHAINS, WALKERS)


def test_coords_of_the_user_label_every_group():
    for group in ("posterior", "log_likelihood", "observed_data", "prior"):
        found = dataset(tree_of("eight_schools"), group)
        assert list(found["school"].to_numpy()) == NAMES
    slope = dataset(tree_of("regression"))["slope"]
    assert list(slope["feature"].to_numpy()) == ["dose", "age"]


@every_model
def test_posterior_is_what_get_samples_returns(name):
    expected = result_of(name).get_samples(group_by_chain=True, deterministic=True)
    found = dataset(tree_of(name))
    assert set(found.data_vars) == expected.keys()
    for site, values in expected.items():
        np.testing.assert_array_equal(found[site].to_numpy(), values.numpy())
        assert found[site].dtype == values.numpy().dtype


def test_precision_is_that_of_the_model():
    for name, dtype in {"eight_schools": np.float32, "regression": np.float64}.items():
        for group in ("posterior", "log_likelihood", "log_prior", "prior_predictive"):
            for variable in dataset(tree_of(name), group).values():
                assert variable.dtype == dtype
    assert dataset(tree_of("mixture"))["z"].dtype == np.int64
    assert dataset(tree_of("eight_schools"), "sample_stats")["diverging"].dtype == bool


@every_model
def test_log_likelihood_belongs_to_the_draws(name):
    result, found = result_of(name), dataset(tree_of(name), "log_likelihood")
    for site, values in result.log_likelihood().items():
        expected = values[result.draw_index].numpy()
        np.testing.assert_array_equal(found[site].to_numpy(), expected)


def test_densities_of_the_regression_by_hand():
    tree = tree_of("regression")
    draws = {n: torch.tensor(v.to_numpy()) for n, v in dataset(tree).items()}
    group = torch.tensor(dataset(tree, "constant_data")["group"].to_numpy())
    line = draws["a"][..., group] + draws["slope"] @ X.T
    likelihood = normal(Y, line, 1.0)
    priors = {
        "spread": math.log(2) + normal(draws["spread"], 0.0, 1.0),
        "slope": normal(draws["slope"], 0.0, 1.0).sum(-1),
        "a": normal(draws["a"], 0.0, draws["spread"][..., None]),
    }
    assert_values(dataset(tree, "log_likelihood")["y"], likelihood)
    for name, values in priors.items():
        assert_values(dataset(tree, "log_prior")[name], values)
    # The Jacobian of an exponential is the logarithm of what it gives.
    joint = likelihood.sum(-1) + priors["spread"] + priors["slope"] + priors["a"].sum(-1)
    joint = joint + draws["spread"].log()
    assert_values(dataset(tree, "sample_stats")["lp"], joint)


def assert_values(found, expected):
    np.testing.assert_allclose(found.to_numpy(), expected.numpy(), rtol=1e-9, atol=1e-9)


def test_deterministic_sites_follow_their_latents():
    tree = tree_of("mixture")
    for group in ("posterior", "weighted_posterior"):
        found = dataset(tree, group)
        mean, z = found["mean"].to_numpy(), found["z"].to_numpy()
        expected = np.take_along_axis(mean, z, -1)
        np.testing.assert_array_equal(found["centre"].to_numpy(), expected)


@every_model
def test_path_is_the_history(name):
    history = result_of(name).history
    found = dataset(tree_of(name), "warmup_sample_stats")
    stages = len(history["beta"])
    assert set(found.data_vars) == {
        n for n, (column, _) in PATH.items() if column in history
    }
    for variable, values in found.items():
        column = history[PATH[variable][0]]
        rows = column if column.ndim == 2 else column[:, None].expand(-1, CHAINS)
        assert values.dims == SAMPLE
        np.testing.assert_array_equal(values.to_numpy(), rows.mT.numpy())
        assert values.attrs["long_name"]
    np.testing.assert_array_equal(found["draw"], np.arange(stages))


@every_model
def test_attributes_tell_settings_and_evidence(name):
    result, attrs = result_of(name), tree_of(name).attrs
    expected = result.log_evidence_per_chain.tolist()
    assert attrs["log_marginal_likelihood"] == expected
    assert attrs["log_evidence"] == result.log_evidence
    assert attrs["log_evidence_error"] == result.log_evidence_error
    assert attrs["log_evidence_interval_90"] == list(result.log_evidence_interval())
    assert (attrs["num_walkers"], attrs["num_chains"], attrs["seed"]) == (128, 2, 1)
    assert attrs["sampling_time"] == result.seconds
    assert (attrs["complete"], attrs["weighted"]) == (1, 0)
    assert attrs["status"] == result.status
    assert "MALA" in attrs["kernel"]


def test_attributes_of_the_user_come_on_top():
    tree = result_of("regression").to_arviz(attrs={"who": "me", "seed": 7})
    assert (tree.attrs["who"], tree.attrs["seed"]) == ("me", 7)


def test_data_and_constants_are_the_arguments():
    schools = tree_of("eight_schools")
    np.testing.assert_array_equal(dataset(schools, "observed_data")["y"], SCHOOLS)
    constant = dataset(schools, "constant_data")
    assert set(constant.data_vars) == {"error"}
    np.testing.assert_array_equal(constant["error"], SCHOOLS_ERROR)
    regression = dataset(tree_of("regression"), "constant_data")
    assert set(regression.data_vars) == {"x", "group"}
    np.testing.assert_array_equal(regression["x"], X)
    np.testing.assert_array_equal(dataset(tree_of("mixture"), "observed_data")["y"], HUMPS)


def test_constants_may_be_given_the_plates_of_the_data():
    options = {"dims": {"error": ["school"]}, "coords": {"school": NAMES}}
    tree = result_of("eight_schools").to_arviz(**options)
    assert dataset(tree, "constant_data")["error"].dims == ("school",)


def test_constants_of_all_kinds():
    def model(y, *more, scale, flag=True, name="a", table=None, **others):
        m = pyro.sample("m", dist.Normal(0.0, scale))
        pyro.sample("y", dist.Normal(m, 1.0).expand([2]).to_event(1), obs=y)

    y, array = torch.ones(2), np.arange(3)
    smc = pj.AnnealedSMC(model, num_walkers=64, num_chains=2, progress=False)
    tree = smc.run(y, 4, array, scale=2.0, name="b", depth=5).to_arviz()
    found = dataset(tree, "constant_data")
    assert set(found.data_vars) == {"more_0", "more_1", "scale", "name", "depth"}
    assert found["name"].item() == "b"
    assert float(found["scale"]) == 2.0
    np.testing.assert_array_equal(found["more_1"], array)


@pytest.mark.parametrize(
    ("name", "observed"),
    {
        "deterministic_and_factor": {"y"},
        "masked_data": {"y"},
        "partly_observed": {"y_observed"},
        "two_observed_sites": {"y", "k"},
        "sites_in_a_loop": {f"y_{i}" for i in range(6)},
    }.items(),
)
def test_observed_sites_are_those_with_data(name, observed):
    case = KNOWN[name]
    tree = run(case.model, *case.args).to_arviz(posterior_predictive=True)
    for group in ("observed_data", "log_likelihood", "posterior_predictive"):
        assert set(dataset(tree, group).data_vars) == observed
