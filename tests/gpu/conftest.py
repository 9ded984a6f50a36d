"""The device of these tests: a pretended one, or a real one by `--device cuda`."""

from collections.abc import Iterator

import pytest
import torch

from tests.gpu import pretended


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default=pretended.NAME, help="`cuda`, or a pretended one")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == pretended.NAME and pretended.SETUP is not None:
        # Before the first backward pass, which starts one thread for each device.
        pretended.install()
    # What torch tells of CUDA, and nobody can heed.
    for text in ("Attempting to run cuBLAS", "TensorFloat32 tensor cores"):
        config.addinivalue_line("filterwarnings", f"ignore:{text}")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    name = request.config.getoption("--device")
    if name == pretended.NAME and pretended.SETUP is None:
        pytest.skip("this torch has no switch for devices that are written in Python")
    return torch.empty(0, device=name).device


@pytest.fixture(autouse=True)
def _device_is_kept(device: torch.device) -> Iterator[None]:
    """Let no test change the default device or draw from the device's global generator."""
    module, default = torch.get_device_module(device), torch.get_default_device()
    before = module.get_rng_state(device)
    with pretended.Generators():
        yield
    assert torch.get_default_device() == default
    assert torch.equal(module.get_rng_state(device), before)


@pytest.fixture
def default_device(device: torch.device) -> Iterator[None]:
    """Set the default device for a test."""
    with device:
        yield
