"""Ctrl-C stops training between two updates and loses nothing."""

import os
import signal

import pytest
import torch

from tests.ebm.models import Shifted, mixture_data, mixture_learner


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _handler_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    yield
    found = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert found is before


def at_step(step):
    def callback(learner, row):
        if row["step"] == step:
            press_ctrl_c()

    return callback


def fits(learner):
    """Tell whether both clouds are weighted for the parameters as they are."""
    pairs = (
        (cloud.walkers.evaluation.energy, learner.model(cloud.position).detach())
        for cloud in (learner.cloud, learner.audit.cloud)
    )
    return all(torch.allclose(known, now) for known, now in pairs)


def test_interrupt_comes_at_the_next_boundary():
    learner, called = mixture_learner(), []
    callbacks = [at_step(4), lambda _, row: called.append(row["step"])]
    with pytest.raises(KeyboardInterrupt):
        learner.fit(mixture_data(), 1000, eval_every=2, callbacks=callbacks)
    # The callbacks after the one that was interrupted still get their row.
    assert called == learner.history["step"] == [2, 4]
    assert learner.num_steps == 4
    assert fits(learner)


class Interrupted(Shifted):
    """Presses Ctrl-C inside one of its calls."""

    calls, at = 0, None

    def forward(self, x):
        self.calls += 1
        if self.calls == self.at:
            press_ctrl_c()
        return super().forward(x)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_update_is_finished_before(call):
    model = Interrupted()
    learner = mixture_learner(model=model)
    data = mixture_data()
    learner.fit(data, 1, eval_every=1000)
    # Five calls check the energy, and that the walkers belong to it.
    model.at = model.calls + 5 + call
    with pytest.raises(KeyboardInterrupt):
        learner.fit(data, 1000, eval_every=1000)
    assert learner.num_steps == 2
    assert fits(learner)


def test_training_goes_on_after_an_interrupt():
    data, whole, stopped = mixture_data(), mixture_learner(), mixture_learner()
    whole.fit(data, 8, batch_size=None)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(data, 1000, batch_size=None, eval_every=4, callbacks=[at_step(4)])
    stopped.fit(data, 4, batch_size=None)
    assert stopped.num_steps == 8
    for a, b in zip(whole.parameters, stopped.parameters, strict=True):
        assert torch.equal(a, b)


def test_the_best_can_be_put_back():
    learner = mixture_learner(audit_walkers=400)
    goal = mixture_data(seed=3) * 0.6
    with pytest.raises(KeyboardInterrupt):
        learner.fit(
            mixture_data() * 1.5,
            1000,
            validation=goal,
            eval_every=5,
            callbacks=[at_step(60)],
        )
    row = learner.history.best()
    assert row["step"] < 60
    assert learner.nll(goal).nll > row["validation_nll"] + 1e-3
    learner.restore_best()
    assert learner.nll(goal).nll == pytest.approx(row["validation_nll"], abs=1e-5)
    assert fits(learner)


def test_without_validation_there_is_nothing_to_put_back():
    learner = mixture_learner()
    learner.fit(mixture_data(), 3)
    before = learner.model.means.detach().clone()
    learner.restore_best()
    assert torch.equal(learner.model.means, before)


@pytest.mark.parametrize(("steps", "patience"), [(10, None), (1000, 9)])
def test_an_interrupt_in_the_last_row_is_not_lost(steps, patience):
    """The last row is that of the last update, or the one at which patience ends."""
    learner = mixture_learner()
    # The model moves away from these from its first update on.
    worse = mixture_data() * 0
    with pytest.raises(KeyboardInterrupt):
        learner.fit(
            mixture_data() * 2,
            steps,
            validation=worse,
            eval_every=1,
            patience=patience,
            callbacks=[at_step(10)],
        )
    assert learner.history["step"][-1] == 10


def test_a_second_interrupt_stops_at_once():
    learner, reached = mixture_learner(), []

    def impatient(learner, row):
        press_ctrl_c()
        press_ctrl_c()
        reached.append(row)

    with pytest.raises(KeyboardInterrupt):
        learner.fit(mixture_data(), 10, eval_every=1, callbacks=[impatient])
    assert reached == []
