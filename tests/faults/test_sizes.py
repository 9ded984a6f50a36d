"""Numbers of walkers, coordinates and temperatures that are the least, or do not divide."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski import HMC, MALA, ULA, Tempering, UnderdampedLangevin, init
from pyro_jarzynski import run as run_walkers
from pyro_jarzynski.errors import AuditWarning, WalkerMemoryError
from tests.ebm.models import FLOAT, mixture_data, mixture_learner
from tests.infer.batches import conjugate, run

KERNELS = [ULA(0.05), MALA(0.3), HMC(0.3), UnderdampedLangevin(0.2)]
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)


def spring(stiffness):
    return lambda x: stiffness * x.square().sum(1) / 2


def start(num, dimension, dtype=FLOAT):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, dimension, generator=generator, dtype=dtype), generator


@every_kernel
@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_one_walker(kernel, threshold):
    """Its evidence is its weight, and to resample it changes nothing."""
    position, generator = start(1, 2)
    path = Tempering(spring(1.0), spring(2.0), [0, 0.5, 1])
    walkers, infos = run_walkers(
        init(position, path[0]), path, kernel, ess_threshold=threshold, generator=generator
    )
    assert all(info.ess == 1 for info in infos)
    assert math.isfinite(walkers.log_normalizer)
    assert walkers.position.shape == (1, 2)


def test_evidence_of_single_walkers_is_unbiased():
    """`E[Ẑ] = ½` over 20,000 islands of one walker.

    False alarms: 1e-4, at 3.9 standard errors; the weights lie in [0, 1].
    """
    position, generator = start(20_000, 2)
    path = Tempering(spring(1.0), spring(2.0), [0, 0.5, 1])
    walkers = init(position, path[0], num_islands=20_000)
    walkers, _ = run_walkers(walkers, path, MALA(0.5), generator=generator)
    ratio = walkers.log_normalizer.exp()
    error = float(ratio.std()) / math.sqrt(20_000)
    assert abs(float(ratio.mean()) - 0.5) < 3.9 * error


@every_kernel
def test_no_temperature_returns_the_start(kernel):
    position, generator = start(8, 2)
    walkers = init(position, spring(1.0), log_normalizer=0.25)
    moved, infos = run_walkers(walkers, [spring(1.0)], kernel, generator=generator)
    assert infos == []
    assert torch.equal(moved.position, position)
    assert float(moved.log_normalizer) == 0.25


def test_one_temperature_is_importance_sampling():
    position, generator = start(50, 2)
    path = Tempering(spring(1.0), spring(2.0), [0, 1])
    walkers, (info,) = run_walkers(
        init(position, path[0]), path, MALA(0.3), ess_threshold=0.0, generator=generator
    )
    expected = -position.square().sum(1) / 2
    torch.testing.assert_close(info.log_weight, expected, rtol=0, atol=1e-12)
    assert torch.equal(walkers.log_weight, info.log_weight)


def test_one_temperature_and_one_coordinate_of_a_model():
    """False alarms: 1e-4 and less, at five standard errors of 4,000 walkers."""
    data = torch.tensor([0.5, -0.2, 0.4])
    settings = {"schedule": [0.0, 1.0], "adapt": "off", "kernel": MALA(0.2)}
    result = run(conjugate, data, num_walkers=1000, num_chains=4, **settings)
    covariance = 4 * torch.ones(3, 3) + torch.eye(3)
    law = torch.distributions.MultivariateNormal(torch.zeros(3), covariance)
    assert abs(result.log_evidence - float(law.log_prob(data))) < 0.1


@pytest.mark.parametrize("kernel", [ULA(1e-3), MALA(1e-3)], ids=["ULA", "MALA"])
def test_a_hundred_thousand_coordinates(kernel):
    """`log Z = -5 log(1.0001) 10⁴` to five standard errors of the estimate."""
    dimension, stiffness = 100_000, 1.0001
    position, generator = start(8, dimension, torch.float32)
    path = Tempering(spring(1.0), spring(stiffness), [0, 0.5, 1])
    walkers, _ = run_walkers(
        init(position, path[0]), path, kernel, ess_threshold=0.0, generator=generator
    )
    truth = -dimension / 2 * math.log(stiffness)
    error = float(walkers.log_weight.std()) / math.sqrt(8)
    assert abs(float(walkers.log_normalizer) - truth) < 5 * error + 0.01


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_walkers_blocks_and_chunks_that_do_not_divide(chunk_size):
    learner = mixture_learner(
        num_walkers=37, audit_walkers=23, walker_batch_size=8, chunk_size=chunk_size
    )
    learner.fit(mixture_data(31), 12, batch_size=7, eval_every=5)
    assert learner.cloud.position.shape == (37, 3)
    assert sum(block.num_walkers for block in learner.cloud.place.blocks) == 37
    assert learner.history["step"] == [5, 10, 12]
    assert math.isfinite(learner.log_normalizer)


def test_walkers_and_chunks_of_a_model_that_do_not_divide():
    data = torch.tensor([0.5, -0.2, 0.4])
    result = run(conjugate, data, num_walkers=37, num_chains=3, chunk_size=10)
    assert result.get_samples()["m"].shape == (111,)


def test_no_data():
    """The posterior is the prior, and the evidence one, exactly."""

    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, 1.0).expand([len(y)]).to_event(1), obs=y)

    assert run(model, torch.zeros(0)).log_evidence == 0


def test_one_walker_that_trains_and_one_that_audits():
    learner = mixture_learner(num_walkers=1, audit_walkers=1)
    with pytest.warns(AuditWarning, match="almost all audit walkers descend from one"):
        learner.fit(mixture_data(10), 3)
    assert learner.num_steps == 3


HUGE = 10**12


def test_more_walkers_than_memory_holds():
    told = rf"{HUGE} walkers at once do not fit into memory .*take fewer walkers"
    with pytest.raises(WalkerMemoryError, match=told):
        mixture_learner(num_walkers=HUGE)
    with pytest.raises(MemoryError, match=told):
        run(conjugate, torch.zeros(3), num_walkers=HUGE, num_chains=1)


class Greedy:
    """An energy that finds memory for so many walkers at once, and no more."""

    def __init__(self, most):
        self.most = most

    def __call__(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return spring(1.0)(x)


def test_an_energy_that_takes_too_much_memory_names_the_chunk_size():
    """And with smaller chunks it runs, with the numbers of one that takes little."""
    position, _ = start(40, 2)

    def carried(energy, chunk_size):
        generator = torch.Generator().manual_seed(1)
        walkers = init(position, energy, chunk_size=chunk_size)
        path = [energy] * 3
        return run_walkers(
            walkers, path, MALA(0.3), generator=generator, chunk_size=chunk_size
        )[0]

    with pytest.raises(
        WalkerMemoryError, match=r"40 walkers at once .*out of memory.*by `chunk_size`"
    ):
        carried(Greedy(16), None)
    found, expected = carried(Greedy(16), 16), carried(spring(1.0), 16)
    assert torch.equal(found.position, expected.position)
