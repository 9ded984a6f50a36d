"""Kernels of users, as the documentation has them."""

from dataclasses import dataclass

import pytest
import torch
from pyro.infer import MCMC

import pyro_jarzynski as pj
from pyro_jarzynski.core.noise import normal_like
from pyro_jarzynski.errors import ArgumentTypeError
from tests.infer.batches import conjugate
from tests.infer.test_zoo_evidence import normal_evidence

Y = torch.tensor([0.5, 1.5, -0.4, 2.0])
TRUTH = normal_evidence(Y, 0.0, 4.0)


class RandomWalk(pj.Invariant):
    """Metropolis' own moves, of a length that stays as it is."""

    def move(self, walkers, energy, tools):
        end = walkers.position + 0.8 * normal_like(walkers.position, tools.generator)
        there = pj.evaluate(energy, end, chunk_size=tools.chunk_size)
        ratio = walkers.evaluation.energy - there.energy
        return pj.metropolis(walkers, end, there, ratio, tools)


@dataclass(frozen=True)
class AdaptedWalk(pj.Invariant):
    """The same, of a length that the pilot adapts."""

    step_size: float = 1e-3
    target_acceptance: float | None = 0.4

    def move(self, walkers, energy, tools):
        noise = normal_like(walkers.position, tools.generator)
        end = walkers.position + self.step_size * noise
        there = pj.evaluate(energy, end, chunk_size=tools.chunk_size)
        ratio = walkers.evaluation.energy - there.energy
        return pj.metropolis(walkers, end, there, ratio, tools)


def sampled(kernel, **settings):
    few = {"num_walkers": 128, "num_chains": 16, "progress": False}
    return pj.AnnealedSMC(conjugate, kernel=kernel, **{**few, **settings}).run(Y)


@pytest.mark.parametrize("kernel", [RandomWalk(), AdaptedWalk()], ids=repr)
@pytest.mark.parametrize("settings", [{}, {"waste_free": True, "num_moves": 3}], ids=repr)
def test_evidence_by_a_kernel_of_the_user(kernel, settings):
    """Beyond 5.5 errors of 16 islands with probability 6e-5."""
    result = sampled(kernel, **settings)
    assert abs(result.log_evidence - TRUTH) < 5.5 * result.log_evidence_error
    rates = result.history["acceptance_rate"].mean(1)
    if isinstance(kernel, AdaptedWalk) and not settings:
        assert 0.2 < float(rates[-1]) < 0.6


def test_a_kernel_of_the_user_in_pyros_mcmc():
    kernel = pj.JarzynskiKernel(conjugate, kernel=RandomWalk(), num_walkers=256, seed=0)
    mcmc = MCMC(kernel, 200, warmup_steps=5, disable_progbar=True)
    mcmc.run(Y)
    mean = float(Y.sum() / (len(Y) + 1 / 4))
    assert abs(float(mcmc.get_samples()["m"].mean()) - mean) < 0.25


def test_a_kernel_of_the_user_with_fixed_temperatures_has_the_same_bits_twice():
    settings = {"adapt": "off", "schedule": [0, 0.3, 1], "num_moves": 3}
    first, second = (sampled(RandomWalk(), **settings) for _ in range(2))
    assert torch.equal(first.walkers.position, second.walkers.position)


class NoKernel:
    """It can switch, and says nothing else."""

    def switch(self, walkers, energy, tools, visit=None):
        return walkers


def test_what_a_kernel_lacks_is_named():
    with pytest.raises(
        ArgumentTypeError, match=r"must have `move`, which NoKernel has not"
    ):
        sampled(NoKernel())
