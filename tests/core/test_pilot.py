"""What a pilot finds out: metrics, temperatures, step sizes; and why others follow it."""

import math

import pytest
import torch

from pyro_jarzynski.core import smc, weights
from pyro_jarzynski.core.curvature import largest_curvature
from pyro_jarzynski.core.evaluation import CombinedEnergy
from pyro_jarzynski.core.hamiltonian import HMC, UnderdampedLangevin
from pyro_jarzynski.core.kernels import MALA, ULA
from pyro_jarzynski.core.metric import metric
from pyro_jarzynski.core.pilot import MAX_CURVATURE, Exploration, explore
from pyro_jarzynski.core.preconditioner import factorise
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.tempering import TOLERANCE, next_beta
from pyro_jarzynski.core.walkers import init
from tests.identities import Z_ONE, z_score
from tests.scenarios import FLOAT
from tests.seeds import seeded

COVARIANCE = torch.tensor([[4.0, 1.5], [1.5, 1.0]], dtype=FLOAT)


def noise(*shape, seed=0):
    generator = seeded(seed)
    return torch.randn(shape, dtype=FLOAT, generator=generator)


def gaussian_cloud(covariance, white):
    """Walkers `L white` at the Gaussian of this covariance."""
    precision = torch.linalg.inv(covariance)
    lower = torch.linalg.cholesky(covariance)
    return init(white @ lower.mT, lambda x: ((x @ precision) * x).sum(1) / 2)


def standard_terms(precision=9.0, mean=2.0):
    """From the standard normal law to a narrower one, in two dimensions."""

    def terms(x):
        return x.square().sum(1) / 2, precision * (x - mean).square().sum(1) / 2

    return terms


def tempered(terms, size, *, beta=0.0, seed=0, islands=None, dims=2):
    """Standard normal walkers, evaluated as on a path."""
    energy = CombinedEnergy(terms, (1 - beta, beta))
    return init(noise(size, dims, seed=seed), energy, num_islands=islands)


def test_dense_metric_is_the_covariance_of_a_gaussian():
    """Its error is 1 % for 40,000 walkers; 5 % are beyond four standard errors."""
    found = metric(gaussian_cloud(COVARIANCE, noise(40_000, 2)))
    torch.testing.assert_close(found, COVARIANCE, rtol=0.05, atol=0.05)


def test_diagonal_metric_is_between_marginal_and_conditional_variance():
    """`√(Σ_ii / F_ii)`, to four standard errors and more."""
    found = metric(gaussian_cloud(COVARIANCE, noise(40_000, 2)), dense=False)
    steepness = torch.linalg.inv(COVARIANCE).diagonal()
    expected = (COVARIANCE.diagonal() / steepness).sqrt()
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0)


@pytest.mark.parametrize("dense", [True, False])
def test_metric_follows_a_change_of_units(dense):
    """`C → D C D` under `x → D x`, exactly."""
    scale = torch.tensor([100.0, 0.03], dtype=FLOAT)
    white, wide = noise(50, 2), scale[:, None] * COVARIANCE * scale
    plain = metric(gaussian_cloud(COVARIANCE, white), dense=dense)
    found = metric(gaussian_cloud(wide, white), dense=dense)
    expected = scale[:, None] * plain * scale if dense else scale * plain * scale
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def slanted(size=50, condition=1e4):
    """A covariance whose narrow directions are along no axis."""
    turn, _ = torch.linalg.qr(noise(size, size, seed=1))
    scales = torch.logspace(0, -math.log10(condition), size, dtype=FLOAT)
    return (turn * scales) @ turn.mT


def test_dense_metric_is_as_narrow_as_the_law():
    """Shrunk along the axes it would be 14 times too narrow in some direction."""
    covariance = slanted()
    found = metric(gaussian_cloud(covariance, noise(1000, 50)))
    lower = torch.linalg.cholesky(covariance)
    half = torch.linalg.solve_triangular(lower, found, upper=False)
    white = torch.linalg.solve_triangular(lower, half.mT, upper=False)
    values = torch.linalg.eigvalsh(white)
    assert 0.5 < float(values.min()) < float(values.max()) < 2


