"""The judge of the soak finds leaks, and nothing else; one round runs."""

import random

import pytest

from tests.soak import Reading, faults, read, run_round


def readings(slope=0.0, noise=1.0, **last):
    """Readings of 30 minutes, memory rising during the warm-up in any case."""
    numbers = random.Random(0)
    found = []
    for minute in range(31):
        warm = min(minute, 8) * 10
        memory = 500 + warm + slope * minute + numbers.gauss(0, noise)
        found.append(Reading(minute, minute, memory, 6, 3, 0))
    # One spike, such as a large table that has not been freed yet.
    found[20] = found[20]._replace(megabytes=900.0)
    found[-1] = found[-1]._replace(**last)
    return found


def test_flat_memory_passes():
    """Noise of 1 MB makes a growth of 5 MB one of more than six standard errors."""
    assert faults(readings(), 5.0) == []


@pytest.mark.parametrize("slope", [0.5, 3.0])
def test_growth_of_memory_is_found(slope):
    (told,) = faults(readings(slope), 5.0)
    assert told.startswith("memory grew by")


@pytest.mark.parametrize("name", ["handles", "threads", "children"])
def test_what_is_left_open_is_found(name):
    (told,) = faults(readings(**{name: 7}), 5.0)
    assert told.startswith(f"{name} grew")


def test_too_few_readings_are_no_pass():
    assert "run longer" in faults(readings()[:3], 5.0)[0]


@pytest.mark.global_state
def test_a_round_leaves_nothing_open():
    run_round(0)
    before = read(0.0, 1)
    run_round(1)
    after = read(0.0, 2)
    assert after[3:] == before[3:]
