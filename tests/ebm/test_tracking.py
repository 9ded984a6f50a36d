"""The audit's `log Z` is right, whatever changes the parameters."""

import pytest
import torch

from pyro_jarzynski import (
    MALA,
    ULA,
    LikelihoodTracker,
    PersistentContrastiveDivergence,
    UnderdampedLangevin,
)
from tests.ebm.models import FLOAT, mixture_data, mixture_learner, start_mixture

KERNELS = {"ULA": ULA(0.1), "MALA": MALA(0.5), "UL": UnderdampedLangevin(0.4)}
# |z| < 4 fails by chance with probability 6.3e-5.
LIMIT, CLOSE = 4.0, 0.1


def agrees(estimate, error, model):
    difference = abs(estimate - float(model.log_normalizer()))
    assert 0 < error < CLOSE
    assert difference < LIMIT * error
    assert difference < CLOSE


@pytest.mark.parametrize("dimension", [2, 5])
@pytest.mark.parametrize("name", KERNELS)
def test_audit_knows_log_normalizer_after_training(name, dimension):
    """False alarms: 6.3e-5 each, a z of 4."""
    model = start_mixture(dimension)
    before = float(model.log_normalizer())
    learner = mixture_learner(
        model=model, kernel=KERNELS[name], num_walkers=400, audit_walkers=1500
    )
    learner.fit(mixture_data(dimension=dimension), 200, batch_size=None)
    # A model that has hardly moved would show nothing.
    assert abs(float(model.log_normalizer()) - before) > 0.3
    agrees(learner.log_normalizer, learner.log_normalizer_error, model)


def test_audit_knows_the_likelihood_beside_persistent_contrastive_divergence():
    """False alarms: 6.3e-5, a z of 4."""
    learner = mixture_learner(PersistentContrastiveDivergence, audit_walkers=1500)
    learner.fit(mixture_data(), 200, batch_size=50)
    agrees(learner.log_normalizer, learner.log_normalizer_error, learner.model)


@pytest.mark.parametrize("name", KERNELS)
def test_tracker_follows_any_loop(name):
    """False alarms: 6.3e-5 each, a z of 4."""
    model = start_mixture()
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.5)
    goal = torch.tensor([[2.0, 0.0, 0.5], [-1.0, 1.0, 0.0]], dtype=FLOAT)
    tracker = LikelihoodTracker(model, num_walkers=1500, kernel=KERNELS[name], seed=4)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (model.means - goal).square().sum() + (model.free_z - 0.7).square().sum()
        loss.backward()
        optimizer.step()
        tracker.update()
    agrees(tracker.log_normalizer, tracker.log_normalizer_error, model)


def test_likelihood_is_energy_plus_log_normalizer():
    learner = mixture_learner()
    learner.fit(mixture_data(), 5, batch_size=None)
    x = mixture_data(40, seed=1)
    energies = learner.model(x).detach()
    found = learner.nll(x)
    assert found.nll == pytest.approx(float(energies.mean()) + learner.log_normalizer)
    assert found.log_normalizer_error == learner.log_normalizer_error
    assert found.data_error == pytest.approx(float(energies.std()) / 40**0.5)
    expected = -energies - learner.log_normalizer
    torch.testing.assert_close(learner.audit.log_prob(x), expected)


def test_tracker_leaves_model_and_gradients_alone():
    model = start_mixture()
    model.means.grad = torch.ones_like(model.means)
    tracker = LikelihoodTracker(model, num_walkers=20)
    before = model.means.detach().clone()
    tracker.update()
    assert torch.equal(model.means, before)
    assert torch.equal(model.means.grad, torch.ones_like(before))


def test_error_of_the_mean_over_one_datum_is_unknown():
    tracker = LikelihoodTracker(start_mixture(), num_walkers=20)
    assert tracker.nll(mixture_data(2)[:1]).data_error == float("inf")


def test_samples_are_weighted_draws_and_repeat():
    """False alarms: 1e-4 for the largest of six z of 4.3."""
    model = start_mixture()
    learner = mixture_learner(model=model, num_walkers=100, audit_walkers=4000)
    learner.fit(mixture_data(), 100, batch_size=None)
    draws = learner.sample(3000, seed=1)
    assert torch.equal(draws, learner.sample(3000, seed=1))
    assert not torch.equal(draws, learner.sample(3000, seed=2))
    assert not torch.equal(learner.sample(3000), learner.sample(3000))
    assert (draws[:, None] == learner.audit.cloud.position).all(-1).any(-1).all()
    mean = model.masses() @ model.means.detach()
    size = learner.audit.ess / 2
    # Any part of the draws is a sample as well, in spite of sorted ancestors.
    for part in (draws, draws[:1000]):
        z = (part.mean(0) - mean) / part.std(0) * min(size, len(part)) ** 0.5
        assert z.abs().max() < 4.3
