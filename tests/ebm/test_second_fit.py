"""The best model belongs to one call of `fit`; what a failed update changed goes back."""

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

import pyro_jarzynski as pj
from pyro_jarzynski.core.states import copied
from pyro_jarzynski.ebm.renewal import Renewed
from pyro_jarzynski.errors import CheckpointError, NonFiniteEnergyError
from tests.ebm.models import (
    FLOAT,
    Shifted,
    mixture_data,
    mixture_learner,
    network_model,
    start_mixture,
)

DATA = mixture_data().float() * 1.5
# The model passes by these on its way to the data.
GOAL = mixture_data(seed=3).float() * 0.8
pytestmark = pytest.mark.filterwarnings("ignore::pyro_jarzynski.AuditWarning")


def adam_learner(**settings):
    """Return a learner with all that has a state: Adam, a scheduler, shortened steps."""
    model = network_model()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    return pj.JarzynskiLearner(
        model,
        optimizer,
        lr_scheduler=ExponentialLR(optimizer, 0.98),
        **({"num_walkers": 100, "audit_walkers": 200, "kernel": pj.MALA(0.3)} | settings),
    )


class Parameters:
    """A callback that keeps the parameters of every row."""

    def __init__(self):
        self.by_step = {}

    def __call__(self, learner, row):
        self.by_step[row["step"]] = parameters_of(learner)


