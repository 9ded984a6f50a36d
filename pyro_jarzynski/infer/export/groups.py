"""The groups of an inference run, as ArviZ knows them: chain = island, draw = walker."""

import math
import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.core.weights import log_sum_exp
from pyro_jarzynski.diagnostics.inference_data import Dims, Group
from pyro_jarzynski.diagnostics.storable import Stored, as_array, storable_values
from pyro_jarzynski.errors import ArgumentError, ExportWarning
from pyro_jarzynski.infer.export.content import Content, Values, content_of
from pyro_jarzynski.infer.export.dims import check_names, exported_name
from pyro_jarzynski.infer.posterior import Posterior
from pyro_jarzynski.infer.run_warnings import warn
from pyro_jarzynski.infer.settings import Settings

STATISTICS = {
    "lp": "log-density of prior and data in unconstrained coordinates, nats",
    "log_weight": "normalised log-weight of the draw, over all chains; equal if resampled",
    "acceptance_rate": "mean acceptance of the last moves on the island",
    "step_size": "step size of the last moves",
    "diverging": "whether the log-density or its gradient is not finite",
    "ancestor": "walker of the first cloud from which the draw descends",
}
# Name in the export, name in the history of a run, and meaning.
PATH = {
    "beta": ("beta", "inverse temperature"),
    "num_observations": ("num_observations", "data taken in so far"),
    "ess": ("ess", "effective sample size before resampling, walkers"),
    "cess": ("conditional_ess", "effective sample size of the step alone, walkers"),
    "log_marginal_likelihood": ("log_evidence", "log evidence so far, nats"),
    "acceptance_rate": ("acceptance_rate", "mean acceptance of the moves"),
    "step_size": ("step_size", "step size of the moves"),
    "resampled": ("resampled", "whether the step resampled"),
    "num_ancestors": ("num_ancestors", "first walkers that still have descendants"),
    "num_moves": ("num_moves", "moves of every walker"),
    "num_leapfrog": ("num_leapfrog", "leapfrog steps of a move; 1 for Langevin kernels"),
    "seconds": ("seconds", "time since the start, s"),
}
# Log-likelihoods of data are left out if they take more bytes, unless they are asked for,
# or more than this share of the memory of the machine.
MAX_BYTES, MEMORY_SHARE = 2**30, 1 / 16


class Exported(Protocol):
    """What is exported of a result."""

    posterior: Posterior
    walkers: Walkers
    history: dict[str, Tensor]
    settings: Settings

    @property
    def draw_index(self) -> Tensor:
        """Walkers that were drawn by their weights, `(C, N)`."""

    @property
    def has_draws(self) -> bool:
        """Whether there are latents."""

    @property
    def values(self) -> Values:
        """Latents and deterministic sites of all walkers."""


class Wanted(NamedTuple):
    """Groups that take time or memory to fill; `None` is as far as memory allows."""

    log_likelihood: bool | None = None
    posterior_predictive: bool = False
    prior_predictive: bool = False


def result_groups(result: Exported, wanted: Wanted, *, weighted: bool) -> dict[str, Group]:
    """Return the groups of a run; see `SMCResult.to_arviz`."""
    walkers, settings = result.walkers, result.settings
    if not result.has_draws:
        raise ArgumentError("The model has no latents: there are no draws to export.")
    assert isinstance(walkers.position, Tensor)
    content = content_of(result.posterior, settings.walkers_per_call)
    raw = torch.arange(walkers.num_walkers, device=walkers.ancestor.device)
    raw = raw.view_as(result.draw_index)
    index = raw if weighted else result.draw_index
    values = result.values
    groups = draw_groups(content, walkers.position, values, index, settings.seed, wanted)
    groups["sample_stats"] = _statistics(result, index, weighted=weighted)
    if result.history:
        groups["warmup_sample_stats"] = _path(result)
    if not weighted and "log_weight" in values:
        warn(
            "The export leaves out the group 'weighted_posterior', in which the weights "
            "have the name of the site 'log_weight'; rename the site.",
            ExportWarning,
        )
    elif not weighted:
        weight = _normalised(walkers).flatten()
        cloud = values | {"log_weight": weight}
        groups["weighted_posterior"] = sampled(cloud, raw, content)
    return groups


