"""The binary Boltzmann machine against sums over all its states."""

import math
from unittest.mock import patch

import pytest
import torch
from torch.nn.functional import softplus

from pyro_jarzynski import BinaryRBMEnergy, RBMEnergy, annealed_walkers, init
from pyro_jarzynski.core.gibbs import BlockGibbs
from pyro_jarzynski.ebm.check import normalizer_bounds
from pyro_jarzynski.ebm.gradient import walker_gradient
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, DataError, EnergyError
from tests.ebm.models import FLOAT
from tests.machines import Machine, all_states
from tests.seeds import seed_of

MANY = 20_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed_of(seed))


def machine(visible=6, hidden=4, **settings):
    """A machine all of whose parameters matter."""
    settings = {"weight_scale": 1.0, "seed": 2} | settings
    made = BinaryRBMEnergy(visible, hidden, **settings).double()
    with torch.no_grad():
        made.bias.copy_(torch.randn(visible, dtype=FLOAT, generator=seeded(5)))
    return made


@torch.no_grad()
def enumerated(energy):
    """Return `log Z` and the chance of all visible states."""
    scores = -energy(all_states(*energy.event_shape))
    return float(scores.logsumexp(0)), scores.softmax(0)


def joint_scores(made):
    """Return `b·v + c·h + vᵀWh` of all pairs of states, by no formula but that."""
    v, h = all_states(len(made.bias)), all_states(len(made.hidden_bias))
    bias, weight, hidden_bias = made.units
    linear = (v @ bias)[:, None] + h @ hidden_bias
    return (linear + v @ weight @ h.T).detach()


@pytest.mark.parametrize("centred", [True, False])
def test_the_energy_sums_the_joint_law_over_hidden_units(centred):
    made = machine(centred=centred)
    expected = -joint_scores(made).logsumexp(1)
    torch.testing.assert_close(made(all_states(6)).detach(), expected)


def test_the_gradient_by_centred_weights_is_that_of_centred_units():
    """`∂U/∂w_ij = -(v_i - m_i)(h_j - ½)`, up to what all points have in common."""
    made, (v, other) = machine(probs=torch.linspace(0.2, 0.7, 6)), all_states(6)[[7, 41]]
    slopes = [torch.autograd.grad(made(x[None]).sum(), made.weight)[0] for x in (v, other)]
    hidden = [(x @ made.weight + made.units.hidden_bias).sigmoid() for x in (v, other)]
    first, second = (
        torch.outer(x - made.offset, h.detach() - 0.5)
        for x, h in zip((v, other), hidden, strict=True)
    )
    torch.testing.assert_close(slopes[0] - slopes[1], second - first)
    plain = machine(centred=False)
    assert torch.equal(plain.units.bias, plain.bias)
    assert torch.equal(plain.units.hidden_bias, plain.hidden_bias)


@pytest.mark.parametrize(("visible", "hidden"), [(6, 4), (4, 20), (12, 3)])
def test_the_normalizer_is_a_sum(visible, hidden):
    made = machine(visible, hidden)
    exact, _ = enumerated(made)
    assert float(made.exact_log_normalizer()) == pytest.approx(exact, abs=1e-10)
    assert made.start_log_normalizer() == pytest.approx(exact, abs=1e-10)


def test_units_without_weights_need_no_sum():
    made = machine(10, 40)
    with torch.no_grad():
        made.weight[:, 5:] = 0
        made.weight[3] = 0
    assert made.start_log_normalizer() == pytest.approx(enumerated(made)[0], abs=1e-10)
    wide = BinaryRBMEnergy(40, 300, probs=torch.linspace(0.1, 0.9, 40)).double()
    with torch.no_grad():
        wide.weight[:7] = torch.randn(7, 300, dtype=FLOAT, generator=seeded())
    # The visible units without weights are independent of the others.
    bias, weight, hidden_bias = (part.detach() for part in wide.units)
    scores = -Machine(weight[:7], bias[:7], hidden_bias)(all_states(7))
    exact = float(scores.logsumexp(0) + softplus(bias[7:]).sum())
    assert wide.start_log_normalizer() == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("visible", "hidden"), [(8, 4), (5, 20)], ids=["by h", "by v"])
