"""The shape of the largest weights, by ArviZ: the only file here that knows it."""

import warnings

import numpy as np
from torch import Tensor


def pareto_k(log_weight: Tensor) -> float:
    """Fit a generalised Pareto law to the largest weights and return its shape `k`.

    Moments of the weights below `1 / k` exist. Up to 0.7 means of them can be trusted;
    weights that are all alike have `k = 0`.

    Source:
        Vehtari, Simpson, Gelman, Yao, Gabry (2024), J. Mach. Learn. Res. 25(72).
    """
    values = log_weight.detach().cpu().numpy()
    values = values[np.isfinite(values)]
    if len(values) < 25 or np.ptp(values) < 1e-8:
        return 0.0
    return float(_psis(values))


def _psis(values: np.ndarray) -> float:
    with warnings.catch_warnings():
        # ArviZ 0.2x announces its next release when it is imported.
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    # The shape of weights that span more than a float does overflows on its way.
    with np.errstate(over="ignore"):
        if hasattr(arviz, "psislw"):
            return arviz.psislw(values)[1]
        from arviz_stats.base import array_stats

        # From its version 1 on it takes log-likelihoods, the negatives of log-weights.
        return array_stats.psislw(-values)[1]
