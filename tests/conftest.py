"""Fixtures of all tests, and the rule that no test touches torch's global state."""

import math
import signal
from collections.abc import Iterator

import pytest
import torch
from torch.fx import GraphModule

from pyro_jarzynski.core import compiled
from pyro_jarzynski.infer.time_limit import TimeLimit
from tests.seeds import seeded


def pytest_configure(config: pytest.Config) -> None:
    # Sums over walkers must not depend on the number of cores.
    torch.set_num_threads(1)
    # A shell that starts the tests in the background lets them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A stage of a slow machine is not given up; tests of that have clocks of their own.
    TimeLimit.grace = math.inf
    config.addinivalue_line(
        "markers", "global_state: may change torch's default dtype or global generator"
    )


@pytest.fixture(autouse=True)
def _global_state_is_kept(request: pytest.FixtureRequest) -> Iterator[None]:
    dtype, state = torch.get_default_dtype(), torch.get_rng_state()
    yield
    new_dtype, new_state = torch.get_default_dtype(), torch.get_rng_state()
    torch.set_default_dtype(dtype)
    torch.set_rng_state(state)
    if request.node.get_closest_marker("global_state"):
        return
    assert new_dtype == dtype, "the test changed torch's default dtype"
    assert torch.equal(new_state, state), "the test drew from torch's global generator"


@pytest.fixture
def generator() -> torch.Generator:
    return seeded(0)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[GraphModule]:
    """Recorded graphs, taken as they are in place of their code, which takes no time."""
    graphs: list[GraphModule] = []
    monkeypatch.setattr(compiled, "_kept", {})
    monkeypatch.setattr(compiled, "compile_graph", lambda g: graphs.append(g) or g)
    return graphs