def test_dense_metric_follows_a_rotation():
    """Up to the shrinking, which is of the order of d / N."""
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=FLOAT)
    turned = turn @ torch.linalg.inv(COVARIANCE) @ turn.mT
    walkers = gaussian_cloud(COVARIANCE, noise(20_000, 2))
    plain, start = metric(walkers), walkers.position @ turn.mT
    found = metric(init(start, lambda x: ((x @ turned) * x).sum(1) / 2))
    torch.testing.assert_close(found, turn @ plain @ turn.mT, rtol=0, atol=2e-3)


@pytest.mark.parametrize("dense", [True, False])
def test_metric_of_units_that_differ_by_sixteen_orders(dense):
    """Without units of their own, the widest eigenvalues hide the narrowest."""
    scale = torch.tensor([1e8, 1e-8], dtype=FLOAT)
    white, wide = noise(50, 2), scale[:, None] * COVARIANCE * scale
    plain = metric(gaussian_cloud(COVARIANCE, white), dense=dense)
    found = metric(gaussian_cloud(wide, white), dense=dense)
    expected = scale[:, None] * plain * scale if dense else scale.square() * plain
    torch.testing.assert_close(found / expected, plain / plain, rtol=1e-5, atol=0)


def cloud_of(position, grad, log_weight=None):
    """Walkers at some positions, of given gradients."""
    walkers = init(position, lambda x: 0 * x.sum(1), log_weight=log_weight)
    evaluation = walkers.evaluation._replace(grad_or_none=grad)
    return walkers._replace(evaluation=evaluation)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e15), (torch.float32, 1e30), (FLOAT, 1e150), (FLOAT, 1e300)],
)
def test_metric_of_gradients_whose_squares_overflow(dtype, size, dense):
    """The coordinate of such gradients is narrow, and the other as it would be."""
    position, grad = noise(4000, 2), noise(4000, 2, seed=1)
    plain = metric(cloud_of(position, grad), dense=dense)
    steep = torch.tensor([size, 1.0], dtype=FLOAT)
    found = metric(cloud_of(position.to(dtype), (grad * steep).to(dtype)), dense=dense)
    assert torch.isfinite(found).all()
    factorise(found)
    first, other = (found.diagonal() if dense else found).tolist()
    assert 0 < first < 1e-25
    expected = float((plain.diagonal() if dense else plain)[1])
    assert other == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT])
@pytest.mark.parametrize("which", ["one place", "few", "flat", "constant", "dead"])
def test_metric_of_degenerate_clouds(which, dtype, dense):
    position, grad = noise(40, 3).to(dtype), noise(40, 3, seed=1).to(dtype)
    log_weight = torch.zeros(40, dtype=FLOAT)
    if which == "one place":
        position, grad = position[:1].expand(40, 3), grad[:1].expand(40, 3)
    elif which == "few":
        log_weight[2:] = -math.inf
    elif which == "flat":
        grad = torch.zeros_like(grad)
    elif which == "constant":
        position[:, 1] = 3.0
    walkers = cloud_of(position, grad, log_weight)
    if which == "dead":
        # Weights of zero do not make infinite numbers finite.
        position, log_weight = position.clone(), log_weight.clone()
        position[0], log_weight[0] = math.inf, -math.inf
        walkers = walkers._replace(position=position, log_weight=log_weight)
    found = metric(walkers, dense=dense)
    assert torch.isfinite(found).all()
    assert factorise(found).lower is not None or not dense
    widths = found.diagonal() if dense else found
    assert 1e-4 < float(widths.min()) <= float(widths.max()) < 1e4


def test_metric_that_has_no_factor_in_float32():
    """Rounded to float32, the covariance of a narrow posterior has none."""
    narrow = torch.tensor([1.0, 1e-4], dtype=FLOAT)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=FLOAT)

    def energy(x):
        return ((x.double() @ turn) / narrow).square().sum(1) / 2

    walkers = init(((noise(2000, 2) * narrow) @ turn.mT).float(), energy)
    found = metric(walkers)
    assert int(torch.linalg.cholesky_ex(found.float()).info) > 0
    kernel = MALA(0.1, preconditioner=found)
    _, rate = kernel.move(walkers, energy, Tools(seeded(1)))
    assert float(rate) > 0.9


