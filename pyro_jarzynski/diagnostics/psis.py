"""The largest weights: their Pareto shape, and smoothed weights (PSIS)."""

import math

import numpy as np
import torch
from torch import Tensor

from pyro_jarzynski.core.weights import log_sum_exp
from pyro_jarzynski.diagnostics.arviz_library import smooth_largest

# Fewer weights than this have no tail that could be fitted.
MIN_WEIGHTS = 25
MIN_SPREAD = 1e-8
# Up to this shape, means of the weights can be trusted.
MAX_PARETO_K = 0.7


def pareto_k(log_weight: Tensor) -> float:
    """Fit a generalised Pareto law to the largest weights and return its shape `k`.

    Moments of the weights below `1 / k` exist. Up to 0.7 means of them can be trusted;
    weights that are all alike have `k = 0`.

    Source:
        Vehtari, Simpson, Gelman, Yao, Gabry (2024), J. Mach. Learn. Res. 25(72).
    """
    values = log_weight.detach().cpu().numpy()
    values = values[np.isfinite(values)]
    if len(values) < MIN_WEIGHTS or np.ptp(values) < MIN_SPREAD:
        return 0.0
    shape = float(smooth_largest(values)[1])
    # ArviZ finds none, or infinity, where one weight has everything.
    return math.inf if math.isnan(shape) else shape


def pareto_smoothed(log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return Pareto-smoothed log-weights and their shapes.

    Args:
        log_weight: Finite log-weights, `(n, S)`; each row is smoothed by itself.

    Returns:
        Log-weights `(n, S)`, float64, each row normalised, and shapes `k`, `(n,)`; weights
        that are all alike have `k = 0`.

    Source:
        Vehtari, Simpson, Gelman, Yao, Gabry (2024), J. Mach. Learn. Res. 25(72).
    """
    values = log_weight.detach().to(torch.float64)
    smoothed = values - log_sum_exp(values)[:, None]
    shapes = values.new_zeros(len(values))
    rows = values.amax(-1) - values.amin(-1) >= MIN_SPREAD
    if values.shape[-1] >= MIN_WEIGHTS and rows.any():
        found, k = smooth_largest(values[rows].cpu().numpy())
        smoothed[rows] = torch.as_tensor(np.array(found), device=values.device)
        shapes[rows] = torch.as_tensor(np.array(k), device=values.device)
    return smoothed, shapes
