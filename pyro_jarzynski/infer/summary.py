"""Posterior summaries: means and quantiles of draws, and how well they are known."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.core.weights import normalise
from pyro_jarzynski.diagnostics.genealogy import family_errors
from pyro_jarzynski.diagnostics.names import scalar_names

# Imported where a table is made: it takes a fifth of a second that training does not need.
if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Summary:
    """A table with one row per scalar latent, and the evidence; prints itself.

    Attributes:
        table: Columns mean, sd, the outer quantiles and the median, mcse, r_hat.
        headline: Evidence, size and ancestors in a line.
    """

    table: "pd.DataFrame"
    headline: str

    def __str__(self) -> str:
        """Return headline and table."""
        import pandas as pd

        # Pandas leaves columns out where the terminal is narrow, unless it is told not to.
        columns = ("display.max_columns", None, "display.width", 100)
        with pd.option_context("display.max_rows", 60, *columns):
            return f"{self.headline}\n{self.table.round(3)}"

    __repr__ = __str__


def summarise(
    draws: dict[str, Tensor],
    values: dict[str, Tensor],
    walkers: Walkers,
    probability: float,
) -> "pd.DataFrame":
    """Summarise draws in a table with one row per scalar latent.

    The Monte Carlo standard error of a mean is that between families of walkers with a
    common ancestor, `√ Σ_e (Σ_{i∈e} W_i (f_i - f̄))²` (Chan, Lai 2013, Ann. Stat. 41(6));
    `r_hat` compares the islands.

    Args:
        draws: Draws of equal weight by site, `(C, N, *shape)`.
        values: Values of the walkers by site, `(C N, *shape)`.
        walkers: The walkers, with their weights and ancestors.
        probability: Share of the draws between the outer quantiles.
    """
    import pandas as pd

    tail = (1 - probability) / 2
    quantiles = walkers.log_weight.new_tensor([tail, 0.5, 1 - tail])
    rows: dict[str, list[float]] = {}
    for name, site in draws.items():
        chains = _scalars(site)
        errors = family_errors(walkers, values[name])
        r_hats = _r_hats(chains)
        for index, label in enumerate(scalar_names(name, site.shape[2:])):
            scalar = chains[..., index]
            rows[label] = [
                float(scalar.mean()),
                float(scalar.std()),
                *torch.quantile(scalar.flatten(), quantiles).tolist(),
                float(errors[index]),
                float(r_hats[index]),
            ]
    names = ["mean", "sd", *(f"{100 * q:.3g}%" for q in quantiles.tolist())]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*names, "mcse", "r_hat"])


def largest_r_hat(draws: dict[str, Tensor]) -> tuple[str, float]:
    """Return the latent of the largest `r_hat`, and this; NaN if one is not a number.

    Args:
        draws: Draws of equal weight by site, `(C, N, *shape)`.
    """
    found = {name: _r_hats(_scalars(values)) for name, values in draws.items()}
    return _largest(found, least=1.0)


def largest_shift(draws: dict[str, Tensor], log_evidences: Tensor) -> tuple[str, float]:
    """Return the latent whose mean depends most on how islands are weighted, and how much.

    That is the distance between the mean of the islands' means and their mean weighted by
    the evidences, in standard deviations of the draws.

    Args:
        draws: Draws of equal weight by site, `(C, N, *shape)`.
        log_evidences: Log evidence of each island, `(C,)`.
    """
    weight = normalise(log_evidences)

    def shifts(values: Tensor) -> Tensor:
        values = _from_first(values)
        means = values.mean(1)
        shift = (weight.to(means.device) @ means - means.mean(0)).abs()
        return torch.where(shift > 0, shift / values.flatten(0, 1).std(0), 0.0)

    found = {name: shifts(_scalars(values)) for name, values in draws.items()}
    return _largest(found, least=0.0)


def _largest(found: dict[str, Tensor], *, least: float) -> tuple[str, float]:
    """Return the name of the largest number, and this; NaN counts as the largest.

    Args:
        found: Numbers by name.
        least: What to return where there are none.
    """
    largest = {name: float(x.max()) for name, x in found.items() if x.numel()}
    order = {name: (math.isnan(x), x) for name, x in largest.items()}
    name = max(order, key=order.__getitem__, default="")
    return name, largest.get(name, least)


def _scalars(values: Tensor) -> Tensor:
    """Return `(C, N, *shape)` as `(C, N, k)`, in double precision."""
    return values.double().reshape(*values.shape[:2], values[0, 0].numel())


def _from_first(values: Tensor) -> Tensor:
    """Return draws `(C, N, k)` minus the first, which is exactly 0 for a constant.

    An entry of a Cholesky factor of correlations is 1 for all draws; rounding its mean
    would leave a difference that is infinite in standard deviations.
    """
    return values - values[:1, :1]


def _r_hats(values: Tensor) -> Tensor:
    """Return `√(((N - 1) W / N + B) / W)` of draws `(C, N, k)`; 1 if `C` or `N` is 1."""
    chains, size, num = values.shape
    if chains == 1 or size == 1:
        return values.new_ones(num)
    values = _from_first(values)
    within, between = values.var(1).mean(0), values.mean(1).var(0)
    r_hat = ((size - 1) / size + between / within).sqrt()
    return torch.where((within == 0) & (between == 0), 1.0, r_hat)
