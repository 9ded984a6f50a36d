"""Training of binary Boltzmann machines, against exact maximum likelihood."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from pyro_jarzynski import (
    MALA,
    BinaryRBMEnergy,
    ContrastiveDivergence,
    Followers,
    JarzynskiLearner,
    LikelihoodTracker,
    PersistentContrastiveDivergence,
    RBMEnergy,
)
from pyro_jarzynski.core.gibbs import BlockGibbs
from pyro_jarzynski.errors import ArgumentError, DataError, EnergyError
from tests.ebm.models import FLOAT, network_model
from tests.machines import all_states
from tests.seeds import seed_of

SWEEP = BlockGibbs()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed_of(seed))


def bars_and_stripes():
    """The 14 images of 3 x 3 pixels whose rows, or whose columns, are constant."""
    lines = all_states(3)
    rows = lines[:, :, None].expand(8, 3, 3)
    return torch.cat([rows, rows.mT]).flatten(1).unique(dim=0)


DATA = bars_and_stripes()


def new_machine():
    return BinaryRBMEnergy(9, 6, data=DATA, weight_scale=0.1)


def make_learner(kind=JarzynskiLearner, model=None, **settings):
    model = new_machine() if model is None else model
    optimizer, schedule = adam(model)
    small = {"num_walkers": 300, "audit_walkers": 200, "kernel": SWEEP}
    return kind(model, optimizer, lr_scheduler=schedule, **(small | settings))


def adam(model):
    """Learning rates that fall in the end, so that the noise of the walkers does."""
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    return optimizer, LambdaLR(optimizer, lambda k: 0.97 ** max(k - 400, 0))


@torch.no_grad()
def exact_nll(model):
    return float(model(DATA).mean() + model.exact_log_normalizer())


def exactly_trained(num_steps):
    """Return the NLL after the same updates with the exact gradient."""
    model, states = new_machine(), all_states(9)
    optimizer, schedule = adam(model)
    for _ in range(num_steps):
        optimizer.zero_grad()
        (model(DATA).mean() + (-model(states)).logsumexp(0)).backward()
        optimizer.step()
        schedule.step()
    return exact_nll(model)


@pytest.fixture(scope="module")
def trained():
    learner = make_learner(num_walkers=1000, audit_walkers=1000, kernel=BlockGibbs(2))
    learner.fit(DATA, 500, batch_size=None, eval_every=50)
    return learner


def test_training_reaches_exact_maximum_likelihood(trained):
    """From 6.24 to 2.72, with log 14 = 2.64 as the bound; four seeds end within 0.11."""
    start, ideal = exact_nll(new_machine()), exactly_trained(500)
    assert start - ideal > 3
    assert abs(exact_nll(trained.model) - ideal) < 0.25


def test_the_audit_agrees_with_enumeration(trained):
    """False alarms: 6e-7, a z of 5."""
    exact = float(trained.model.exact_log_normalizer())
    assert 0 < trained.log_normalizer_error < 0.2
    assert abs(trained.log_normalizer - exact) < 5 * trained.log_normalizer_error


def test_walkers_remain_binary_and_have_no_step_size(trained):
    assert set(trained.sample(200).unique().tolist()) == {0.0, 1.0}
    assert all(math.isnan(size) for size in trained.history["step_size"])
    assert trained.history["acceptance_rate"] == [1.0] * 10
    assert trained.cloud.kernel == BlockGibbs(2)


def test_the_law_sums_to_one(trained):
    """Over all 512 states, as far as the audit knows `log Z`: a z of 5, 6e-7."""
    law = trained.model.distribution()
    total = float(law.log_prob(all_states(9)).detach().logsumexp(0))
    assert abs(total) < 5 * trained.log_normalizer_error
    assert law.support.is_discrete
    with torch.random.fork_rng():
        assert law.support.check(law.sample((5,))).all()
    strict = type(law)(law.model, law.followers, support=law.support, validate_args=True)
    with pytest.raises(ValueError, match="to be within the support"):
        strict.log_prob(torch.full((2, 9), 0.5, dtype=FLOAT))


def test_followers_know_the_normalizer_of_scattered_weights():
    """False alarms: 6e-7 each, a z of 5, along a path that no walker has a say in."""
    model = BinaryRBMEnergy(9, 40, data=DATA)
    followers = Followers(
        model, num_walkers=2000, audit_walkers=2000, kernel=SWEEP, walker_batch_size=500
    )
    before = followers.audit.log_normalizer
    for seed in range(8):
        model.scatter(0.2, seed=seed)
        followers.update()
    exact = float(model.exact_log_normalizer())
    assert abs(exact - before) > 0.5
    for walkers in followers.walkers:
        off = float(walkers.log_normalizer) - exact
        assert abs(off) < 5 * float(walkers.log_normalizer_error)
        energy = model(walkers.position).detach()
        torch.testing.assert_close(walkers.evaluation.energy, energy)


@pytest.mark.parametrize("kind", [PersistentContrastiveDivergence, ContrastiveDivergence])
def test_contrastive_divergence_sweeps_as_well(kind):
    learner = make_learner(kind)
    start = exact_nll(learner.model)
    learner.fit(DATA, 60, batch_size=None)
    assert exact_nll(learner.model) < start - 0.3
    assert set(learner.cloud.position.unique().tolist()) == {0.0, 1.0}


def test_a_run_continues_from_its_state():
    first, second = make_learner(), make_learner()
    first.fit(DATA, 10, batch_size=None)
    second.model.load_state_dict(first.model.state_dict())
    second.followers.load_state_dict(first.followers.state_dict())
    for each in (first, second):
        each.model.scatter(0.1)
        each.followers.update()
    assert torch.equal(first.cloud.position, second.cloud.position)
    assert first.log_normalizer == second.log_normalizer


def test_the_gaussian_machine_trains_by_block_gibbs():
    """False alarms: 6e-7, a z of 5."""
    data = RBMEnergy(4, 5, sd=0.7, weight_scale=0.8, seed=2).draw(400, seeded())
    machine = RBMEnergy(4, 4, sd=0.7, weight_scale=0.1)
    learner = make_learner(model=machine, audit_walkers=1000)
    before = learner.nll(data).nll
    learner.fit(data, 100, batch_size=None)
    exact = float(machine.exact_log_normalizer())
    assert learner.nll(data).nll < before - 0.1
    assert learner.log_normalizer_error < 0.2
    assert abs(learner.log_normalizer - exact) < 5 * learner.log_normalizer_error
    assert learner.cloud.walkers.evaluation.grad_or_none is None


@pytest.mark.parametrize("bad", [0.5, -1.0, 2.0])
def test_data_that_are_not_binary_are_refused(bad):
    learner, data = make_learner(), DATA.clone()
    data[3, 2] = bad
    told = r"must lie in the support of the model, .*; it does not in 1 of 14 rows: 3\."
    with pytest.raises(DataError, match=f"`data` {told}"):
        learner.fit(data, 1)
    with pytest.raises(DataError, match=f"`data` {told}"):
        learner.fit([data], 1)
    with pytest.raises(DataError, match=f"`validation` {told}"):
        learner.fit(DATA, 1, validation=data)
    with pytest.raises(DataError, match=f"`x` {told}"):
        learner.nll(data)


def test_kernels_along_gradients_are_refused():
    told = r"`kernel` must be one of discrete walkers for BinaryRBMEnergy, .* got MALA"
    with pytest.raises(ArgumentError, match=told):
        make_learner(kernel=MALA())
    with pytest.raises(ArgumentError, match=told):
        LikelihoodTracker(new_machine())


def test_a_network_has_no_conditional_laws():
    with pytest.raises(ArgumentError, match="needs an energy with a method `gibbs"):
        make_learner(model=network_model(9))


class Coupled(BinaryRBMEnergy):
    """Units that know the mean of all walkers."""

    def forward(self, x):
        return super().forward(x - x.mean(0))


def test_an_energy_that_couples_walkers_is_found():
    with pytest.raises(EnergyError, match="The energy couples walkers"):
        make_learner(model=Coupled(9, 6))
