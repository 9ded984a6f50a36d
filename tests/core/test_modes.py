"""What a caller has set in torch changes no result, and is as it was afterwards."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.core.modes import REDUCIBLE, standard_modes


@contextmanager
def set_to(setter, getter, value):
    before = getter()
    setter(value)
    try:
        yield
    finally:
        setter(before)


def low_precision(value):
    return set_to(
        torch.set_float32_matmul_precision, torch.get_float32_matmul_precision, value
    )


@contextmanager
def low_precision_of_backends():
    found = [torch._C._get_fp32_precision_getter(*each) for each in REDUCIBLE]
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        for each, value in zip(REDUCIBLE, found, strict=True):
            torch._C._set_fp32_precision_setter(*each, value)


def deterministic():
    return set_to(
        torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled, True
    )


def default_dtype(dtype):
    return set_to(torch.set_default_dtype, torch.get_default_dtype, dtype)


@contextmanager
def vmapped():
    """Be within `torch.func.vmap` of something else."""
    torch._C._functorch._vmap_increment_nesting(3, "error")
    try:
        yield
    finally:
        torch._C._functorch._vmap_decrement_nesting()


@contextmanager
def differentiated():
    """Be within `torch.func.grad` of something else."""
    torch._C._functorch._grad_increment_nesting()
    try:
        yield
    finally:
        torch._C._functorch._grad_decrement_nesting()


MODES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast of float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "medium": lambda: low_precision("medium"),
    "high": lambda: low_precision("high"),
    "backends": low_precision_of_backends,
    "deterministic": deterministic,
    "default float64": lambda: default_dtype(torch.float64),
    "default bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(mode=True),
    "saved tensors": torch.autograd.graph.save_on_cpu,
    "vmap": vmapped,
    "grad": differentiated,
}
pytestmark = [
    pytest.mark.global_state,
    pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled"),
]


def state():
    """Return all that `standard_modes` may change."""
    return [
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_cache_enabled(),
        torch.is_anomaly_enabled(),
        torch.is_anomaly_check_nan_enabled(),
        torch._C._functorch.peek_interpreter_stack() is None,
        *(torch._C._get_fp32_precision_getter(*each) for each in REDUCIBLE),
    ]


STANDARD = [True, False, False, True, False, True, True]


@pytest.mark.parametrize("name", MODES)
def test_modes_are_standard_within_and_as_they_were_afterwards(name):
    @standard_modes()
    def within():
        return state()

    with MODES[name]():
        before = state()
        found = within()
        with pytest.raises(KeyError), standard_modes():
            raise KeyError
        assert state() == before
    assert found[:3] == STANDARD[:3]
    assert not found[4] or not found[5]
    assert found[6]
    assert not {"tf32", "bf16"} & set(found[7:])


GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(3, 3, generator=GENERATOR)
COVARIANCE = torch.eye(3) / 2 + 0.1
DRAWS = torch.randn(256, 3, generator=GENERATOR)


def run():
    path = [lambda x, k=k: k * (x @ WEIGHT).square().sum(1) / 2 for k in (1, 2, 3)]
    kernel = pj.MALA(0.1, preconditioner=COVARIANCE)
    generator = torch.Generator().manual_seed(1)
    walkers, _ = pj.run(pj.init(DRAWS, path[0]), path, kernel, generator=generator)
    return walkers


@pytest.mark.parametrize("name", MODES)
def test_the_engine_is_the_same(name):
    expected = run()
    with MODES[name]():
        found = run()
    assert not found.position.is_inference()
    assert torch.equal(found.position, expected.position)
    assert torch.equal(found.log_weight, expected.log_weight)


def test_an_energy_may_enter_autocast_itself():
    def energy(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return (x @ WEIGHT).square().sum(1)

    for outer in (nullcontext, MODES["autocast"]):
        with outer():
            found = pj.evaluate(energy, DRAWS)
        assert torch.equal(
            found.energy, (DRAWS.bfloat16() @ WEIGHT.bfloat16()).square().sum(1)
        )


def test_no_parameter_is_kept_in_low_precision():
    """Autocast keeps its copies until the outermost one ends."""
    net = torch.nn.Linear(3, 1)

    def energy(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net(x).squeeze(1).float()

    with MODES["autocast"]():
        first = pj.evaluate(energy, DRAWS).energy
        with torch.no_grad():
            net.bias += 1.0
        second = pj.evaluate(energy, DRAWS).energy
    torch.testing.assert_close(second - first, torch.ones(256), rtol=0.1, atol=0.1)


def test_a_gradient_of_nan_is_told_by_this_package():
    """Anomaly detection would end the run at the first walker behind a wall."""

    def energy(x):
        return (1 - x).sqrt().sum(1)

    draws = torch.full((200, 1), 0.5)
    draws[0] = 2.0
    with MODES["anomaly"](), pytest.warns(pj.errors.NonFiniteEnergyWarning):
        walkers = pj.init(draws, energy)
    assert int((walkers.log_weight == -torch.inf).sum()) == 1
