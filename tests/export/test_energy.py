"""Trained energies in ArviZ: likelihood, what is uncertain of it, walkers and history."""

import math

import numpy as np
import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski import ContrastiveDivergence, LikelihoodTracker
from pyro_jarzynski.ebm.history import COLUMNS
from pyro_jarzynski.errors import ArgumentError, JarzynskiError
from tests.diagnostics.trees import calls_of_arviz, dataset, names
from tests.ebm.models import (
    mixture_data,
    mixture_learner,
    network_model,
    seeded,
    start_mixture,
)
from tests.export.energy_exports import (
    AUDIT,
    HELD_OUT,
    WALKERS,
    trained,
    tree_of_energy,
    tree_of_gaussian,
)


def elpd(loo):
    return float(loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd)


def test_leave_one_out_is_the_likelihood_of_the_audit():
    """Draws of `Z` have the mean that is reported, and a datum leaves out `1 / Z`."""
    with calls_of_arviz() as arviz:
        found = elpd(arviz.loo(tree_of_energy()))
    expected = -len(HELD_OUT) * trained().nll(HELD_OUT).nll
    assert found == pytest.approx(expected, abs=0.02)


def test_the_energy_is_better_than_a_gaussian_of_the_same_data():
    with calls_of_arviz() as arviz:
        table = arviz.compare({"energy": tree_of_energy(), "normal": tree_of_gaussian()})
    assert list(table.index) == ["energy", "normal"]


def test_draws_of_log_z_have_mean_and_error_of_the_audit():
    """Of 400 draws: false alarms below 1e-8, at six standard errors of a spread.

    The mean is that of `Z`, and exact on each chain.
    """
    found = dataset(tree_of_energy(), "sample_stats")["log_normalizer"].to_numpy()
    learner = trained()
    error = learner.log_normalizer_error
    assert 0.02 < error < 0.3
    assert found.std() == pytest.approx(error, rel=6 / math.sqrt(2 * found.size))
    mean = np.logaddexp.reduce(found, axis=1) - math.log(found.shape[1])
    np.testing.assert_allclose(mean, learner.log_normalizer, rtol=0, atol=1e-10)
    # The two chains have draws of their own.
    assert abs(np.corrcoef(found)[0, 1]) < 6 / math.sqrt(found.shape[1])


def test_likelihoods_differ_between_draws_by_log_z_alone():
    tree, learner = tree_of_energy(), trained()
    draws = torch.tensor(dataset(tree, "sample_stats")["log_normalizer"].to_numpy())[
        ..., None
    ]
    with torch.no_grad():
        expected = -learner.model(HELD_OUT) - draws
    found = dataset(tree, "log_likelihood")["x"]
    assert found.dims == ("chain", "draw", "datum")
    np.testing.assert_allclose(found.to_numpy(), expected, rtol=1e-12)
    observed = dataset(tree, "observed_data")["x"]
    np.testing.assert_array_equal(observed.to_numpy(), HELD_OUT)
    assert observed.dims == ("datum", "x_dim_0")


def test_chains_are_the_audit_and_the_walkers_that_train():
    tree, learner = tree_of_energy(), trained()
    x = torch.tensor(dataset(tree)["x"].to_numpy())
    stats = dataset(tree, "sample_stats")
    assert x.shape == (2, AUDIT, 2)
    for chain, cloud in enumerate([learner.audit.cloud, learner.cloud]):
        same = (x[chain][:, None] == cloud.position).all(-1)
        assert (same.sum(1) >= 1).all()
        row = same.long().argmax(1)
        with torch.no_grad():
            lp = -learner.model(x[chain]) - learner.log_normalizer
        np.testing.assert_allclose(stats["lp"][chain], lp, rtol=1e-9)
        ancestor = cloud.walkers.ancestor[row].numpy()
        np.testing.assert_array_equal(stats["ancestor"][chain], ancestor)
    assert tree.attrs["chains"] == ["audit walkers", "training walkers"]
    assert not stats["diverging"].any()
    np.testing.assert_allclose(stats["log_weight"], -math.log(2 * AUDIT))


def test_draws_follow_the_weights_of_the_audit():
    """Means of the draws, against those by weight: at six standard errors of drawing."""
    walkers = trained().audit.cloud.walkers
    weight = walkers.weight.flatten()
    truth = weight @ walkers.position
    spread = (weight @ (walkers.position - truth).square()).sqrt()
    x = torch.tensor(dataset(tree_of_energy())["x"].to_numpy())[0]
    assert ((x.mean(0) - truth).abs() < 6 * spread / math.sqrt(AUDIT)).all()


def test_path_is_the_history_by_its_steps():
    history, tree = trained().history, tree_of_energy()
    found = dataset(tree, "warmup_sample_stats")
    np.testing.assert_array_equal(found["draw"], [int(step) for step in history["step"]])
    known = {n for n in COLUMNS if not all(math.isnan(v) for v in history[n])}
    assert set(found.data_vars) == known
    assert "validation_nll" not in known
    for name, values in found.items():
        np.testing.assert_array_equal(values.to_numpy(), [history[name]])
        assert values.attrs["long_name"] == COLUMNS[name]


