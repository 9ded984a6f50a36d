"""The training loop: data, rows, the best parameters, seeds."""

import inspect
import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyro_jarzynski import MALA, Followers, JarzynskiLearner, LikelihoodTracker
from pyro_jarzynski.ebm.history import COLUMNS
from pyro_jarzynski.errors import AuditWarning, DataError, NonFiniteEnergyError
from tests.ebm.models import (
    FLOAT,
    Shifted,
    mixture_data,
    mixture_learner,
    network_model,
    start_mixture,
)


@pytest.mark.parametrize("made", [JarzynskiLearner, Followers, LikelihoodTracker])
def test_moves_are_adjusted_where_no_kernel_is_given(made):
    """Unadjusted ones lose an ordinary network in a few hundred updates."""
    default = inspect.signature(made).parameters["kernel"].default
    assert default == MALA()


def parameters_of(learner):
    return [p.detach().clone() for p in learner.model.parameters()]


def numbers(history):
    """Return all columns that a clock does not write, with NaN made comparable."""
    return {name: list(map(repr, history[name])) for name in COLUMNS if name != "seconds"}


def loader(data, size):
    order = torch.Generator().manual_seed(0)
    return DataLoader(data, batch_size=size, shuffle=True, generator=order)


SOURCES = {
    "tensor": lambda data: data,
    "loader of tensors": lambda data: loader(data, 50),
    "loader of tuples": lambda data: loader(TensorDataset(data, data[:, 0]), 50),
    "list of batches": lambda data: list(data.split(50)),
}


@pytest.mark.parametrize("batch_size", [50, None])
@pytest.mark.parametrize("source", SOURCES)
def test_likelihood_rises_from_any_source_of_data(source, batch_size):
    """The rise is of a nat; the errors of log Z and of the data's mean are below 0.1."""
    learner, data = mixture_learner(audit_walkers=500), mixture_data(400)
    before = learner.nll(data).nll
    learner.fit(SOURCES[source](data), 60, batch_size=batch_size)
    assert learner.num_steps == 60
    assert learner.nll(data).nll < before - 0.3


def test_whole_batches_of_any_source_train_alike():
    data, found = mixture_data(40), []
    for source in (data, [data], [(data, "label")], loader(data, 40)):
        learner = mixture_learner()
        learner.fit(source, 5, batch_size=None)
        found.append(parameters_of(learner))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_every_datum_of_an_epoch_is_seen_once():
    seen = []

    class Spy(type(start_mixture())):
        def forward(self, x):
            if len(x) == 7:
                seen.append(x.detach())
            return super().forward(x)

    start, data = start_mixture(), mixture_data(28)
    learner = mixture_learner(model=Spy(start.means.detach(), start.z.detach()))
    learner.fit(data, 8, batch_size=7)
    first, second = torch.cat(seen[:4]), torch.cat(seen[4:8])
    assert not torch.equal(first, second)
    for epoch in (first, second):
        assert torch.equal(epoch.sort(0).values, data.sort(0).values)


def test_rows_come_every_few_updates_and_at_the_end():
    learner, given = mixture_learner(), []
    history = learner.fit(
        mixture_data(), 10, eval_every=4, callbacks=[lambda *args: given.append(args)]
    )
    assert history is learner.history
    assert history["step"] == [4, 8, 10]
    assert all(one is learner for one, _ in given)
    assert [row for _, row in given] == list(history)
    assert all(map(math.isnan, history["validation_nll"]))


def test_train_nll_is_the_mean_since_the_last_row():
    fine, coarse = mixture_learner(), mixture_learner()
    data = mixture_data()
    fine.fit(data, 6, eval_every=1)
    coarse.fit(data, 6, eval_every=3)
    each = fine.history["train_nll"]
    means = [sum(each[:3]) / 3, sum(each[3:]) / 3]
    assert coarse.history["train_nll"] == pytest.approx(means, rel=1e-12)


def test_no_updates_change_nothing():
    learner = mixture_learner()
    before = parameters_of(learner)
    assert len(learner.fit(mixture_data(), 0)) == 0
    torch.testing.assert_close(parameters_of(learner), before, rtol=0, atol=0)


@pytest.fixture
def best():
    """A run that passes by its validation data, which lie not far from the start."""
    learner = mixture_learner(audit_walkers=400)
    goal = mixture_data(seed=3) * 0.6
    learner.fit(mixture_data() * 1.5, 60, validation=goal, eval_every=5)
    return learner, goal


