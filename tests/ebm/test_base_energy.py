"""The energy of a base in few passes is that of the distribution, with its derivatives."""

import pyro.distributions as dist
import pytest
import torch
from torch.autograd.functional import hessian

import pyro_jarzynski as pj
from pyro_jarzynski.core.evaluation import evaluate
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.ebm.base_energy import NormalEnergy, energy_of

NOISE = stream(0, "bases and points")


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=NOISE)


BASES = {
    "one scale": dist.Normal(0.0, 1.5).expand([3]).to_event(1),
    "images": dist.Normal(noise(2, 3, 4), 0.7).to_event(3),
    "several scales": dist.Normal(noise(5), noise(5).exp()).to_event(1),
    "a number": dist.Normal(1.0, 2.0),
}


@pytest.mark.parametrize("name", BASES)
def test_normal_energy_is_minus_the_log_density(name):
    base = BASES[name]
    energy = energy_of(base)
    assert isinstance(energy, NormalEnergy)
    x = (3 * noise(7, *base.event_shape)).requires_grad_()
    expected = -base.log_prob(x)
    torch.testing.assert_close(energy(x), expected)
    slopes = (torch.autograd.grad(value.sum(), x)[0] for value in (energy(x), expected))
    torch.testing.assert_close(*slopes)
    torch.testing.assert_close(
        torch.func.vmap(lambda row: energy(row[None])[0])(x), expected
    )


def test_normal_energy_has_second_derivatives():
    energy = energy_of(BASES["several scales"])
    curvature = hessian(lambda x: energy(x[None])[0], noise(5))
    scale = BASES["several scales"].base_dist.scale
    torch.testing.assert_close(curvature, scale.square().reciprocal().diag())


def test_other_bases_keep_their_own_density():
    class Shifted(dist.Normal):
        def log_prob(self, value):
            return super().log_prob(value) + 1

    location = torch.zeros(2, requires_grad=True)
    for base in (
        Shifted(torch.zeros(2), 1.0).to_event(1),
        dist.Normal(location, 1.0).to_event(1),
        dist.StudentT(5.0, torch.zeros(2)).to_event(1),
        dist.MultivariateNormal(torch.zeros(2), torch.eye(2)),
    ):
        energy, x = energy_of(base), noise(4, 2)
        assert not isinstance(energy, NormalEnergy)
        torch.testing.assert_close(energy(x), -base.log_prob(x))


def test_the_model_and_its_annealing_use_the_same_energy_of_the_base():
    base = BASES["one scale"]
    model = pj.EnergyModel(pj.MLP([3, 8]), base)
    x = noise(5, 3)
    start = evaluate(model.annealing([0.0, 1.0]).path[0], x)
    assert torch.equal(model(x), start.energy)
