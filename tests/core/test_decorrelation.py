"""When walkers have decorrelated: also along the slowest direction, but not between modes.

Correlations are estimated from 4,000 walkers, each with a standard error of 0.016 at most;
the bounds leave six of these.
"""

import math

import pytest
import torch

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.decorrelation import SquaredJumps
from pyro_jarzynski.core.evaluation import CombinedEnergy
from pyro_jarzynski.core.kernels import MALA
from pyro_jarzynski.core.pilot import Exploration, explore
from pyro_jarzynski.core.preconditioner import factorise
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.walkers import init
from tests.scenarios import FLOAT
from tests.seeds import seeded

COVARIANCE = torch.tensor([[4.0, 1.5], [1.5, 1.0]], dtype=FLOAT)
NUM, SIZE, MOST = 4000, 6, 0.5


def noise(*shape, seed=0):
    return torch.randn(shape, dtype=FLOAT, generator=seeded(seed))


def moved(white, correlation, seed):
    """Return a step of an autoregression that keeps the standard normal distribution."""
    fresh = noise(*white.shape, seed=seed)
    return correlation * white + (1 - correlation**2).sqrt() * fresh


def slanted():
    """Return a rotation, none of whose columns is close to an axis."""
    turn, _ = torch.linalg.qr(noise(SIZE, SIZE, seed=9))
    return turn


@pytest.mark.parametrize("covariance", [None, COVARIANCE, COVARIANCE.diagonal()])
def test_mean_squared_jump_is_zero_at_rest_and_one_if_independent(covariance):
    """Its error is 1 % for 20,000 walkers."""
    dense = covariance is not None and covariance.ndim == 2
    matrix = COVARIANCE if dense else COVARIANCE.diagonal().diag()
    lower = torch.linalg.cholesky(matrix)
    start, end = noise(20_000, 2) @ lower.mT, noise(20_000, 2, seed=1) @ lower.mT
    jumps = SquaredJumps(start, factorise(covariance))
    (rest, still), (mean, fast), (back, bounced) = (
        jumps.record(position, MOST) for position in (start, end, -start)
    )
    assert rest == 0
    assert not still
    assert float(mean) == pytest.approx(1, abs=0.06)
    assert fast
    assert float(back) == pytest.approx(2, abs=0.12)
    assert not bounced


@pytest.mark.parametrize("slow", [0.9, 0.2])
@pytest.mark.parametrize("where", ["coordinate", "wide direction"])
@pytest.mark.parametrize("covariance", [None, torch.ones(SIZE), torch.eye(SIZE)])
def test_one_direction_of_many_may_be_slow(covariance, where, slow):
    """The mean squared jump is large enough with either."""
    correlation = torch.full((SIZE,), 0.1, dtype=FLOAT)
    correlation[2] = slow
    turn = torch.eye(SIZE, dtype=FLOAT) if where == "coordinate" else slanted()
    width = torch.ones(SIZE, dtype=FLOAT)
    width[2] = 3.0 if where == "wide direction" else 1.0
    white, factor = noise(NUM, SIZE), factorise(covariance)
    jumps = SquaredJumps((width * white) @ turn.mT + 50, factor)
    end = moved(white, correlation, seed=1)
    mean, fast = jumps.record((width * end) @ turn.mT + 50, MOST)
    if where == "coordinate":
        assert float(mean) > 0.7
    assert bool(fast) == (slow < MOST)


def test_modes_that_are_never_left_count_as_decorrelated():
    """Two modes of unit width at ±10, in which correlations fall as `0.6^n`."""
    white = noise(NUM, 1)
    centre = 10 * torch.where(torch.arange(NUM) % 2 == 0, 1.0, -1.0)[:, None]
    jumps, found = SquaredJumps(centre + white, None), []
    for move in range(1, 7):
        white = moved(white, torch.tensor(0.6), seed=move)
        found.append(bool(jumps.record(centre + white, MOST)[1]))
    assert found == [False, True, True, True, True, True]


def test_a_slow_walk_does_not_count_as_decorrelated():
    """Correlations fall as `0.97^n`, below a half after 23 moves."""
    white, found = noise(NUM, 1), []
    jumps = SquaredJumps(white, None)
    for move in range(1, 31):
        white = moved(white, torch.tensor(0.97), seed=move)
        found.append(bool(jumps.record(white, MOST)[1]))
    assert not any(found[:18])
    assert all(found[25:])


@pytest.mark.parametrize("seed", range(20))
def test_few_independent_walkers_count_as_decorrelated(seed):
    """One alarm in a thousand runs would be among a hundred directions, by the bound."""
    start, end = noise(64, 50, seed=2 * seed), noise(64, 50, seed=2 * seed + 1)
    assert SquaredJumps(start, None).record(end, MOST)[1]


def test_a_coordinate_at_rest_is_not_decorrelated():
    start, jumps = noise(100, 3), None
    for value in (0.0, 1.0):
        start[:, 1] = value * start[:, 1] + 2
        jumps = SquaredJumps(start, None)
        for seed in (1, 2):
            end = noise(100, 3, seed=seed)
            end[:, 1] = start[:, 1]
            assert not jumps.record(end, MOST)[1]


@pytest.mark.parametrize("size", [1, 2, 40])
def test_walkers_at_infinity_are_left_out(size):
    """A walker at 1e200 counts, and nothing overflows into an error."""
    start, end = noise(size + 2, 3), noise(size + 2, 3, seed=1)
    start[0], start[1] = math.inf, math.nan
    mean, _ = SquaredJumps(start, factorise(torch.eye(3))).record(end, MOST)
    assert torch.isfinite(mean)
    SquaredJumps(start[:2], None).record(end[:2], MOST)
    start[2] = 1e200
    _, fast = SquaredJumps(start, None).record(start, MOST)
    assert not fast


WIDE = 3.0


def wide_terms(x):
    """From a standard normal distribution to one whose first coordinate is wider."""
    scale = torch.ones(x.shape[1], dtype=FLOAT)
    scale[0] = WIDE
    return x.square().sum(1) / 2, (x / scale).square().sum(1) / 2


def test_moves_of_a_pilot_go_on_until_the_widest_coordinate_has_decorrelated():
    """In exact draws of the last distribution, moved as the plan says."""
    energy = CombinedEnergy(wide_terms, (1.0, 0.0))
    how = Exploration(preconditioner=None, max_moves=100)
    tools = Tools(seeded(4))
    plan = list(explore(init(noise(NUM, 8), energy), wide_terms, MALA(), how, tools=tools))
    assert all(found.decorrelated for found in plan)
    last = plan[-1].stage
    start = noise(NUM, 8, seed=5)
    start[:, 0] *= WIDE
    walkers = init(start, last.energy)
    moves = {"num_moves": last.num_moves, "tools": Tools(seeded(6))}
    walkers, _ = smc.move(walkers, last.energy, last.kernel, **moves)
    together = torch.stack([start[:, 0], walkers.position[:, 0]])
    assert float(torch.corrcoef(together)[0, 1]) < MOST + 0.1
