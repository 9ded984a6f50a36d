"""Walkers that are not at the parameters of their model give no number, draw or file."""

import copy
import math

import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.ebm.staleness import check_current
from pyro_jarzynski.errors import ArgumentError
from tests.ebm.models import FLOAT, mixture_data, mixture_learner, start_mixture

DATA = mixture_data()
MATCH = "have changed since its walkers followed"


def shifted(model):
    with torch.no_grad():
        model.means += 0.3


READINGS = {
    "nll": lambda x: x.nll(DATA),
    "log_normalizer": lambda x: x.log_normalizer,
    "log_normalizer_error": lambda x: x.log_normalizer_error,
    "sample": lambda x: x.sample(3),
    "to_arviz": lambda x: x.to_arviz(num_draws=20),
}
OF_TRACKERS = READINGS | {
    "ess": lambda x: x.ess,
    "log_prob": lambda x: x.log_prob(DATA),
    "walkers": lambda x: x.cloud.walkers,
    "masses": lambda x: pj.class_masses(
        x.cloud.walkers, lambda x: x[:, 0] > 0, num_classes=2
    ),
}
OF_LEARNERS = READINGS | {"training_log_normalizer": lambda x: x.training_log_normalizer}


@pytest.mark.parametrize("name", OF_TRACKERS)
def test_trackers_refuse(name):
    model = start_mixture()
    tracker = pj.LikelihoodTracker(model, num_walkers=40)
    shifted(model)
    with pytest.raises(ArgumentError, match=MATCH):
        OF_TRACKERS[name](tracker)
    tracker.update()
    OF_TRACKERS[name](tracker)


@pytest.mark.parametrize("name", OF_LEARNERS)
def test_learners_refuse(name):
    learner = mixture_learner()
    learner.fit(DATA, 3)
    shifted(learner.model)
    with pytest.raises(ArgumentError, match=MATCH):
        OF_LEARNERS[name](learner)
    learner.followers.update()
    OF_LEARNERS[name](learner)


def test_files_refuse(tmp_path):
    learner = mixture_learner()
    learner.fit(DATA, 3)
    walkers = learner.audit.cloud.walkers
    shifted(learner.model)
    with pytest.raises(ArgumentError, match=MATCH):
        pj.save_model(tmp_path, learner.model, walkers)
    assert not list(tmp_path.iterdir())


def test_a_distribution_refuses_what_changed_after_it_was_made():
    learner = mixture_learner()
    law = learner.model.distribution()
    wide = law.expand([2])
    learner.fit(DATA, 3)
    law.log_prob(DATA)
    shifted(learner.model)
    for read in (
        lambda: law.log_prob(DATA),
        lambda: law.sample((2,)),
        lambda: law.mean,
        lambda: wide.variance,
        lambda: pj.LatentLikelihood(law, lambda z: torch.distributions.Normal(z, 1)),
    ):
        with pytest.raises(ArgumentError, match="parameters of this energy have changed"):
            read()


def test_parameters_that_are_put_back_are_current():
    """As by those who read with averaged parameters and go on with their own."""
    learner = mixture_learner()
    learner.fit(DATA, 3)
    before, kept = learner.nll(DATA), copy.deepcopy(learner.model.state_dict())
    shifted(learner.model)
    learner.model.load_state_dict(kept)
    assert learner.nll(DATA) == before
    learner.fit(DATA, 1)


def test_a_change_behind_the_back_of_autograd_is_seen():
    model = start_mixture()
    tracker = pj.LikelihoodTracker(model, num_walkers=40)
    before = tracker.log_normalizer
    model.means.data.copy_(model.means.data + 0.3)
    with pytest.raises(ArgumentError, match=MATCH):
        assert tracker.log_normalizer == before


def test_a_change_at_few_walkers_is_seen():
    """Far modes: the first of sorted walkers know nothing of the second."""
    means = torch.tensor([[0.0, 0.0], [40.0, 0.0]], dtype=FLOAT)
    model = pj.GaussianMixtureEnergy(means, torch.tensor([0.0, 2.0], dtype=FLOAT))
    tracker = pj.LikelihoodTracker(model, num_walkers=400)
    order = tracker.cloud.position[:, 0].argsort()
    tracker.cloud.restart(tracker.cloud.position[order])
    with torch.no_grad():
        model.means[1, 0] += 0.5
    with pytest.raises(ArgumentError, match=MATCH):
        tracker.nll(DATA[:, :2])


def test_log_z_after_a_followed_change_is_that_of_the_new_parameters():
    """By 4000 walkers of a mixture whose normaliser is known; false alarms 6.3e-5."""
    model = start_mixture()
    tracker = pj.LikelihoodTracker(model, num_walkers=4000)
    with torch.no_grad():
        model.means += 0.3
        model.free_z += 0.5
    tracker.update()
    gap = tracker.log_normalizer - float(model.log_normalizer())
    assert abs(gap) < 4 * tracker.log_normalizer_error < 0.2


class Coarse(pj.StartableEnergy):
    """An energy of low precision, which depends on how many walkers are evaluated."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x):
        exact = (x - self.mean).square().sum(1) / 2
        return exact + (0.01 if len(x) < 200 else 0.0)

    def draw(self, num, generator):
        return torch.randn(num, 2, generator=generator)

    def start_log_normalizer(self):
        return math.log(2 * math.pi)


def test_rounding_that_depends_on_the_number_of_walkers_is_no_change():
    model = Coarse()
    tracker = pj.LikelihoodTracker(model, num_walkers=200)
    tracker.update()
    assert tracker.cloud.is_current()
    check_current(model, tracker.cloud.walkers)
    with torch.no_grad():
        model.mean += 0.1
    assert not tracker.cloud.is_current()


def test_an_audit_that_waits_is_brought_to_the_parameters():
    learner = mixture_learner(audit_every=4, audit_walkers=50)
    learner.fit(DATA, 6, eval_every=100)
    assert learner.followers.audit_waits
    assert math.isfinite(learner.nll(DATA).nll)


def test_renewal_compares_to_what_stale_walkers_say_of_the_new_parameters():
    """Without that the warning would be of the change, not of lost mass."""
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1), 1)
    model = pj.EnergyModel(pj.MLP([2, 8]), base)
    tracker = pj.LikelihoodTracker(model, num_walkers=200)
    with torch.no_grad():
        model.net.layers[-1].bias += 7.0
    found = tracker.renew(num_temperatures=4, num_moves=1)
    assert found.before == pytest.approx(-7)
    assert found.agrees
    assert tracker.log_normalizer == pytest.approx(-7)


def test_walkers_that_somebody_else_moves_give_the_next_gradient(monkeypatch):
    """Else the first gradient of the next call is that of the walkers before."""
    learner = mixture_learner(learning_rate=0.0)
    learner.fit(DATA, 3, batch_size=None)
    shifted(learner.model)
    learner.followers.update()
    expected = learner.gradient_now()
    found = []
    update = learner._update
    monkeypatch.setattr(
        learner,
        "_update",
        lambda *a, **k: found.append(learner._negative) or update(*a, **k),
    )
    learner.fit(DATA, 1, batch_size=None)
    for one, other in zip(found[0], expected, strict=True):
        assert torch.equal(one, other)


def test_draws_go_on_after_a_state_is_restored():
    learner, again = mixture_learner(), mixture_learner()
    learner.sample(5)
    again.load_state_dict(learner.state_dict())
    first, second = learner.sample(5), learner.sample(5)
    assert torch.equal(again.sample(5), first)
    assert not torch.equal(first, second)
    with pytest.raises(ArgumentError, match="`num` must be at least 1, got -1"):
        learner.sample(-1)
