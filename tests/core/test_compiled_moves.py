"""Compiled moves are the plain ones, for whatever parameters the energy has by then.

Most tests put the recorded graph as it is in the place of its code, which takes no time.
"""

import copy
import pickle

import pytest
import torch
from torch import nn

from pyro_jarzynski import MALA, ULA, init
from pyro_jarzynski.core.compiled_moves import MAX_SIZES, CompiledEnergy
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.errors import CompilationWarning
from tests.ebm.models import mixture_data, mixture_learner, seeded
from tests.scenarios import FLOAT

KERNELS = [ULA(0.1), MALA(0.1), ULA(0.1, temperature=2.0)]


class Bowl(nn.Module):
    """`½ Σ_i e^{a_i} x_i²`, with what is computed from parameters and buffers alone."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(size, dtype=FLOAT))
        self.register_buffer("centre", torch.ones(size, dtype=FLOAT))

    def forward(self, x):
        return ((x - self.centre.sin()).square() * self.a.exp()).sum(1) / 2


def walkers_of(energy, num=20, size=3):
    position = torch.randn(num, size, dtype=FLOAT, generator=stream(0, "walkers"))
    return init(position, energy)


def moved(kernel, energy, walkers):
    return kernel.move(walkers, energy, Tools(stream(1, "moves")))


def assert_same_moves(kernel, plain, energy, walkers, tolerance=1e-12):
    for found, expected in zip(
        moved(kernel, energy, walkers), moved(kernel, plain, walkers), strict=True
    ):
        if isinstance(found, torch.Tensor):
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
            continue
        for name in ("position", "log_weight"):
            one, other = getattr(found, name), getattr(expected, name)
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
        for one, other in zip(found.evaluation[:3], expected.evaluation[:3], strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def ready(plain, walkers, kernel):
    """Return an energy whose moves of so many walkers are compiled."""
    energy = CompiledEnergy(plain)
    for _ in range(2):
        moved(kernel, energy, walkers)
    assert len(energy.codes) == 1
    return energy


@pytest.mark.parametrize("kernel", KERNELS, ids=["ULA", "MALA", "two degrees"])
def test_moves_are_the_plain_ones(kernel, compilations):
    plain = Bowl()
    walkers = walkers_of(plain)
    assert_same_moves(kernel, plain, ready(plain, walkers, kernel), walkers)


def test_real_code():
    plain = Bowl()
    walkers = walkers_of(plain)
    assert_same_moves(MALA(0.1), plain, ready(plain, walkers, MALA(0.1)), walkers)


def test_parameters_and_buffers_may_change(compilations):
    plain = Bowl()
    walkers = walkers_of(plain)
    energy = ready(plain, walkers, ULA(0.1))
    with torch.no_grad():
        plain.a.add_(1.0)
        plain.centre.mul_(2.0)
    for step_size in (0.1, 0.02):
        assert_same_moves(ULA(step_size), plain, energy, walkers_of(plain))
    assert len(compilations) == 1


@pytest.mark.parametrize("way", ["assign", "object", "averaged"])
def test_parameters_may_be_replaced_by_others(way, compilations):
    """As `load_state_dict(assign=True)` does, and those who average parameters."""
    plain = Bowl()
    walkers = walkers_of(plain)
    energy = ready(plain, walkers, MALA(0.1))
    other = {name: value + 0.5 for name, value in plain.state_dict().items()}
    if way == "assign":
        plain.load_state_dict(other, assign=True)
    elif way == "object":
        plain.a, plain.centre = nn.Parameter(other["a"]), other["centre"]
    else:
        plain.a.data, plain.centre.data = other["a"], other["centre"]
    assert_same_moves(MALA(0.1), plain, energy, walkers_of(plain))
    assert len(compilations) == 1


class Modal(nn.Module):
    """Doubles in train mode."""

    def forward(self, x):
        return 2 * x if self.training else x


class Layered(nn.Module):
    """A network whose modules may be replaced by others of the same parameters."""

    def __init__(self):
        super().__init__()
        first = seeded(lambda: nn.Linear(3, 4, dtype=FLOAT))
        self.layers = nn.Sequential(first, nn.SiLU(), Modal())

    def forward(self, x):
        return self.layers(x).square().sum(1)


@pytest.mark.parametrize("change", ["module", "mode", "size"])
def test_code_of_another_network_is_not_used(change, compilations):
    plain = Layered().eval()
    walkers = walkers_of(plain)
    energy = ready(plain, walkers, ULA(0.1))
    if change == "module":
        plain.layers[1] = nn.Tanh()
    elif change == "mode":
        plain.layers[2].train()
    else:
        plain.layers[0] = seeded(lambda: nn.Linear(3, 5, dtype=FLOAT))
    for _ in range(2):
        assert_same_moves(ULA(0.1), plain, energy, walkers_of(plain))
    assert len(energy.codes) == 1
    assert len(compilations) == 2


def test_what_is_seen_once_is_not_compiled(compilations):
    plain = Bowl()
    energy = CompiledEnergy(plain)
    for num in range(2, 9):
        moved(ULA(0.1), energy, walkers_of(plain, num))
    assert not compilations
    for num in range(2, 9):
        assert_same_moves(ULA(0.1), plain, energy, walkers_of(plain, num))
    assert len(energy.codes) == MAX_SIZES


@pytest.mark.parametrize("kernel", [MALA(0.1, preconditioner=torch.eye(3, dtype=FLOAT))])
def test_preconditioned_and_chunked_moves_are_plain(kernel, compilations):
    plain = Bowl()
    walkers, energy = walkers_of(plain), CompiledEnergy(plain)
    for _ in range(3):
        moved(kernel, energy, walkers)
        MALA(0.1).move(walkers, energy, Tools(chunk_size=7, generator=stream(0, "x")))
    assert not energy.codes


def test_positions_by_name_are_plain(compilations):
    class Named(nn.Module):
        def forward(self, position):
            return position["x"].square().sum(1)

    energy = CompiledEnergy(Named())
    start = {"x": torch.zeros(5, 2, dtype=FLOAT)}
    for _ in range(3):
        moved(ULA(0.1), energy, init(start, energy))
    assert not energy.codes


class Counting(nn.Module):
    """An energy that takes a Python number of the walkers."""

    def forward(self, x):
        return x.square().sum(1) * float(x.detach().abs().max() > -1)


class Stubborn(nn.Module):
    """An energy whose numbers are not those of its operations."""

    def forward(self, x):
        scale = torch.from_numpy(x.detach().numpy().copy()).square()
        return (x.square() * scale).sum(1)


@pytest.mark.parametrize("plain", [Counting(), Stubborn()], ids=["number", "numpy"])
def test_what_cannot_be_compiled_is_told_once(plain, compilations):
    walkers, energy = walkers_of(plain), CompiledEnergy(plain)
    moved(ULA(0.1), energy, walkers)
    with pytest.warns(CompilationWarning, match="is not compiled, which is slower"):
        moved(ULA(0.1), energy, walkers)
    assert_same_moves(ULA(0.1), plain, energy, walkers)


def test_copies_have_no_code_and_make_their_own(compilations):
    plain = Bowl()
    walkers = walkers_of(plain)
    energy = ready(plain, walkers, ULA(0.1))
    for copied in (copy.deepcopy(energy), pickle.loads(pickle.dumps(energy))):
        assert not copied.codes
        assert_same_moves(ULA(0.1), plain, copied, walkers)


@pytest.mark.parametrize("kernel", [ULA(0.1), MALA(0.3)], ids=["ULA", "MALA"])
def test_a_training_is_the_same_but_for_rounding(kernel, compilations):
    found = []
    for jit_compile in (False, True):
        learner = mixture_learner(
            kernel=kernel, moves_per_update=3, jit_compile=jit_compile
        )
        learner.fit(mixture_data(), 20, batch_size=40)
        walkers = learner.cloud.walkers
        parameters = [p.detach() for p in learner.model.parameters()]
        found.append([*parameters, walkers.log_weight, learner.audit.cloud.position])
    assert len(compilations) == 2
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-9)
