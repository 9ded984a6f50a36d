"""Masses in the course of a training: recorded as they are, and told when they drift."""

import math
import warnings

import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.errors import ArgumentError, ExploitationWarning
from tests.ebm.models import FLOAT, mixture_learner


def distant_modes(masses=(0.5, 0.5)):
    means = torch.tensor([[-6.0], [6.0]], dtype=FLOAT)
    return pj.GaussianMixtureEnergy(means, -torch.tensor(masses, dtype=FLOAT).log())


def right(x):
    return x[:, 0] > 0


def learner(**settings):
    known = {"kernel": pj.MALA(0.5), "num_walkers": 600, "audit_walkers": 600}
    return mixture_learner(model=distant_modes(), learning_rate=0.2, **known | settings)


DATA = distant_modes((0.25, 0.75)).draw(400, torch.Generator().manual_seed(0))


def test_masses_are_those_of_the_walkers_and_come_to_the_data():
    """An honest run does not warn; its masses are ¼ and ¾ to what 600 walkers can tell."""
    trained, watch = learner(), pj.MassWatch(right, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained.fit(DATA, 200, batch_size=None, eval_every=50, callbacks=[watch])
    assert [row["step"] for row in watch.rows] == [50, 100, 150, 200]
    last = watch.rows[-1]
    known = pj.class_masses(trained.audit.cloud.walkers, right, num_classes=2)
    assert last["audit"] == known.mass.tolist()
    assert last["audit_error"] == known.error.tolist()
    exact = trained.model.masses().tolist()
    assert exact == pytest.approx([0.25, 0.75], abs=0.06)
    for cloud in ("audit", "training"):
        assert last[cloud] == pytest.approx(exact, abs=0.06)


def test_walkers_that_lost_a_mode_are_told_once():
    trained, watch = learner(), pj.MassWatch(right, 2)
    cloud = trained.cloud
    lost = torch.where(right(cloud.position), -8.0, 0.0).double()
    cloud.walkers = cloud.walkers._replace(log_weight=lost)
    with pytest.warns(ExploitationWarning, match=r"class 0 has mass 1\.00 by the walkers"):
        watch(trained, {"step": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch(trained, {"step": 2})
    assert len(watch.rows) == 2


def test_walkers_without_weights_are_recorded_and_not_accused():
    trained = learner()
    unweighted = mixture_learner(
        pj.PersistentContrastiveDivergence, model=distant_modes(), kernel=pj.MALA(0.5)
    )
    watch = pj.MassWatch(right, 2)
    unweighted.cloud.restart(trained.cloud.position.abs())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch(unweighted, {"step": 1})
    assert watch.rows[0]["training"] == pytest.approx([0.0, 1.0])
    assert math.isclose(sum(watch.rows[0]["audit"]), 1)


def test_one_class_says_nothing():
    with pytest.raises(ArgumentError, match="`num_classes` must be at least 2, got 1"):
        pj.MassWatch(right, 1)
