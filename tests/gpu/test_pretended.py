"""The pretended device refuses what CUDA refuses, and keeps what CUDA keeps."""

import pytest
import torch
from torch import nn

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.core.noise import set_state, stream
from tests.gpu import pretended


def test_two_devices_in_one_operation(device):
    x = torch.arange(3.0, device=device)
    for mixed in (
        lambda: x + torch.ones(3),
        lambda: torch.cat([x, torch.ones(3)]),
        lambda: torch.stack([x.sum(), torch.ones(())]),
        lambda: torch.eye(3, device=device) @ torch.ones(3),
        lambda: torch.ones(3)[torch.tensor([0], device=device)],
        lambda: torch.ones(3).add_(x),
    ):
        with pytest.raises((RuntimeError, IndexError), match="device"):
            mixed()
    assert (x + torch.ones(())).device == device
    assert x[torch.tensor([0, 2])].tolist() == [0, 2]
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()


def test_generators_of_another_device(device):
    ours, others = stream(0, "noise", device), stream(0, "noise", "cpu")
    for wrong, place in ((others, device), (ours, "cpu")):
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, generator=wrong, device=place)
        with pytest.raises(RuntimeError, match="generator"):
            torch.empty(3, device=place).normal_(generator=wrong)
    with pytest.raises(RuntimeError, match="RNG state"):
        ours.set_state(others.get_state())


def test_a_state_of_another_kind_of_device_seeds(device):
    drawn = []
    for _ in range(2):
        ours, others = stream(1, "noise", device), stream(0, "noise", "cpu")
        torch.randn(3, generator=others)
        set_state(ours, others.get_state())
        drawn.append(torch.randn(3, generator=ours, device=device))
    assert torch.equal(*drawn)
    others = stream(0, "noise", "cpu")
    set_state(others, ours.get_state())
    assert not torch.equal(torch.randn(3, generator=others), drawn[0].cpu())


def test_global_generators(device):
    module = torch.get_device_module(device)
    before = torch.get_rng_state(), module.get_rng_state(device)
    drawn = []
    for _ in range(2):
        with global_stream(5):
            drawn.append(torch.randn(2, device=device))
    assert torch.equal(*drawn)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(module.get_rng_state(device), before[1])


def test_global_generator_of_an_unused_device(device, monkeypatch):
    """It keeps the seed that was set before its first use."""
    if device.type != pretended.NAME:
        pytest.skip("a real device is in use already")
    module, state = torch.get_device_module(device), torch.get_rng_state()
    seeds = []
    monkeypatch.setattr(module, "is_initialized", lambda: False)
    monkeypatch.setattr(module, "manual_seed_all", seeds.append)
    with global_stream(5):
        torch.randn(2)
    assert seeds == [5, torch.initial_seed()]
    assert torch.equal(torch.get_rng_state(), state)


def test_modules_keep_their_parameters(device):
    with torch.random.fork_rng(devices=()):
        net = nn.Linear(3, 2)
    weight = net.weight
    net.to(device)
    assert net.weight is weight
    assert weight.device == device
    net(torch.ones(3, device=device)).sum().backward()
    assert weight.grad.tolist() == [[1.0] * 3] * 2
