"""Small models, data and learners that the tests of training share."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from pyro_jarzynski import (
    MLP,
    ULA,
    EnergyModel,
    GaussianMixtureEnergy,
    JarzynskiLearner,
    StartableEnergy,
)
from pyro_jarzynski.ebm.learner import Learner

FLOAT = torch.float64


def start_mixture(dimension: int = 3) -> GaussianMixtureEnergy:
    """Two modes that overlap, so that walkers go between them freely."""
    means = torch.arange(2 * dimension, dtype=FLOAT).sin().reshape(2, dimension) / 2
    return GaussianMixtureEnergy(means, torch.zeros(2, dtype=FLOAT))


def true_mixture(dimension: int = 3) -> GaussianMixtureEnergy:
    """Two modes further apart, of masses ¼ and ¾."""
    means = torch.zeros(2, dimension, dtype=FLOAT)
    means[:, 0] = torch.tensor([-1.5, 2.0])
    return GaussianMixtureEnergy(means, torch.tensor([0.0, -math.log(3)], dtype=FLOAT))


def mixture_data(num: int = 300, dimension: int = 3, seed: int = 0) -> Tensor:
    return true_mixture(dimension).draw(num, torch.Generator().manual_seed(seed))


def mixture_learner(
    kind: type[Learner] = JarzynskiLearner,
    *,
    model: StartableEnergy | None = None,
    learning_rate: float = 0.05,
    **settings: Any,
) -> Learner:
    model = start_mixture() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), learning_rate)
    small: dict[str, Any] = {"num_walkers": 100, "audit_walkers": 60, "kernel": ULA(0.1)}
    return kind(model, optimizer, **(small | settings))


def network_model(dimension: int = 3, hidden: int = 16) -> EnergyModel:
    return EnergyModel(MLP([dimension, hidden]), standard_normal(dimension))


def standard_normal(dimension: int = 3) -> Independent:
    return Independent(Normal(torch.zeros(dimension), torch.ones(dimension)), 1)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module without drawing from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


class Shifted(StartableEnergy):
    """A Gaussian whose mean is learned: the shortest energy of a user's own."""

    def __init__(self, dimension: int = 3) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dimension, dtype=FLOAT))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean).square().sum(1) / 2

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn((num, len(self.mean)), dtype=FLOAT, generator=generator)
        return self.mean.detach() + noise

    def start_log_normalizer(self) -> float:
        return len(self.mean) / 2 * math.log(2 * math.pi)


class Bowl(nn.Module):
    """`½ a |x|²`, of which everything is known; `a` starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros((), dtype=FLOAT))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x.square().sum(1) / 2
