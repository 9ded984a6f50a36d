"""What a step leaves alone, what it costs, and where it may run."""

import pytest
import torch

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.hamiltonian import HMC, UnderdampedLangevin
from pyro_jarzynski.core.kernels import MALA, ULA
from pyro_jarzynski.core.paths import ParameterPath, Tempering
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import init
from pyro_jarzynski.errors import JarzynskiError
from tests.core.test_invariances import assert_same, seeded
from tests.scenarios import FLOAT, gaussian_path, mild_path

KERNELS = {
    "ULA": ULA(0.3),
    "MALA": MALA(0.5),
    "HMC": HMC(0.5, num_leapfrog=3),
    "underdamped": UnderdampedLangevin(0.5),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
PATH = mild_path()


class Counter:
    """An energy that counts its calls and the walkers they had."""

    def __init__(self, energy):
        self.energy, self.calls, self.walkers = energy, 0, 0

    def __call__(self, x):
        self.calls += 1
        self.walkers += len(x)
        return self.energy(x)


def calls_of(kernel, path, energies, **settings):
    walkers = init(PATH.draw(20, seeded()), path[0])
    for index in range(1, len(path)):
        walkers, _ = smc.step(
            walkers, path[index], kernel, tools=Tools(seeded()), **settings
        )
    return sum(energy.calls for energy in energies)


def plain_path(num_steps):
    energies = [Counter(PATH[k]) for k in range(num_steps + 1)]
    return energies, energies


def tempering(num_steps):
    base, target = Counter(PATH[0]), Counter(PATH[10])
    betas = [k / num_steps for k in range(num_steps + 1)]
    return Tempering(base, target, betas), [target]


@pytest.mark.parametrize(
    ("kernel", "make", "per_step"),
    [
        (ULA(0.3), plain_path, 1),
        (UnderdampedLangevin(0.5), plain_path, 1),
        (MALA(0.5), plain_path, 2),
        (HMC(0.5, num_leapfrog=3), plain_path, 4),
        (ULA(0.3), tempering, 1),
        (MALA(0.5), tempering, 1),
        (HMC(0.5, num_leapfrog=3), tempering, 3),
    ],
)
def test_calls_per_step(kernel, make, per_step):
    path, energies = make(8)
    assert calls_of(kernel, path, energies, ess_threshold=1.0) == 8 * per_step + 1


@pytest.mark.parametrize(("kernel", "per_step"), [(ULA(0.3), 3), (MALA(0.5), 4)])
def test_calls_with_three_moves(kernel, per_step):
    path, energies = plain_path(5)
    assert calls_of(kernel, path, energies, num_moves=3) == 5 * per_step + 1


def test_chunks_see_each_walker_once():
    energy = Counter(PATH[0])
    init(PATH.draw(20, seeded()), energy, chunk_size=8)
    assert (energy.calls, energy.walkers) == (3, 20)


@every_kernel
def test_step_leaves_its_input_alone(kernel):
    walkers = init(PATH.draw(20, seeded()), PATH[0])
    walkers, _ = smc.step(walkers, PATH[1], kernel, tools=Tools(seeded()))
    copy = map_tree(torch.clone, walkers)
    smc.step(walkers, PATH[2], kernel, ess_threshold=1.0, tools=Tools(seeded()))
    assert_same(walkers, copy)


@every_kernel
def test_result_is_fixed_by_the_seed(kernel):
    walkers = init(PATH.draw(20, seeded()), PATH[0])
    first, _ = smc.run(walkers, PATH, kernel, generator=seeded())
    again, _ = smc.run(walkers, PATH, kernel, generator=seeded())
    assert_same(first, again)
    other = smc.run(walkers, PATH, kernel, generator=torch.Generator().manual_seed(6))[0]
    assert not torch.equal(first.position, other.position)


@pytest.mark.global_state
@every_kernel
def test_without_generator_torch_decides(kernel):
    walkers = init(PATH.draw(20, seeded()), PATH[0])
    torch.manual_seed(3)
    first, _ = smc.run(walkers, PATH, kernel)
    torch.manual_seed(3)
    assert_same(first, smc.run(walkers, PATH, kernel)[0])


@every_kernel
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_a_mode_without_gradients(kernel, mode):
    walkers = init(PATH.draw(20, seeded()), PATH[0])
    expected, _ = smc.run(walkers, PATH, kernel, generator=seeded())
    with mode():
        walkers = init(PATH.draw(20, seeded()), PATH[0])
        found, _ = smc.run(walkers, PATH, kernel, generator=seeded())
        assert_same(found, expected)


@every_kernel
def test_result_holds_no_graph(kernel):
    position = PATH.draw(20, seeded()).requires_grad_()
    walkers, infos = smc.run(init(position, PATH[0]), PATH, kernel, generator=seeded())
    tensors = []
    map_tree(tensors.append, tuple(walkers))
    tensors += [infos[0].ess, infos[0].log_normalizer]
    assert not any(t.requires_grad for t in tensors)


@every_kernel
@pytest.mark.parametrize("chunk_size", [None, 6])
def test_visitor_sees_graph_and_log_weights(kernel, chunk_size):
    mean = torch.tensor(0.3, dtype=FLOAT, requires_grad=True)
    seen = []

    def energy(x):
        return ((x - mean) ** 2).sum(1) / 2

    def visit(rows, values, log_weight):
        (slope,) = torch.autograd.grad(values.sum(), mean)
        seen.append((rows, slope, log_weight))

    walkers = init(PATH.draw(20, seeded()), PATH[0])
    tools = Tools(seeded(), chunk_size)
    moved, _ = smc.step(
        walkers, energy, kernel, ess_threshold=0.0, tools=tools, visit=visit
    )
    plain, _ = smc.step(walkers, energy, kernel, ess_threshold=0.0, tools=Tools(seeded()))
    torch.testing.assert_close(moved.log_weight, plain.log_weight, rtol=0, atol=1e-12)
    assert torch.equal(torch.cat([w for _, _, w in seen]), moved.log_weight)
    at = moved.position if kernel.moves_on_switch else walkers.position
    slope = sum(s for _, s, _ in seen)
    torch.testing.assert_close(slope, (mean - at).sum().detach(), rtol=0, atol=1e-12)


@every_kernel
def test_visitor_of_a_tempering_path(kernel):
    """It sees every walker, or the step is refused."""
    path, _ = tempering(4)
    walkers, seen = init(PATH.draw(20, seeded()), path[0]), []

    def visit(rows, values, log_weight):
        assert values.requires_grad
        seen.append(log_weight)

    settings = {"ess_threshold": 0.0, "tools": Tools(seeded()), "visit": visit}
    try:
        moved, _ = smc.step(walkers, path[1], kernel, **settings)
    except JarzynskiError:
        return
    assert torch.equal(torch.cat(seen), moved.log_weight)


def test_info_tells_what_the_step_did():
    walkers = init(PATH.draw(50, seeded()), PATH[0])
    walkers, infos = smc.run(
        walkers, PATH, MALA(0.5), ess_threshold=1.0, generator=seeded()
    )
    assert len(infos) == len(PATH) - 1
    assert all(info.resampled for info in infos)
    assert all(0 < info.acceptance_rate < 1 for info in infos)
    assert all(1 <= info.ess <= 50 for info in infos)
    assert infos[-1].log_normalizer == walkers.log_normalizer
    assert walkers.steps == len(PATH) - 1


def test_log_normalizer_of_the_start_is_kept():
    walkers = init(PATH.draw(50, seeded()), PATH[0], log_normalizer=7.5)
    assert walkers.log_normalizer.item() == pytest.approx(7.5, abs=1e-12)


def test_parameter_path_equals_a_list_of_energies():
    class Spring(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stiffness = torch.nn.Parameter(torch.ones((), dtype=FLOAT))

        def forward(self, x):
            return self.stiffness * x.square().sum(1) / 2

    values = [1.0, 1.5, 2.0]
    states = [{"stiffness": torch.tensor(v, dtype=FLOAT)} for v in values]
    path = ParameterPath(Spring(), states)
    plain = [lambda x, v=v: v * x.square().sum(1) / 2 for v in values]
    start = gaussian_path((1.0,), (0.0,), 1).draw(10, seeded())
    found, expected = (
        smc.run(init(start, p[0]), p, ULA(0.2), generator=seeded())[0]
        for p in (path, plain)
    )
    assert_same(found, expected)


def test_another_path_of_other_terms_is_evaluated_anew():
    def unit(x):
        return x.square().sum(1) / 2

    def twice(x):
        return x.square().sum(1)

    def narrow(x):
        return 3 * x.square().sum(1)

    tools = Tools(torch.Generator().manual_seed(0))
    position = torch.randn(50, 2, dtype=FLOAT, generator=tools.generator)
    first, second = Tempering(unit, twice, [0, 1]), Tempering(twice, narrow, [0, 1])
    walkers, _ = smc.step(init(position, first[0]), first[1], MALA(0.1), tools=tools)
    walkers, _ = smc.step(walkers, second[1], MALA(0.1), tools=tools)
    torch.testing.assert_close(walkers.evaluation.energy, narrow(walkers.position))
