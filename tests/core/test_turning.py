"""Unadjusted moves at the walls of energies with `in_support`: their weights are exact."""

import math

import pytest
import torch

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.hamiltonian import UnderdampedLangevin
from pyro_jarzynski.core.kernels import ULA
from pyro_jarzynski.core.paths import Tempering
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.walkers import init
from tests.identities import Z_ONE, Z_THREE, z_score
from tests.scenarios import FLOAT
from tests.seeds import seeded

NUM = 20_000
KERNELS = {
    "ULA": ULA(0.3),
    "scaled": ULA(0.4, preconditioner=torch.tensor(0.5, dtype=FLOAT)),
    "hot": ULA(0.2, temperature=2.0),
    "underdamped": UnderdampedLangevin(0.6, friction=1.0),
    "frictionless": UnderdampedLangevin(0.5, friction=0.0),
    "scaled underdamped": UnderdampedLangevin(
        0.7, preconditioner=torch.tensor(0.5, dtype=FLOAT)
    ),
    "overdamped": UnderdampedLangevin(0.6, friction=math.inf),
}


class Half:
    """`½ k x²` on positive numbers, and outside of them plus infinity."""

    def __init__(self, k=1.0):
        self.k = k

    def __call__(self, x):
        return torch.where(x > 0, self.k * x.square() / 2, math.inf)

    def in_support(self, x):
        return x > 0


class Below:
    """`½ x²` below a wall, and beyond it plus infinity."""

    def __init__(self, wall):
        self.wall = wall

    def __call__(self, x):
        return torch.where(x < self.wall, x.square() / 2, math.inf)

    def in_support(self, x):
        return x < self.wall


def draws(num=NUM, seed=0):
    generator = seeded(seed)
    return torch.randn(num, dtype=FLOAT, generator=generator), generator


def carried(kernel, path, **settings):
    """Carry exact draws of the half-normal distribution along a path."""
    position, generator = draws()
    temperature = getattr(kernel, "temperature", 1.0)
    walkers = init(position.abs() * math.sqrt(temperature), path[0])
    settings = {"ess_threshold": 0.0, "generator": generator, **settings}
    return smc.run(walkers, path, kernel, **settings)[0]


def errors(walkers, temperature=1.0):
    """Return the z-scores of evidence and moments of `e^{-x² / T}` on positive numbers."""
    x, ratio = walkers.position, walkers.log_weight.exp() * math.sqrt(2)
    mean = math.sqrt(temperature / math.pi)
    return [
        abs(z_score(ratio, 1)),
        abs(z_score(ratio * (x - mean), 0)),
        abs(z_score(ratio * (x.square() - temperature / 2), 0)),
    ]


@pytest.mark.parametrize("name", KERNELS)
def test_evidence_and_moments_at_a_wall(name):
    """The largest of three has false alarms of 1e-4; no walker is lost."""
    kernel = KERNELS[name]
    path = [Half(k) for k in (1.0, 1.3, 1.6, 2.0, 2.0, 2.0)]
    walkers = carried(kernel, path)
    assert (walkers.position > 0).all()
    assert torch.isfinite(walkers.log_weight).all()
    assert max(errors(walkers, getattr(kernel, "temperature", 1.0))) < Z_THREE


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SupportWarning")
@pytest.mark.parametrize("name", ["ULA", "hot", "underdamped", "overdamped"])
def test_evidence_is_wrong_where_moves_are_not_turned(name):
    """The test above fails by far if the support is not given."""
    path = [Half(k).__call__ for k in (1.0, 1.3, 1.6, 2.0, 2.0, 2.0)]
    assert errors(carried(KERNELS[name], path))[0] > 10


@pytest.mark.parametrize("name", ["ULA", "underdamped"])
def test_turned_moves_of_the_same_energy_weigh_nothing(name):
    """A move of a linear energy that is turned back has weight one."""

    class Linear(Half):
        def __call__(self, x):
            return torch.where(x > 0, x, math.inf)

    position, generator = draws(1000)
    walkers = init(0.1 * position.abs(), Linear())
    moved = KERNELS[name].switch(walkers, Linear(), Tools(generator))
    stays = moved.position == walkers.position
    assert 100 < int(stays.sum()) < 900
    torch.testing.assert_close(moved.log_weight[stays], torch.zeros(stays.sum()).double())


@pytest.mark.parametrize("name", ["ULA", "underdamped"])
def test_chunks_and_visits_turn_the_same_moves(name):
    path = [Half(k) for k in (1.0, 1.5, 2.0)]
    whole = carried(KERNELS[name], path)
    chunked = carried(KERNELS[name], path, chunk_size=777)
    torch.testing.assert_close(chunked.position, whole.position)
    torch.testing.assert_close(chunked.log_weight, whole.log_weight)

    def visited(visit):
        position, generator = draws(500)
        walkers = init(position.abs(), path[0])
        tools = Tools(generator)
        return KERNELS[name].switch(walkers, path[1], tools, visit)

    plain, seen = visited(None), visited(lambda *_: None)
    torch.testing.assert_close(seen.position, plain.position)
    torch.testing.assert_close(seen.log_weight, plain.log_weight)


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SupportWarning")
@pytest.mark.parametrize("name", ["ULA", "underdamped", "frictionless"])
def test_supports_that_become_smaller(name):
    """Walkers outside of the next support have weight zero; false alarms 1e-4 each."""
    position, generator = draws()
    path = [Below(math.inf), Below(1.0), Below(0.5), Below(0.5)]
    walkers, _ = smc.run(
        init(position, path[0]),
        path,
        KERNELS[name],
        ess_threshold=0.0,
        generator=generator,
    )
    mass = (1 + math.erf(0.5 / math.sqrt(2))) / 2
    mean = -math.exp(-(0.5**2) / 2) / math.sqrt(2 * math.pi) / mass
    ratio = walkers.log_weight.exp() / mass
    assert abs(z_score(ratio, 1)) < Z_ONE
    assert abs(z_score(ratio * (walkers.position - mean), 0)) < Z_ONE


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SupportWarning")
@pytest.mark.parametrize("name", ["ULA", "underdamped"])
def test_supports_of_tempered_energies(name):
    """The support is that of all terms with a coefficient; false alarms 1e-4 each."""
    position, generator = draws()
    path = Tempering(Below(math.inf), Half(2.0), [0.0, 0.3, 0.6, 1.0])
    walkers, _ = smc.run(
        init(position, path[0]),
        path,
        KERNELS[name],
        ess_threshold=0.0,
        generator=generator,
    )
    ratio = walkers.log_weight.exp() * 2 * math.sqrt(2)
    assert abs(z_score(ratio, 1)) < Z_ONE
    assert abs(z_score(ratio * (walkers.position - 1 / math.sqrt(math.pi)), 0)) < Z_ONE
