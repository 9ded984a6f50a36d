"""Arguments of samplers, targets and results that cannot be used."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski import MALA, ULA, AnnealedSMC, BlockGibbs, DataTempering, Target
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    EnergyError,
    ModelError,
    NonFiniteEnergyWarning,
)
from tests.infer.batches import conjugate, run
from tests.infer.zoo import Y

# Settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_walkers": 1}, "`num_walkers` must be at least 2"),
        ({"num_chains": 0}, "`num_chains` must be at least 1"),
        ({"max_moves": 0}, "`max_moves` must be at least 1"),
        ({"num_moves": 0}, "`num_moves` must be at least 1"),
        ({"chunk_size": 0}, "`chunk_size` must be at least 1"),
        ({"adapt": "later"}, "`adapt` must be one of off, online, pilot"),
        ({"preconditioner": "full"}, "`preconditioner` must be one of dense, diagonal"),
        ({"resampler": "unfair"}, "`?resampler`? must be one of"),
        ({"ess_threshold": 1.5}, r"`ess_threshold` must lie in \[0, 1\]"),
        ({"max_seconds": 0.0}, "`max_seconds` must be a positive finite float"),
        ({"adapt": "off"}, '`adapt="off"` needs a `schedule` of fixed'),
        ({"waste_free": True, "kernel": ULA(0.1)}, "`waste_free` needs a kernel .* ULA"),
        ({"kernel": BlockGibbs()}, "`kernel` must be one of continuous walkers"),
        ({"schedule": [0.0, 0.5, 0.4, 1.0]}, "schedule"),
        ({"schedule": [0.0, 0.5]}, "schedule"),
        ({"schedule": []}, "schedule"),
    ],
    ids=str,
)
def test_setting_out_of_its_range(settings, message):
    with pytest.raises(ArgumentError, match=message):
        AnnealedSMC(conjugate, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_walkers": 10.0}, "`num_walkers` must be an integer"),
        ({"num_chains": True}, "`num_chains` must be an integer"),
        ({"max_moves": "many"}, "`max_moves` must be an integer"),
        ({"num_moves": 2.5}, "`num_moves` must be an integer"),
        ({"chunk_size": 1.5}, "`chunk_size` must be an integer"),
        ({"ess_threshold": "half"}, r"`ess_threshold` must be a number in \[0, 1\]"),
        ({"max_seconds": "soon"}, "`max_seconds` must be a positive finite float"),
        ({"schedule": "adaptive"}, "`schedule` must be AdaptiveTempering.* got str"),
        ({"schedule": 0.5}, "`schedule` must be AdaptiveTempering.* got float"),
        ({"seed": 0.5}, "`seed` must be an integer"),
        ({"seed": None}, "`seed` must be an integer"),
    ],
    ids=str,
)
def test_setting_of_a_wrong_type(settings, message):
    with pytest.raises(ArgumentTypeError, match=message):
        AnnealedSMC(conjugate, **settings)


@pytest.mark.parametrize("kernel", ["MALA", None, MALA], ids=str)
def test_kernel_that_is_none(kernel):
    with pytest.raises(ArgumentTypeError, match="`kernel`"):
        AnnealedSMC(conjugate, kernel=kernel)


@pytest.mark.parametrize("model", [None, "schools", 3.0, torch.zeros(2)])
def test_model_that_is_none(model):
    with pytest.raises(
        ArgumentTypeError, match="`model` must be a Pyro model or a `Target`"
    ):
        run(model)


# Targets.


def target(**changes):
    normal = dist.Normal(0.0, 1.0)
    functions = {
        "log_prior": lambda x: normal.log_prob(x).sum(-1),
        "log_likelihood": lambda x: normal.log_prob(x - 1).sum(-1),
        "prior_sample": lambda num, generator: torch.randn(num, 2, generator=generator),
    }
    return Target(**{**functions, **changes})


def test_target_has_the_evidence_of_its_integral():
    result = run(target(), num_walkers=1000)
    truth = 2 * float(dist.Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(1.0)))
    assert abs(result.log_evidence - truth) < 5 * result.log_evidence_error + 0.01
    assert result.get_samples()["x"].shape == (2000, 2)


@pytest.mark.parametrize("name", ["log_prior", "log_likelihood"])
def test_target_with_one_number_per_coordinate(name):
    wrong = {name: lambda x: -x.square()}
    with pytest.raises(EnergyError, match=rf"`{name}` must return one number per walker"):
        run(target(**wrong))


@pytest.mark.parametrize(
    "draw",
    [
        lambda num, generator: torch.randn(num, generator=generator),
        lambda num, generator: torch.randn(num + 1, 2, generator=generator),
        lambda num, generator: torch.randn(2, generator=generator).tolist(),
    ],
    ids=["no event", "too many", "no tensor"],
)
def test_target_with_draws_of_a_wrong_shape(draw):
    with pytest.raises(ArgumentError, match=r"`prior_sample\(2, generator\)` must return"):
        run(target(prior_sample=draw))


def test_target_takes_no_other_base():
    with pytest.raises(ArgumentError, match="neither arguments nor another base"):
        run(target(), base="normal")
    with pytest.raises(ArgumentError, match="neither arguments nor another base"):
        run(target(), Y)


def test_target_that_is_nan_names_the_function():
    broken = target(log_likelihood=lambda x: x.log().sum(-1))
    with pytest.warns(NonFiniteEnergyWarning, match="`log_likelihood` is not finite there"):
        result = run(broken)
    # Neither has a target another base, nor is it in single precision.
    (doubt,) = [doubt for doubt in result.doubts if "not finite" in doubt]
    assert "base=" not in doubt


# Data that arrive.


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([], "must name at least one number"),
        ([5, 5], "`sizes` must increase; got 5 after 5"),
        ([0, 5], "`sizes` must be at least 1"),
    ],
)
def test_sizes_that_do_not_increase(sizes, message):
    with pytest.raises(ArgumentError, match=message):
        DataTempering(sizes)


def test_sizes_that_are_no_integers():
    with pytest.raises(ArgumentTypeError, match="`sizes` must be an integer"):
        DataTempering([2.0, 5.0])


@pytest.mark.parametrize("ess", [0.0, 1.0])
def test_share_of_data_tempering(ess):
    with pytest.raises(ArgumentError, match=r"`ess` must lie in \(0, 1\)"):
        DataTempering([5], ess=ess)


def test_sizes_that_no_argument_has():
    with pytest.raises(ArgumentError, match="`sizes` ends with 11, but no tensor"):
        run(conjugate, Y, schedule=DataTempering([5, 11]))


def test_latents_that_change_with_the_data():
    def model(y):
        with pyro.plate("data", len(y)):
            m = pyro.sample("m", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    with pytest.raises(ModelError, match=r"'m' changes with the number of observations"):
        run(model, Y, schedule=DataTempering([6, 12]))


def test_data_tempering_of_a_target():
    with pytest.raises(ArgumentError, match="needs a Pyro model"):
        run(target(), schedule=DataTempering([6, 12]))


# Results.


def test_more_draws_than_walkers():
    result = run(conjugate, Y)
    assert result.get_samples(128)["m"].shape == (128,)
    with pytest.raises(ArgumentError, match=r"`num_samples` must be at most 128.*got 129"):
        result.get_samples(129)
    with pytest.raises(ArgumentError, match=r"`num_samples` must be at most 64.*got 65"):
        result.get_samples(65, group_by_chain=True)
