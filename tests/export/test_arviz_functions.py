"""What ArviZ is used for, of every kind of run, in whichever generation is installed."""

from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from tests.diagnostics.trees import (
    arviz_is_old,
    calls_of_arviz,
    dataset,
    datasets,
    file_of,
)
from tests.export.energy_exports import trained, tree_of_energy, tree_of_gaussian
from tests.export.exports import EXPORTS, OTHERS, run, tree_of

MODELS = [*EXPORTS, "energy"]
# Of a mixture some discrete latents may be the same in all draws.
CONTINUOUS = {
    "eight_schools": ["mu", "tau", "z", "theta"],
    "regression": ["spread", "slope", "a"],
    "mixture": ["share", "mean"],
    "energy": ["x"],
}
every_run = pytest.mark.parametrize("name", MODELS)


def exported(name):
    return tree_of_energy() if name == "energy" else tree_of(name)


@cache
def other(name):
    """Another model of the same data."""
    if name == "energy":
        return tree_of_gaussian()
    return run(OTHERS[name], *EXPORTS[name].args).to_arviz()


def scalars(name):
    posterior = dataset(exported(name))[CONTINUOUS[name]]
    parts = [values.to_numpy() for values in posterior.values()]
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], 2)


@every_run
def test_summary(name):
    with calls_of_arviz() as arviz:
        table = arviz.summary(exported(name), var_names=CONTINUOUS[name], round_to="none")
    draws = scalars(name)
    np.testing.assert_allclose(table["mean"].astype(float), draws.mean((0, 1)), rtol=1e-4)
    sd = draws.astype(float).std((0, 1), ddof=1)
    np.testing.assert_allclose(table["sd"].astype(float), sd, rtol=1e-2)


@pytest.mark.parametrize(
    ("function", "low", "high"), [("ess", 10, 800), ("rhat", 0.98, 1.3)]
)
@every_run
def test_effective_draws_and_rhat(name, function, low, high):
    with calls_of_arviz() as arviz:
        found = getattr(arviz, function)(exported(name), var_names=CONTINUOUS[name])
    assert set(found.data_vars) == set(CONTINUOUS[name])
    for values in found.data_vars.values():
        assert ((low < values) & (values < high)).all()


def elpd(loo):
    return float(loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd)


@every_run
def test_leave_one_out(name):
    tree = exported(name)
    with calls_of_arviz() as arviz:
        loo = arviz.loo(tree, pointwise=True)
    rows = dataset(tree, "log_likelihood")
    (site,) = rows
    values = rows[site].to_numpy().reshape(-1, rows[site].shape[-1])
    assert loo.n_data_points == values.shape[1]
    lppd = np.logaddexp.reduce(values, 0) - np.log(len(values))
    # Leaving out a datum makes it less likely, and never by more than with it alone.
    assert np.log(1 / np.exp(-values.astype(float)).mean(0)).sum() - 3 < elpd(loo)
    assert elpd(loo) < lppd.sum() + 1e-6


@every_run
def test_compare_with_another_model_of_the_same_data(name):
    pair = {"this": exported(name), "other": other(name)}
    with calls_of_arviz() as arviz:
        table = arviz.compare(pair)
        single = {key: elpd(arviz.loo(tree)) for key, tree in pair.items()}
    column = "elpd_loo" if "elpd_loo" in table else "elpd"
    for key, value in single.items():
        # From version 1 on the table is rounded.
        assert float(table.loc[key, column]) == pytest.approx(value, abs=0.51, rel=0.01)
    if name in ("mixture", "energy", "regression"):
        assert next(iter(table.index)) == "this"


PLOTS = ["plot_trace", "plot_forest", "plot_rank", "plot_autocorr", "plot_ess"]
PLOTS += ["plot_posterior" if arviz_is_old() else "plot_dist"]
PLOTS += [] if arviz_is_old() else ["plot_trace_dist"]


@pytest.mark.parametrize("plot", PLOTS)
@every_run
def test_plots(name, plot):
    with calls_of_arviz() as arviz:
        found = getattr(arviz, plot)(exported(name), var_names=CONTINUOUS[name][:1])
        assert found is not None


@every_run
def test_plot_pair(name):
    with calls_of_arviz() as arviz:
        assert arviz.plot_pair(exported(name), var_names=CONTINUOUS[name][:2]) is not None


