"""The groups of a trained energy-based model, as ArviZ knows them.

Chains are clouds: the audit walkers, and beside them those that train the model. Between
the two `rhat` tells whether the optimiser has led its own walkers astray. The one uncertain
number of the likelihood is `log Z`, so that the draws of `log_likelihood` differ in it
alone.
"""

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.core.weights import log_mean_exp, log_sum_exp
from pyro_jarzynski.diagnostics.inference_data import Group
from pyro_jarzynski.diagnostics.storable import as_array
from pyro_jarzynski.ebm.cloud import Cloud
from pyro_jarzynski.ebm.history import COLUMNS, History
from pyro_jarzynski.errors import ArgumentError, count

NUM_DRAWS = 1000
STATISTICS = {
    "lp": "minus the energy, and minus log Z by the audit, nats",
    "log_weight": "normalised log-weight of the draw, over all chains; all equal",
    "diverging": "whether the energy or its gradient is not finite",
    "ancestor": "walker of the first cloud from which the draw descends",
    "log_normalizer": "draw of log Z, from the families of the audit walkers, nats",
}


class Likely(Protocol):
    """What knows the likelihood of data."""

    cloud: Cloud

    @property
    def log_normalizer(self) -> float:
        """Estimate of `log Z`."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of data `(n, *event)`, `(n,)`."""


def draw_log_normalizer(walkers: Walkers, num: int, *, seed: int) -> Tensor:
    """Draw from what the genealogy of some walkers leaves open of `log Z`.

    Families of walkers, one for each of the first cloud, are given weights `N d_e` with
    `d` uniform on the simplex: the Bayesian bootstrap, of which the variance is that of
    `log_normalizer_error`. The draws are shifted so that the mean of `Z` is its estimate.

    Args:
        walkers: One cloud of `N` walkers.
        num: Number of draws `S`.
        seed: Seed of the draws.

    Returns:
        `(S,)`, float64, nats.

    Source:
        Rubin (1981), Ann. Stat. 9(1).
    """
    _, family = walkers.ancestor.unique(return_inverse=True)
    size, alive = walkers.num_walkers, int(family.max()) + 1
    share = torch.zeros(alive, dtype=torch.float64, device=family.device)
    share = share.index_add_(0, family, walkers.weight)
    generator = stream(seed, "log normalizer", family.device)
    given = draw_exponential(num, alive, generator)
    # The sum of the numbers that families without descendants would get.
    rest = _gamma(num, size - alive, generator)
    log_ratio = log_sum_exp(given.log() + share.log()) - (given.sum(1) + rest).log()
    return walkers.log_normalizer + log_ratio - log_mean_exp(log_ratio)


def draw_exponential(num: int, families: int, generator: torch.Generator) -> Tensor:
    """Draw weights of families, `(num, families)`, float64, without their sum.

    Divided by their sum they are uniform on the simplex.
    """
    uniform = torch.rand(
        num, families, dtype=torch.float64, generator=generator, device=generator.device
    )
    return -torch.log1p(-uniform)


def audit_groups(
    audit: Likely,
    clouds: list[Cloud],
    *,
    data: Tensor | None,
    num_draws: int | None,
    seed: int,
) -> dict[str, Group]:
    """Return draws of a model, and the log-likelihood of data.

    Args:
        audit: What knows the likelihood.
        clouds: Walkers at the present model, one chain each.
        data: Data of the log-likelihood, `(n, *event)`; `None` leaves it out.
        num_draws: Draws per chain; `None` is as many as the smallest cloud has, up to 1000.
        seed: Seed of the draws.
    """
    smallest = min(cloud.num_walkers for cloud in clouds)
    num = min(smallest, NUM_DRAWS) if num_draws is None else count("num_draws", num_draws)
    if num > smallest:
        raise ArgumentError(
            f"`num_draws` must be at most {smallest}, the number of walkers of the "
            f"smallest cloud, got {num}; draws are never repeated to make up the number."
        )
    rows = [cloud.draw_index(num, seed) for cloud in clouds]
    pairs = list(zip(clouds, rows, strict=True))
    normalizers = torch.stack(
        [
            draw_log_normalizer(audit.cloud.walkers, num, seed=seed + chain)
            for chain in range(len(clouds))
        ]
    )
    groups = {
        "posterior": Group(
            {"x": as_array(torch.stack([cloud.position[row] for cloud, row in pairs]))}
        ),
        "sample_stats": Group(
            _statistics(audit, pairs) | {"log_normalizer": as_array(normalizers)},
            meanings=STATISTICS,
        ),
    }
    if data is not None:
        energies = audit.log_prob(data).to(torch.float64) + audit.log_normalizer
        groups["log_likelihood"] = Group(
            {"x": as_array(energies - normalizers[..., None])},
            leading=["datum"],
            partial=True,
        )
        groups["observed_data"] = Group(
            {"x": as_array(data)},
            sampled=False,
            dims={"x": [f"x_dim_{i}" for i in range(data.ndim - 1)]},
            leading=["datum"],
        )
    return groups


def training_group(history: History) -> Group:
    """Return the course of a training, one draw per row, which is labelled by its step."""
    columns = {
        name: np.asarray(history[name], dtype=float)[None]
        for name in COLUMNS
        if not all(math.isnan(value) for value in history[name])
    }
    steps = np.asarray(history["step"], dtype=np.int64)
    return Group(columns, meanings=COLUMNS, draws=steps)


def _statistics(audit: Likely, pairs: list[tuple[Cloud, Tensor]]) -> dict[str, Any]:
    found: dict[str, list[Tensor]] = {"lp": [], "diverging": [], "ancestor": []}
    for cloud, row in pairs:
        known = cloud.walkers.evaluation
        found["lp"].append(-known.energy[row] - audit.log_normalizer)
        found["diverging"].append(~torch.isfinite(known.energy + known.grad_sq)[row])
        found["ancestor"].append(cloud.walkers.ancestor[row])
    stacked = {name: torch.stack(values) for name, values in found.items()}
    lp = stacked["lp"]
    equal = lp.new_full(lp.shape, -math.log(lp.numel()), dtype=torch.float64)
    return {
        name: as_array(value) for name, value in (stacked | {"log_weight": equal}).items()
    }


def _gamma(num: int, shape: int, generator: torch.Generator) -> Tensor:
    """Draw sums of `shape` exponential numbers, `(num,)`, float64."""
    if not shape:
        return torch.zeros(num, dtype=torch.float64, device=generator.device)
    concentration = torch.full(
        (num,), float(shape), dtype=torch.float64, device=generator.device
    )
    return torch._standard_gamma(concentration, generator=generator)
