"""Errors and warnings, and the checks of plain arguments that raise them.

Every error of this package derives from `JarzynskiError`. A wrong argument is a
`ValueError` or a `TypeError` as well, so that `except ValueError` works as usual. Each
message names the argument, what was expected, what came, and what to do.
"""

import math
from collections.abc import Iterable

# The largest integer in 64 bits, which torch can take.
MOST = 2**63 - 1


class JarzynskiError(RuntimeError):
    """Base of all errors of this package."""


class ArgumentError(JarzynskiError, ValueError):
    """An argument has a value that cannot be used."""


class ArgumentTypeError(JarzynskiError, TypeError):
    """An argument has a type that cannot be used."""


class EnergyError(JarzynskiError, ValueError):
    """An energy function does not return one differentiable energy per walker."""


class NonFiniteEnergyError(JarzynskiError, ArithmeticError):
    """Too many energies or gradients are NaN, or an energy is minus infinity."""


class ModelError(JarzynskiError, ValueError):
    """A Pyro model cannot be used for inference as it is written."""


class WeightCollapseError(JarzynskiError, ArithmeticError):
    """A log-weight is NaN, or all weights are zero.

    Attributes:
        found: What was found, without advice.
    """

    def __init__(self, found: str, advice: str = "") -> None:
        """Tell what was found, and what to do."""
        super().__init__(f"{found} {advice}".strip())
        self.found = found


class DataError(JarzynskiError, ValueError):
    """The data are empty, not finite or of the wrong shape."""


class WalkerMemoryError(JarzynskiError, MemoryError):
    """Walkers, or what a call keeps of them, do not fit into memory."""


class OutputError(JarzynskiError, OSError):
    """An output directory cannot be used."""


class ModelFileError(JarzynskiError, ValueError):
    """A saved model cannot be read."""


class CheckpointError(JarzynskiError, ValueError):
    """Checkpoints cannot be read, do not fit the run, or belong to another process."""


class TimeLimitError(JarzynskiError, TimeoutError):
    """The time of a run was up before there was any result."""


class RankError(JarzynskiError):
    """A process that shares the work has failed, or the processes do not agree."""


class ModelSourceError(JarzynskiError, ValueError):
    """The command line names a model that is not there."""


class MissingDependencyError(JarzynskiError, ImportError):
    """A library cannot be imported."""


class NonFiniteEnergyWarning(UserWarning):
    """Some walkers met a NaN energy or gradient and were dropped."""


class PrecisionWarning(UserWarning):
    """Energies are so large that their dtype loses differences between walkers."""


class SupportWarning(UserWarning):
    """Walkers of an unadjusted kernel left the support of the density."""


class SlowModelWarning(UserWarning):
    """A model can only be evaluated for one walker at a time."""


class CompilationWarning(UserWarning):
    """A model was to be compiled and is evaluated as it is, which is slower."""


class EvidenceWarning(UserWarning):
    """Evidence and draws of a run are not to be trusted without a second look."""


class ExportWarning(UserWarning):
    """Something optional cannot be exported, and is left out."""


class AuditWarning(UserWarning):
    """The audit walkers have collapsed: their likelihoods are not to be trusted."""


class ExploitationWarning(UserWarning):
    """The walkers that train a model no longer stand for it: its gradient is biased."""


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written, or one on disk was refused."""


class StepSizeWarning(UserWarning):
    """The step size is too large for the curvature of the energy."""


def positive(name: str, value: object) -> float:
    """Return `value` as a float, or raise if it is not a positive finite number."""
    number = _number(name, value, "a positive finite float")
    if not (math.isfinite(number) and number > 0):
        raise ArgumentError(f"`{name}` must be a positive finite float, got {value!r}.")
    return number


def nonnegative(name: str, value: object) -> float:
    """Return `value` as a float, or raise if it is not a finite number of at least 0."""
    number = _number(name, value, "a finite float of at least 0")
    if not (math.isfinite(number) and number >= 0):
        raise ArgumentError(
            f"`{name}` must be a finite float of at least 0, got {value!r}."
        )
    return number


def fraction(name: str, value: object) -> float:
    """Return `value` as a float, or raise if it does not lie in [0, 1]."""
    number = _number(name, value, "a number in [0, 1]")
    if not 0 <= number <= 1:
        raise ArgumentError(f"`{name}` must lie in [0, 1], got {value!r}.")
    return number


def count(name: str, value: object, minimum: int = 1) -> int:
    """Return `value` if it is an integer of 64 bits of at least `minimum`, or raise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(
            f"`{name}` must be an integer of at least {minimum}, got {value!r}."
        )
    if value < minimum:
        raise ArgumentError(f"`{name}` must be at least {minimum}, got {value}.")
    if value > MOST:
        raise ArgumentError(f"`{name}` must be at most {MOST}, got {value}.")
    return value


def one_of(name: str, value: object, known: Iterable[str]) -> str:
    """Return `value` if it is one of the `known` names, or raise and list them."""
    names = sorted(known)
    if not isinstance(value, str) or value not in names:
        raise ArgumentError(f"`{name}` must be one of {', '.join(names)}, got {value!r}.")
    return value


def _number(name: str, value: object, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentTypeError(
            f"`{name}` must be {expected}, got {value!r} of type {type(value).__name__}."
        )
    return float(value)
