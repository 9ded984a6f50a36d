"""Curvature, the warning that rests on it, and adaptation of the step size."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.adaptation import adapted
from pyro_jarzynski.core.curvature import largest_curvature, warn_if_unstable
from pyro_jarzynski.core.hamiltonian import HMC, UnderdampedLangevin
from pyro_jarzynski.core.kernels import MALA, ULA, with_step_size
from pyro_jarzynski.core.preconditioner import factorise
from pyro_jarzynski.core.walkers import init
from pyro_jarzynski.errors import StepSizeWarning
from tests.scenarios import FLOAT


@dataclass(frozen=True)
class Quadratic:
    """`½ xᵀ H x` with given eigenvalues, in a rotated frame."""

    eigenvalues: tuple[float, ...]
    frame: Tensor = field(init=False)

    def __post_init__(self) -> None:
        size = len(self.eigenvalues)
        generator = torch.Generator().manual_seed(1)
        matrix = torch.randn((size, size), dtype=FLOAT, generator=generator)
        object.__setattr__(self, "frame", torch.linalg.qr(matrix).Q)

    @property
    def matrix(self) -> Tensor:
        return (
            self.frame
            @ torch.diag(torch.tensor(self.eigenvalues, dtype=FLOAT))
            @ (self.frame.T)
        )

    def __call__(self, x: Tensor) -> Tensor:
        return torch.einsum("ni,ij,nj->n", x, self.matrix, x) / 2


@pytest.fixture
def position(generator):
    return torch.randn((40, 3), dtype=FLOAT, generator=generator)


def test_largest_eigenvalue(position):
    found = largest_curvature(Quadratic((1.0, 5.0, 9.0)), position, num_iterations=60)
    assert found.item() == pytest.approx(9, rel=1e-6)


def test_default_effort_is_within_a_percent(position):
    found = largest_curvature(Quadratic((1.0, 5.0, 9.0)), position)
    assert found.item() == pytest.approx(9, rel=0.01)


def test_largest_eigenvalue_of_an_indefinite_hessian(position):
    """A large negative curvature must not hide the largest positive one."""
    found = largest_curvature(Quadratic((-10.0, 1.0, 3.0)), position, num_iterations=60)
    assert found.item() == pytest.approx(3, rel=1e-3)


def test_preconditioner_by_the_hessian_has_curvature_one(position):
    energy = Quadratic((1.0, 5.0, 9.0))
    factor = factorise(torch.linalg.inv(energy.matrix))
    found = largest_curvature(energy, position, factor=factor)
    assert found.item() == pytest.approx(1, rel=1e-6)


def test_dictionary_has_one_curvature(position):
    energy = Quadratic((1.0, 5.0, 9.0))
    split = {"a": position[:, :1], "b": position[:, 1:]}
    found = largest_curvature(
        lambda x: energy(torch.cat([x["a"], x["b"]], 1)), split, num_iterations=60
    )
    assert found.item() == pytest.approx(9, rel=1e-6)


def test_single_precision(position):
    energy = Quadratic((1.0, 5.0, 9.0))
    found = largest_curvature(lambda x: energy(x.to(FLOAT)), position.float())
    assert found.item() == pytest.approx(9, rel=0.02)


def test_curvature_is_the_same_each_time(position):
    energy = Quadratic((1.0, 5.0, 9.0))
    assert largest_curvature(energy, position) == largest_curvature(energy, position)


@pytest.mark.parametrize(
    ("kernel", "product", "safe"),
    [
        (ULA(0.3), "2.7", "0.11"),
        (UnderdampedLangevin(0.8), "2.88", "0.47"),
    ],
)
def test_unstable_step_is_warned_of(kernel, product, safe, position):
    message = (
        f"Step size {kernel.step_size} is too large for the curvature of the energy, 9.*"
        f"from {product}.* at most {safe}, a preconditioner, or MALA"
    )
    energy = Quadratic((1.0, 1.5, 9.0))
    with pytest.warns(StepSizeWarning, match=message):
        warn_if_unstable(kernel, energy, position)


@pytest.mark.parametrize(
    "kernel", [ULA(0.2), UnderdampedLangevin(0.6), MALA(10.0), HMC(10.0)]
)
def test_no_warning_of_stable_steps_and_of_kernels_that_refuse(kernel, position):
    warn_if_unstable(kernel, Quadratic((1.0, 1.5, 9.0)), position)


def test_preconditioner_makes_a_step_stable(position):
    energy = Quadratic((1.0, 1.5, 9.0))
    covariance = torch.linalg.inv(energy.matrix)
    warn_if_unstable(ULA(1.5, covariance), energy, position)
    with pytest.warns(StepSizeWarning, match="Step size 2.5"):
        warn_if_unstable(ULA(2.5, covariance), energy, position)


def test_temperature_does_not_change_the_limit(position):
    """`h` moves by `h ∇U` at every temperature, so the limit on `h λ` is the same."""
    energy = Quadratic((1.0, 1.5, 9.0))
    warn_if_unstable(ULA(0.2, temperature=10.0), energy, position)
    with pytest.warns(StepSizeWarning, match="Step size 0.3"):
        warn_if_unstable(ULA(0.3, temperature=0.1), energy, position)


def test_run_looks_at_the_last_energy(position, generator):
    path = [Quadratic((1.0, 1.0, 1.0)), Quadratic((1.0, 1.0, 9.0))]
    with pytest.warns(StepSizeWarning, match="Step size 0.3"):
        smc.run(init(position, path[0]), path, ULA(0.3), generator=generator)


def test_step_size_follows_the_acceptance():
    kernel = MALA(0.1, target_acceptance=0.6)
    assert adapted(kernel, 0.6).step_size == pytest.approx(0.1)
    longer = adapted(kernel, 1.0, rate=0.5)
    assert longer.step_size == pytest.approx(0.1 * math.exp(0.2))
    assert adapted(kernel, 0.0).step_size < 0.1
    assert kernel.step_size == 0.1


def test_unadjusted_kernels_are_not_adapted():
    kernel = ULA(0.1)
    assert adapted(kernel, 0.2) is kernel


@pytest.mark.parametrize("kernel", [ULA(), MALA(), HMC(), UnderdampedLangevin()])
def test_other_step_size_keeps_the_rest(kernel):
    covariance = torch.ones(3, dtype=FLOAT)
    kernel = type(kernel)(0.1, preconditioner=covariance)
    changed = with_step_size(kernel, 0.2)
    assert changed.step_size == 0.2
    assert changed.preconditioner is covariance
