"""Settings and headline of a run, in types that files store."""

from dataclasses import fields
from typing import Any, Protocol

from torch import Tensor

from pyro_jarzynski.diagnostics.storable import describe
from pyro_jarzynski.infer.posterior import Posterior
from pyro_jarzynski.infer.settings import Settings


class Described(Protocol):
    """What is told of a result."""

    posterior: Posterior
    settings: Settings
    complete: bool
    num_gradients: int
    seconds: float

    @property
    def doubts(self) -> list[str]:
        """Reasons not to trust it."""

    @property
    def log_evidence(self) -> float:
        """Log evidence."""

    @property
    def log_evidence_error(self) -> float:
        """Its standard error."""

    @property
    def log_evidence_per_chain(self) -> Tensor:
        """Log evidence of each island."""

    def log_evidence_interval(self, probability: float = 0.9) -> tuple[float, float]:
        """Interval for the log evidence."""

    @property
    def status(self) -> str:
        """Whether to trust it."""


def attributes(result: Described) -> dict[str, Any]:
    """Return settings and headline of a result: strings, numbers, and lists of these."""
    found: dict[str, Any] = {}
    for field in fields(Settings):
        value = getattr(result.settings, field.name)
        if field.name == "base" and not isinstance(value, str):
            value = type(value).__name__
        plain = isinstance(value, str | int | float)
        found[field.name] = value if plain else describe(value, longest=10_000)
    return found | {
        "sampling_time": result.seconds,
        "log_marginal_likelihood": result.log_evidence_per_chain,
        "log_evidence": result.log_evidence,
        "log_evidence_error": result.log_evidence_error,
        "log_evidence_interval_90": list(result.log_evidence_interval()),
        "method": result.posterior.method,
        "num_gradients": result.num_gradients,
        "complete": result.complete,
        "status": result.status,
        "doubts": "\n".join(result.doubts),
    }
