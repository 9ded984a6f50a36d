"""Latents, data and arguments of different types of numbers."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski import AnnealedSMC, DataTempering
from pyro_jarzynski.errors import ModelError
from tests.infer.batches import conjugate
from tests.infer.test_zoo_evidence import normal_evidence

Y = torch.tensor([0.5, 1.5, -0.4, 2.0])
FEW = {"num_walkers": 128, "num_chains": 16, "progress": False}
SINGLE, DOUBLE = torch.float32, torch.float64


def mean_of_type(y, dtype):
    m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=dtype), 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@pytest.mark.parametrize("base", ["prior", "normal"])
@pytest.mark.parametrize("of_latents", [SINGLE, DOUBLE])
@pytest.mark.parametrize("of_data", [SINGLE, DOUBLE])
def test_latents_and_data_of_two_types(of_latents, of_data, base):
    """Draws have the type of the latents; beyond 5.5 errors with probability 6e-5."""
    sampler = AnnealedSMC(mean_of_type, base=base, **FEW)
    result = sampler.run(Y.to(of_data), of_latents)
    assert result.get_samples()["m"].dtype == of_latents
    assert result.walkers.position.dtype == of_latents
    truth = normal_evidence(Y, 0.0, 4.0)
    assert abs(result.log_evidence - truth) < 5.5 * result.log_evidence_error


def test_types_that_a_product_does_not_take_are_named():
    def model(x, y):
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x @ b, 1.0).to_event(1), obs=y)

    x = torch.ones(4, 2, dtype=DOUBLE)
    told = (
        r"(?s)one type: .* default, torch.float32; the argument number 0 is torch.float64"
    )
    with pytest.raises(ModelError, match=told):
        AnnealedSMC(model, **FEW).run(x, Y)
    assert AnnealedSMC(model, **FEW).run(x.float(), Y).complete


BETAS = [0.0, 0.1, 0.5, 1.0]


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple], ids=lambda x: x.__name__)
def test_temperatures_of_any_sequence(kind):
    plain = AnnealedSMC(conjugate, schedule=BETAS, **FEW).run(Y)
    found = AnnealedSMC(conjugate, schedule=kind(BETAS), **FEW).run(Y)
    expected = plain if kind is not torch.tensor else None
    assert found.history["beta"].tolist() == pytest.approx(BETAS[1:])
    assert expected is None or found.log_evidence == expected.log_evidence


def test_numbers_of_observations_of_numpy():
    plain = AnnealedSMC(conjugate, schedule=DataTempering([2, 4]), **FEW).run(Y)
    sizes = np.array([2, 4])
    found = AnnealedSMC(conjugate, schedule=DataTempering(sizes), **FEW).run(Y)
    assert found.log_evidence == plain.log_evidence


@pytest.fixture
def flushed():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormal numbers")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("flushed")
def test_zero_likelihoods_where_denormal_numbers_are_zero():
    def model(y):
        m = pyro.sample("m", dist.Uniform(0.0, 10.0))
        pyro.factor("half", torch.where(m > 5, -math.inf, 0 * m))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    y = torch.tensor([2.5, 3.5])
    result = AnnealedSMC(model, **FEW).run(y)
    # The mass of the law of the mean beyond 0 and 5 is below 1e-2 of its error.
    mean, variance = y.double().mean(), 0.5
    inside = dist.Normal(0.0, 1.0).cdf((torch.tensor([5.0, 0.0]) - mean) / variance**0.5)
    log_density = dist.Normal(0.0, 2**0.5).log_prob(y[1].double() - y[0].double())
    truth = float(log_density) + math.log(float(inside[0] - inside[1]) / 10)
    assert abs(result.log_evidence - truth) < 5.5 * result.log_evidence_error