def test_draws_have_the_moments_of_the_law(visible, hidden):
    """False alarms: below 1e-4, a z of 4.6 for at most 36 moments."""
    made = machine(visible, hidden)
    with torch.no_grad():
        made.weight[1] = 0
    states, chance = all_states(visible), enumerated(made)[1]
    x = made.draw(MANY, seeded())
    assert torch.equal(x, made.draw(MANY, seeded()))
    truth = torch.einsum("n,ni,nj->ij", chance, states, states)
    spread = (truth * (1 - truth) / MANY).sqrt()
    assert ((x.T @ x / MANY - truth) / spread).abs().max() < 4.6


def test_a_new_machine_has_the_rates_of_its_data():
    """False alarms: below 1e-4, a z of 4.6 for 30 rates."""
    data = torch.bernoulli(torch.linspace(0, 0.9, 30).expand(50, 30), generator=seeded())
    made = BinaryRBMEnergy(30, 400, data=data)
    rates = (1 + data.sum(0)) / 52
    torch.testing.assert_close(made.bias.detach().sigmoid(), rates)
    draws = made.draw(MANY, seeded())
    z = (draws.mean(0) - rates) / (rates * (1 - rates) / MANY).sqrt()
    assert z.abs().max() < 4.6
    log_prob = -made(data).detach() - made.start_log_normalizer()
    expected = torch.distributions.Bernoulli(rates).log_prob(data).sum(1)
    torch.testing.assert_close(log_prob, expected, atol=1e-3, rtol=1e-5)


def test_conditional_laws_are_those_of_the_joint_law():
    """Chances in place of draws, against sums over the joint law."""
    made, joint = machine(), joint_scores(machine())
    v, h = all_states(6), all_states(4)
    with patch.object(torch, "bernoulli", lambda chance, generator: chance):
        hidden = made.units.hidden(v, None).detach()
        visible = made.units.visible(h, None).detach()
    torch.testing.assert_close(hidden, joint.softmax(1) @ h)
    torch.testing.assert_close(visible, joint.softmax(0).T @ v)


def test_the_gaussian_machine_has_conditional_laws_as_well():
    """False alarms: below 1e-4, a z of 4.5 for at most 18 moments, from exact draws."""
    made = RBMEnergy(4, 5, sd=0.7, weight_scale=1.0, seed=2).double()
    x, fresh = made.draw(MANY, seeded()), made.draw(MANY, seeded(1))
    moved = made.gibbs(x, seeded(2)).detach()
    assert (moved - x).abs().min() > 0
    for f in (lambda y: y, lambda y: y.square(), lambda y: y * y.roll(1, 1)):
        off = f(moved).mean(0) - f(fresh).mean(0)
        error = (f(moved).var(0) / MANY + f(fresh).var(0) / MANY).sqrt()
        assert (off / error).abs().max() < 4.5


def test_weighted_states_give_the_exact_gradient():
    made = machine()
    states = all_states(6)
    walkers = init(states, made, log_weight=-made(states).detach(), gradient=False)
    parameters = list(made.parameters())
    found = walker_gradient(made, walkers, parameters)
    log_z = (-made(states)).logsumexp(0)
    for slope, exact in zip(found, torch.autograd.grad(log_z, parameters), strict=True):
        torch.testing.assert_close(slope, -exact)


def test_scattered_weights_differ_by_seed_alone():
    first, again, other = (BinaryRBMEnergy(5, 7) for _ in range(3))
    for made, seed in ((first, 0), (again, 0), (other, 1)):
        made.scatter(0.1, seed=seed)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert 0.05 < float(first.weight.detach().std()) < 0.2


SMALL = {"num_temperatures": 60, "num_walkers": 800, "kernel": BlockGibbs()}


