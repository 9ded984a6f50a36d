"""The expected time of a run, and times in words."""

# Gradients for each walker of a run in `D` dimensions: this number plus `D`. Of 71
# posteriors of 1 to 201 dimensions, 67 took a third to three times as many, four a quarter.
FEWEST_GRADIENTS = 25


def gradients_per_walker(size: int) -> int:
    """Return how many gradients each walker of a run is expected to take.

    Args:
        size: Number `D` of coordinates.
    """
    return FEWEST_GRADIENTS + size


def expected_seconds(seconds: float, num_walkers: int, size: int) -> float:
    """Return the expected time of a run.

    Args:
        seconds: Time of the gradient of one walker.
        num_walkers: Walkers of all clouds.
        size: Number `D` of coordinates.
    """
    return seconds * num_walkers * gradients_per_walker(size)


def in_words(seconds: float) -> str:
    """Return a time to two digits, in a unit in which it is easily read."""
    units = {"days": 86400.0, "hours": 3600.0, "minutes": 60.0, "s": 1.0, "ms": 1e-3}
    fitting = (item for item in units.items() if seconds >= 2 * item[1])
    unit, size = next(fitting, ("µs", 1e-6))
    return f"{float(f'{seconds / size:.2g}'):g} {unit}"
