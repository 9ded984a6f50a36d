"""Log-weights: the only file that exponentiates them, always in float64.

With log-weights `A_i` of `N` walkers, `W_i = e^{A_i} / Σ_j e^{A_j}`. A log-weight of
minus infinity is a weight of zero; NaN, and a cloud of which all weights are zero, are
errors. Walkers lie along the last dimension; leading ones are islands, independent clouds.
"""

import math

import torch
from torch import Tensor

from pyro_jarzynski.errors import WeightCollapseError


def as_log_weight(values: Tensor) -> Tensor:
    """Return `values` in float64, or raise if they cannot be log-weights."""
    log_weight = values.to(torch.float64)
    # One reduction serves both tests: the maximum of anything with a NaN is NaN.
    if not torch.isfinite(log_weight.amax(-1)).all():
        _raise_collapse(log_weight)
    return log_weight


def normalise(log_weight: Tensor) -> Tensor:
    """Return the normalised weights `W_i`, `(N,)`, which sum to one."""
    return torch.softmax(as_log_weight(log_weight), -1)


def log_sum_exp(log_weight: Tensor) -> Tensor:
    """Return `log Σ e^{A_i}`, `()`."""
    return torch.logsumexp(as_log_weight(log_weight), -1)


def sum_and_shares(log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return `log Σ e^{A_i}`, `()`, and the normalised weights `W_i`, `(N,)`."""
    known = as_log_weight(log_weight)
    return torch.logsumexp(known, -1), torch.softmax(known, -1)


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """Return `log (1/N) Σ e^{A_i}`, `()`: the estimate of a ratio of normalisers."""
    return log_sum_exp(log_weight) - math.log(log_weight.shape[-1])


def ess(log_weight: Tensor) -> Tensor:
    """Return the effective sample size `1 / Σ W_i²`, between 1 and `N`."""
    return 1 / normalise(log_weight).square().sum(-1)


def conditional_ess(before: Tensor, after: Tensor) -> Tensor:
    """Return the effective sample size of one step's increments alone.

    `CESS = N (Σ W_i v_i)² / Σ W_i v_i²` with `v_i = e^{A'_i - A_i}` is `N` when all
    increments are equal, however uneven the weights already were.

    Args:
        before: Log-weights `A` before the step, `(N,)`.
        after: Log-weights `A'` after it, `(N,)`.

    Returns:
        A number between 1 and `N`, `()`.

    Source:
        Zhou, Johansen, Aston (2016), J. Comput. Graph. Stat. 25(3), eq. (2.15).
    """
    squared = torch.where(before == -math.inf, before, 2 * after - before)
    sums = [torch.logsumexp(x, -1) for x in (after, squared, before)]
    found = before.shape[-1] * (2 * sums[0] - sums[1] - sums[2]).exp()
    # Whatever cannot be a log-weight shows in the result, which is read but once.
    if not ((found > 0) & torch.isfinite(found)).all():
        as_log_weight(before)
        as_log_weight(after)
    return found


def relative_variance(log_weight: Tensor, ancestor: Tensor) -> Tensor:
    """Estimate `Var[Ẑ] / Z²` of one cloud from its genealogy.

    `V = (N Σ_e (Σ_{i: e(i) = e} W_i)² - 1) / (N - 1)`, with `e(i)` the walker of the
    first cloud from which walker `i` descends. Without resampling it is the variance of
    the weights over `N` times their squared mean. The published estimator also subtracts
    the drift of multinomial resampling, about `r / N` after `r` resamplings; the schemes
    used here drift less, so that is left in and the estimate errs to the safe side.

    Args:
        log_weight: Log-weights, `(N,)`.
        ancestor: Index in the first cloud from which each walker descends, `(N,)`;
            with islands the walkers of all of them are counted through.

    Returns:
        Relative variance, `()`, between 0 and 1; 1 if all descend from one walker.

    Source:
        Lee, Whiteley (2018), Biometrika 105(3), eq. (6).
    """
    weight = normalise(log_weight)
    size = weight.shape[-1]
    # Islands start from different walkers, so one index serves them all.
    family = torch.zeros_like(weight).flatten()
    family = family.index_add_(0, ancestor.flatten(), weight.flatten()).view_as(weight)
    concentration = family.square().sum(-1)
    if size == 1:
        return concentration
    return ((size * concentration - 1) / (size - 1)).clamp(min=0)


def add(log_weight: Tensor, increment: Tensor) -> Tensor:
    """Return `log_weight + increment`; a walker of weight zero keeps it."""
    moved = log_weight + increment.to(torch.float64)
    return torch.where(log_weight == -math.inf, log_weight, moved)


def shares(log_weight: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Return `Σ_{i in g} e^{A_i - max A}` of groups of walkers, `(num_groups, …)`.

    Args:
        log_weight: Log-weights, `(N, …)`: walkers along the first dimension here.
        group: Group of each walker, `(N,)`.
        num_groups: Number of groups.
    """
    relative = (log_weight - log_weight.amax(0)).exp()
    sums = relative.new_zeros(num_groups, *log_weight.shape[1:])
    return sums.index_add_(0, group, relative)


def equal(log_weight: Tensor) -> Tensor:
    """Return log-weights that are all the same, but for weights of zero."""
    return torch.zeros_like(log_weight).masked_fill(~(log_weight > -math.inf), -math.inf)


def ratio(log_part: Tensor, log_total: Tensor) -> Tensor:
    """Return `e^{a - b}`; a part of weight zero has none."""
    return (log_part - log_total).exp()


def merge(log_total: Tensor, log_part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `log(e^a + e^b)` and the shares of `e^a` and `e^b` in the sum."""
    log_sum = torch.logaddexp(log_total, log_part)
    return log_sum, ratio(log_total, log_sum), ratio(log_part, log_sum)


def _raise_collapse(log_weight: Tensor) -> None:
    bad = torch.isnan(log_weight.flatten())
    if bad.any():
        raise WeightCollapseError(
            f"{int(bad.sum())} of {len(bad)} log-weights are NaN, first at walker "
            f"{int(bad.nonzero()[0])}; look for NaN in the energy."
        )
    if (log_weight == math.inf).any():
        raise WeightCollapseError(
            "A log-weight is plus infinity: the energy is minus infinity somewhere, "
            "which no density allows. Bound the energy from below."
        )
    raise WeightCollapseError(
        f"All {log_weight.shape[-1]} weights are zero: no walker has a finite energy.",
        "Use more walkers, smaller steps of the path, or a smaller step size.",
    )
