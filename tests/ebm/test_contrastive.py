"""Contrastive divergence: walkers that start at the data and carry no weights."""

import math
from itertools import pairwise

import pytest
import torch

from pyro_jarzynski import (
    MALA,
    ULA,
    ContrastiveDivergence,
    PersistentContrastiveDivergence,
    UnderdampedLangevin,
)
from pyro_jarzynski.ebm.data import Batches
from pyro_jarzynski.errors import ArgumentError
from tests.ebm.models import mixture_data, mixture_learner

BOTH = [ContrastiveDivergence, PersistentContrastiveDivergence]
KERNELS = [ULA(0.1), MALA(0.3), UnderdampedLangevin(0.4)]


def batches_of(served, data):
    return Batches(served, None, data, torch.Generator().manual_seed(0))


def rows_from(position, data):
    """Tell for each walker whether it sits on a datum."""
    return (position[:, None] == data).all(-1).any(-1)


@pytest.mark.parametrize("kernel", KERNELS, ids=["ULA", "MALA", "UL"])
@pytest.mark.parametrize("kind", BOTH)
def test_walkers_carry_no_weights(kind, kernel):
    learner = mixture_learner(kind, kernel=kernel, ess_threshold=1.0)
    history = learner.fit(mixture_data(), 10, batch_size=50, eval_every=1)
    assert (learner.cloud.walkers.log_weight == 0).all()
    # What needs weights is unknown, not perfect.
    for name in ("ess", "training_log_z"):
        assert all(map(math.isnan, history[name]))
    assert history["resamplings"] == [0] * 10
    # The audit is weighted, and resampled, nevertheless.
    assert history["audit_resamplings"][-1] > 0


def test_persistent_walkers_start_at_data():
    learner, data = mixture_learner(PersistentContrastiveDivergence), mixture_data()
    learner.begin(batches_of(data, data))
    assert rows_from(learner.cloud.position, data).all()
    assert len(learner.cloud.position.unique(dim=0)) > 50


@pytest.mark.parametrize("loader", [False, True])
def test_contrastive_walkers_start_one_move_from_data(loader):
    data = mixture_data(200)
    learner = mixture_learner(ContrastiveDivergence, kernel=ULA(1e-8))
    learner.begin(batches_of(list(data.split(50)) if loader else data, data))
    nearest = torch.cdist(learner.cloud.position, data).min(1).values
    assert not rows_from(learner.cloud.position, data).any()
    assert nearest.max() < 1e-2


@pytest.mark.parametrize("every", [1, 3])
def test_walkers_start_again_every_few_updates(every):
    data = mixture_data()
    # Moves this small leave a walker where it is to the eye.
    kernel = MALA(1e-9, target_acceptance=None)
    learner = mixture_learner(ContrastiveDivergence, kernel=kernel, restart_every=every)
    places = []

    def watch(learner, row):
        places.append(learner.cloud.position)

    learner.fit(data, 9, batch_size=None, eval_every=1, callbacks=[watch])
    stayed = [bool((a - b).abs().max() < 0.01) for a, b in pairwise(places)]
    # Rows are of updates 1 to 9; the walkers jump with those that `every` divides.
    assert stayed == [step % every != 0 for step in range(2, 10)]


@pytest.mark.parametrize("kind", BOTH)
def test_gradient_is_not_zero(kind):
    learner = mixture_learner(kind, num_walkers=300)
    data = mixture_data()
    before = [p.detach().clone() for p in learner.model.parameters()]
    history = learner.fit(data, 3, batch_size=None, eval_every=1)
    assert min(history["grad_norm"]) > 1e-3
    for old, new in zip(before, learner.model.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_contrastive_gradient_is_that_of_data_less_moved_walkers():
    learner, data = mixture_learner(ContrastiveDivergence), mixture_data()
    learner.fit(data, 2, batch_size=None)
    model = learner.model
    loss = model(data).mean() - model(learner.cloud.position).mean()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    old = [p.detach().clone() for p in model.parameters()]
    learner.fit(data, 1, batch_size=None)
    for before, after, slope in zip(old, model.parameters(), expected, strict=True):
        torch.testing.assert_close(after.detach(), before - 0.05 * slope)


def test_restart_every_must_be_positive():
    with pytest.raises(ArgumentError, match="`restart_every` must be at least 1, got 0"):
        mixture_learner(ContrastiveDivergence, restart_every=0)


def test_blocks_of_persistent_walkers_take_turns():
    learner = mixture_learner(
        PersistentContrastiveDivergence, num_walkers=60, walker_batch_size=20
    )
    learner.fit(mixture_data(), 7, batch_size=None)
    assert learner.cloud.place.behind == (1, 0, 2)
    assert all(not b.log_weight.any() for b in learner.cloud.place.blocks)


def test_walkers_that_start_anew_have_no_blocks():
    with pytest.raises(ArgumentError, match="has no meaning for walkers that start at"):
        mixture_learner(ContrastiveDivergence, walker_batch_size=20)
