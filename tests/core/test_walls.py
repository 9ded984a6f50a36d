"""Energies that are infinite or NaN somewhere, and the laws that remain."""

import math

import pytest
import torch

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.hamiltonian import HMC, UnderdampedLangevin
from pyro_jarzynski.core.kernels import MALA, ULA
from pyro_jarzynski.core.paths import Tempering
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.walkers import init
from pyro_jarzynski.errors import (
    NonFiniteEnergyError,
    NonFiniteEnergyWarning,
    SupportWarning,
    WeightCollapseError,
)
from tests.identities import Z_ONE, z_score
from tests.scenarios import FLOAT
from tests.seeds import seeded

# Unadjusted kernels say that their weights miss paths across a wall; it is tested below.
pytestmark = pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SupportWarning")

INVARIANT = {"MALA": MALA(0.6), "HMC": HMC(0.7, num_leapfrog=2)}
UNADJUSTED = {"ULA": ULA(0.2), "underdamped": UnderdampedLangevin(0.6)}


def spring(x):
    return x.square() / 2


def walled(wall, value=math.inf):
    """`½x²`, and a value that stands for no density beyond a wall."""
    return lambda x: torch.where(x < wall, spring(x), value)


def draws(num, seed=0):
    generator = seeded(seed)
    return torch.randn(num, dtype=FLOAT, generator=generator), generator


def below(wall):
    return (1 + math.erf(wall / math.sqrt(2))) / 2


@pytest.mark.parametrize("kernel", INVARIANT.values(), ids=INVARIANT)
def test_walls_of_invariant_kernels(kernel):
    """Evidence and mean of a law cut at a closing wall; false alarms 1e-4 each."""
    position, generator = draws(20_000)
    path = [spring, *(walled(w) for w in (2.0, 1.5, 1.0, 0.5))]
    walkers, _ = smc.run(
        init(position, spring), path, kernel, ess_threshold=0.0, generator=generator
    )
    assert (walkers.position[walkers.log_weight > -math.inf] < 0.5).all()
    mass = below(0.5)
    mean = -math.exp(-(0.5**2) / 2) / math.sqrt(2 * math.pi) / mass
    ratio = walkers.log_weight.exp() / mass
    assert abs(z_score(ratio, 1)) < Z_ONE
    assert abs(z_score(ratio * (walkers.position - mean), 0)) < Z_ONE


@pytest.mark.parametrize("kernel", UNADJUSTED.values(), ids=UNADJUSTED)
def test_walls_of_unadjusted_kernels_are_warned_of(kernel):
    """A move back can leave the walls: its density does not integrate to one inside."""
    position, generator = draws(1000)
    energy = walled(0.0)
    with pytest.warns(SupportWarning, match=r"of 1000 walkers left the support in step 1"):
        smc.run(init(-position.abs(), energy), [energy] * 2, kernel, generator=generator)


@pytest.mark.parametrize("kernel", (INVARIANT | UNADJUSTED).values())
def test_few_nan_energies_are_dropped_with_a_warning(kernel):
    position, generator = draws(1000)
    position[[3, 17]] = 4.0
    walkers = init(position, spring)
    with pytest.warns(
        NonFiniteEnergyWarning, match=r"not finite at .*\d+ of 1000 .* in step 1, first"
    ):
        moved, _ = smc.run(
            walkers,
            [spring, walled(3.4, math.nan)],
            kernel,
            ess_threshold=0.0,
            generator=generator,
        )
    alive = moved.log_weight > -math.inf
    assert alive.sum() >= 990
    assert (moved.position[alive] < 3.4).all()
    assert torch.isfinite(moved.position).all()
    assert torch.isfinite(moved.evaluation.energy).all()


def test_nan_warning_names_count_step_and_first_walker():
    position, _ = draws(1000)
    position = position.clamp(max=3.0)
    position[[3, 17]] = 4.0
    with pytest.warns(
        NonFiniteEnergyWarning, match="at 2 of 1000 walkers in step 0, first at walker 3;"
    ):
        walkers = init(position, walled(3.4, math.nan))
    assert walkers.log_weight[[3, 17]].tolist() == [-math.inf] * 2
    assert walkers.log_normalizer.exp().item() == pytest.approx(0.998)


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.NonFiniteEnergyWarning")
@pytest.mark.parametrize("kernel", INVARIANT.values(), ids=INVARIANT)
def test_law_that_remains_after_nan(kernel):
    """Evidence of the law where the energy is a number; false alarms 1e-4."""
    position, generator = draws(20_000, seed=4)
    path = [spring, *[walled(2.9, math.nan)] * 3]
    walkers, _ = smc.run(
        init(position, spring), path, kernel, ess_threshold=0.0, generator=generator
    )
    assert abs(z_score(walkers.log_weight.exp(), below(2.9))) < Z_ONE


