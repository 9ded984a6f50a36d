"""Walkers of every dtype, and energies that are too large for theirs."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski import (
    HMC,
    MALA,
    ULA,
    EnergyModel,
    Target,
    Tempering,
    UnderdampedLangevin,
    init,
)
from pyro_jarzynski import run as run_walkers
from pyro_jarzynski.errors import (
    ArgumentTypeError,
    EvidenceWarning,
    ModelError,
    PrecisionWarning,
)
from tests.ebm.models import Shifted, mixture_data, mixture_learner, network_model
from tests.infer.batches import run

KERNELS = [ULA(0.05), MALA(0.3), HMC(0.3), UnderdampedLangevin(0.2)]
EVERY = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def spring(stiffness):
    return lambda x: stiffness * x.square().sum(1) / 2


@pytest.mark.parametrize("dtype", EVERY, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_walkers_of_every_precision(dtype, kernel):
    """`log Z = -log 4`, to 0.1: the standard error is 0.01, rounding of bfloat16 0.02.

    False alarms: below 1e-4, at nine standard errors and more.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4000, 2, generator=generator, dtype=torch.float64).to(dtype)
    path = Tempering(spring(1.0), spring(4.0), [k / 8 for k in range(9)])
    walkers, _ = run_walkers(init(start, path[0]), path, kernel, generator=generator)
    assert walkers.position.dtype == dtype
    assert walkers.log_weight.dtype == torch.float64
    assert abs(float(walkers.log_normalizer) + math.log(4)) < 0.1


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.bool, torch.complex64, torch.uint8], ids=str
)
def test_walkers_that_are_no_real_numbers(dtype):
    with pytest.raises(ArgumentTypeError, match=rf"`position` .* floating.*got {dtype}"):
        init(torch.ones(8, 2).to(dtype), spring(1.0))


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_energies_of_every_precision_train(dtype):
    base = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)),
        1,
    )
    model = EnergyModel(network_model().net.to(dtype), base)
    learner = mixture_learner(model=model)
    learner.fit(mixture_data(50).to(dtype), 5)
    assert learner.cloud.position.dtype == dtype
    assert abs(learner.log_normalizer) < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_posteriors_in_half_precision_are_refused(dtype):
    one = torch.ones((), dtype=dtype)

    def model():
        pyro.sample("m", dist.Normal(0 * one, one))

    with pytest.raises(ModelError, match=rf"latent 'm' is of {dtype}.*torch.float32"):
        run(model)
    target = Target(
        lambda x: -x.square().sum(1) / 2,
        lambda x: -x.square().sum(1) / 2,
        lambda num, generator: torch.randn(num, 2, generator=generator).to(dtype),
    )
    with pytest.raises(ModelError, match=rf"`prior_sample` is of {dtype}"):
        run(target)


@pytest.mark.parametrize(
    ("constant", "dtype"),
    [(1e6, torch.float32), (1e6, torch.float64), (1e8, torch.float64)],
    ids=str,
)
@pytest.mark.parametrize("kernel", KERNELS[1:2], ids=lambda k: type(k).__name__)
def test_weights_are_exact_where_energies_can_be_told_apart(constant, dtype, kernel):
    """Energies `constant + n/4` and `constant + n/4 + 1`, of which the difference is 1."""

    def low(x):
        return constant + x[:, 0].detach().round() / 4 + 0 * x.sum(1)

    start = torch.arange(-20, 20, dtype=dtype)[:, None]
    walkers = init(start, low)
    walkers, (info,) = run_walkers(
        walkers,
        [low, lambda x: low(x) + 1],
        kernel,
        generator=torch.Generator().manual_seed(0),
    )
    assert (info.log_weight == -1).all()
    assert float(walkers.log_normalizer) == pytest.approx(-1, abs=1e-12)


def high(x):
    return 1e8 + x.square().sum(1) / 2


LOST = r"Energies of size 1e\+08 .*steps of 12 nats in torch.float32.*wider dtype"


def test_energies_that_cannot_be_told_apart_are_warned_of():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(100, 2, generator=generator)
    with pytest.warns(PrecisionWarning, match=LOST):
        init(start, high)
    walkers = init(start, spring(1.0))
    with pytest.warns(PrecisionWarning, match=LOST):
        run_walkers(walkers, [spring(1.0), high], MALA(0.1), generator=generator)
    init(start.double(), high)


class High(Shifted):
    def forward(self, x):
        return high(x.float() - self.mean.float())


def test_training_at_such_energies_is_warned_of():
    with pytest.warns(PrecisionWarning):
        learner = mixture_learner(model=High())
    with pytest.warns(PrecisionWarning, match="At update 2: " + LOST):
        learner.fit(mixture_data(20), 4, eval_every=2)


def test_posteriors_at_such_energies_are_doubted():
    def log_likelihood(x):
        return -high(x)

    target = Target(
        lambda x: -x.square().sum(1) / 2 - math.log(2 * math.pi),
        log_likelihood,
        lambda num, generator: torch.randn(num, 2, generator=generator),
    )
    with pytest.warns(EvidenceWarning, match=LOST):
        result = run(target)
    assert result.status == "doubtful"
