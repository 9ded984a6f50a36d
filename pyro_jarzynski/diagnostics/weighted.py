"""Statistics of weighted draws, which ArviZ does not have: all of its own ignore weights.

Draws `x_s` with log-weights `A_s` stand for a law: `E[f] ≈ Σ_s W_s f(x_s)` with
`W_s ∝ e^{A_s}`. Draws lie along dimension 0; log-weights need not be normalised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.resampling import cumulative
from pyro_jarzynski.diagnostics.names import scalar_names
from pyro_jarzynski.diagnostics.psis import MAX_PARETO_K, pareto_smoothed
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, fraction

# Imported where a table is made: it takes a fifth of a second that others do not need.
if TYPE_CHECKING:
    import pandas as pd

# Sums of weights reach a share up to this.
ROUNDING = 1e-12


def weighted_mean(values: Tensor, log_weight: Tensor) -> Tensor:
    """Return the mean `Σ W_s x_s`.

    Args:
        values: Draws, `(S, *shape)`.
        log_weight: Their log-weights, `(S,)`.

    Returns:
        `(*shape)`, float64.

    Raises:
        ArgumentError: There are no draws, or not one log-weight for each.

    Example:
        >>> values = torch.tensor([0.0, 1.0, 2.0])
        >>> log_weight = torch.tensor([0.25, 0.25, 0.5]).double().log()
        >>> round(float(pj.weighted_mean(values, log_weight)), 4)
        1.25
    """
    values, weight = _checked(values, log_weight)
    return torch.tensordot(weight, values, 1)


def weighted_sd(values: Tensor, log_weight: Tensor) -> Tensor:
    """Return the standard deviation `√ Σ W_s (x_s - x̄)²`.

    Args:
        values: Draws, `(S, *shape)`.
        log_weight: Their log-weights, `(S,)`.

    Returns:
        `(*shape)`, float64, in units of the draws.

    Raises:
        ArgumentError: There are no draws, or not one log-weight for each.

    Example:
        >>> values = torch.tensor([0.0, 1.0, 2.0])
        >>> log_weight = torch.tensor([0.25, 0.25, 0.5]).double().log()
        >>> round(float(pj.weighted_sd(values, log_weight)), 4)
        0.8292
    """
    values, weight = _checked(values, log_weight)
    centred = values - torch.tensordot(weight, values, 1)
    return torch.tensordot(weight, centred.square(), 1).sqrt()


def weighted_quantile(values: Tensor, log_weight: Tensor, level: float) -> Tensor:
    """Return the smallest draw below or at which a share `level` of the weight lies.

    Args:
        values: Draws, `(S, *shape)`.
        log_weight: Their log-weights, `(S,)`.
        level: Share of the weight, in [0, 1].

    Returns:
        `(*shape)`, float64.

    Raises:
        ArgumentError: There are no draws, or not one log-weight for each, or `level`
            does not lie in [0, 1].

    Example:
        >>> values = torch.tensor([0.0, 1.0, 2.0])
        >>> log_weight = torch.tensor([0.25, 0.25, 0.5]).double().log()
        >>> float(pj.weighted_quantile(values, log_weight, 0.5))
        1.0
    """
    values, weight = _checked(values, log_weight)
    ordered, below = _cumulative(values, weight)
    first = (below < fraction("level", level) - ROUNDING).sum(0, keepdim=True)
    found = ordered.gather(0, first.clamp(max=len(ordered) - 1))
    return found.reshape(values.shape[1:])


def weighted_hdi(
    values: Tensor, log_weight: Tensor, probability: float = 0.9
) -> tuple[Tensor, Tensor]:
    """Return the ends of the shortest interval that holds a share of the weight.

    Args:
        values: Draws, `(S, *shape)`.
        log_weight: Their log-weights, `(S,)`.
        probability: Share of the weight within, in [0, 1].

    Returns:
        Lower and upper ends, each `(*shape)`, float64.

    Raises:
        ArgumentError: There are no draws, or not one log-weight for each, or `probability`
            does not lie in [0, 1].

    Source:
        Chen, Shao (1999), J. Comput. Graph. Stat. 8(1).

    Example:
        >>> values = torch.tensor([0.0, 1.0, 2.0])
        >>> log_weight = torch.tensor([0.25, 0.25, 0.5]).double().log()
        >>> low, high = pj.weighted_hdi(values, log_weight, 0.7)
        >>> float(low), float(high)
        (1.0, 2.0)
    """
    values, weight = _checked(values, log_weight)
    fraction("probability", probability)
    ordered, below = _cumulative(values, weight)
    # From each draw on, up to the first at which enough weight is between them.
    before = below - below.diff(dim=0, prepend=torch.zeros_like(below[:1]))
    last = torch.searchsorted(
        below.mT.contiguous(), (before + probability - ROUNDING).mT.contiguous()
    ).mT
    last = last.maximum(torch.arange(len(ordered), device=last.device)[:, None])
    reached = last < len(ordered)
    upper = ordered.gather(0, last.clamp(max=len(ordered) - 1))
    width = torch.where(reached, upper - ordered, torch.inf)
    first = width.argmin(0, keepdim=True)
    shape = values.shape[1:]
    return ordered.gather(0, first).reshape(shape), upper.gather(0, first).reshape(shape)


def weighted_summary(
    draws: Mapping[str, Tensor], log_weight: Tensor, probability: float = 0.9
) -> "pd.DataFrame":
    """Summarise weighted draws in a table with one row per scalar.

        pj.weighted_summary(*result.weighted_samples())

    Args:
        draws: Draws by name, each `(S, *shape)`.
        log_weight: Their log-weights, `(S,)`.
        probability: Share of the weight in the highest-density interval.

    Returns:
        Columns mean, sd, hdi_lower, hdi_upper, and median.

    Raises:
        ArgumentError: There are no draws, or not one log-weight for each, or `probability`
            does not lie in [0, 1].

    Example:
        >>> values = torch.tensor([0.0, 1.0, 2.0])
        >>> log_weight = torch.tensor([0.25, 0.25, 0.5]).double().log()
        >>> table = pj.weighted_summary({"x": values}, log_weight)
        >>> table.loc["x", ["mean", "median"]].round(4).tolist()
        [1.25, 1.0]
    """
    import pandas as pd

    rows: dict[str, list[float]] = {}
    for name, values in draws.items():
        columns = (
            weighted_mean(values, log_weight),
            weighted_sd(values, log_weight),
            *weighted_hdi(values, log_weight, probability),
            weighted_quantile(values, log_weight, 0.5),
        )
        table = torch.stack([column.flatten() for column in columns], 1).tolist()
        rows.update(zip(scalar_names(name, values.shape[1:]), table, strict=True))
    names = ["mean", "sd", "hdi_lower", "hdi_upper", "median"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)


@dataclass(frozen=True)
class WeightedLOO:
    """Leave-one-out predictive density of weighted draws.

    Attributes:
        elpd: Expected log predictive density, the sum of `pointwise`, in nats.
        se: Standard error of `elpd` over the data.
        p_loo: Effective number of parameters, `lppd - elpd`.
        pointwise: `log p(y_i | y_{-i})`, `(n,)`.
        pareto_k: Shape of the weights that leave out each datum, `(n,)`.
    """

    elpd: float
    se: float
    p_loo: float
    pointwise: Tensor
    pareto_k: Tensor

    def __str__(self) -> str:
        """Tell the sum and how far to trust it."""
        bad = int((self.pareto_k > MAX_PARETO_K).sum())
        return (
            f"elpd_loo {self.elpd:.2f} ± {self.se:.2f}, p_loo {self.p_loo:.2f}; "
            f"{bad} of {len(self.pareto_k)} data have a Pareto k above {MAX_PARETO_K}"
        )


def weighted_loo(log_likelihood: Tensor, log_weight: Tensor) -> WeightedLOO:
    """Return the leave-one-out predictive density of weighted draws, by PSIS.

    Leaving out a datum divides the weights by its likelihood, so that the log-weights
    `A_s - log p(y_i | x_s)` are smoothed and

        elpd = Σ_i log Σ_s W_{is} p(y_i | x_s).

    `az.loo` of the raw cloud takes all `A_s` for equal.

    Args:
        log_likelihood: `log p(y_i | x_s)`, `(S, *shape)` with `n` data in `shape`, nats.
        log_weight: Log-weights of the draws, `(S,)`.

    Returns:
        The density with its standard error, by datum, and how far to trust it.

    Raises:
        ArgumentError: There are no draws or data, or not one log-weight for each draw, or a
            likelihood is not finite at a draw that has weight.

    Source:
        Vehtari, Gelman, Gabry (2017), Stat. Comput. 27(5).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> y = torch.tensor([0.5, 1.5])
        >>> mu = torch.randn(4096, generator=generator)  # draws of the prior, weighted:
        >>> log_likelihood = dist.Normal(mu[:, None], 1.0).log_prob(y)
        >>> found = pj.weighted_loo(log_likelihood, log_likelihood.sum(1))
        >>> truth = [  # of y_i given the other: N(other / 2, 3 / 2)
        ...     float(dist.Normal(other / 2, 1.5**0.5).log_prob(one))
        ...     for one, other in ((y[0], y[1]), (y[1], y[0]))
        ... ]
        >>> abs(found.elpd - sum(truth)) < 0.05
        True
    """
    values, weight = _checked(log_likelihood, log_weight)
    rows, log_weight = values.reshape(len(values), -1).mT, weight.log()
    _check_likelihoods(rows)
    left_out, shapes = pareto_smoothed(log_weight - rows)
    pointwise = weights.log_sum_exp(left_out + rows)
    lppd = weights.log_sum_exp(log_weight + rows)
    num = len(pointwise)
    return WeightedLOO(
        elpd=float(pointwise.sum()),
        se=float(pointwise.var(correction=0).mul(num).sqrt()),
        p_loo=float((lppd - pointwise).sum()),
        pointwise=pointwise,
        pareto_k=shapes,
    )


def _check_likelihoods(rows: Tensor) -> None:
    if not len(rows):
        raise ArgumentError("`log_likelihood` must hold at least one datum, got none.")
    bad = (~torch.isfinite(rows)).any(1).nonzero()
    if len(bad):
        raise ArgumentError(
            f"`log_likelihood` is not finite for datum {int(bad[0])} at a draw that has "
            "weight, so that the posterior without this datum does not follow from these "
            "draws. Run the model again without it."
        )


def _checked(values: Tensor, log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return values in float64 and normalised weights, or raise."""
    for name, given in (("values", values), ("log_weight", log_weight)):
        if not isinstance(given, Tensor):
            raise ArgumentTypeError(
                f"`{name}` must be a tensor, got {type(given).__name__}; convert arrays by "
                "`torch.as_tensor`."
            )
    if not values.ndim or not len(values):
        raise ArgumentError("`values` must hold at least one draw along dimension 0.")
    if log_weight.shape != (len(values),):
        raise ArgumentError(
            f"`log_weight` must have shape ({len(values)},), one per draw; got "
            f"{tuple(log_weight.shape)}."
        )
    weight = weights.normalise(log_weight)
    # Draws without weight may be anything: infinite ones would turn sums into NaN.
    alive = weight > 0
    values = values[alive].to(torch.float64)
    if torch.isnan(values).any():
        raise ArgumentError("`values` has NaN; leave such draws out, with their weights.")
    return values, weight[alive]


def _cumulative(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return each scalar's draws in order, `(S, d)`, and the weight up to each."""
    ordered, order = values.reshape(len(values), -1).sort(0)
    return ordered, cumulative(weight[order].mT).mT