@pytest.mark.parametrize("kernel", (INVARIANT | UNADJUSTED).values())
def test_many_nan_energies_are_an_error(kernel):
    position, generator = draws(1000)
    with pytest.raises(NonFiniteEnergyError, match=r"more than 1%.*smaller step size"):
        smc.run(
            init(position, spring),
            [spring, walled(1.0, math.nan)],
            kernel,
            generator=generator,
        )


def test_infinite_gradient_is_none():
    """The energy is finite there: nothing is lost but a direction."""
    position, _ = draws(100)
    position = position.abs()
    position[5] = 0.0
    walkers = init(position, torch.sqrt)
    assert (walkers.log_weight == 0).all()
    assert walkers.evaluation.grad[5] == walkers.evaluation.grad_sq[5] == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_energies_that_overflow_are_infinite(sign):
    """`±10²⁵` and a gradient whose square no float32 holds: no density, or no bound."""
    position = torch.ones(100, 1)
    position[:50] = 0.0
    steep = lambda x: (sign * 1e25 * x).sum(1)  # noqa: E731
    if sign < 0:
        with pytest.raises(NonFiniteEnergyError, match="walker 50 is minus infinity"):
            init(position, steep)
        return
    walkers = init(position, steep)
    assert walkers.log_weight.tolist() == [0.0] * 50 + [-math.inf] * 50


def without_slope(x):
    """`½x²`, whose gradient is NaN beyond a half by the branch that is not taken."""
    branch = 0 * (0.5 - x).clamp(min=0).log()
    return spring(x) + torch.where(x < 0.5, branch, 0.0)


@pytest.mark.parametrize("kernel", (INVARIANT | UNADJUSTED).values())
def test_energies_whose_gradient_is_nan_keep_their_law(kernel):
    """Evidence and moments where a third has no gradient; false alarms 1e-4 each."""
    position, generator = draws(20_000, seed=8)
    path = [lambda x, k=k: k * without_slope(x) for k in (1.0, 1.3, 1.6, 2.0)]
    assert path[1](torch.linspace(-1, 1, 9)).isfinite().all()
    walkers, _ = smc.run(
        init(position, path[0]), path, kernel, ess_threshold=0.0, generator=generator
    )
    ratio = walkers.log_weight.exp() * math.sqrt(2)
    assert abs(z_score(ratio, 1)) < Z_ONE
    assert abs(z_score(ratio * walkers.position, 0)) < Z_ONE
    assert abs(z_score(ratio * walkers.position.square(), 0.5)) < Z_ONE


def endless(x):
    """An energy of minus infinity far out, where rounding may be at fault."""
    return torch.where(x < 2.5, spring(x), -math.inf)


@pytest.mark.parametrize("kernel", INVARIANT.values(), ids=INVARIANT)
def test_moves_to_an_energy_of_minus_infinity_are_refused(kernel):
    """As those to a wall; false alarms 1e-4."""
    position, generator = draws(20_000, seed=9)
    position = position[position < 2.5]
    with pytest.warns(NonFiniteEnergyWarning, match="the ends of .* proposed moves"):
        walkers, _ = smc.run(
            init(position, spring), [endless] * 4, kernel, generator=generator
        )
    assert (walkers.position < 2.5).all()
    mean = -math.exp(-(2.5**2) / 2) / math.sqrt(2 * math.pi) / below(2.5)
    assert abs(z_score(walkers.position, mean)) < Z_ONE


@pytest.mark.parametrize("kernel", UNADJUSTED.values(), ids=UNADJUSTED)
def test_moves_that_nobody_refuses_to_minus_infinity_are_an_error(kernel):
    position, generator = draws(1000)
    start = init(position.clamp(max=2.4), spring)
    with pytest.raises(NonFiniteEnergyError, match="is minus infinity"):
        smc.run(start, [endless] * 9, kernel, generator=generator)


