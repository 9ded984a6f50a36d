"""Block-Gibbs moves along a path of machines whose normalisers are finite sums."""

import math
from unittest.mock import patch

import pytest
import torch

from pyro_jarzynski import HMC, MALA, ULA, BlockGibbs, UnderdampedLangevin, init, run
from pyro_jarzynski.core import smc, transitions
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, EnergyError
from tests.machines import FLOAT, Machine, all_states, machine_path
from tests.seeds import seed_of

NUM = 20_000
# Two-sided false-alarm rate of 1e-4 for the largest of 1 + 6 + 15 statistics.
Z_MANY = 4.58


def seeded(seed=0):
    return torch.Generator().manual_seed(seed_of(seed))


def carried(kernel, *, num=NUM, seed=0, **settings):
    """Carry exact draws along the path; yield the walkers of each step."""
    path, generator = machine_path(), seeded(seed)
    start = path[0].draw(num, generator)
    walkers = init(start, path[0], log_normalizer=path[0].log_z, gradient=False)
    settings = {"ess_threshold": 0.0, "tools": Tools(generator), **settings}
    for energy in path[1:]:
        walkers, _ = smc.step(walkers, energy, kernel, **settings)
        yield walkers, energy


def identities(kernel=BlockGibbs()):  # noqa: B008
    """`E[e^A f(X)] = (Z_K / Z_0) E f` for 1, all units and all pairs of them."""
    *_, (walkers, last) = carried(kernel)
    ratio = (walkers.log_weight + walkers.log_banked - last.log_z).exp()
    states = all_states(6)
    chance = (-last(states)).softmax(0)
    scores = [(ratio - 1) / ratio.std()]
    pairs = [(i, j) for i in range(6) for j in range(i + 1)]
    for i, j in pairs:
        truth = chance @ (states[:, i] * states[:, j])
        off = ratio * (walkers.position[:, i] * walkers.position[:, j] - truth)
        scores.append(off / off.std())
    z = torch.stack(scores).mean(1) * math.sqrt(NUM)
    return float(z.abs().max()) / Z_MANY


@pytest.mark.parametrize("num_sweeps", [1, 3])
def test_evidence_and_moments(num_sweeps):
    """False alarms: 1e-4."""
    assert identities(BlockGibbs(num_sweeps)) < 1


def no_weight(walkers, energy, tools, visit):
    return _REWEIGHT(walkers, energy, tools, visit)._replace(log_weight=walkers.log_weight)


_REWEIGHT = transitions.reweight


def weight_of_the_new_point(self, walkers, energy, tools, visit=None):
    moved, _ = self.move(walkers, energy, tools)
    return _REWEIGHT(walkers._replace(position=moved.position), energy, tools, visit)


def without_weights(self, x, generator):
    return torch.bernoulli(self.bias.sigmoid().expand_as(x), generator=generator)


def with_means(self, x, generator):
    chance = self.bias + (self.hidden_bias + x @ self.weight).sigmoid() @ self.weight.T
    return torch.bernoulli(chance.sigmoid(), generator=generator)


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (transitions, "reweight", no_weight),
        (BlockGibbs, "switch", weight_of_the_new_point),
        (Machine, "gibbs", without_weights),
        (Machine, "gibbs", with_means),
    ],
    ids=["no weight", "weight of another point", "independent units", "mean hidden units"],
)
def test_the_identities_see_wrong_moves(owner, name, wrong):
    with patch.object(owner, name, wrong):
        assert not identities() < 1


def test_walkers_carry_their_energy_and_no_gradient():
    for walkers, energy in carried(BlockGibbs(), num=50, ess_threshold=1.0):
        torch.testing.assert_close(walkers.evaluation.energy, energy(walkers.position))
        assert walkers.evaluation.grad_or_none is None
        assert set(walkers.position.unique().tolist()) <= {0.0, 1.0}


def test_resampled_evidence_is_right():
    """False alarms: 6.3e-5, a z of 4 of the error from the genealogy."""
    *_, (walkers, last) = carried(BlockGibbs(), num=4000, ess_threshold=0.99)
    off = float(walkers.log_normalizer) - last.log_z
    assert abs(off) < 4 * float(walkers.log_normalizer_error)