@pytest.mark.parametrize("dense", [True, False])
def test_metric_of_far_modes_is_bounded_by_the_modes(dense):
    """Two unit modes at ±10: the variance of all is 101, of a mode 1; the bound is 4."""

    def energy(x):
        return -torch.logaddexp(-(x - 10).square() / 2, -(x + 10).square() / 2).sum(1)

    start = torch.cat([noise(2000, 1) + 10, noise(2000, 1) - 10])
    found = float(metric(init(start, energy), dense=dense))
    assert found == pytest.approx(4, rel=0.1)


def test_metric_takes_weights_into_account():
    """Standard normal walkers that are weighted for a law of variance 1/4."""
    start = noise(40_000, 1)
    log_weight = -1.5 * start[:, 0] ** 2
    walkers = init(start, lambda x: 2 * x.square().sum(1), log_weight=log_weight)
    assert float(metric(walkers, dense=False)) == pytest.approx(0.25, rel=0.05)


def skewed_terms(x):
    """A likelihood of energy `e^{3x + 6}`: some walkers see 1e6 nats, others none."""
    prior = x.square().sum(1) / 2
    return prior, prior + (3 * x[:, 0] + 6).exp()


@pytest.mark.parametrize("target", [0.5, 0.8, 0.99])
@pytest.mark.parametrize("terms", [standard_terms(), skewed_terms])
@pytest.mark.parametrize("weighted", [True, False])
def test_next_temperature_leaves_the_share_that_was_asked(terms, target, weighted):
    walkers = tempered(terms, 500)
    if weighted:
        walkers = walkers._replace(log_weight=noise(500, seed=3))
    beta = next_beta(walkers, 0.0, target)
    assert 0 < beta < 1
    first, second = (term.energy for term in walkers.evaluation.terms)
    after = walkers.log_weight - beta * (second - first)
    found = weights.conditional_ess(walkers.log_weight, after) / 500
    assert float(found) == pytest.approx(target, abs=1e-6)


def share_left(walkers, beta):
    first, second = (term.energy for term in walkers.evaluation.terms)
    after = walkers.log_weight - beta * (second - first)
    return float(weights.conditional_ess(walkers.log_weight, after)) / len(after)


