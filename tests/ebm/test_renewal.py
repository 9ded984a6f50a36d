"""Fresh walkers in a run: their weights are right, and they find what others missed."""

import math
import warnings

import pytest
import torch
from torch import nn

import pyro_jarzynski as pj
from pyro_jarzynski.ebm.followers import Followers
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, AuditWarning
from tests.ebm.models import mixture_learner, network_model, standard_normal

RENEWAL = pj.Renewal(every=2, num_temperatures=20, num_moves=3)


class Parabola(nn.Module):
    """`½ a |x|²` on a standard normal base: `log Z = -d/2 log(1 + a)`."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.a * x.square().sum(1) / 2


class Hole(nn.Module):
    """A slope down that begins far from the base: `-k softplus(4 (x - 3)) / 4`."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return -self.k * nn.functional.softplus(4 * (x[:, 0] - 3)) / 4

    def log_normalizer(self):
        x = torch.linspace(-10, 40, 20001, dtype=torch.float64)
        with torch.no_grad():
            energy = self(x[:, None]).double() + x.square() / 2
        width = float(x[1] - x[0])
        return float((-energy).logsumexp(0)) + math.log(width / math.sqrt(2 * math.pi))


def followed(net, dimension=1, **settings):
    model = pj.EnergyModel(net, standard_normal(dimension), zero_last_layer=False)
    known = {"num_walkers": 400, "audit_walkers": 600, "kernel": pj.MALA(0.3), "seed": 5}
    return Followers(model, **known | settings)


def test_fresh_walkers_know_log_normalizer():
    """False alarms: 3e-7, a z of 5 for each of two."""
    net = Parabola()
    followers = followed(net, 3, walker_batch_size=200)
    with torch.no_grad():
        net.a.fill_(1.5)
    followers.update()
    outcome = followers.renew(RENEWAL)
    exact = -1.5 * math.log(2.5)
    audit = followers.audit
    assert outcome.after == audit.log_normalizer
    assert 0 < audit.log_normalizer_error < 0.1
    assert abs(audit.log_normalizer - exact) < 5 * audit.log_normalizer_error
    assert float(followers.cloud.walkers.log_normalizer) == pytest.approx(exact, abs=0.5)
    # The fresh block of training walkers is the next to follow.
    fresh = followers.cloud.place.blocks[followers.cloud.place.turn - 1]
    assert abs(float(fresh.log_normalizer) - exact) < 5 * 0.1


def test_fresh_walkers_find_mass_that_no_walker_met():
    net = Hole()
    followers = followed(net)
    with torch.no_grad():
        net.k.fill_(12)
    followers.update()
    exact = net.log_normalizer()
    assert exact > 20
    assert followers.audit.log_normalizer < exact - 10
    with pytest.warns(AuditWarning, match=r"has mass where none of them was"):
        outcome = followers.renew(pj.Renewal(1, 60, 5))
    assert not outcome.agrees
    assert followers.audit.log_normalizer == pytest.approx(exact, abs=0.5)


def test_the_audit_is_renewed_by_itself_with_more_walkers():
    """False alarms: 6e-7, a z of 5."""
    net = Parabola()
    tracker = pj.LikelihoodTracker(followed(net, 3).model, num_walkers=50)
    with torch.no_grad():
        net.a.fill_(1.5)
    tracker.update()
    outcome = tracker.renew(num_walkers=4000, num_temperatures=30)
    assert tracker.cloud.num_walkers == 4000
    assert tracker.sample(3000).shape == (3000, 3)
    assert outcome.after_error < 0.02
    assert abs(outcome.after + 1.5 * math.log(2.5)) < 5 * outcome.after_error
    tracker.update()
    assert tracker.cloud.num_walkers == 4000


def test_training_and_audit_share_no_fresh_walker():
    followers = followed(Parabola(), 3, walker_batch_size=200)
    followers.renew(RENEWAL)
    train = followers.cloud.place.blocks[1].position
    assert not torch.isin(train[:, 0], followers.audit_cloud.position[:, 0]).any()


def test_one_block_alone_is_not_replaced():
    """A whole training cloud that is replaced would jump; only the audit is."""
    followers = followed(Parabola(), 3)
    before = followers.cloud.position
    followers.renew(RENEWAL)
    assert torch.equal(followers.cloud.position, before)


def learner(**settings):
    known = {"kernel": pj.MALA(0.3), "audit_walkers": 200, "num_walkers": 200}
    return mixture_learner(model=network_model(), **known | settings)


def test_renewal_comes_as_often_as_it_was_asked_for(monkeypatch):
    seen = []
    trained = learner(renewal=RENEWAL, walker_batch_size=100)
    renew = trained.followers.renew
    monkeypatch.setattr(
        trained.followers, "renew", lambda r: seen.append(trained.num_steps) or renew(r)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained.fit(torch.randn(100, 3, generator=torch.Generator().manual_seed(0)), 7)
    assert seen == [2, 4, 6]


@pytest.mark.parametrize(
    ("renewal", "error", "told"),
    [
        (pj.Renewal(every=0), ArgumentError, "`renewal.every` must be at least 1, got 0"),
        (pj.Renewal(num_moves=1.5), ArgumentTypeError, "`renewal.num_moves` must be an"),
        (500, ArgumentTypeError, "`renewal` must be a `Renewal` or None, got int"),
    ],
)
def test_settings_that_cannot_be(renewal, error, told):
    with pytest.raises(error, match=told):
        learner(renewal=renewal)


def test_a_model_without_a_base_has_no_fresh_walkers():
    with pytest.raises(
        ArgumentError, match=r"can be annealed.*GaussianMixtureEnergy has no"
    ):
        mixture_learner(renewal=RENEWAL)
