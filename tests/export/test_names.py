"""Names, runs and requests that an export refuses or has to adapt."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski import DataTempering, Target
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, ExportWarning
from tests.diagnostics.trees import dataset, names
from tests.export.exports import WALKERS, X, Y, result_of, run, tree_of
from tests.export.known_likelihoods import normal

DATA = torch.tensor([0.5, 1.5, -0.3])
PREDICTIVES = [{"posterior_predictive": True}, {"prior_predictive": True}]


def named(site="m", plate="data", observed="y"):
    """A model of which the names are chosen."""

    def model(y):
        m = pyro.sample(site, dist.Normal(0.0, 1.0))
        with pyro.plate(plate, len(y)):
            pyro.sample(observed, dist.Normal(m, 1.0), obs=y)

    return model


def exported(model, *args, **options):
    return run(model, *args, num_walkers=64).to_arviz(**options)


@pytest.mark.parametrize("plate", ["draw", "chain", "sample"])
def test_plates_called_as_dimensions_of_arviz_are_renamed(plate):
    tree = exported(named(plate=plate), DATA, coords={f"{plate}_plate": list("abc")})
    dims = ("chain", "draw", f"{plate}_plate")
    assert dataset(tree, "log_likelihood")["y"].dims == dims
    assert list(dataset(tree, "observed_data")[f"{plate}_plate"].to_numpy()) == list("abc")


@pytest.mark.parametrize("site", ["draw", "chain", "sample"])
def test_sites_called_as_dimensions_of_arviz_are_refused(site):
    with pytest.raises(ArgumentError, match=f"{site!r} is reserved by ArviZ"):
        exported(named(site), DATA)
    with pytest.raises(ArgumentError, match=f"{site!r} is reserved by ArviZ"):
        exported(named(observed=site), DATA)


def test_slashes_become_dots():
    tree = exported(named("level/m", "level/data", "level/y"), DATA)
    assert set(dataset(tree).data_vars) == {"level.m"}
    found = dataset(tree, "log_likelihood")["level.y"]
    assert found.dims == ("chain", "draw", "level.data")


def test_sites_that_would_have_one_name_are_refused():
    def model(y):
        m = pyro.sample("a/b", dist.Normal(0.0, 1.0)) + pyro.sample("a.b", unit())
        pyro.sample("y", dist.Normal(m, 1.0).expand([3]).to_event(1), obs=y)

    with pytest.raises(ArgumentError, match=r"'a/b' and 'a\.b' would both be called"):
        exported(model, DATA)


def test_observed_sites_that_would_have_one_name_are_refused():
    """One datum would silently take the place of another."""

    def model(y):
        m = pyro.sample("m", unit())
        pyro.sample("y/a", dist.Normal(m, 1.0), obs=y[0])
        pyro.sample("y.a", dist.Normal(m, 1.0), obs=y[1])

    with pytest.raises(ArgumentError, match="would both be called"):
        exported(model, DATA)


def unit():
    return dist.Normal(0.0, 1.0)


def test_data_may_be_called_as_their_plate():
    """`plate("data", len(data))` of an argument `data` is what many models have."""

    def model(data):
        m = pyro.sample("m", unit())
        with pyro.plate("data", len(data)):
            pyro.sample("obs", dist.Normal(m, 1.0), obs=data[:, 0])

    tree = exported(model, torch.stack([DATA, DATA], 1))
    assert dataset(tree, "observed_data")["obs"].dims == ("data",)
    assert dataset(tree, "constant_data")["data"].shape == (3, 2)


def test_an_argument_may_be_called_as_a_latent_of_another_shape():
    """A starting value, say: the labels of the latent are not its own."""

    def model(m, y):
        del m
        with pyro.plate("data", len(y)):
            m = pyro.sample("m", unit())
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    tree = exported(model, torch.zeros(2), DATA, coords={"data": list("abc")})
    assert dataset(tree)["m"].dims == ("chain", "draw", "data")
    assert dataset(tree, "constant_data")["m"].shape == (2,)


def test_an_argument_called_as_a_dimension_of_arviz_is_left_out():
    """A run that took hours is exported without it."""

    def model(y, sample):
        m = pyro.sample("m", dist.Normal(sample, 1.0))
        pyro.sample("y", dist.Normal(m, 1.0).expand([3]).to_event(1), obs=y)

    with pytest.warns(ExportWarning, match=r"'sample'.*argument"):
        tree = exported(model, DATA, torch.tensor(0.0))
    assert "constant_data" not in names(tree)
    assert dataset(tree)["m"].shape == (2, 64)


def test_a_site_called_as_the_weights_keeps_its_draws():
    with pytest.warns(ExportWarning, match=r"'weighted_posterior'.*'log_weight'; rename"):
        tree = exported(named("log_weight"), DATA)
    assert dataset(tree)["log_weight"].shape == (2, 64)
    assert "weighted_posterior" not in names(tree)


@pytest.mark.filterwarnings("ignore:The model has no latents:UserWarning")
def test_a_model_without_latents_has_nothing_to_export():
    def model(y):
        pyro.sample("y", dist.Normal(0.0, 1.0).expand([3]).to_event(1), obs=y)

    with pytest.raises(ArgumentError, match="no latents"):
        exported(model, DATA)


def test_an_interrupted_run_is_exported_on_request_alone():
    result = run(named(), DATA, max_seconds=1e-6, learn_base=False)
    assert not result.complete
    with pytest.raises(ArgumentError, match=r"interrupted.*partial=True"):
        result.to_arviz()
    tree = result.to_arviz(partial=True)
    assert (tree.attrs["complete"], tree.attrs["status"]) == (0, "partial")
    assert 0 < float(dataset(tree, "warmup_sample_stats")["beta"][0, -1]) < 1


def target():
    prior = torch.distributions.Normal(torch.zeros(2), 1.0)
    return Target(
        lambda x: prior.log_prob(x).sum(-1),
        lambda x: -(x - 1).square().sum(-1),
        lambda num, generator: torch.randn(num, 2, generator=generator),
    )


@pytest.mark.parametrize("learn_base", [True, False])
def test_a_target_exports_prior_and_likelihood_as_a_whole(learn_base):
    tree = run(target(), learn_base=learn_base).to_arviz()
    x = torch.tensor(dataset(tree)["x"].to_numpy())
    prior = torch.tensor(dataset(tree, "log_prior")["x"].to_numpy())
    likelihood = torch.tensor(dataset(tree, "log_likelihood")["likelihood"].to_numpy())
    torch.testing.assert_close(prior, normal(x, 0.0, 1.0).sum(-1))
    torch.testing.assert_close(likelihood, -(x - 1).square().sum(-1))
    lp = torch.tensor(dataset(tree, "sample_stats")["lp"].to_numpy())
    torch.testing.assert_close(lp, prior + likelihood)
    assert dataset(tree, "prior")["x"].shape == (2, WALKERS, 2)
    assert not names(tree) & {"observed_data", "constant_data"}


@pytest.mark.parametrize("options", PREDICTIVES)
def test_a_target_predicts_nothing(options):
    with pytest.raises(ArgumentError, match="need a Pyro model"):
        run(target()).to_arviz(**options)


def improper(y):
    real = dist.constraints.real
    m = pyro.sample("m", dist.ImproperUniform(real, (), ()))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def test_an_improper_prior_has_no_draws():
    result = run(improper, DATA, base="normal", learn_base=False)
    tree = result.to_arviz(posterior_predictive=True)
    assert "prior" not in names(tree)
    assert (dataset(tree, "log_prior")["m"] == 0).all()
    with pytest.raises(ArgumentError, match="needs a proper prior"):
        result.to_arviz(prior_predictive=True)


def test_data_that_arrive_are_counted_along_the_path():
    schedule = DataTempering([1, 2, 3])
    tree = run(named(), DATA, schedule=schedule).to_arviz()
    counted = dataset(tree, "warmup_sample_stats")["num_observations"].to_numpy()
    assert counted[0, 0] == 1
    assert (counted[:, -1] == 3).all()
    assert dataset(tree, "observed_data")["y"].shape == (3,)
    assert dataset(tree, "log_likelihood")["y"].shape == (2, WALKERS, 3)
    assert dataset(tree, "prior")["m"].shape == (2, WALKERS)


def test_one_function_exports_all_runs():
    found = pj.to_arviz(result_of("regression"), weighted=True, log_likelihood=False)
    assert found.attrs["weighted"] == 1
    assert "log_likelihood" not in names(found)


@pytest.mark.parametrize("run_", [None, {}, named(), X])
def test_what_is_no_run_is_refused(run_):
    with pytest.raises(ArgumentTypeError, match=f"got {type(run_).__name__}"):
        pj.to_arviz(run_)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="num_draws"):
        pj.to_arviz(result_of("regression"), num_draws=3)


WRONG = {
    "labels": ({"coords": {"groups": ["a"]}}, "must hold 3 labels"),
    "no dimension": ({"coords": {"town": ["a"]}}, "'town', which is no dimension"),
    "no variable": ({"dims": {"z": ["a"]}}, "'z', which is no variable"),
    "attribute": ({"attrs": {"note": None}}, r"`attrs\['note'\]`"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(case):
    options, message = case
    with pytest.raises(ArgumentError, match=message):
        result_of("regression").to_arviz(log_likelihood=False, **options)


def test_chains_and_draws_may_be_labelled():
    """The path has draws of its own, one per stage, which keep their numbers."""
    labels = {"chain": ["left", "right"], "draw": list(range(1000, 1000 + WALKERS))}
    tree = result_of("regression").to_arviz(coords=labels)
    assert list(dataset(tree)["chain"].to_numpy()) == ["left", "right"]
    assert int(dataset(tree)["draw"][0]) == 1000


def test_a_file_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(OSError, match="missing"):
        tree_of("regression").to_netcdf(str(tmp_path / "missing" / "run.nc"))


def test_arguments_of_the_run_are_not_changed():
    before = Y.clone()
    array = dataset(tree_of("regression"), "observed_data")["y"].to_numpy()
    assert torch.from_numpy(array).data_ptr() != Y.data_ptr()
    assert torch.equal(before, Y)