def test_attributes_tell_of_the_audit_and_the_training():
    attrs, learner = tree_of_energy().attrs, trained()
    assert attrs["log_normalizer"] == learner.log_normalizer
    assert attrs["log_normalizer_error"] == learner.log_normalizer_error
    assert attrs["training_log_normalizer"] == learner.training_log_normalizer
    assert (attrs["audit_walkers"], attrs["num_walkers"]) == (AUDIT, WALKERS)
    assert (attrs["algorithm"], attrs["num_steps"]) == ("JarzynskiLearner", 60)
    assert attrs["optimizer"] == "SGD"


def test_data_are_optional_and_labels_are_taken():
    learner = trained()
    assert not names(learner.to_arviz()) & {"log_likelihood", "observed_data"}
    labels = [f"row {i}" for i in range(5)]
    options = {"coords": {"datum": labels}, "attrs": {"note": "five"}}
    tree = pj.to_arviz(learner, data=HELD_OUT[:5], **options)
    assert list(dataset(tree, "log_likelihood")["datum"].to_numpy()) == labels
    assert list(dataset(tree, "observed_data")["datum"].to_numpy()) == labels
    assert tree.attrs["note"] == "five"


def test_dimensions_of_the_walkers_may_be_named():
    tree = trained().to_arviz(dims={"x": ["axis"]}, coords={"axis": ["east", "north"]})
    assert dataset(tree)["x"].dims == ("chain", "draw", "axis")


def test_dimensions_of_walkers_and_data_may_be_named():
    """Walkers and data are alike; the likelihood has none of their dimensions."""
    options = {"dims": {"x": ["axis"]}, "coords": {"axis": ["east", "north"]}}
    tree = trained().to_arviz(data=HELD_OUT, **options)
    assert dataset(tree)["x"].dims == ("chain", "draw", "axis")
    assert dataset(tree, "observed_data")["x"].dims == ("datum", "axis")
    assert dataset(tree, "log_likelihood")["x"].dims == ("chain", "draw", "datum")


def test_number_and_seed_of_the_draws():
    learner = trained()
    few, same, others = (learner.to_arviz(num_draws=50, seed=s) for s in (1, 1, 2))
    assert dataset(few)["x"].shape == (2, 50, 2)
    np.testing.assert_array_equal(dataset(few)["x"], dataset(same)["x"])
    assert not np.array_equal(dataset(few)["x"], dataset(others)["x"])


@pytest.mark.parametrize("number", [AUDIT + 1, 0])
def test_draws_are_never_repeated_to_make_up_the_number(number):
    with pytest.raises(ArgumentError, match=rf"`num_draws` must be at .* got {number}"):
        trained().to_arviz(num_draws=number)


def test_a_learner_that_was_never_trained_is_refused():
    with pytest.raises(ArgumentError, match=r"never trained. Call `fit`"):
        mixture_learner().to_arviz()


WRONG = {
    "shape": HELD_OUT[:, :1],
    "none": HELD_OUT[:0],
    "not finite": HELD_OUT * math.nan,
    "no tensor": HELD_OUT.tolist(),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_data_that_do_not_fit_are_refused(data):
    with pytest.raises(JarzynskiError, match=r"`x`|`data`"):
        trained().to_arviz(data=data)


def test_a_tracker_is_one_chain():
    tracker = trained().audit
    tree = pj.to_arviz(tracker, data=HELD_OUT)
    assert dataset(tree)["x"].shape == (1, AUDIT, 2)
    assert "warmup_sample_stats" not in names(tree)
    with calls_of_arviz() as arviz:
        found = elpd(arviz.loo(tree, reff=1.0))
    assert found == pytest.approx(-len(HELD_OUT) * tracker.nll(HELD_OUT).nll, abs=0.02)


def test_a_tracker_of_an_energy_that_never_moved_knows_log_z():
    """No walker carries a weight: nothing is open of `log Z`."""
    tracker = LikelihoodTracker(start_mixture(2), num_walkers=50)
    tree = tracker.to_arviz(data=HELD_OUT)
    found = dataset(tree, "sample_stats")["log_normalizer"].to_numpy()
    np.testing.assert_allclose(found, tracker.log_normalizer, atol=1e-12)


def test_walkers_without_weights_have_no_log_z():
    learner = mixture_learner(ContrastiveDivergence, model=start_mixture(2))
    learner.fit(mixture_data(100, 2), 5, batch_size=None)
    tree = learner.to_arviz(data=HELD_OUT)
    assert math.isnan(tree.attrs["training_log_normalizer"])
    assert "training_log_z" not in dataset(tree, "warmup_sample_stats")
    assert tree.attrs["algorithm"] == "ContrastiveDivergence"


def test_a_network_in_single_precision():
    model = seeded(lambda: network_model(2))
    learner = mixture_learner(model=model, learning_rate=0.01)
    data = mixture_data(100, 2).float()
    learner.fit(data, 5, batch_size=None, validation=data[:20])
    tree = learner.to_arviz(data=data[:20])
    assert dataset(tree)["x"].dtype == np.float32
    assert dataset(tree, "log_likelihood")["x"].dtype == np.float64
    assert "validation_nll" in dataset(tree, "warmup_sample_stats")
