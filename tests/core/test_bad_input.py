"""Wrong arguments and wrong energies: each error names what came and what to do."""

import math

import pytest
import torch

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.evaluation import CombinedEnergy, evaluate
from pyro_jarzynski.core.gradients import grade
from pyro_jarzynski.core.hamiltonian import HMC, UnderdampedLangevin
from pyro_jarzynski.core.kernels import MALA, ULA
from pyro_jarzynski.core.metric import metric
from pyro_jarzynski.core.paths import Tempering
from pyro_jarzynski.core.resampling import residual
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.walkers import init
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    EnergyError,
    JarzynskiError,
)
from tests.scenarios import FLOAT, mild_path
from tests.seeds import seeded

PATH = mild_path()
KERNELS = (ULA, MALA, HMC, UnderdampedLangevin)


@pytest.fixture
def walkers(generator):
    return init(PATH.draw(8, generator), PATH[0])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("value", [0, 0.0, -0.1, math.nan, math.inf])
def test_step_size_value(kernel, value):
    with pytest.raises(ArgumentError, match=f"`step_size` must be.*got {value!r}"):
        kernel(step_size=value)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("value", [True, "0.1", None])
def test_step_size_type(kernel, value):
    with pytest.raises(ArgumentTypeError, match=f"`step_size` must be.*got {value!r}"):
        kernel(step_size=value)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ULA(0.1, temperature=0.0), "temperature"),
        (lambda: ULA(0.1, temperature=-1.0), "temperature"),
        (lambda: MALA(0.1, target_acceptance=1.5), "target_acceptance"),
        (lambda: HMC(0.1, num_leapfrog=0), "num_leapfrog"),
        (lambda: HMC(0.1, target_acceptance=-0.1), "target_acceptance"),
        (lambda: UnderdampedLangevin(0.1, friction=-1.0), "friction"),
        (lambda: UnderdampedLangevin(0.1, friction=math.nan), "friction"),
    ],
)
def test_kernel_setting(make, name):
    with pytest.raises(ArgumentError, match=f"`{name}` must"):
        make()


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ({"ess_threshold": -0.1}, ArgumentError, r"`ess_threshold` must lie in \[0, 1\]"),
        ({"ess_threshold": 1.1}, ArgumentError, r"must lie in \[0, 1\], got 1.1"),
        ({"ess_threshold": math.nan}, ArgumentError, r"must lie in \[0, 1\], got nan"),
        ({"ess_threshold": "half"}, ArgumentTypeError, "`ess_threshold` must be a number"),
        ({"num_moves": 0}, ArgumentError, "`num_moves` must be at least 1, got 0"),
        ({"num_moves": 1.0}, ArgumentTypeError, "`num_moves` must be an integer"),
        ({"resampler": "none"}, ArgumentError, "`resampler` must be one of multinomial"),
    ],
)
def test_setting_of_run(setting, error, message, walkers, generator):
    with pytest.raises(error, match=message):
        smc.run(walkers, PATH, ULA(0.1), generator=generator, **setting)


@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_chunk_size(value, walkers, generator):
    with pytest.raises(JarzynskiError, match="chunk_size"):
        smc.run(walkers, PATH, ULA(0.1), generator=generator, chunk_size=value)


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([], "at least two numbers"),
        ([0.0], "at least two numbers"),
        ([0.1, 1.0], "the first 0 and the last 1"),
        ([0.0, 0.9], "the first 0 and the last 1"),
        ([0.0, 0.6, 0.5, 1.0], "number 2 is 0.5 after 0.6"),
        ([0.0, 0.5, 0.5, 1.0], "number 2 is 0.5 after 0.5"),
        ([0.0, math.nan, 1.0], "must increase; number 1 is nan"),
    ],
)
def test_betas(betas, message):
    with pytest.raises(ArgumentError, match=message):
        Tempering(PATH[0], PATH[1], betas)


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (lambda x: x.square(), r"expected shape \(8,\), got \(8, 2\)"),
        (lambda x: x.square().sum(1, keepdim=True), r"got \(8, 1\)"),
        (lambda x: x.square().sum(), r"got \(\); sum over the event dimensions"),
        (lambda x: x.square().sum(1).tolist(), r"tensor of shape \(8,\).*got list"),
        (
            lambda x: x.detach().square().sum(1),
            "torch can differentiate; look for `detach`",
        ),
        (lambda x: torch.zeros(8, dtype=FLOAT), "do not depend on the positions"),
    ],
)
@pytest.mark.parametrize("tempered", [False, True])
def test_wrong_energy(energy, message, tempered, generator):
    path = Tempering(energy, energy, [0, 1]) if tempered else [energy]
    with pytest.raises(EnergyError, match=message):
        init(PATH.draw(8, generator), path[0])


