"""The mixture base: its density, its draws, and its fit to data."""

import copy

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_jarzynski import (
    MALA,
    MLP,
    ComponentMasses,
    EnergyModel,
    JarzynskiLearner,
    PCAMixture,
)
from pyro_jarzynski.errors import ArgumentError, DataError

FLOAT = torch.float64
NOISE = 0.3


def clusters(num=240, dimension=6):
    """Points of two classes with covariances and means of their own, a third and two."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(num) % 3 > 0).long()
    x = torch.randn(num, dimension, dtype=FLOAT, generator=generator)
    stretch = torch.linspace(0.2, 2.0, dimension, dtype=FLOAT)
    x = torch.where(labels[:, None] == 0, x * stretch, x * stretch.flip(0) + 1.5)
    return x, labels


def drawn(base, *shape, seed=0):
    """Draws by a seed; distributions draw from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return base.sample(shape)


def full_gaussian(x):
    cov = torch.cov(x.T) + NOISE**2 * torch.eye(x.shape[1], dtype=FLOAT)
    return MultivariateNormal(x.mean(0), cov)


def test_density_is_that_of_gaussians():
    """With all axes but one, which has no variance of its own beyond the noise."""
    x, labels = clusters()
    x[:, -1] = x[:, 0]
    base = PCAMixture.fit(x, labels, rank=5, noise=NOISE)
    laws = [full_gaussian(x[labels == k]) for k in range(2)]
    logs = torch.stack([law.log_prob(x) for law in laws], 1)
    expected = (logs + torch.tensor([1 / 3, 2 / 3], dtype=FLOAT).log()).logsumexp(1)
    torch.testing.assert_close(base.log_prob(x), expected)


def test_one_component_has_the_variance_of_the_data():
    x, _ = clusters()
    base = PCAMixture.fit(x, rank=2)
    variances = torch.linalg.eigvalsh(torch.cov(x.T))
    assert float(base.rest) == pytest.approx(float(variances[:-2].mean()))
    found = base.scale_tril[0].square().sum()
    assert float(found) == pytest.approx(float(variances[-2:].sum()))


def test_few_data_give_the_same_axes():
    x, _ = clusters(10, 40)
    base = PCAMixture.fit(x, rank=3, noise=NOISE)
    many = PCAMixture.fit(torch.cat([x] * 5), rank=3, noise=NOISE)
    overlap = base.axes.T @ many.axes
    torch.testing.assert_close(overlap @ overlap.T, torch.eye(3, dtype=FLOAT))


def test_moments_of_draws():
    """Of 40,000; five standard errors, a false-alarm rate below 1e-5 for all."""
    x, labels = clusters()
    base = PCAMixture.fit(x, labels, rank=3, noise=NOISE)
    draws = drawn(base, 40_000)
    centred = draws - x.mean(0)
    along = centred @ base.axes
    truth = torch.cov(x.T, correction=0)
    for found, axis in zip(along.var(0), base.axes.T, strict=True):
        expected = float(axis @ truth @ axis) + NOISE**2
        assert float(found) == pytest.approx(expected, rel=0.06)
    across = (centred - along @ base.axes.T).square().sum(1).mean() / 3
    assert float(across) == pytest.approx(float(base.rest), rel=0.03)
    assert (centred.mean(0).abs() < 5 * draws.std(0) / 200).all()


def test_an_importance_weight_of_another_law_has_mean_one():
    """Density and draws belong together: `E[q(X) / p(X)] = 1`. False alarms: 6e-5."""
    x, labels = clusters()
    base = PCAMixture.fit(x, labels, rank=3, noise=1.0)
    other = PCAMixture.fit(x, labels, rank=3, noise=0.8, masses=torch.ones(2))
    draws = drawn(base, 20_000, seed=1)
    weight = (other.log_prob(draws) - base.log_prob(draws)).exp()
    assert abs(float(weight.mean()) - 1) < 4 * float(weight.std()) / 20_000**0.5
    assert float(weight.std()) > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_components_have_their_shares(seed):
    x, labels = clusters()
    x = x + 1000 * labels[:, None]
    base = PCAMixture.fit(x, labels, rank=2, masses=torch.tensor([1.0, 4.0]))
    right = drawn(base, 502, seed=seed)[:, 0] > 500
    assert int(right.sum()) in (401, 402)
    # In random order, so that a part of the walkers is a sample as well.
    assert 0.6 < float(right[:250].double().mean()) < 0.95
    assert drawn(base).shape == (6,)
    assert drawn(base, 2, 3).shape == (2, 3, 6)