def test_best_parameters_come_back_with_walkers_that_fit(best):
    learner, goal = best
    row = learner.history.best()
    assert 5 < row["step"] < 60
    assert learner.best.step == row["step"]
    assert learner.nll(goal).nll == pytest.approx(row["validation_nll"], abs=1e-5)
    assert learner.log_normalizer == pytest.approx(row["log_z"], abs=1e-9)
    assert learner.training_log_normalizer == pytest.approx(row["training_log_z"])
    for cloud in (learner.cloud, learner.audit.cloud):
        energies = learner.model(cloud.position).detach()
        torch.testing.assert_close(cloud.walkers.evaluation.energy, energies)


def test_training_goes_on_from_the_best(best):
    learner, goal = best
    history = learner.fit(mixture_data(), 10, validation=goal, eval_every=5)
    assert history["step"][-2:] == [65, 70]
    cloud = learner.audit.cloud
    energies = learner.model(cloud.position).detach()
    torch.testing.assert_close(cloud.walkers.evaluation.energy, energies)


class Unscored(Shifted):
    """Has no energy at eleven data as long as it is broken."""

    broken = False

    def forward(self, x):
        values = super().forward(x)
        return values * math.nan if self.broken and len(x) == 11 else values


def test_a_validation_nll_of_nan_is_an_error():
    learner, goal = mixture_learner(model=Unscored()), mixture_data(11)

    def break_it(learner, row):
        learner.model.broken = True

    with pytest.raises(
        NonFiniteEnergyError, match="validation data is NaN after update 4 at 11 of 11 rows"
    ):
        learner.fit(mixture_data(), 6, validation=goal, eval_every=2, callbacks=[break_it])
    with pytest.raises(
        DataError, match="energy of `validation` is NaN at 11 of 11 rows: 0"
    ):
        learner.fit(mixture_data(), 6, validation=goal)


def test_patience_stops():
    learner = mixture_learner(audit_walkers=400)
    history = learner.fit(
        mixture_data() * 1.5,
        400,
        validation=mixture_data(seed=3) * 0.6,
        eval_every=5,
        patience=15,
    )
    best = history.best()["step"]
    assert history["step"][-1] == best + 15 < 400


def test_patience_begins_anew_with_each_call(best):
    learner, goal = best
    learner.fit(mixture_data() * 1.5, 50, validation=goal, eval_every=5, patience=15)
    assert 60 < learner.num_steps < 110


def test_two_calls_are_one_run():
    data, whole, parts = mixture_data(), mixture_learner(), mixture_learner()
    whole.fit(data, 8, batch_size=None, eval_every=4)
    for _ in range(2):
        parts.fit(data, 4, batch_size=None, eval_every=4)
    assert numbers(parts.history) == numbers(whole.history)
    seconds = parts.history["seconds"]
    assert 0 < seconds[0] < seconds[1]


def test_scheduler_steps_once_per_update():
    model = start_mixture()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    learner = JarzynskiLearner(
        model, optimizer, num_walkers=20, audit_walkers=10, lr_scheduler=scheduler
    )
    history = learner.fit(mixture_data(), 5, eval_every=1)
    assert history["learning_rate"] == [0.1 * 0.5**k for k in range(5)]


def test_audit_takes_its_step_size_from_the_training_walkers():
    learner = mixture_learner(kernel=MALA(0.01))
    history = learner.fit(mixture_data(), 10, eval_every=1)
    assert history["step_size"] == sorted(history["step_size"])
    assert history["step_size"][-1] > 0.01
    assert learner.audit.cloud.kernel.step_size == learner.step_size


def history_of_seed(seed):
    model = network_model()
    learner = mixture_learner(model=model, kernel=MALA(0.3), seed=seed, moves_per_update=2)
    data = mixture_data().float()
    learner.fit(data, 12, validation=data[:50], batch_size=30, eval_every=3)
    return numbers(learner.history)


def test_the_seed_decides_everything():
    first, other = history_of_seed(1), history_of_seed(2)
    assert history_of_seed(1) == first
    for name in ("train_nll", "validation_nll", "log_z", "training_log_z", "step_size"):
        assert first[name] != other[name]


def test_torchs_own_generator_is_untouched():
    before = torch.get_rng_state()
    history_of_seed(3)
    learner = mixture_learner(model=network_model())
    learner.sample(10)
    assert torch.equal(torch.get_rng_state(), before)


def test_frozen_parameters_stay():
    model = start_mixture()
    model.free_z.requires_grad_(requires_grad=False)
    learner = mixture_learner(model=model)
    learner.fit(mixture_data(), 5)
    assert torch.equal(model.free_z, torch.zeros(1, dtype=FLOAT))
    assert not torch.equal(model.means, start_mixture().means)


def test_a_collapsed_audit_is_a_warning():
    learner = mixture_learner(model=start_mixture(), audit_walkers=2, learning_rate=0.5)
    with pytest.warns(AuditWarning, match="audit walkers descend from one"):
        learner.fit(mixture_data() + 5, 200, eval_every=5)
