"""One update is Algorithm 1 of the paper, in numbers and in cost."""

import pytest
import torch

from pyro_jarzynski import MALA, ULA, GaussianMixtureEnergy
from pyro_jarzynski.core import memory
from pyro_jarzynski.core.noise import normal_like, stream
from tests.ebm.models import FLOAT, mixture_data, mixture_learner, start_mixture

STEP, RATE = 0.1, 0.05


class ByHand:
    """Algorithm 1 with the mixture written out, and no line shared with the package."""

    def __init__(self, model, num_walkers, seed):
        self.means = model.means.detach().clone().requires_grad_()
        self.free_z = model.free_z.detach().clone().requires_grad_()
        self.generator = stream(seed, "training walkers")
        self.x = model.draw(num_walkers, self.generator)
        self.log_weight = torch.zeros(num_walkers, dtype=FLOAT)

    def energy(self, x, means, free_z):
        z = torch.cat([torch.zeros(1, dtype=FLOAT), free_z])
        squares = (x[:, None] - means).square().sum(-1)
        return -(-z - squares / 2).exp().sum(1).log()

    def alpha(self, x, y, theta):
        x = x.clone().requires_grad_()
        energy = self.energy(x, *theta)
        (slope,) = torch.autograd.grad(energy.sum(), x)
        push = ((y - x) * slope).sum(1) / 2 + STEP * slope.square().sum(1) / 4
        return (energy + push).detach(), slope

    def update(self, data):
        theta = self.means, self.free_z
        weight = self.log_weight.exp() / self.log_weight.exp().sum()
        loss = self.energy(data, *theta).mean() - weight @ self.energy(self.x, *theta)
        slopes = torch.autograd.grad(loss, theta)
        new = [
            (p - RATE * g).detach().requires_grad_()
            for p, g in zip(theta, slopes, strict=True)
        ]
        noise = normal_like(self.x, self.generator)
        _, slope = self.alpha(self.x, self.x, theta)
        y = self.x - STEP * slope + (2 * STEP) ** 0.5 * noise
        ahead, _ = self.alpha(self.x, y, theta)
        behind, _ = self.alpha(y, self.x, new)
        self.log_weight = self.log_weight + ahead - behind
        self.x, (self.means, self.free_z) = y, new


def test_updates_are_algorithm_1_written_by_hand():
    model, data = start_mixture(), mixture_data(50)
    hand = ByHand(model, num_walkers=30, seed=3)
    learner = mixture_learner(
        model=model, num_walkers=30, ess_threshold=0.0, seed=3, learning_rate=RATE
    )
    for _ in range(4):
        hand.update(data)
        learner.fit(data, 1, batch_size=None)
        exact = {"rtol": 1e-10, "atol": 1e-10}
        torch.testing.assert_close(model.means.detach(), hand.means.detach(), **exact)
        torch.testing.assert_close(model.free_z.detach(), hand.free_z.detach(), **exact)
        torch.testing.assert_close(learner.cloud.position, hand.x, **exact)
        torch.testing.assert_close(
            learner.cloud.walkers.log_weight, hand.log_weight, **exact
        )
    assert hand.log_weight.std() > 1e-3


class Backward(torch.autograd.Function):
    """The identity, counting how often gradients pass back through it."""

    @staticmethod
    def forward(ctx, values, calls):
        ctx.calls = calls
        return values.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.calls.append(len(grad))
        return grad, None


class Counting(GaussianMixtureEnergy):
    """A mixture that writes down the rows of every pass."""

    def __init__(self):
        start = start_mixture()
        super().__init__(start.means.detach(), start.z.detach())
        self.forwards, self.backwards = [], []

    def forward(self, x):
        self.forwards.append(len(x))
        return Backward.apply(super().forward(x), self.backwards)


def passes_of_one_update(kernel, moves):
    """Return forward and backward passes by walkers, audit walkers and batch."""
    model = Counting()
    learner = mixture_learner(
        model=model, kernel=kernel, moves_per_update=moves, num_walkers=41, audit_walkers=23
    )
    data = mixture_data(10)
    learner.fit(data, 1, batch_size=None)
    model.forwards.clear()
    model.backwards.clear()
    # Rows of the history come every 100 updates and at the end; only the first of every
    # fifty looks at curvatures, so the passes here are those of the updates.
    learner.fit(data, 5, batch_size=None, eval_every=100)
    # At first eight walkers show that the energy is not random and couples none, and all
    # of so few that the model is as they left it.
    assert [model.forwards.pop(0) for _ in range(5)] == [8, 8, 8, 8, 41]
    calls = model.forwards, model.backwards
    assert all(set(part) == {41, 23, 10} for part in calls)
    return [[part.count(rows) / 5 for rows in (41, 23, 10)] for part in calls]


def test_ula_costs_one_pass_per_cloud():
    forwards, backwards = passes_of_one_update(ULA(0.1), moves=1)
    assert forwards == [1, 1, 1]
    assert backwards == [2, 1, 1]


@pytest.mark.parametrize("moves", [1, 4])
def test_adjusted_moves_cost_one_pass_each(moves):
    forwards, backwards = passes_of_one_update(MALA(0.3), moves)
    assert forwards == [1 + moves, 1 + moves, 1]
    assert backwards == [2 + moves, 1 + moves, 1]


@pytest.mark.parametrize("kernel", [ULA(0.1), MALA(0.3)], ids=["ULA", "MALA"])
def test_chunks_change_nothing(kernel, monkeypatch):
    found = []
    monkeypatch.setattr(memory, "CACHE", 500)
    for chunk_size in (None, 7, "auto"):
        # The threshold is high, so that resampling is part of it.
        learner = mixture_learner(kernel=kernel, ess_threshold=0.99, chunk_size=chunk_size)
        learner.fit(mixture_data(), 20, batch_size=40)
        assert learner.cloud.num_resamplings > 0
        if chunk_size == "auto":
            assert learner.cloud.tools.chunk_size in (4, 8, 16)
        walkers = learner.cloud.walkers
        parameters = [p.detach() for p in learner.model.parameters()]
        found.append([*parameters, walkers.log_weight, walkers.log_normalizer])
    for whole, *chunked in zip(*found, strict=True):
        for value in chunked:
            torch.testing.assert_close(value, whole, rtol=1e-10, atol=1e-10)