def test_a_model_starts_at_it():
    x, labels = clusters()
    base = PCAMixture.fit(x.float(), labels, rank=2)
    model = EnergyModel(MLP([6, 8]), base)
    torch.testing.assert_close(model(x.float()), -base.log_prob(x.float()))
    assert model.draw(7, torch.Generator().manual_seed(0)).shape == (7, 6)
    assert model.start_log_normalizer() == 0


def test_what_cannot_be_fitted():
    x, labels = clusters(30)
    with pytest.raises(ArgumentError, match="`rank` must be below 6, the lesser"):
        PCAMixture.fit(x, rank=6)
    with pytest.raises(DataError, match=r"every component two data, got \[10, 0, 20\]"):
        PCAMixture.fit(x, 2 * labels, rank=2)
    with pytest.raises(DataError, match="no variance along some of 3 axes"):
        PCAMixture.fit(x * torch.tensor([1, 1, 0, 0, 0, 0]), rank=3)
    base = PCAMixture.fit(x, rank=2).parameters
    with pytest.raises(ArgumentError, match=r"shapes \(K, 2\) and \(K, 2, 2\)"):
        PCAMixture(**(base | {"means": torch.zeros(1, 3)}))


def test_masses_are_those_of_the_base_until_they_change():
    x, labels = clusters()
    base = PCAMixture.fit(x, labels, rank=3, noise=NOISE)
    net = ComponentMasses(MLP([6, 4]).double(), base)
    model = EnergyModel(net, base)
    assert torch.equal(model(x), -base.log_prob(x))
    torch.testing.assert_close(net.masses(), base.masses)


def test_changed_masses_are_those_of_another_base():
    x, labels = clusters()
    base = PCAMixture.fit(x, labels, rank=3, noise=NOISE)
    net = ComponentMasses(MLP([6, 4]).double(), base)
    model = EnergyModel(net, base)
    with torch.no_grad():
        net.log_ratio.copy_(torch.tensor([0.7, -0.4]))
    other = PCAMixture(**base.parameters | {"masses": net.masses()})
    constant = (base.masses * net.log_ratio.exp()).sum().log()
    torch.testing.assert_close(model(x), -other.log_prob(x) - constant)
    plain = net(x) + model.base_energy(x)
    torch.testing.assert_close(model(x), plain, rtol=1e-12, atol=1e-12)


def test_components_are_evaluated_once(monkeypatch):
    x, labels = clusters()
    base = PCAMixture.fit(x, labels, rank=3, noise=NOISE)
    model = EnergyModel(ComponentMasses(MLP([6, 4]).double(), base), base)
    calls, real = [], PCAMixture._along
    monkeypatch.setattr(PCAMixture, "_along", lambda *a: calls.append(1) or real(*a))
    model(x)
    copy.deepcopy(model)(x)
    assert len(calls) == 2


def test_training_finds_the_masses_from_a_wrong_start():
    x, labels = clusters()
    start = PCAMixture.fit(x, labels, rank=5, noise=NOISE, masses=torch.tensor([0.8, 0.2]))
    net = ComponentMasses(MLP([6, 4]).double(), start)
    model = EnergyModel(net, start)
    optimizer = torch.optim.Adam([{"params": [net.log_ratio], "lr": 0.1}])
    optimizer.add_param_group({"params": net.net.parameters(), "lr": 1e-4})
    learner = JarzynskiLearner(model, optimizer, num_walkers=2000, kernel=MALA(0.02))
    learner.fit(x, 80, batch_size=None)
    assert net.masses().tolist() == pytest.approx([1 / 3, 2 / 3], abs=0.02)