class TestAnnealing:
    def test_it_starts_at_the_first_rates_and_ends_at_the_machine(self):
        made = machine()
        start = made.annealing([0.0, 0.3, 1.0])
        assert start.log_normalizer == pytest.approx(enumerated_path(start.path[0]))
        states = all_states(6)
        torch.testing.assert_close(start.path[2](states), made(states))
        assert start.draw(7, seeded()).shape == (7, 6)

    def test_log_normalizer_is_exact(self):
        """False alarms: 6.3e-5, a z of 4."""
        made = machine()
        walkers = annealed_walkers(made, **SMALL, num_moves=1)
        error = float(walkers.log_normalizer_error)
        assert 0 < error < 0.1
        exact = made.start_log_normalizer()
        assert abs(exact - made.annealing([0.0, 1.0]).log_normalizer) > 1
        assert abs(float(walkers.log_normalizer) - exact) < 4 * error

    def test_bounds_enclose_it(self):
        """False alarms: 1.3e-4 for both, a z of 4."""
        made = machine()
        bounds = normalizer_bounds(made, made.draw(800, seeded()), **SMALL, num_moves=1)
        exact = made.start_log_normalizer()
        assert abs(bounds.lower - exact) < 4 * bounds.lower_error
        assert abs(bounds.upper - exact) < 4 * bounds.upper_error

    def test_a_start_that_is_not_counted_is_seen(self):
        made = machine()
        start = made.annealing([0.0, 1.0])
        wrong = {"log_normalizer": start.log_normalizer - 4 * math.log(2)}
        with patch.object(
            type(made),
            "annealing",
            lambda _, betas: _ANNEALING(made, betas)._replace(**wrong),
        ):
            bounds = normalizer_bounds(made, made.draw(800, seeded()), **SMALL)
        assert abs(bounds.lower - made.start_log_normalizer()) > 4 * bounds.lower_error
        assert abs(bounds.upper - made.start_log_normalizer()) > 4 * bounds.upper_error

    def test_draws_must_be_binary(self):
        with pytest.raises(DataError, match="`draws` must lie in the support"):
            normalizer_bounds(machine(), torch.full((3, 6), 0.5, dtype=FLOAT), **SMALL)

    def test_gradients_are_no_way(self):
        with pytest.raises(ArgumentError, match=r"such as BlockGibbs\(\); got MALA"):
            annealed_walkers(machine())

    def test_an_energy_without_a_way_says_so(self):
        with pytest.raises(ArgumentError, match="RBMEnergy cannot be annealed"):
            annealed_walkers(RBMEnergy(3, 2))


_ANNEALING = BinaryRBMEnergy.annealing


def enumerated_path(energy):
    return float((-energy(all_states(6)).detach()).logsumexp(0))


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"visible": 0}, ArgumentError, "`visible` must be at least 1, got 0"),
        ({"hidden": 1.5}, ArgumentTypeError, "`hidden` must be an integer"),
        ({"weight_scale": -1.0}, ArgumentError, "`weight_scale` must be a positive"),
        ({"seed": 0.5}, ArgumentTypeError, "`seed` must be an integer"),
        ({"probs": torch.tensor([0.5, 1.0, 0.5])}, ArgumentError, r"numbers in \(0, 1\)"),
        ({"probs": torch.full((2,), 0.5)}, ArgumentError, r"tensor of shape \(3,\)"),
        ({"probs": 0.5}, ArgumentError, r"`probs` must be a tensor of shape \(3,\)"),
        ({"data": torch.full((4, 3), 0.5)}, DataError, "`data` must lie in the support"),
        ({"data": torch.zeros(4, 2)}, DataError, r"`data` must have shape \(n, 3\)"),
        ({"data": torch.zeros(4, 3).int()}, ArgumentTypeError, "`data` must be floating"),
        (
            {"data": torch.zeros(4, 3), "probs": torch.full((3,), 0.5)},
            ArgumentError,
            "`data` or `probs`, not both",
        ),
    ],
)
def test_machines_that_cannot_be(settings, error, match):
    with pytest.raises(error, match=match):
        BinaryRBMEnergy(**({"visible": 3, "hidden": 2} | settings))


def test_too_many_coupled_units_are_not_summed():
    made = BinaryRBMEnergy(17, 18, weight_scale=0.1)
    with pytest.raises(ArgumentError, match=r"at most 16 units .* has 17 on its smaller"):
        made.start_log_normalizer()
    with pytest.raises(ArgumentError, match="Start training and tracking"):
        made.draw(3, seeded())


def test_units_are_no_place_for_gradients():
    with pytest.raises(EnergyError, match=r"init\(..., gradient=False\)"):
        init(machine().draw(4, seeded()), machine())
