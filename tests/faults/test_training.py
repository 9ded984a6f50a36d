"""Faults in the course of a training, beside wrong data and settings (`tests/ebm`)."""

import math

import pytest
import torch

from pyro_jarzynski import JarzynskiLearner, PersistentContrastiveDivergence
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    NonFiniteEnergyError,
    WeightCollapseError,
)
from tests.ebm.models import Shifted, mixture_data, mixture_learner, start_mixture

DATA = mixture_data(50)


class Broken(Shifted):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return super().forward(x) + self.value


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (
            math.nan,
            NonFiniteEnergyError,
            r"at 60 of 60 walkers in step 0.*Check the energy",
        ),
        (-math.inf, NonFiniteEnergyError, "walker 0 is minus infinity"),
    ],
)
def test_an_energy_that_is_no_number_anywhere(value, error, told):
    with pytest.raises(error, match=told):
        mixture_learner(model=Broken(value))


def test_an_energy_that_is_infinite_everywhere():
    learner = mixture_learner(model=Broken(math.inf))
    with pytest.raises(WeightCollapseError, match=r"weights are zero.*Use more walkers"):
        learner.fit(DATA, 1)


class Walled(Shifted):
    """Has no density on one side, where a third of its first walkers are."""

    def forward(self, x):
        return super().forward(x).masked_fill(x[:, 0] < -0.5, math.inf)


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SupportWarning")
def test_walkers_beyond_a_wall_are_no_sign_of_other_parameters():
    """Nor of coupled or random energies; training goes on with the others."""
    learner = mixture_learner(model=Walled(), ess_threshold=0.0, learning_rate=1e-3)
    data = DATA.abs()
    learner.fit(data, 2)
    dead = learner.cloud.walkers.log_weight == -math.inf
    assert dead[:4].any()
    learner.fit(data, 2)
    assert math.isfinite(learner.log_normalizer)


@pytest.mark.parametrize("kind", [JarzynskiLearner, PersistentContrastiveDivergence])
def test_a_learning_rate_that_is_nan_leaves_parameters_and_walkers(kind):
    learner = mixture_learner(kind)
    learner.fit(DATA, 2)
    before = [p.detach().clone() for p in learner.model.parameters()]
    position = learner.cloud.position.clone()
    learner.optimizer.param_groups[0]["lr"] = math.nan
    with pytest.raises(ArgumentError, match="has a learning rate of nan, which must be"):
        learner.fit(DATA, 1)
    assert all(map(torch.equal, learner.model.parameters(), before))
    assert torch.equal(learner.cloud.position, position)
    assert learner.num_steps == 2


@pytest.mark.parametrize("kind", [JarzynskiLearner, PersistentContrastiveDivergence])
def test_a_callback_that_raises_leaves_a_sound_learner(kind):
    """Its error comes out as it is, and the course is that without it."""

    def fails(learner, row):
        raise KeyError("mine")

    learner, other = mixture_learner(kind), mixture_learner(kind)
    with pytest.raises(KeyError, match="mine"):
        learner.fit(DATA, 10, batch_size=None, eval_every=3, callbacks=[fails])
    assert (learner.num_steps, len(learner.history)) == (3, 1)
    learner.fit(DATA, 4, batch_size=None)
    other.fit(DATA, 7, batch_size=None)
    assert all(map(torch.equal, learner.model.parameters(), other.model.parameters()))
    assert learner.log_normalizer == other.log_normalizer


def test_data_on_another_device_than_the_walkers():
    learner = mixture_learner()
    elsewhere = DATA.to("meta")
    told = r"must be on the device of the walkers, cpu, got meta; call `.to\('cpu'\)`"
    with pytest.raises(ArgumentError, match="`data` " + told):
        learner.fit(elsewhere, 3)
    with pytest.raises(ArgumentError, match="`data` " + told):
        learner.fit([DATA, elsewhere], 3)
    with pytest.raises(ArgumentError, match="`validation` " + told):
        learner.fit(DATA, 3, validation=elsewhere)


def test_two_optimisers_that_share_parameters():
    learner = mixture_learner()
    learner.fit(DATA, 2)
    other = torch.optim.SGD(learner.model.parameters(), 1.0)
    other.step()
    with pytest.raises(ArgumentError, match=r"second optimiser.*Call `update\(\)` of"):
        learner.fit(DATA, 2)
    learner.followers.update()
    learner.fit(DATA, 2)


def test_parameters_that_the_energy_does_not_use_stay():
    model = start_mixture()
    model.spare = torch.nn.Parameter(torch.ones(2))
    mixture_learner(model=model).fit(DATA, 3)
    assert model.spare.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("seed", [None, 0.5, "1", True])
def test_seeds_that_are_no_integers(seed):
    with pytest.raises(ArgumentTypeError, match=f"`seed` must be .*got {seed!r}"):
        mixture_learner(seed=seed)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**200])
def test_any_integer_is_a_seed_of_its_own(seed):
    found = mixture_learner(seed=seed).cloud.position
    assert torch.equal(found, mixture_learner(seed=seed).cloud.position)
    assert not torch.equal(found, mixture_learner(seed=seed + 1).cloud.position)
