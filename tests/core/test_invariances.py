"""Changes of the problem that change the answer in a known way."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_jarzynski.core import hamiltonian, kernels, smc
from pyro_jarzynski.core.hamiltonian import UnderdampedLangevin
from pyro_jarzynski.core.kernels import MALA, ULA, Kernel
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import Walkers, init
from tests.scenarios import FLOAT, mild_path

KERNELS = {
    "ULA": ULA(0.3),
    "MALA": MALA(0.5),
    "underdamped": UnderdampedLangevin(0.5, friction=0.7),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
unadjusted = pytest.mark.parametrize(
    "kernel", [KERNELS["ULA"], KERNELS["underdamped"]], ids=["ULA", "underdamped"]
)
PATH = mild_path()
SIZE = 40


class Randomness:
    """Prescribed noise and uniform numbers, reshaped like the walkers by a function."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        reshape: Callable[[Tensor], object] = lambda noise: noise,
        order: Tensor | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(11)
        rows = slice(None) if order is None else order

        def normal(position: object, _: object) -> object:
            noise = torch.randn((SIZE, 6), dtype=FLOAT, generator=generator)[rows]
            return map_tree(lambda n, x: n.clone().to(x.dtype), reshape(noise), position)

        def uniform(shape: tuple[int], **_: object) -> Tensor:
            draws = torch.empty(shape, dtype=FLOAT).uniform_(generator=generator)
            return draws[rows]

        for module in (kernels, hamiltonian):
            monkeypatch.setattr(module, "normal_like", normal)
        monkeypatch.setattr(kernels.torch, "rand", uniform)


def start(generator: torch.Generator) -> Tensor:
    return PATH.draw(SIZE, generator)


def carry(position: object, path: object, kernel: Kernel, **settings: object) -> Walkers:
    settings = {"ess_threshold": 0.0, **settings}
    return smc.run(init(position, path[0]), path, kernel, **settings)[0]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@every_kernel
def test_permuted_walkers_and_noise_permute_the_result(kernel, generator, monkeypatch):
    order = torch.randperm(SIZE, generator=generator)
    position = start(generator)
    with monkeypatch.context() as patch:
        Randomness(patch, lambda n: n[:, :2])
        expected = carry(position, PATH, kernel)
    Randomness(monkeypatch, lambda n: n[:, :2], order)
    found = carry(position[order], PATH, kernel)
    assert_close(found.position, expected.position[order], 1e-12)
    assert_close(found.log_weight, expected.log_weight[order], 1e-12)


@every_kernel
def test_constants_added_to_energies_shift_the_evidence(kernel, generator):
    position = start(generator)
    shifted = [
        lambda x, u=PATH[k], k=k: u(x) + 10.0 * math.sin(k) for k in range(len(PATH))
    ]
    expected = carry(position, PATH, kernel, generator=seeded(), ess_threshold=0.9)
    found = carry(position, shifted, kernel, generator=seeded(), ess_threshold=0.9)
    shift = -10.0 * math.sin(len(PATH) - 1)
    assert_close(found.log_normalizer, expected.log_normalizer + shift)
    assert_close(found.position, expected.position)


@every_kernel
def test_rotated_coordinates(kernel, generator, monkeypatch):
    turn = torch.linalg.qr(torch.randn((2, 2), dtype=FLOAT, generator=generator)).Q
    turned = [lambda x, u=PATH[k]: u(x @ turn.T) for k in range(len(PATH))]
    position = start(generator)
    with monkeypatch.context() as patch:
        Randomness(patch, lambda n: n[:, :2])
        expected = carry(position, PATH, kernel)
    Randomness(monkeypatch, lambda n: n[:, :2] @ turn)
    found = carry(position @ turn, turned, kernel)
    assert_close(found.position, expected.position @ turn)
    assert_close(found.log_weight, expected.log_weight)


@pytest.mark.parametrize(
    ("kernel", "scaled_kernel"),
    [
        (ULA(0.5), ULA(4.5)),
        (MALA(0.5), MALA(4.5)),
        (UnderdampedLangevin(0.5, friction=0.6), UnderdampedLangevin(1.5, friction=0.2)),
    ],
)
def test_scaled_coordinates_and_steps(kernel, scaled_kernel, generator):
    scaled = [lambda x, u=PATH[k]: u(x / 3) for k in range(len(PATH))]
    position = start(generator)
    expected = carry(position, PATH, kernel, generator=seeded())
    found = carry(3 * position, scaled, scaled_kernel, generator=seeded())
    assert_close(found.position, 3 * expected.position)
    assert_close(found.log_weight, expected.log_weight)


@pytest.mark.parametrize("kernel", [ULA, MALA])
def test_preconditioner_equals_a_step_size(kernel, generator):
    position = start(generator)
    covariance = torch.full((2,), 0.5, dtype=FLOAT)
    expected = carry(position, PATH, kernel(0.2), generator=seeded())
    found = carry(position, PATH, kernel(0.4, covariance), generator=seeded())
    assert_close(found.position, expected.position)
    assert_close(found.log_weight, expected.log_weight)