def parameters_of(learner):
    return [p.detach().clone() for p in learner.model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_updates_of_a_second_call_are_kept():
    learner, seen = adam_learner(), Parameters()
    learner.fit(DATA, 40, validation=GOAL, eval_every=5)
    assert learner.best.step < 40
    learner.fit(DATA, 10, callbacks=[seen])
    assert learner.best is None
    assert same(parameters_of(learner), seen.by_step[50])


def test_the_best_of_other_validation_data_is_another():
    learner, seen = adam_learner(), Parameters()
    learner.fit(DATA, 40, validation=GOAL, eval_every=5)
    before = learner.nll(DATA).nll
    learner.fit(DATA, 20, validation=DATA, eval_every=5, callbacks=[seen])
    rows = list(learner.history)[-4:]
    best = min(rows, key=lambda row: row["validation_nll"])
    assert learner.best.step == best["step"] > 40
    assert same(parameters_of(learner), seen.by_step[best["step"]])
    assert learner.nll(DATA).nll < before


def test_a_renewed_audit_stays_renewed():
    learner = adam_learner()
    learner.fit(DATA, 20, validation=GOAL, eval_every=5)
    learner.audit.renew(num_walkers=150, num_temperatures=3, num_moves=1)
    learner.fit(DATA, 5)
    assert learner.audit.cloud.num_walkers == 150


def test_an_audit_renewed_after_the_best_update_stays_if_that_was_the_last():
    learner = adam_learner()

    def renew(learner, row):
        learner.audit.renew(num_walkers=150, num_temperatures=3, num_moves=1)

    learner.fit(DATA, 5, validation=DATA, eval_every=5, callbacks=[renew])
    assert learner.best.step == 5
    assert learner.audit.cloud.num_walkers == 150


def flat(state):
    """Return the tensors and numbers of a state."""
    if isinstance(state, dict):
        state = [state[key] for key in sorted(state, key=str)]
    if isinstance(state, list | tuple):
        return [leaf for part in state for leaf in flat(part)]
    return [torch.as_tensor(state)] if state is not None else []


def assert_same_state(one, other):
    for a, b in zip(flat(one), flat(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_the_best_is_the_whole_state_after_its_update():
    learner = adam_learner()
    learner.fit(DATA, 40, validation=GOAL, eval_every=5)
    step = learner.best.step
    assert 5 <= step < 40
    shorter = adam_learner()
    shorter.fit(DATA, step, eval_every=5)
    for name in ("model", "optimizer", "lr_scheduler", "step_scale"):
        assert_same_state(learner.state_dict()[name], shorter.state_dict()[name])
    for cloud, other in zip(
        (learner.cloud, learner.audit.cloud),
        (shorter.cloud, shorter.audit.cloud),
        strict=True,
    ):
        assert torch.equal(cloud.position, other.position)
        assert torch.equal(cloud.walkers.log_weight, other.walkers.log_weight)
        assert cloud.kernel == other.kernel
    # All updates count; the next has the learning rate that follows that of the best.
    assert learner.num_steps == 40
    history = learner.fit(DATA, 1)
    assert history["step"][-1] == 41
    assert history["learning_rate"][-1] == pytest.approx(0.05 * 0.98**step)


def test_scores_before_a_renewal_that_contradicts_them_do_not_count(monkeypatch):
    learner = adam_learner(renewal=pj.Renewal(15, 2, 1))
    monkeypatch.setattr(learner.followers, "renew", lambda _: Renewed(0, 0.1, 9, 0.1))
    learner.fit(DATA, 40, validation=GOAL, eval_every=5)
    # The last renewal is that of update 30, before its row.
    rows = [row for row in learner.history if row["step"] >= 30]
    best = min(rows, key=lambda row: row["validation_nll"])
    assert learner.history.best()["step"] < 30
    assert learner.best.step == best["step"]


class Stop(Exception):
    pass


def stop_at(step):
    def stop(learner, row):
        if row["step"] == step:
            raise Stop

    return stop


def test_a_second_call_goes_on_in_another_process_with_its_own_best(tmp_path):
    def run(folder, callbacks=()):
        learner = adam_learner()
        learner.fit(DATA, 15, validation=GOAL, eval_every=5)
        kept = pj.Checkpoints(folder, every=5, resume=True)
        learner.fit(
            DATA,
            30,
            validation=GOAL * 1.5,
            eval_every=5,
            checkpoints=kept,
            callbacks=callbacks,
        )
        return learner

    whole = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "parts", (stop_at(35),))
    parts = run(tmp_path / "parts")
    assert parts.best.step == whole.best.step > 15
    assert same(parameters_of(parts), parameters_of(whole))
    assert parts.history["validation_nll"] == whole.history["validation_nll"]


def test_a_resumed_call_must_have_the_same_validation_data(tmp_path):
    def run(validation, steps):
        kept = pj.Checkpoints(tmp_path, every=5, resume=True)
        adam_learner().fit(DATA, steps, validation=validation, checkpoints=kept)

    run(GOAL, 5)
    for other in (GOAL + 0.01, GOAL[:-1], None):
        with pytest.raises(CheckpointError, match="`validation` was"):
            run(other, 10)
    run(GOAL.split(100), 10)


class Bomb(Shifted):
    """Has no energy at walkers, once it is lit."""

    lit = explodes = False

    def forward(self, x):
        values = super().forward(x)
        return values * torch.nan if self.explodes and len(x) == 100 else values


STATES = ("model", "optimizer", "lr_scheduler", "step_scale", "num_steps")


@pytest.mark.parametrize("error", [NonFiniteEnergyError, KeyboardInterrupt, ValueError])
def test_what_a_failed_update_changed_goes_back(error, monkeypatch):
    """Whatever fails after the parameters have changed: the walkers, or the scheduler."""
    model = Bomb()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)

    def factor(step):
        if model.lit and error is not NonFiniteEnergyError:
            raise error
        return 0.9**step

    learner = pj.JarzynskiLearner(
        model,
        optimizer,
        num_walkers=100,
        audit_walkers=50,
        lr_scheduler=LambdaLR(optimizer, factor),
    )
    data = mixture_data()
    learner.fit(data, 5)
    before = copied({name: learner.state_dict()[name] for name in STATES})
    places, kernel = learner.followers.places, learner.cloud.kernel
    model.lit = True
    monkeypatch.setattr(learner.cloud, "is_current", lambda: True)
    model.explodes = error is NonFiniteEnergyError
    with pytest.raises(error):
        learner.fit(data, 5)
    assert_same_state({name: learner.state_dict()[name] for name in STATES}, before)
    assert learner.followers.places == places
    assert learner.cloud.kernel == kernel == learner.audit.cloud.kernel


def test_callbacks_cannot_change_the_history(tmp_path):
    def score(learner, row):
        row["fid"] = row.pop("seconds")
        for known in learner.history:
            known.clear()

    learner, seen = mixture_learner(), []
    history = learner.fit(
        mixture_data(),
        4,
        eval_every=2,
        callbacks=[score, lambda _, row: seen.append(row)],
        checkpoints=pj.Checkpoints(tmp_path, every=1),
    )
    assert seen == list(history)
    history.to_csv(tmp_path / "history.csv")
    assert len(pj.History.from_csv(tmp_path / "history.csv")) == 2


def test_a_learning_rate_may_be_a_tensor(tmp_path):
    model = start_mixture()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01, dtype=FLOAT))
    scheduler = LambdaLR(optimizer, lambda step: 0.5**step)
    learner = pj.JarzynskiLearner(
        model, optimizer, num_walkers=20, audit_walkers=20, lr_scheduler=scheduler
    )
    history = learner.fit(mixture_data(), 3, eval_every=1)
    assert history["learning_rate"] == [0.01, 0.005, 0.0025]
    history.to_csv(tmp_path / "history.csv")
    again = pj.History.from_csv(tmp_path / "history.csv")
    assert again["learning_rate"] == history["learning_rate"]