@pytest.mark.parametrize(
    ("position", "error", "message"),
    [
        ([1.0, 2.0], ArgumentTypeError, "must be a tensor, or a .* dictionary.*got list"),
        ({}, ArgumentTypeError, "non-empty dictionary"),
        ({"a": 1.0}, ArgumentTypeError, "dictionary of tensors"),
        (torch.zeros(()), ArgumentError, "at least 1, along dimension 0"),
        (torch.zeros((0, 2)), ArgumentError, r"got sizes \[0\]"),
        (
            {"a": torch.zeros(3), "b": torch.zeros(4)},
            ArgumentError,
            r"same number of walkers.*got sizes \[3, 4\]",
        ),
    ],
)
def test_wrong_position(position, error, message):
    with pytest.raises(error, match=message):
        init(position, PATH[0])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "covariance",
    [
        torch.tensor([1.0, 0.0], dtype=FLOAT),
        torch.tensor([1.0, -1.0], dtype=FLOAT),
        torch.tensor([1.0, math.nan], dtype=FLOAT),
        torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=FLOAT),
    ],
)
def test_preconditioner_that_is_not_positive(kernel, covariance, walkers, generator):
    with pytest.raises(ArgumentError, match="`preconditioner` must be positive"):
        smc.step(
            walkers,
            PATH[1],
            kernel(0.1, preconditioner=covariance),
            tools=Tools(generator),
        )


@pytest.mark.parametrize("covariance", [torch.ones(3), torch.eye(3), torch.ones(())])
def test_preconditioner_of_the_wrong_shape(covariance, walkers, generator):
    kernel = ULA(0.1, preconditioner=covariance.to(FLOAT))
    with pytest.raises(ArgumentError, match=r"shape of the event, \(2,\)"):
        smc.step(walkers, PATH[1], kernel, tools=Tools(generator))


def test_preconditioner_matrix_must_be_symmetric(walkers, generator):
    lopsided = torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=FLOAT)
    with pytest.raises(ArgumentError, match="symmetric positive definite"):
        smc.step(walkers, PATH[1], ULA(0.1, lopsided), tools=Tools(generator))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_moves": 0}, "`num_moves` must be at least 1"),
        ({"ess_threshold": 7}, r"`ess_threshold` must lie in \[0, 1\]"),
        ({"resampler": "unfair"}, "`resampler` must be one of"),
    ],
    ids=str,
)
def test_settings_of_a_step(kernel, settings, message, walkers, generator):
    with pytest.raises(ArgumentError, match=message):
        smc.step(walkers, PATH[1], kernel(0.1), tools=Tools(generator), **settings)


def test_a_step_takes_the_name_of_a_resampler(walkers):
    named, given = (
        smc.step(
            walkers,
            PATH[1],
            ULA(0.1),
            ess_threshold=1.0,
            resampler=resampler,
            tools=Tools(seeded(3)),
        )
        for resampler in ("residual", residual)
    )
    assert named[1].resampled
    assert torch.equal(named[0].position, given[0].position)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (8, 1)])
def test_log_weight_of_the_wrong_shape(shape, generator):
    with pytest.raises(JarzynskiError, match="log_weight"):
        init(PATH.draw(8, generator), PATH[0], log_weight=torch.zeros(shape, dtype=FLOAT))


def test_a_path_without_energies(walkers):
    with pytest.raises(ArgumentError, match="`path` must have at least one energy"):
        smc.run(walkers, [], MALA(0.1))


def test_a_metric_of_walkers_in_several_tensors(generator):
    """A tree of positions has no covariance."""
    x = {"a": torch.randn(8, 2, generator=generator), "b": torch.zeros(8, 1)}
    cloud = init(x, lambda x: x["a"].square().sum(1) + x["b"].square().sum(1))
    with pytest.raises(ArgumentTypeError, match="needs positions that are one tensor"):
        metric(cloud)


def test_terms_that_all_count_nothing(generator):
    """At coefficients of zero the energy is flat, wherever the terms are infinite."""
    x = torch.randn(8, 2, generator=generator)
    terms = lambda x: (x.square().sum(1), x[:, 0] * torch.inf)  # noqa: E731
    found = evaluate(CombinedEnergy(terms, (0.0, 0.0)), x)
    assert not found.energy.any()
    assert not found.grad.any()
    assert len(found.terms) == 2


def test_a_term_that_depends_on_nothing_has_no_slope(generator):
    x = torch.randn(8, 2, generator=generator)
    constant, slanted = grade(lambda x: (torch.ones(len(x)), x.sum(1)), x)
    assert not constant.grad.any()
    assert (slanted.grad == 1).all()
