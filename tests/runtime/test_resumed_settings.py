"""A training is resumed with the settings it had; others are named in an error."""

import copy

import pytest
import torch
from torch.distributions import Independent, Laplace, Normal
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, SequentialLR, StepLR

import pyro_jarzynski as pj
from pyro_jarzynski.errors import CheckpointError
from tests.ebm.models import mixture_data, standard_normal

pytestmark = pytest.mark.filterwarnings("ignore::pyro_jarzynski.AuditWarning")

DATA = mixture_data(40).float()
GOAL = mixture_data(20, seed=1).float()


class Net(torch.nn.Module):
    """A network whose activation has no parameters."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.last = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
        self.activation = activation

    def forward(self, x):
        return self.last(self.activation(self.first(x)))


def build(
    *,
    activation=torch.tanh,
    base=None,
    optimizer=lambda m: Adam(m.parameters(), 0.01),
    scheduler=lambda o: None,
    **settings,
):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net(activation)
    model = pj.EnergyModel(net, standard_normal() if base is None else base)
    made = optimizer(model)
    small = {"num_walkers": 8, "audit_walkers": 8}
    return pj.JarzynskiLearner(
        model, made, lr_scheduler=scheduler(made), **(small | settings)
    )


def fit(folder, steps, learner=None, *, data=DATA, change=None, **settings):
    learner = build() if learner is None else learner
    if change is not None:
        change(learner)
    arguments = {"batch_size": 10, "validation": GOAL, "eval_every": 2} | settings
    kept = pj.Checkpoints(folder, every=2, resume=True)
    learner.fit(data, steps, checkpoints=kept, **arguments)
    return learner


def two_groups(rate=0.02):
    def make(model):
        first, last = model.net.first, model.net.last
        return Adam(
            [{"params": first.parameters()}, {"params": last.parameters(), "lr": rate}],
            0.01,
        )

    return make


def lambdas(*rates):
    return lambda optimizer: LambdaLR(optimizer, lambda step: rates[min(step // 4, 1)])


def sequence(rate):
    def make(optimizer):
        first = LambdaLR(optimizer, lambda step: min(1.0, rate * (step + 1)))
        return SequentialLR(optimizer, [first, CosineAnnealingLR(optimizer, 6)], [4])

    return make


def faster(learner):
    learner.optimizer.param_groups[0]["lr"] = 0.05


NORMAL = Independent(Normal(torch.zeros(3), torch.full((3,), 1.1)), 1)
LAPLACE = Independent(Laplace(torch.zeros(3), torch.ones(3)), 1)
# What builds the first run, and what the resumed one; what the error says.
CHANGES = {
    "rate": (
        {},
        {"optimizer": lambda m: Adam(m.parameters(), 0.05)},
        r"`optimizer\.lr` was",
    ),
    "betas": (
        {},
        {"optimizer": lambda m: Adam(m.parameters(), 0.01, betas=(0.8, 0.999))},
        r"`optimizer\.betas\[0\]` was 0\.9 and is 0\.8",
    ),
    "decay": (
        {},
        {"optimizer": lambda m: Adam(m.parameters(), 0.01, weight_decay=0.1)},
        r"`optimizer\.weight_decay` was 0 and is 0\.1",
    ),
    "momentum": (
        {"optimizer": lambda m: SGD(m.parameters(), 0.01)},
        {"optimizer": lambda m: SGD(m.parameters(), 0.01, momentum=0.9)},
        r"`optimizer\.momentum` was 0 and is 0\.9",
    ),
    "optimiser": (
        {},
        {"optimizer": lambda m: SGD(m.parameters(), 0.01)},
        r"`optimizer` was 'Adam' and is 'SGD'",
    ),
    "order": (
        {},
        {"optimizer": lambda m: Adam([*m.parameters()][::-1], 0.01)},
        r"`optimizer\.params\[0\]` was 'net\.first\.weight' and is 'net\.last\.bias'",
    ),
    "group": (
        {"optimizer": two_groups()},
        {"optimizer": two_groups(0.03)},
        r"`optimizer\.param_groups\[1\]\.lr` was 0\.02 and is 0\.03",
    ),
    "period": (
        {"scheduler": lambda o: CosineAnnealingLR(o, 10)},
        {"scheduler": lambda o: CosineAnnealingLR(o, 20)},
        r"`lr_scheduler\.T_max` was 10 and is 20",
    ),
    "factor": (
        {"scheduler": lambda o: StepLR(o, 3, 0.5)},
        {"scheduler": lambda o: StepLR(o, 3, 0.4)},
        r"`lr_scheduler\.gamma` was 0\.5 and is 0\.4",
    ),
    "function": (
        {"scheduler": lambdas(1.0, 0.5)},
        {"scheduler": lambdas(1.0, 0.3)},
        r"`lr_scheduler\.lr_lambdas\[0\] at update 4` was 0\.5 and is 0\.3",
    ),
    "function in a sequence": (
        {"scheduler": sequence(0.1)},
        {"scheduler": sequence(0.2)},
        r"`lr_scheduler\[0\]\.lr_lambdas\[0\] at update|`lr_scheduler\._schedulers\[0\]",
    ),
    "scheduler": (
        {},
        {"scheduler": lambda o: StepLR(o, 3)},
        r"`lr_scheduler` was None and is 'StepLR'",
    ),
    "base": ({}, {"base": NORMAL}, r"`base` was .*'Independent'"),
    "class of the base": ({}, {"base": LAPLACE}, r"`base` was "),
    "activation": ({}, {"activation": torch.relu}, r"another model.*network.*activation"),
    "audit": ({}, {"audit_walkers": 9}, r"`audit_walkers` was 8 and is 9"),
}
ARGUMENTS = {
    "batch size": ({}, {"batch_size": 12}, r"`batch_size` was 10 and is 12"),
    "patience": ({"patience": 8}, {"patience": 6}, r"`patience` was 8 and is 6"),
    "rows": ({}, {"eval_every": 3}, r"`eval_every` was 2 and is 3"),
    "data": ({}, {"data": DATA + 1e-6}, r"`data` was .*digest"),
    "order of the data": ({}, {"data": DATA.flip(0)}, r"`data` was .*digest"),
    "validation": ({}, {"validation": GOAL + 1e-6}, r"`validation` was "),
    "rate after construction": (
        {},
        {"change": faster},
        r"`optimizer\.lr` was 0\.01 and is",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_learner_is_named(tmp_path, name):
    first, other, told = CHANGES[name]
    fit(tmp_path, 4, build(**first))
    with pytest.raises(CheckpointError, match=told):
        fit(tmp_path, 8, build(**other))
    assert fit(tmp_path, 8, build(**first)).num_steps == 8


@pytest.mark.parametrize("name", ARGUMENTS)
def test_another_call_of_fit_is_named(tmp_path, name):
    first, other, told = ARGUMENTS[name]
    fit(tmp_path, 4, **first)
    with pytest.raises(CheckpointError, match=told):
        fit(tmp_path, 8, **other)


class TestWhatIsTheSameRun:
    """Programs that repeat the calls of the first are resumed."""

    def test_a_rate_that_the_program_sets_before_fit(self, tmp_path):
        fit(tmp_path, 4, change=faster)
        assert fit(tmp_path, 8, change=faster).num_steps == 8

    def test_a_first_call_that_is_not_repeated(self, tmp_path):
        def make():
            return build(scheduler=lambda o: StepLR(o, 2, 0.5))

        learner = make()
        learner.fit(DATA, 5, batch_size=10)
        fit(tmp_path, 4, learner)
        assert fit(tmp_path, 8, make()).num_steps == 13

    def test_the_same_learner_after_an_error(self, tmp_path):
        """A learning rate that was set by hand is not that of any checkpoint."""

        def fail(learner, row):
            if row["step"] == 6:
                raise ZeroDivisionError

        learner = build(scheduler=lambda o: StepLR(o, 1, 0.9))
        with pytest.raises(ZeroDivisionError):
            fit(tmp_path, 12, learner, eval_every=3, callbacks=[fail])
        assert fit(tmp_path, 12, learner, eval_every=3).num_steps == 12

    def test_a_learner_whose_best_was_restored(self, tmp_path):
        learner = build(scheduler=lambda o: StepLR(o, 1, 0.9))
        fit(tmp_path, 6, learner)
        learner.restore_best()
        assert fit(tmp_path, 10, learner).num_steps == 10

    def test_a_table_that_ends_with_the_run(self, tmp_path):
        table = [1.0, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1]

        def make():
            return build(scheduler=lambda o: LambdaLR(o, lambda step: table[step]))

        fit(tmp_path, 4, make())
        assert fit(tmp_path, 8, make()).num_steps == 8


def test_settings_of_a_program_are_compared(tmp_path):
    def run(**settings):
        kept = pj.Checkpoints(tmp_path, resume=True, settings=settings)
        build().fit(DATA, 2, checkpoints=kept)

    run(width=4, name="a")
    run(width=4, name="a")
    with pytest.raises(CheckpointError, match=r"`width` was 4 and is 5"):
        run(width=5, name="a")
    kept = pj.Checkpoints(tmp_path)
    assert "program" not in copy.copy(kept.load())