def bisected(walkers, target):
    """Return the next temperature by halving a bracket."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        left = share_left(walkers, middle)
        low, high = (middle, high) if left >= target else (low, middle)
    return high


@pytest.mark.parametrize("target", [0.5, 0.8, 0.99])
@pytest.mark.parametrize("power", [1, 2, 6])
def test_next_temperature_is_that_of_bisection_by_fewer_guesses(target, power, monkeypatch):
    """To the same 1e-12, and beyond the crossing, where rounding would decide."""

    def terms(x):
        prior = x.square().sum(1) / 2
        return prior, prior + x[:, 0].abs().pow(power) * 10.0**power

    walkers = tempered(terms, 500)
    expected = bisected(walkers, target)
    calls, real = [], weights.conditional_ess

    def counted(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(weights, "conditional_ess", counted)
    beta = next_beta(walkers, 0.0, target)
    assert len(calls) <= 20
    assert abs(beta - expected) < 2e-12
    assert share_left(walkers, beta - TOLERANCE / 4) < target


@pytest.mark.parametrize("beta", [0.0, 0.5, 1 - 1e-9])
def test_one_step_ends_at_one_exactly(beta):
    walkers = tempered(standard_terms(1.01, 0.0), 100, beta=beta)
    assert next_beta(walkers, beta, 0.8) == 1.0


def test_walkers_of_likelihood_zero_do_not_stop_the_temperature():
    """Half of them are lost at once; the share is one of those that are left."""

    def terms(x):
        prior = x.square().sum(1) / 2
        return prior, torch.where(x[:, 0] > 0, 9 * prior, math.inf)

    walkers = tempered(terms, 1000)
    beta = next_beta(walkers, 0.0, 0.8)
    alive = walkers.position[:, 0] > 0
    gap = (walkers.evaluation.terms[1].energy - walkers.evaluation.terms[0].energy)[alive]
    found = weights.conditional_ess(torch.zeros_like(gap), -beta * gap) / len(gap)
    assert float(found) == pytest.approx(0.8, abs=1e-3)


def stages_of(kernel, terms, size=512, **how):
    settings = Exploration(**how)
    tools = Tools(seeded(4))
    return list(explore(tempered(terms, size), terms, kernel, settings, tools=tools))


@pytest.mark.parametrize("step_size", [1e-4, 50.0])
@pytest.mark.parametrize(
    "kernel", [MALA(1.0), MALA(1.0, target_acceptance=0.8), HMC(1.0)], ids=repr
)
def test_step_size_reaches_its_acceptance_from_anywhere(kernel, step_size):
    kernel = kernel.with_langevin_step(step_size)
    found = stages_of(kernel, standard_terms())[-1]
    tools = Tools(seeded(5))
    last = found.stage
    _, rate = smc.move(found.walkers, last.energy, last.kernel, num_moves=5, tools=tools)
    assert abs(float(rate) - kernel.target_acceptance) < 0.2


@pytest.mark.parametrize("kernel", [ULA(50.0), UnderdampedLangevin(10.0)], ids=repr)
def test_unadjusted_steps_stay_below_the_bound_of_the_curvature(kernel):
    for found in stages_of(kernel, standard_terms()):
        chosen, energy = found.stage.kernel, found.stage.energy
        curvature = largest_curvature(energy, found.walkers.position, factor=chosen.factor)
        assert chosen.langevin_step * curvature <= 1.1 * MAX_CURVATURE


def test_nothing_is_chosen_that_is_fixed():
    kernel, betas = MALA(0.1), [0, 0.1, 0.4, 1]
    how = Exploration(preconditioner=None, adapt_step_size=False, num_moves=2)
    terms = standard_terms()
    settings = {"betas": betas, "tools": Tools(seeded(4))}
    found = list(explore(tempered(terms, 64), terms, kernel, how, **settings))
    assert [f.beta for f in found] == betas[1:]
    assert all(f.stage[1:3] == (kernel, 2) for f in found)


def bias_of(follows):
    """Return z of `E[Ẑ / Z] - 1` of clouds of four walkers, each with its own pilot."""
    terms, truth, ratios = standard_terms(4.0, 0.5), -math.log(4.0), []
    how = Exploration(num_moves=1, preconditioner=None, conditional_ess=0.7)
    for seed in range(160):
        tools = Tools(seeded(seed))
        pilot = tempered(terms, 4, seed=seed)
        plan = list(explore(pilot, terms, MALA(0.3), how, tools=tools))
        walkers = plan[-1].walkers
        if follows:
            # Many clouds follow one plan, so that its noise is averaged.
            walkers = tempered(terms, 80, seed=10_000 + seed, islands=20)
            stages = [found.stage for found in plan]
            for moved, _ in smc.follow(walkers, stages, tools=tools):
                walkers = moved
        ratios.append((walkers.log_normalizer - truth).exp().mean())
    return z_score(torch.stack(ratios), 1)


def test_pilot_of_few_walkers_is_biased_and_its_followers_are_not():
    """What looks at its own weights to choose temperatures keeps `E[Ẑ] = Z` no more.

    False alarms: 1e-4 for the followers.
    """
    assert abs(bias_of(follows=False)) > Z_ONE
    assert abs(bias_of(follows=True)) < Z_ONE


def stiff(x):
    return 1e6 * x.square().sum(1) ** 2


def test_diverging_trajectories_are_refused_in_silence():
    walkers = init(1 + noise(100, 2), stiff)
    tools = Tools(seeded(6))
    moved, rate = HMC(1.0, num_leapfrog=50).move(walkers, stiff, tools)
    assert rate == 0
    assert torch.equal(moved.position, walkers.position)
    assert torch.isfinite(moved.evaluation.energy + moved.evaluation.grad_sq).all()


@pytest.mark.parametrize(
    ("step_size", "trajectory", "steps"),
    [(0.1, None, 10), (0.1, 0.5, 5), (0.1, 100.0, 10), (2.0, 0.5, 1), (0.1, 0.16, 2)],
)
def test_trajectory_limits_the_leapfrog_steps(step_size, trajectory, steps):
    calls = []

    def energy(x):
        calls.append(len(x))
        return x.square().sum(1) / 2

    kernel = HMC(step_size, num_leapfrog=10, trajectory=trajectory)
    walkers = init(noise(5, 2), energy)
    kernel.move(walkers, energy, Tools(seeded(7)))
    assert len(calls) == 1 + steps
