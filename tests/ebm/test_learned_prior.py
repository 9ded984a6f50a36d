"""A prior over latents, learned by SVI: its two modes, and what leave-one-out says of it."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.errors import ArgumentError
from tests.benchmarks.learned_prior import (
    PROBLEMS,
    GaussianPrior,
    Quadrature,
    decaying,
    energy_prior,
    leave_one_out,
    learn,
)
from tests.export.test_energy import elpd
from tests.diagnostics.trees import calls_of_arviz, dataset

PROBLEM = PROBLEMS["line"]
NUM, STEPS = 500, 200
MEANS, MASSES = torch.tensor([[-2.0], [3.0]]), torch.tensor([0.25, 0.75])
NOISE = 0.8


@pytest.fixture(autouse=True)
def _pyro_is_as_it_was():
    pyro.clear_param_store()
    with torch.random.fork_rng():
        yield
    pyro.clear_param_store()


def learned(seed=0):
    """An energy and a Gaussian, learned as priors of the same data, and other data."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x, held_out = (PROBLEM.draw(NUM, generator) for _ in range(2))
    energy, normal = energy_prior(PROBLEM), GaussianPrior(1)
    following = pj.JarzynskiOptim(
        decaying(STEPS, 0.02), energy, num_walkers=512, moves_per_update=2, seed=seed
    )
    for prior, optim in ((energy, following), (normal, decaying(STEPS, 0.02))):
        pyro.clear_param_store()
        learn(PROBLEM, prior, x, optim, steps=STEPS, particles=8)
    return energy, normal, held_out


def test_two_modes_are_recovered_and_preferred():
    quadrature = Quadrature(PROBLEM)
    energy, normal, held_out = learned()
    found = quadrature.prior(lambda z: -energy(z))
    rival = quadrature.prior(normal.distribution().log_prob)
    assert quadrature.mass(found) == pytest.approx(0.3, abs=0.12)
    assert quadrature.location_error(found) < 0.3
    assert quadrature.divergence(found) < 0.12
    assert quadrature.divergence(rival) > 0.35
    with calls_of_arviz():
        priors = {"energy": energy.distribution(), "Gaussian": normal.distribution()}
        loo = leave_one_out(priors, PROBLEM, held_out)
    assert loo["first"] == "energy"
    exact = float(quadrature.marginal(found, held_out).sum())
    assert loo["energy"] == pytest.approx(exact, abs=10)
