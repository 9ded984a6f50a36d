"""ArviZ, whichever generation is installed: the only file that imports it."""

import warnings
from types import ModuleType
from typing import Any

import numpy as np

from pyro_jarzynski.errors import MissingDependencyError


def import_arviz() -> ModuleType:
    """Import ArviZ, which takes a second that only its users should wait for.

    Raises:
        MissingDependencyError: It cannot be imported.
    """
    with warnings.catch_warnings():
        # ArviZ 0.2x announces its next release when it is imported.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            import arviz
        except ImportError as error:
            raise MissingDependencyError(
                f"ArviZ cannot be imported ({error}). Install it: `pip install arviz`."
            ) from error
    return arviz


def smooth_largest(log_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooth the largest weights by a generalised Pareto law (PSIS).

    Args:
        log_weight: Finite log-weights, `(..., S)`.

    Returns:
        Smoothed log-weights, `(..., S)`, normalised, and the shapes `k`, `(...)`.
    """
    arviz: Any = import_arviz()
    # The shape of weights that span more than a float does overflows on its way.
    with np.errstate(over="ignore"):
        if hasattr(arviz, "psislw"):
            return arviz.psislw(log_weight)
        from arviz_stats.base import array_stats

        # From its version 1 on it takes log-likelihoods, the negatives of log-weights.
        return array_stats.psislw(-log_weight)