@every_kernel
@pytest.mark.parametrize("at", [1, 4, 9])
def test_path_can_be_cut_anywhere(kernel, at, generator):
    """Bitwise, when the generator goes on; this is what resuming rests on."""
    position = start(generator)
    energies = [PATH[k] for k in range(len(PATH))]
    whole = carry(position, energies, kernel, generator=seeded(), ess_threshold=0.9)
    source = seeded()
    part = carry(position, energies[: at + 1], kernel, generator=source, ess_threshold=0.9)
    part, _ = smc.run(part, energies[at:], kernel, generator=source, ess_threshold=0.9)
    assert_same(part, whole)


def assert_same(found: Walkers, expected: Walkers) -> None:
    flat = zip(_tensors(found), _tensors(expected), strict=True)
    assert all(torch.equal(a, b) for a, b in flat)


def _tensors(walkers: Walkers) -> list[Tensor]:
    tensors: list[Tensor] = []
    map_tree(tensors.append, tuple(walkers))
    return tensors


@every_kernel
def test_run_is_a_loop_of_steps(kernel, generator):
    position = start(generator)
    expected = carry(position, PATH, kernel, generator=seeded(), ess_threshold=0.9)
    tools, walkers = kernels.Tools(seeded()), init(position, PATH[0])
    for index in range(1, len(PATH)):
        walkers, _ = smc.step(walkers, PATH[index], kernel, ess_threshold=0.9, tools=tools)
    assert_same(walkers, expected)


@every_kernel
@pytest.mark.parametrize("chunk_size", [1, 7, SIZE, 1000])
def test_chunks_change_nothing(kernel, chunk_size, generator):
    position = start(generator)
    expected = carry(position, PATH, kernel, generator=seeded())
    found = carry(position, PATH, kernel, generator=seeded(), chunk_size=chunk_size)
    assert_close(found.position, expected.position, 1e-12)
    assert_close(found.log_weight, expected.log_weight, 1e-12)


@every_kernel
def test_dictionary_equals_its_concatenation(kernel, generator, monkeypatch):
    position = start(generator)
    split = {"a": position[:, :1], "b": position[:, 1]}

    def energy(index: int) -> Callable[[dict[str, Tensor]], Tensor]:
        return lambda x: PATH[index](torch.cat([x["a"], x["b"][:, None]], 1))

    with monkeypatch.context() as patch:
        Randomness(patch, lambda n: n[:, :2])
        expected = carry(position, PATH, kernel)
    Randomness(monkeypatch, lambda n: {"a": n[:, :1], "b": n[:, 1]})
    found = carry(split, [energy(k) for k in range(len(PATH))], kernel)
    assert_close(found.position["a"], expected.position[:, :1], 1e-12)
    assert_close(found.position["b"], expected.position[:, 1], 1e-12)
    assert_close(found.log_weight, expected.log_weight, 1e-12)


@every_kernel
@pytest.mark.parametrize(("flat", "event"), [(1, ()), (6, (2, 3))])
def test_event_of_any_shape(kernel, flat, event, generator, monkeypatch):
    position = torch.randn((SIZE, flat), dtype=FLOAT, generator=generator)

    def energy(index: int) -> Callable[[Tensor], Tensor]:
        return lambda x: ((1 + index / 5) * x.reshape(SIZE, -1) ** 2).sum(1) / 2

    path = [energy(k) for k in range(6)]
    # The check of the curvature looks at fewer walkers than the energies expect.
    monkeypatch.setattr(smc, "warn_if_unstable", lambda *_: None)
    with monkeypatch.context() as patch:
        Randomness(patch, lambda n: n[:, :flat])
        expected = carry(position, path, kernel)
    Randomness(monkeypatch, lambda n: n[:, :flat].reshape(SIZE, *event))
    found = carry(position.reshape(SIZE, *event), path, kernel)
    assert found.position.shape == (SIZE, *event)
    assert_close(found.log_weight, expected.log_weight, 1e-12)


@unadjusted
def test_single_precision_keeps_log_weights_in_double(kernel, generator, monkeypatch):
    position = start(generator)
    with monkeypatch.context() as patch:
        Randomness(patch, lambda n: n[:, :2])
        expected = carry(position, PATH, kernel)
    Randomness(monkeypatch, lambda n: n[:, :2])
    means, precisions = PATH.means.float(), PATH.precisions.float()
    single = type(PATH)(precisions, means)
    found = carry(position.float(), single, kernel)
    assert found.position.dtype == found.evaluation.energy.dtype == torch.float32
    assert found.log_weight.dtype == found.log_normalizer.dtype == FLOAT
    assert_close(found.log_weight, expected.log_weight, 1e-4)