def draw_groups(
    content: Content,
    walkers: Tensor,
    values: Values,
    index: Tensor,
    seed: int,
    wanted: Wanted,
) -> dict[str, Group]:
    """Return the groups that follow from draws alone, however they were made.

    Args:
        content: What the posterior knows.
        walkers: Coordinates, `(n, D)`.
        values: All sites there, each `(n, *shape)`.
        index: Which of them are the draws of each chain, `(C, N)`.
        seed: Seed of new draws.
        wanted: Groups that take time to fill.
    """
    data, arguments = content.observed(), content.constant()
    check_names([*content.latents, *content.data])
    groups = {
        "posterior": sampled(values, index, content),
        "observed_data": _fixed(data, content.dims),
        # An argument may be called as a site of another shape.
        "constant_data": _fixed(arguments, {}, optional=arguments.arrays),
    }
    with _optional("log_prior"):
        logs = content.log_prior(walkers, values)
        groups["log_prior"] = sampled(logs, index, content, partial=True)
    if wanted.log_likelihood or (wanted.log_likelihood is None and _fits(content, index)):
        logs = content.log_likelihood(walkers)
        groups["log_likelihood"] = sampled(logs, index, content, partial=True)
    if wanted.posterior_predictive:
        new = content.predictive(values, seed, "posterior predictive")
        groups["posterior_predictive"] = sampled(new, index, content)
    prior: Values = {}
    raw = torch.arange(index.numel(), device=index.device).view_as(index)
    with nullcontext() if wanted.prior_predictive else _optional("prior"):
        prior = content.prior(index.numel(), seed)
        groups["prior"] = sampled(prior, raw, content)
    if wanted.prior_predictive:
        if not prior:
            raise ArgumentError(
                "`prior_predictive` needs a proper prior; the model has an improper one. "
                "Leave `prior_predictive` out, or give its latents proper priors."
            )
        new = content.predictive(prior, seed, "prior predictive")
        groups["prior_predictive"] = sampled(new, raw, content)
    return groups


def _fits(content: Content, index: Tensor) -> bool:
    """Tell whether the log-likelihoods of all draws fit into memory, or warn."""
    size = content.likelihood_bytes * index.numel()
    if size <= min(MAX_BYTES, MEMORY_SHARE * _memory()):
        return True
    warn(
        f"The export leaves out the log-likelihood of each datum, which takes "
        f"{size / 2**30:.2g} GB for {index.numel()} draws. `log_likelihood=True` keeps it "
        "(`--log-likelihood` on the command line), with several times as much memory while "
        "it is made; it is smaller for fewer walkers.",
        ExportWarning,
    )
    return False


def _memory() -> float:
    """Return the bytes of memory of the machine, infinite if they are not known."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


@contextmanager
def _optional(group: str) -> Iterator[None]:
    """Turn errors of a group that was not asked for into a warning."""
    try:
        yield
    except Exception as error:
        warnings.warn(
            f"The export leaves out the group {group!r}, which failed: "
            f"{type(error).__name__}: {error}",
            ExportWarning,
            stacklevel=6,
        )


def sampled(
    values: Values, index: Tensor, content: Content, *, partial: bool = False
) -> Group:
    """Return values of walkers `(C N, *shape)` in the order of an index `(C, N)`."""
    found = storable_values((name, value[index]) for name, value in values.items())
    latents = {exported_name(name) for name in content.latents}
    return Group(
        found.arrays,
        dims=content.dims,
        partial=partial,
        optional=found.arrays.keys() - latents,
        left_out=found.left_out,
    )


def _fixed(values: Stored, dims: Dims, optional: Collection[str] = ()) -> Group:
    arrays = {exported_name(name): value for name, value in values.arrays.items()}
    return Group(
        arrays, sampled=False, dims=dims, optional=optional, left_out=values.left_out
    )


def _statistics(result: Exported, index: Tensor, *, weighted: bool) -> Group:
    walkers = result.walkers
    goal = walkers.evaluation.terms[1]
    assert isinstance(goal.grad, Tensor)
    broken = ~torch.isfinite(goal.energy + goal.grad.square().sum(1))
    size = index.numel()
    log_weight = _normalised(walkers).flatten()[index]
    if not weighted:
        log_weight = torch.full_like(log_weight, -math.log(size))
    arrays = {
        "lp": -goal.energy[index],
        "log_weight": log_weight,
        "diverging": broken[index],
        "ancestor": walkers.ancestor[index],
    }
    if result.history:
        acceptance, step = (
            result.history[name][-1] for name in ("acceptance_rate", "step_size")
        )
        arrays["acceptance_rate"] = acceptance[:, None].expand(index.shape)
        arrays["step_size"] = step.expand(index.shape)
    found = {name: as_array(value) for name, value in arrays.items()}
    return Group(found, meanings=STATISTICS)


def _normalised(walkers: Walkers) -> Tensor:
    """Return log-weights `(C, N)` that are of weight `1 / C` on each island."""
    log_weight = walkers.by_island(walkers.log_weight)
    total = log_sum_exp(log_weight)[:, None] + math.log(len(log_weight))
    return log_weight - total


def _path(result: Exported) -> Group:
    """Return the annealing path, one draw per stage."""
    chains = len(result.walkers.log_banked)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, (column, _) in PATH.items():
        if column not in result.history:
            continue
        values = result.history[column]
        rows = values[:, None].expand(-1, chains) if values.ndim == 1 else values
        arrays[name] = as_array(rows.mT)
    meanings = {name: meaning for name, (_, meaning) in PATH.items()}
    return Group(arrays, meanings=meanings, draws=np.arange(len(result.history["beta"])))
