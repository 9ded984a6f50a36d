"""Models, bases and settings that cannot be used, and what the errors say."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_jarzynski import MALA, ULA, AnnealedSMC, DataTempering, Target
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    EnergyError,
    ModelError,
    NonFiniteEnergyError,
    NonFiniteEnergyWarning,
    WeightCollapseError,
)
from tests.infer.zoo import LINE, X, Y, noise

FEW = {"num_walkers": 64, "num_chains": 2, "progress": False}
# Evidence of `conjugate` with the data `Y`.
TRUTH = float(dist.MultivariateNormal(torch.zeros(12), torch.eye(12) + 4.0).log_prob(Y))


def run(model, *args, **settings):
    return AnnealedSMC(model, **{**FEW, **settings}).run(*args)


def conjugate(y):
    m = pyro.sample("m", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def observe(mean, y):
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


# Models.


def test_subsampled_plate():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y), subsample_size=5) as rows:
            pyro.sample("y", dist.Normal(m, 1.0), obs=y[rows])

    with pytest.raises(ModelError, match=r"plate 'data' is subsampled \(5 of 12\)"):
        run(model, Y)


def test_discrete_latent_without_end():
    def model(y):
        k = pyro.sample("k", dist.Poisson(3.0))
        observe(k, y)

    with pytest.raises(ModelError, match=r"'k' \(Poisson\) is discrete and cannot be enum"):
        run(model, Y)


def test_sequential_enumeration():
    def model(y):
        k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "sequential"})
        observe(k, y)

    with pytest.raises(ModelError, match=r"'k' asks for enumeration 'sequential'"):
        run(model, Y)


def test_discrete_latent_used_as_a_number():
    """Summed out, a discrete latent has all of its values at once."""

    def model(y):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        observe(m + [0.0, 2.0][int(k)], y)

    with pytest.raises(ModelError, match="enumerat"):
        run(model, Y)


def improper(y):
    support = dist.constraints.real
    m = pyro.sample("m", dist.ImproperUniform(support, (), ()))
    observe(m, y)


def test_improper_prior_cannot_be_drawn():
    with pytest.raises(ModelError, match=r"'m' has an improper prior.*base=\"normal\""):
        run(improper, Y)


def test_improper_prior_from_another_base():
    """The posterior is normal; 4 standard errors of mean and of variance: 1e-4."""
    result = run(improper, Y, base="normal", num_walkers=2000)
    m = result.get_samples()["m"].double()
    error = math.sqrt(1 / len(Y) / 4000)
    assert abs(float(m.mean() - Y.mean())) < 4 * 2 * error
    assert float(m.var()) * len(Y) == pytest.approx(1, abs=4 * 2 * math.sqrt(2 / 4000))
    flat = dist.Normal(Y.mean(), math.sqrt(1 / len(Y)))
    truth = float(dist.Normal(Y.mean(), 1.0).log_prob(Y).sum() - flat.log_prob(Y.mean()))
    assert abs(result.log_evidence - truth) < 5 * result.log_evidence_error + 0.01


def test_latent_without_density():
    def model(y):
        m = pyro.sample("m", dist.Delta(torch.tensor(1.0)))
        observe(m, y)

    with pytest.raises(ModelError, match=r"'m' has a Delta distribution"):
        run(model, Y)


@pytest.mark.filterwarnings("ignore:Singular sample:UserWarning")
def test_support_without_a_bijection():
    def model(y):
        law = dist.Wishart(torch.tensor(9.0), torch.eye(2))
        cov = pyro.sample("cov", law)
        observe(cov[0, 0], y)

    with pytest.raises(ModelError, match=r"'cov' has support .*no bijection"):
        run(model, Y)


def test_improper_prior_without_a_bijection():
    def model(y):
        support = dist.constraints.positive_definite
        cov = pyro.sample("cov", dist.ImproperUniform(support, (), (2, 2)))
        observe(cov[0, 0], y)

    with pytest.raises(ModelError, match=r"'cov' has support .*no bijection"):
        run(model, Y, base="normal")


def test_hidden_randomness():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        observe(m + torch.randn(()), y)

    with pytest.raises(ModelError, match=r"draws random numbers outside its sample sites"):
        run(model, Y)


def test_dropout_that_is_on():
    dropout = nn.Dropout(0.5)

    def model(x, y):
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        observe(dropout(x) @ b, y)

    with pytest.raises(ModelError, match=r"switch dropout off with `\.eval\(\)`"):
        run(model, X, Y)
    dropout.eval()
    assert run(model, X, Y).complete


def test_latents_that_come_and_go():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        if m > 0:
            m = m + pyro.sample("extra", dist.Normal(0.0, 1.0))
        observe(m, y)

    with pytest.raises(ModelError, match=r"'extra' is there in some runs .* not in others"):
        run(model, Y)


def test_latents_that_come_and_go_rarely():
    """Not met when the model is analysed, but by the walkers."""

    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        if m > 2.5:
            m = m + pyro.sample("extra", dist.Normal(0.0, 1.0))
        observe(m, y)

    with (
        pytest.warns(UserWarning, match="one walker at a time"),
        pytest.raises(ModelError, match=r"'extra' that it did not have before"),
    ):
        run(model, Y + 4)


def test_latent_of_changing_shape():
    def model(y):
        k = pyro.sample("k", dist.Normal(torch.zeros(num.pop()), 1.0).to_event(1))
        observe(k.sum(), y)

    num = [5, 4, 3]
    with pytest.raises(ModelError, match=r"'k' changes its shape .* \(3,\) to \(4,\)"):
        run(model, Y)


def test_observation_outside_of_its_support():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("count", dist.Poisson(m.exp()), obs=y)

    with pytest.raises(ModelError, match=r"(?s)cannot be run with these data.*'count'"):
        run(model, Y)


def test_observation_that_is_nan():
    y = Y.clone()
    y[3] = math.nan
    with pytest.raises(ModelError, match=r"(?s)cannot be run with these data.*'y'"):
        run(conjugate, y)


def test_plate_of_no_data():
    with pytest.raises(ModelError, match="cannot be run with these data"):
        run(conjugate, torch.empty(0))


def test_argument_that_is_nan():
    def model(x, y):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        observe(b * x, y)

    x = LINE.clone()
    x[3] = math.nan
    with pytest.raises(ModelError, match=r"cannot be run with these data.* parameter loc"):
        run(model, x, Y)


def with_a_hole(low, high):
    """Return a model whose likelihood is NaN between two values of its latent."""

    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.factor("hole", torch.where((m > low) & (m < high), math.nan, 0 * m))
        observe(m, y)

    return model


def test_nan_at_many_draws_of_the_prior():
    with pytest.raises(
        NonFiniteEnergyError, match=r"not finite at \d+ of 64 draws .*site 'hole'"
    ):
        run(with_a_hole(-1.0, 0.0), Y)


def test_nan_at_few_draws_of_the_prior():
    with pytest.warns(NonFiniteEnergyWarning, match=r"site 'hole'.*get weight zero"):
        result = run(with_a_hole(2.0, 2.05), Y, num_walkers=1000)
    m = result.get_samples()["m"]
    assert not ((m > 2.0) & (m < 2.05)).any()


def test_root_of_a_negative_number():
    """A likelihood that is NaN together with its gradient does not spoil the prior."""

    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.factor("root", (m + 1).sqrt())
        observe(m, y)

    with pytest.raises(NonFiniteEnergyError, match=r"of 64 draws .*site 'root'"):
        run(model, Y)


def test_likelihood_of_zero_everywhere():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.factor("never", torch.where(m < 100, -math.inf, m))
        observe(m, y)

    with pytest.raises(WeightCollapseError, match=r"site 'never' is not finite"):
        run(model, Y)


def test_mask_of_zeros_and_ones_is_no_bool():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with poutine.mask(mask=(y > 0).float()):
            pyro.sample("y", dist.Normal(m, 1.0).expand([12]).to_event(1), obs=y)

    with pytest.raises(ModelError, match="cannot be run with these data"):
        run(model, Y)


def test_arguments_that_do_not_fit_the_model():
    with pytest.raises(TypeError, match="required positional argument"):
        run(conjugate)


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
    with pytest.raises(NonFiniteEnergyError, match="`log_likelihood` is not finite there"):
        run(broken)


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
        ({"chunk_size": "all"}, "`chunk_size` must be an integer"),
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


# Bases.


def two_latents(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, s), obs=y)


def ones(*shape):
    return 1 + torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("gaussian", "`base` must be 'prior', 'normal', a guide.*'gaussian'"),
        ({"m": ones(20)}, "no draws of the latent 's'; it has m"),
        ({}, "no draws of the latent 'm'; it has none"),
        ({"m": ones(20, 2), "s": ones(20)}, r"draws of 'm' of shape \(n.*got \(20, 2\)"),
        ({"m": ones(20), "s": ones(21)}, r"different numbers of draws: \[20, 21\]"),
        ({"m": ones(5), "s": ones(5)}, "needs at least 6 draws .* 2 dimensions, got 5"),
        ({"m": ones(20), "s": -ones(20)}, "draws outside the supports"),
        ({"m": ones(20) * math.nan, "s": ones(20)}, "draws outside the supports"),
    ],
    ids=[
        "unknown name",
        "missing site",
        "no site",
        "wrong shape",
        "different numbers",
        "too few",
        "outside of the support",
        "NaN",
    ],
)
def test_base_that_cannot_be_used(base, message):
    with pytest.raises(ArgumentError, match=message):
        run(two_latents, Y, base=base)


@pytest.mark.parametrize("base", [None, 3, [1.0, 2.0]])
def test_base_of_a_wrong_type(base):
    with pytest.raises(ArgumentTypeError, match=f"got {type(base).__name__}"):
        run(two_latents, Y, base=base)


def test_base_of_lists():
    base = {"m": [0.0] * 20, "s": [1.0] * 20}
    with pytest.raises(ArgumentTypeError, match=r"draws of 'm' .*tensor.* got list"):
        run(two_latents, Y, base=base)


def test_guide_that_is_a_point():
    def guide(y):
        pyro.sample("m", dist.Delta(y.mean()))

    with pytest.raises(ArgumentError, match=r"`base` .*'m'"):
        run(conjugate, Y, base=guide)


def test_base_of_draws_in_double_precision():
    """Draws of NumPy or ArviZ are in double precision, the model is not."""

    def model(x, y):
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        observe(x @ b, y)

    assert run(model, X, Y, base={"b": noise(50, 3).double()}).complete


def test_guide_without_a_latent():
    def guide(y):
        pyro.sample("m", dist.Normal(0.0, 1.0))

    with pytest.raises(ModelError, match="guide without the latent 's'"):
        run(two_latents, Y, base=guide)


def normal_guide(y):
    pyro.sample("m", dist.Normal(y.mean(), 0.5))


def auto_guide():
    with torch.random.fork_rng():
        guide = AutoNormal(conjugate, init_scale=1.0)
        guide(Y)
    return guide


def earlier_draws():
    generator = torch.Generator().manual_seed(1)
    return {"m": Y.mean() + 0.3 * torch.randn(500, generator=generator)}


@pytest.mark.parametrize(
    "make",
    [lambda: "prior", lambda: "normal", lambda: normal_guide, auto_guide, earlier_draws],
    ids=["prior", "normal", "guide", "AutoNormal", "earlier draws"],
)
def test_every_base_gives_the_same_evidence(make):
    """Student's statistic of 7 degrees of freedom: false alarms 1.6e-3 for each base."""
    result = run(conjugate, Y, base=make(), num_walkers=512, num_chains=8)
    pyro.clear_param_store()
    assert result.complete
    assert abs(result.log_evidence - TRUTH) < 5 * result.log_evidence_error + 5e-3


def test_base_may_have_further_sites():
    base = {**earlier_draws(), "other": torch.zeros(3)}
    assert run(conjugate, Y, base=base).complete


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
