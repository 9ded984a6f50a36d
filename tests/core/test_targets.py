"""Evidence, moments and gradients of laws that are not Gaussian."""

import math

import pytest
import torch

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.kernels import MALA, ULA
from pyro_jarzynski.core.paths import Tempering
from pyro_jarzynski.core.walkers import init
from tests.identities import Z_ONE, Z_THREE, z_score
from tests.scenarios import FLOAT, PLANE_TARGETS, gaussian_bernoulli_rbm
from tests.seeds import seeded


def ramp(num_steps):
    return [k / num_steps for k in range(num_steps + 1)]


def temper(target, kernel, *, num, dims, num_steps, scale=1.0, seed=0, threshold=0.0):
    """Temper draws of a normal law of some scale into a target."""
    generator = seeded(seed)
    position = scale * torch.randn((num, dims), dtype=FLOAT, generator=generator)
    path = Tempering(lambda x: x.square().sum(1) / (2 * scale**2), target, ramp(num_steps))
    log_normalizer = dims * (math.log(2 * math.pi) / 2 + math.log(scale))
    walkers = init(position, path[0], log_normalizer=log_normalizer)
    return smc.run(walkers, path, kernel, ess_threshold=threshold, generator=generator)[0]


@pytest.mark.parametrize(
    ("name", "kernel"),
    [*((name, MALA(0.15)) for name in PLANE_TARGETS), ("ring", ULA(0.2))],
)
def test_plane_targets(name, kernel):
    """False alarms: 1e-4 for the largest of three z, of independent weights."""
    target = PLANE_TARGETS[name]
    walkers = temper(
        target.energy, kernel, num=4000, dims=2, num_steps=60, scale=2.5, seed=1
    )
    log_start = walkers.log_banked - target.log_normalizer
    ratio = (walkers.log_weight + log_start).exp()
    squares = walkers.position.square() - torch.tensor(target.second_moment, dtype=FLOAT)
    scores = [z_score(ratio, 1), *(z_score(ratio * s, 0) for s in squares.T)]
    assert max(map(abs, scores)) < Z_THREE


@pytest.fixture(scope="module", params=[ULA(0.2), MALA(0.3)], ids=["ULA", "MALA"])
def rbm_walkers(request):
    rbm = gaussian_bernoulli_rbm()
    return temper(rbm.energy, request.param, num=2000, dims=10, num_steps=100, seed=2)


def test_rbm_evidence(rbm_walkers):
    """False alarms: 1e-4."""
    rbm = gaussian_bernoulli_rbm()
    log_start = rbm_walkers.log_banked - rbm.log_normalizer
    ratio = (rbm_walkers.log_weight + log_start).exp()
    assert abs(z_score(ratio, 1)) < Z_ONE
    error = rbm_walkers.log_normalizer - rbm.log_normalizer
    assert abs(error) < 4 * rbm_walkers.log_normalizer_error


def test_rbm_gradients(rbm_walkers):
    """Of 76 parameters, by z of the unbiased form `e^A (∂U - E ∂U)`.

    False alarms: 1e-4 for the largest of 76 z.
    """
    rbm = gaussian_bernoulli_rbm()
    ratio = rbm_walkers.weight * len(rbm_walkers.weight)
    terms = rbm.gradient_terms(rbm_walkers.position)
    for found, true in zip(terms, rbm.gradients(), strict=True):
        excess = ratio.reshape(-1, *(1,) * true.ndim) * (found - true)
        scores = excess.mean(0) / (excess.std(0) / math.sqrt(len(ratio)))
        assert scores.abs().max() < 4.85


def test_rbm_evidence_with_resampling():
    """False alarms: 4.2 standard errors of the genealogy; 1e-4 with their own spread."""
    rbm = gaussian_bernoulli_rbm()
    walkers = temper(
        rbm.energy, ULA(0.2), num=2000, dims=10, num_steps=100, seed=3, threshold=0.9
    )
    error = walkers.log_normalizer - rbm.log_normalizer
    assert walkers.ancestor.unique().numel() < 2000
    assert abs(error) < 4.2 * walkers.log_normalizer_error