def test_waste_free_points_are_kept_with_their_energies():
    """False alarms: below 6.3e-5, a z of 4; the error forgets what sweeps renew."""
    settings = {"num_moves": 3, "waste_free": True}
    *_, (walkers, last) = carried(BlockGibbs(), num=4000, **settings)
    torch.testing.assert_close(walkers.evaluation.energy, last(walkers.position))
    off = float(walkers.log_normalizer) - last.log_z
    assert abs(off) < 4 * float(walkers.log_normalizer_error)


def test_a_step_costs_two_evaluations_without_a_graph():
    calls = []

    class Counted(Machine):
        def __call__(self, x):
            assert not x.requires_grad
            assert not torch.is_grad_enabled()
            calls.append("energy")
            return super().__call__(x)

        def gibbs(self, x, generator):
            calls.append("sweep")
            return super().gibbs(x, generator)

    machine = Counted(*machine_path()[1])
    walkers = init(machine.draw(8, seeded()), machine, gradient=False)
    calls.clear()
    smc.step(walkers, machine, BlockGibbs(3), tools=Tools(seeded()))
    assert calls == ["energy", "sweep", "sweep", "sweep", "energy"]


def test_walkers_with_a_gradient_keep_one():
    machine = machine_path()[1]
    walkers = init(machine.draw(8, seeded()), machine)
    moved, rate = BlockGibbs().move(walkers, machine, Tools(seeded()))
    assert moved.evaluation.grad.shape == (8, 6)
    assert float(rate) == 1
    assert not torch.equal(moved.position, walkers.position)


def test_the_seed_decides_and_the_input_is_unchanged():
    machine = machine_path()[2]
    walkers = init(machine.draw(50, seeded()), machine, gradient=False)
    before = walkers.position.clone()
    first, again, other = (
        BlockGibbs().move(walkers, machine, Tools(seeded(s)))[0] for s in (1, 1, 2)
    )
    assert torch.equal(first.position, again.position)
    assert not torch.equal(first.position, other.position)
    assert torch.equal(walkers.position, before)


def test_chunks_change_nothing():
    whole = list(carried(BlockGibbs(), num=50))[-1][0]
    tools = Tools(seeded(), chunk_size=7)
    path = machine_path()
    # The first draws take from the same generator.
    walkers = init(path[0].draw(50, tools.generator), path[0], gradient=False)
    for energy in path[1:]:
        walkers, _ = smc.step(walkers, energy, BlockGibbs(), ess_threshold=0.0, tools=tools)
    assert torch.equal(walkers.position, whole.position)
    torch.testing.assert_close(walkers.log_weight, whole.log_weight)


def test_run_takes_it():
    path = machine_path()
    walkers = init(path[0].draw(100, seeded()), path[0], gradient=False)
    walkers, infos = run(walkers, path, BlockGibbs(), generator=seeded())
    assert len(infos) == len(path) - 1
    assert walkers.position.dtype == FLOAT


@pytest.mark.parametrize(
    "kernel", [ULA(0.1), MALA(0.1), HMC(0.1), UnderdampedLangevin(0.1)], ids=repr
)
def test_kernels_that_need_a_gradient_ask_for_it(kernel):
    machine = machine_path()[1]
    walkers = init(machine.draw(8, seeded()), machine, gradient=False)
    with pytest.raises(EnergyError, match="without gradients, which their kernel needs"):
        kernel.move(walkers, machine, Tools(seeded()))


def test_an_energy_without_conditionals_is_refused(generator):
    walkers = init(torch.randn(8, 2, generator=generator), lambda x: x.square().sum(1))
    with pytest.raises(EnergyError, match="needs an energy with a method `gibbs"):
        BlockGibbs().move(walkers, lambda x: x.square().sum(1), Tools(generator))


def test_sweeps_are_counted():
    with pytest.raises(ArgumentError, match="`num_sweeps` must be at least 1, got 0"):
        BlockGibbs(0)
    with pytest.raises(ArgumentTypeError, match="`num_sweeps` must be an integer"):
        BlockGibbs(1.5)
