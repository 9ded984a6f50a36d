"""Energies with a known normaliser: closed forms, draws, and training."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_jarzynski import MALA, JarzynskiLearner, LikelihoodTracker
from pyro_jarzynski.ebm.closed_forms import QuadraticEnergy, RBMEnergy
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError
from tests.ebm.models import FLOAT
from tests.scenarios import GaussianBernoulliRBM
from tests.seeds import seed_of

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=FLOAT)
PRECISION = torch.tensor([[2.0, 0.8, 0.0], [0.8, 1.0, -0.3], [0.0, -0.3, 0.7]], dtype=FLOAT)
MANY = 20_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed_of(seed))


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=FLOAT, generator=seeded(seed))


def quadratic():
    return QuadraticEnergy(MEAN, PRECISION)


def trained_machine():
    """A machine of 4 visible and 5 hidden units, all of whose parameters matter."""
    machine = RBMEnergy(4, 5, sd=0.7, weight_scale=0.8, seed=2).double()
    with torch.no_grad():
        machine.bias.copy_(normal(4, seed=5))
    return machine


def on_a_grid(energy, ends, num):
    """`log ∫ e^{-U}` over the plane, by the midpoint rule."""
    step = 2 * ends / num
    side = (torch.arange(num, dtype=FLOAT) + 0.5) * step - ends
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        return float((-energy(grid)).logsumexp(0) + 2 * math.log(step))


def test_quadratic_is_a_gaussian():
    model, law = quadratic(), MultivariateNormal(MEAN, precision_matrix=PRECISION)
    x = normal(50, 3)
    log_prob = -model(x).detach() - model.log_normalizer()
    torch.testing.assert_close(log_prob, law.log_prob(x))
    torch.testing.assert_close(model.precision(), PRECISION)
    torch.testing.assert_close(model.covariance(), law.covariance_matrix)
    assert model.start_log_normalizer() == float(model.log_normalizer())


def test_quadratic_starts_at_unit_precision():
    model = QuadraticEnergy(torch.zeros(2))
    assert torch.equal(model.precision(), torch.eye(2))
    assert model.start_log_normalizer() == pytest.approx(math.log(2 * math.pi))
    assert model.event_shape == (2,)
    assert sum(p.numel() for p in model.parameters()) == 2 + 3


def test_quadratic_draws_have_its_mean_and_covariance():
    """False alarms: below 1e-3, nine z of 4; entries of a covariance have `C² + CᵢᵢCⱼⱼ`."""
    model = quadratic()
    x, cov = model.draw(MANY, seeded()), model.covariance()
    assert torch.equal(x, model.draw(MANY, seeded()))
    spread = cov.diagonal()
    z = (x.mean(0) - MEAN) / (spread / MANY).sqrt()
    assert z.abs().max() < 4
    error = ((cov.square() + torch.outer(spread, spread)) / MANY).sqrt()
    assert ((torch.cov(x.T) - cov) / error).abs().max() < 4


def test_quadratic_gradients_by_its_parameters_are_right():
    model = quadratic()
    x = normal(5, 3)
    names = [name for name, _ in model.named_parameters()]

    def energy(*values):
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, named, (x,))

    assert torch.autograd.gradcheck(energy, tuple(model.parameters()))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((MEAN[None],), r"`mean` must be a floating tensor of shape \(d,\), got \(1, 3\)"),
        ((torch.tensor([1, 2]),), r"`mean` must be a floating .* of torch.int64"),
        ((MEAN, PRECISION[:2]), r"symmetric matrix of shape \(3, 3\), got shape \(2, 3\)"),
        ((MEAN, PRECISION.triu()), r"`precision` must be a symmetric matrix"),
        ((MEAN, -PRECISION), r"`precision` must be positive definite"),
    ],
)
def test_quadratics_that_cannot_be(arguments, match):
    with pytest.raises(ArgumentError, match=match):
        QuadraticEnergy(*arguments)


@pytest.fixture(scope="module")
def fitted():
    data = quadratic().draw(2000, seeded(1))
    model = QuadraticEnergy(torch.zeros(3, dtype=FLOAT))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: 0.97 ** max(k - 60, 0)
    )
    learner = JarzynskiLearner(
        model,
        optimizer,
        num_walkers=2000,
        audit_walkers=1500,
        kernel=MALA(0.3),
        lr_scheduler=schedule,
    )
    learner.fit(data, 200, batch_size=None, eval_every=200)
    return learner, data


def test_a_trained_quadratic_has_the_moments_of_the_data(fitted):
    """Walkers stand for the model, at an error of `1/√ESS` in units of its spread.

    At the optimum of 2,000 walkers that is 0.03; 0.2 is more than six errors, and the
    start is off by 1 in the variances and by 2 in the means.
    """
    learner, data = fitted
    spread = data.std(0)
    assert ((learner.model.mean.detach() - data.mean(0)) / spread).abs().max() < 0.2
    off = (learner.model.covariance() - torch.cov(data.T)) / torch.outer(spread, spread)
    assert off.abs().max() < 0.2


def test_the_audit_of_a_trained_quadratic_is_exact_within_its_error(fitted):
    """False alarms: 6e-7, a z of 5."""
    learner, _ = fitted
    exact = float(learner.model.log_normalizer())
    assert abs(exact - 1.5 * math.log(2 * math.pi)) > 0.05
    assert 0 < learner.log_normalizer_error < 0.15
    assert abs(learner.log_normalizer - exact) < 5 * learner.log_normalizer_error


def enumerated(machine):
    """The same machine in units of `σ`, summed by other code."""
    parameters = machine.weight, machine.bias / machine.sd, machine.hidden_bias
    return GaussianBernoulliRBM(*(p.detach().clone() for p in parameters))


def test_the_machine_is_that_of_the_scenarios():
    """In `y = v / σ` its energy has `b·y` and `½|y|²` apart, and `|b|²/2` beside."""
    machine = trained_machine()
    other, constant = enumerated(machine), (machine.bias / machine.sd).square().sum() / 2
    v = normal(20, 4)
    expected = other.energy(v / machine.sd) + constant
    torch.testing.assert_close(machine(v).detach(), expected.detach())
    volume = 4 * math.log(machine.sd)
    exact = other.log_normalizer - constant.detach() + volume
    torch.testing.assert_close(machine.exact_log_normalizer(), exact)


def test_the_normalizer_is_an_integral():
    machine = RBMEnergy(2, 3, sd=0.5, weight_scale=1.0, seed=1).double()
    integral = on_a_grid(machine, 12.0, 600)
    assert float(machine.exact_log_normalizer()) == pytest.approx(integral, abs=1e-9)


def test_units_without_weights_need_no_sum():
    machine = trained_machine()
    with torch.no_grad():
        machine.weight[:, [1, 3]] = 0
    exact = enumerated(machine).log_normalizer + 4 * math.log(machine.sd)
    constant = (machine.bias / machine.sd).square().sum().detach() / 2
    torch.testing.assert_close(machine.exact_log_normalizer(), exact - constant)


def test_a_new_machine_of_many_units_is_a_gaussian():
    machine = RBMEnergy(3, 500, sd=2.0, seed=4)
    x = machine.draw(MANY, seeded())
    assert x.dtype == torch.float32
    assert (x.mean(0) / 2).abs().max() < 4 / MANY**0.5
    assert x.std(0) == pytest.approx([2.0] * 3, rel=4 / (2 * MANY) ** 0.5)
    energy = machine(torch.zeros(1, 3)).detach()
    # log p(0) of the Gaussian.
    expected = -1.5 * math.log(2 * math.pi * 4)
    assert -float(energy) - machine.start_log_normalizer() == pytest.approx(
        expected, abs=1e-3
    )


def test_draws_of_a_machine_have_its_moments():
    """False alarms: below 1e-3, eight z of 4, with moments from the sum over states."""
    machine = trained_machine()
    other = enumerated(machine)
    chance, centres = other.state_scores.softmax(0), other.centres * machine.sd
    mean = chance @ centres
    second = chance @ centres.square() + machine.sd**2
    x = machine.draw(MANY, seeded())
    for power, expected in ((x, mean), (x.square(), second)):
        z = (power.mean(0) - expected) / power.std(0) * MANY**0.5
        assert z.abs().max() < 4


@pytest.mark.parametrize("weight_scale", [0.0, 0.3])
def test_the_audit_of_a_trained_machine_agrees_with_enumeration(weight_scale):
    """False alarms: 6e-7 each, a z of 5."""
    data = trained_machine().draw(500, seeded(3))
    machine = RBMEnergy(4, 4, sd=0.7, weight_scale=weight_scale, seed=1).double()
    before = float(machine.exact_log_normalizer())
    learner = JarzynskiLearner(
        machine,
        torch.optim.Adam(machine.parameters(), 0.02),
        num_walkers=500,
        audit_walkers=1500,
        kernel=MALA(0.2),
    )
    assert learner.log_normalizer == pytest.approx(before)
    untrained = learner.nll(data).nll
    learner.fit(data, 120, batch_size=None, eval_every=120)
    exact = float(machine.exact_log_normalizer())
    assert abs(exact - before) > 0.3
    assert learner.nll(data).nll < untrained - 0.3
    assert learner.log_normalizer_error < 0.2
    assert abs(learner.log_normalizer - exact) < 5 * learner.log_normalizer_error


def test_a_tracker_starts_at_a_machine_that_is_trained():
    machine = trained_machine()
    tracker = LikelihoodTracker(machine, num_walkers=50)
    assert tracker.log_normalizer == pytest.approx(float(machine.exact_log_normalizer()))


def test_too_many_coupled_units_are_not_summed():
    machine = RBMEnergy(3, 17, weight_scale=0.1)
    with pytest.raises(ArgumentError, match=r"at most 16 hidden units .* this one has 17"):
        machine.exact_log_normalizer()
    with pytest.raises(ArgumentError, match="Start training and tracking"):
        machine.draw(3, seeded())


def test_the_seed_of_a_machine_decides():
    first, again, other = (RBMEnergy(3, 4, weight_scale=0.1, seed=s) for s in (0, 0, 1))
    for one, two, three in zip(
        first.parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(one, two)
        assert one is first.bias or not torch.equal(one, three)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"visible": 0}, ArgumentError, "`visible` must be at least 1, got 0"),
        ({"hidden": 1.5}, ArgumentTypeError, "`hidden` must be an integer"),
        ({"sd": 0.0}, ArgumentError, "`sd` must be a positive finite float"),
        ({"weight_scale": -1.0}, ArgumentError, "`weight_scale` must be a positive"),
        ({"seed": 0.5}, ArgumentTypeError, "`seed` must be an integer"),
    ],
)
def test_machines_that_cannot_be(settings, error, match):
    with pytest.raises(error, match=match):
        RBMEnergy(**({"visible": 3, "hidden": 2} | settings))
