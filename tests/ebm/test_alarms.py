"""Warnings about walkers that no longer stand for the model: said when true, and once."""

import warnings

import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.ebm.alarms import Alarms, energy_shift
from pyro_jarzynski.ebm.followers import Followers
from pyro_jarzynski.errors import ArgumentError, ExploitationWarning
from tests.ebm.models import mixture_data, mixture_learner, start_mixture


def followed(**settings):
    known = {"num_walkers": 300, "audit_walkers": 300, "kernel": pj.MALA(0.5)}
    return Followers(start_mixture(), **known | settings)


def moved(followers, shift):
    """Put the training walkers elsewhere, as an optimiser that exploits them does."""
    position = followers.cloud.position + shift
    followers.cloud.restart(position)
    return followers


def test_honest_clouds_are_not_apart():
    """The share of z above 6 among honest pairs: 2e-9 each, 4e-8 for the twenty."""
    assert [energy_shift(followed(seed=seed)) for seed in range(20)] == [0.0] * 20


def test_walkers_that_were_led_astray_are():
    assert energy_shift(moved(followed(), 3.0)) > 1


def test_few_walkers_say_nothing():
    assert energy_shift(moved(followed(num_walkers=10), 3.0)) == 0


def test_each_trouble_is_told_once():
    alarms = Alarms(moved(followed(), 3.0), weighted=True)
    with pytest.warns(ExploitationWarning) as told:
        alarms.look(10, 0.01)
    few, astray = (str(warning.message) for warning in told)
    assert few.startswith("At update 10 only 1.0% of the training walkers are effective")
    assert astray.startswith("At update 10 the walkers that train the model and those of")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alarms.look(20, 0.01)


def test_walkers_without_weights_are_not_accused():
    alarms = Alarms(moved(followed(weighted=False), 3.0), weighted=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alarms.look(10, float("nan"))


def test_a_run_that_exploits_its_walkers_is_told_and_a_careful_one_is_not():
    data = mixture_data(200)
    stuck = pj.MALA(0.001, target_acceptance=None)
    greedy = mixture_learner(
        audit_walkers=400, learning_rate=1.0, kernel=stuck, conditional_ess=None
    )
    with pytest.warns(ExploitationWarning, match="led its own walkers astray"):
        greedy.fit(data + 2, 40, batch_size=20)
    careful = mixture_learner(num_walkers=400, audit_walkers=400, kernel=pj.MALA(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        careful.fit(data, 100, batch_size=None)


class TestParametersThatChangedElsewhere:
    def test_are_told_before_training(self):
        learner = mixture_learner()
        with torch.no_grad():
            learner.model.means.add_(1)
        with pytest.raises(ArgumentError, match="have changed since its walkers followed"):
            learner.fit(mixture_data(), 1)

    def test_so_are_two_optimisers(self):
        model = start_mixture()
        first, second = mixture_learner(model=model), mixture_learner(model=model)
        first.fit(mixture_data(), 3)
        with pytest.raises(ArgumentError, match="or changed by a second optimiser"):
            second.fit(mixture_data(), 3)

    def test_walkers_on_another_device(self):
        learner = mixture_learner()
        learner.model.to("meta")
        with pytest.raises(ArgumentError, match="walkers are on cpu and the model on meta"):
            learner.fit(mixture_data(), 1)