@every_run
def test_plot_khat(name):
    with calls_of_arviz() as arviz:
        loo = arviz.loo(exported(name), pointwise=True)
        assert arviz.plot_khat(loo) is not None


@pytest.mark.parametrize("name", EXPORTS)
def test_plot_predictions(name):
    with calls_of_arviz() as arviz:
        for group in ("posterior", "prior"):
            if arviz_is_old():
                assert arviz.plot_ppc(tree_of(name), group=group) is not None
            else:
                predictive = f"{group}_predictive"
                assert arviz.plot_ppc_dist(tree_of(name), group=predictive) is not None


@pytest.mark.parametrize("name", EXPORTS)
def test_plot_prior_beside_posterior(name):
    with calls_of_arviz() as arviz:
        options = {"var_names": CONTINUOUS[name][:1]}
        if arviz_is_old():
            assert arviz.plot_dist_comparison(tree_of(name), **options) is not None
        else:
            assert arviz.plot_prior_posterior(tree_of(name), **options) is not None


def sensitivity(arviz, tree):
    if arviz_is_old():
        found = [arviz.psens(tree, component=c) for c in ("prior", "likelihood")]
        parts = [values.to_numpy().ravel() for t in found for values in t.values()]
        return np.concatenate(parts)
    return arviz.psense_summary(tree)[["prior", "likelihood"]].to_numpy().astype(float)


@pytest.mark.parametrize("name", EXPORTS)
def test_sensitivity_to_powers_of_prior_and_likelihood(name):
    with calls_of_arviz() as arviz:
        found = sensitivity(arviz, tree_of(name))
    assert (found[np.isfinite(found)] >= 0).all()
    assert (found > 0).any()


def test_an_energy_has_no_prior_to_be_sensitive_to():
    with calls_of_arviz() as arviz, pytest.raises(TypeError, match="log prior not found"):
        sensitivity(arviz, tree_of_energy())


@every_run
def test_extract(name):
    with calls_of_arviz() as arviz:
        found = arviz.extract(exported(name), var_names=CONTINUOUS[name][0], num_samples=20)
    assert found.sizes["sample"] == 20


def assert_same_attributes(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        assert np.asarray(found[name]).dtype.kind == np.asarray(value).dtype.kind, name


@cache
def single_chain(name):
    if name == "energy":
        return trained().audit.to_arviz()
    return run(EXPORTS[name].model, *EXPORTS[name].args, num_chains=1).to_arviz()


@pytest.mark.parametrize("kind", ["netCDF", "Zarr"])
@pytest.mark.parametrize("chains", [1, 2])
@every_run
def test_files_keep_every_bit(name, chains, kind, tmp_path):
    tree = exported(name) if chains == 2 else single_chain(name)
    again = file_of(tree, str(tmp_path / "run"), kind)
    expected, found = datasets(tree), datasets(again)
    assert found.keys() == expected.keys()
    for group, written in expected.items():
        read = found[group]
        assert set(read.variables) == set(written.variables)
        for variable, values in written.variables.items():
            assert read[variable].dims == values.dims
            np.testing.assert_array_equal(read[variable].to_numpy(), values.to_numpy())
            if values.dtype.kind != "U":
                assert read[variable].dtype == values.dtype, (group, variable)
            assert_same_attributes(read[variable].attrs, values.attrs)
        assert_same_attributes(read.attrs, written.attrs)
    assert_same_attributes(again.attrs, tree.attrs)


def psense(arviz, tree):
    return sensitivity(arviz, tree)


def prior_beside_posterior(arviz, tree):
    return arviz.plot_prior_posterior(tree)


@pytest.mark.skipif(arviz_is_old(), reason="ArviZ 0.2x makes no dimensions of these names")
@pytest.mark.parametrize(
    ("plate", "function"), [("component", psense), ("group", prior_beside_posterior)]
)
def test_plates_called_as_dimensions_that_functions_of_arviz_make(plate, function):
    """`xarray.concat` along a dimension that is there already mixes up the sizes."""

    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate(plate, len(y)):
            a = pyro.sample("a", dist.Normal(m, 1.0))
            pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    tree = run(model, torch.tensor([0.5, 1.5, -0.3])).to_arviz()
    with calls_of_arviz() as arviz:
        assert function(arviz, tree) is not None