@pytest.mark.parametrize("kernel", INVARIANT.values(), ids=INVARIANT)
def test_moves_that_end_at_nan_are_an_error_where_they_are_most(kernel):
    """Refused, they take nothing from the weights: up to half of them are told alone."""
    position, generator = draws(1000)
    start = init(-position.abs(), spring)
    with pytest.warns(NonFiniteEnergyWarning, match="the ends of"):
        smc.run(start, [walled(0.0, math.nan)] * 2, kernel, generator=generator)
    start = init(-1e-3 * position.abs(), spring)
    narrow = lambda x: torch.where(x.abs() < 0.01, spring(x), math.nan)  # noqa: E731
    with pytest.raises(NonFiniteEnergyError, match=r"more than 50%"):
        smc.run(start, [narrow] * 2, kernel, generator=generator)


def test_a_ratio_that_overflows_is_refused():
    """Squares of the scaled gradients of both ends do: that leaves no NaN in the rate."""
    position = torch.full((10,), 1e-18)
    kernel = MALA(0.1, preconditioner=torch.tensor(100.0))
    walkers = init(position, lambda x: 2e18 * x.abs())
    moved, rate = kernel.move(walkers, lambda x: 2e18 * x.abs(), Tools(seeded(0)))
    assert torch.equal(moved.position, position)
    assert rate == 0


def test_energy_of_minus_infinity_is_refused():
    position, _ = draws(100)
    position[7] = 9.0
    with pytest.raises(NonFiniteEnergyError, match="walker 7 is minus infinity"):
        init(position, walled(8.0, -math.inf))


@pytest.mark.parametrize("kernel", (INVARIANT | UNADJUSTED).values())
def test_no_walker_with_density(kernel):
    position, generator = draws(50)
    with pytest.raises(WeightCollapseError, match="All 50 weights are zero"):
        smc.run(
            init(position, spring),
            [spring, walled(-50.0)],
            kernel,
            generator=generator,
        )


@pytest.mark.parametrize("kernel", INVARIANT.values(), ids=INVARIANT)
def test_resampling_replaces_the_dead(kernel):
    position, generator = draws(500)
    walkers, infos = smc.run(
        init(position, spring),
        [spring, walled(0.0)],
        kernel,
        ess_threshold=1.0,
        generator=generator,
    )
    assert infos[0].resampled
    assert (walkers.position < 0).all()
    assert (walkers.log_weight == 0).all()


def test_term_with_coefficient_zero_may_be_infinite():
    position, generator = draws(20_000)
    path = Tempering(spring, walled(1.0), [0.0, 0.5, 1.0])
    walkers = init(position, path[0])
    assert torch.isfinite(walkers.log_weight).all()
    walkers, _ = smc.run(walkers, path, MALA(0.5), ess_threshold=0.0, generator=generator)
    assert abs(z_score(walkers.log_weight.exp(), below(1.0))) < Z_ONE


@pytest.mark.parametrize("kernel", (INVARIANT | UNADJUSTED).values())
@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.NonFiniteEnergyWarning")
def test_dead_walker_does_not_disturb_its_neighbours(kernel, value):
    def carried(start):
        position, generator = draws(200, seed=6)
        position[3] = start
        path = [spring, *[walled(20.0, value)] * 6]
        walkers = init(position, spring)
        return smc.run(walkers, path, kernel, ess_threshold=0.0, generator=generator)[0]

    among_the_living, beside_the_dead = carried(0.0), carried(30.0)
    assert beside_the_dead.log_weight[3] == -math.inf
    others = torch.arange(200) != 3
    for found, expected in (
        (beside_the_dead.position, among_the_living.position),
        (beside_the_dead.log_weight, among_the_living.log_weight),
    ):
        torch.testing.assert_close(found[others], expected[others], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", (INVARIANT | UNADJUSTED).values())
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.NonFiniteEnergyWarning")
def test_dead_walker_stays_finite(kernel):
    """What a dead walker carries is multiplied by its weight of zero: never by NaN."""
    position, generator = draws(200, seed=7)
    position[3] = 30.0
    walkers, infos = smc.run(
        init(position, spring),
        [spring, *[walled(20.0, math.nan)] * 6],
        kernel,
        ess_threshold=0.0,
        generator=generator,
    )
    for carried in (walkers.position, walkers.evaluation.energy, walkers.evaluation.grad):
        assert torch.isfinite(carried).all()
    assert all(0 <= info.acceptance_rate <= 1 for info in infos)
