"""Bounds of the evidence from both sides, on data that the model simulates."""

import math
import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.backward import go_back
from pyro_jarzynski.core.evaluation import CombinedEnergy
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import get_resampler
from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.walkers import init
from pyro_jarzynski.errors import (
    ArgumentError,
    EvidenceWarning,
    ModelError,
    TimeLimitError,
    count,
)
from pyro_jarzynski.infer.annealed_smc import AnnealedSMC
from pyro_jarzynski.infer.annealing import anneal, draw_base
from pyro_jarzynski.infer.enumeration import Site, is_density
from pyro_jarzynski.infer.legs import Leg, prepare
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.nonfinite import NonFiniteCounts
from pyro_jarzynski.infer.posterior import ModelPosterior
from pyro_jarzynski.infer.probe import check_callable
from pyro_jarzynski.infer.run_warnings import RunWarnings
from pyro_jarzynski.infer.schedules import DataTempering
from pyro_jarzynski.infer.settings import Settings
from pyro_jarzynski.infer.sites import Simulate, is_factor, is_scaled
from pyro_jarzynski.infer.time_limit import TimeLimit


class EvidenceBounds(NamedTuple):
    """Outcome of `evidence_bounds`, over simulated data sets.

    Attributes:
        lower: Mean of `log Ẑ` forward, per data set: below `log Z` on average.
        upper: Mean of `-log Ẑ⁻¹` backward, per data set: above `log Z` on average.
        bennett: Bennett's combination of both directions, per data set.
        gap: Mean of `upper - lower` in nats: it bounds the error of the sampler.
        gap_error: Its standard error; NaN for a single data set.
        forward: Minus the work from prior to posterior, `(data sets, N)`, nats.
        backward: The work from posterior to prior, `(data sets, N)`, nats. The densities of
            both cross at `log Z` (Crooks 1999).
    """

    lower: Tensor
    upper: Tensor
    bennett: Tensor
    gap: float
    gap_error: float
    forward: Tensor
    backward: Tensor


@standard_modes()
def evidence_bounds(
    model: Any, *args: Any, num_simulations: int = 4, **kwargs: Any
) -> EvidenceBounds:
    """Bound the evidence from both sides on data that the model itself simulates.

    Latents and data are drawn from the model: the latents are then an exact draw of the
    posterior given those data. Forward from the prior, `E[log Ẑ] ≤ log Z`; backward from
    the exact draw, `E[-log Ẑ⁻¹] ≥ log Z`. The gap bounds the error of the sampler on such
    data, without any truth. All walkers go back from that one draw, so that slow mixing
    widens the gap, however many they are.

    Args:
        model: A Pyro model, or an `AnnealedSMC` with its settings. All observed sites are
            simulated, so data must enter through `obs` alone.
        *args: Arguments of the model; observed values give the shapes alone.
        num_simulations: Data sets to simulate, as far as the sampler's `max_seconds` allow.
        **kwargs: Keyword arguments of the model.

    Returns:
        Bounds of each data set, their mean gap, and the work of all walkers.

    Raises:
        ArgumentTypeError: The model is no function.
        ArgumentError: The sampler does not start from the prior, or data arrive.
        TimeLimitError: `max_seconds` was up before the first simulation was finished.
        ModelError: The model has factors, whose data cannot be simulated, or scales, or
            fails at some draws of its prior.

    Source:
        Grosse, Ghahramani, Adams (2015), arXiv:1511.02543; Bennett (1976), J. Comput.
        Phys. 22(2).

    Example:
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> y = torch.tensor([0.5, 1.5])
        >>> sampler = pj.AnnealedSMC(model, num_walkers=256, progress=False)
        >>> bounds = pj.evidence_bounds(sampler, y, num_simulations=2)
        >>> bounds.lower.shape, bounds.forward.shape  # 4 islands of 256 walkers
        (torch.Size([2]), torch.Size([2, 1024]))
        >>> abs(bounds.gap) < 0.3
        True
    """
    sampler = model if isinstance(model, AnnealedSMC) else AnnealedSMC(model)
    count("num_simulations", num_simulations)
    check_callable(sampler.model)
    settings = sampler.settings
    if settings.base != "prior" or isinstance(settings.schedule, DataTempering):
        raise ArgumentError(
            "`evidence_bounds` needs walkers that start from the prior, and tempering: "
            "leave `base` and `schedule` of the sampler at their defaults."
        )
    rows: list[tuple[Tensor, ...]] = []
    limit = TimeLimit(settings.max_seconds)
    with RunWarnings().deduplicated():
        for index in range(num_simulations):
            seed = stream(settings.seed, f"simulation {index}").initial_seed()
            simulated = Simulate()(sampler.model)
            fresh = replace(settings, seed=seed)
            try:
                with limit.enforced("the first simulation"):
                    (leg,), fitting = prepare(simulated, args, kwargs, fresh)
                    rows.append(_bounds(leg, fitting))
            except TimeLimitError:
                if not rows:
                    raise
            # A clock of each rank, and one decision.
            if any(ranks_now().largest(limit.is_over())):
                break
        if len(rows) < num_simulations:
            warnings.warn(
                f"The time was up after {len(rows)} of {num_simulations} simulations, of "
                "which the bounds are. Allow more time, or take fewer walkers.",
                EvidenceWarning,
                stacklevel=2,
            )
    lower, upper, forward, backward = (torch.stack(c) for c in zip(*rows, strict=True))
    works = zip(forward, backward, strict=True)
    bennett = lower.new_tensor([_bennett(*work) for work in works])
    gaps = upper - lower
    error = float(gaps.std()) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
    gap = float(gaps.mean())
    return EvidenceBounds(lower, upper, bennett, gap, error, forward, backward)


def _bounds(leg: Leg, settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return lower and upper bound for one data set, and the work of both ways."""
    assert isinstance(leg.posterior, ModelPosterior)
    model = leg.posterior.model
    _check_simulated(model)
    if not model.size:
        raise ModelError(
            "The model has no continuous latents: its evidence is exact, and there is "
            "nothing to bound."
        )
    if model.num_failed:
        raise ModelError(
            "The model fails at some draws of its prior, so that latents and simulated "
            "data cannot be paired; bound its latents, or take another seed."
        )
    # The data were simulated in the first run of the model, with these latents.
    latents = model.first_coordinates
    plan = [reached for reached in anneal([leg], settings) if reached.counts]
    stages, leg = [reached.stage for reached in plan], plan[-1].leg
    num, islands = settings.num_walkers * settings.num_chains, settings.num_chains
    truth = latents.expand(num, -1)
    generator = stream(settings.seed, "back", leg.posterior.device)
    counts = NonFiniteCounts(settings, leg.posterior)
    tools = Tools(generator, settings.walkers_per_call, faults=counts)
    base = CombinedEnergy(leg.terms, (1.0, 0.0))
    top = CombinedEnergy(leg.terms, (0.0, 1.0))
    start = init(truth, top, num_islands=islands, chunk_size=settings.walkers_per_call)
    resampler = get_resampler(settings.resampler)
    back = go_back(start, stages, base, tools, resampler=resampler)
    alone_back = go_back(start, stages, base, tools)
    alone = draw_base(leg, num, settings, "forward", counts)
    forward = [stage._replace(ess_threshold=0.0) for stage in stages]
    for walkers, _ in smc.follow(alone, forward, tools=tools):
        alone = walkers
    return (
        plan[-1].walkers.log_normalizer.mean(),
        -back.log_normalizer.mean(),
        alone.log_weight,
        -alone_back.log_weight,
    )


def _check_simulated(model: PyroModel) -> None:
    sites: dict[str, Site] = dict(model.traces[0].nodes)
    for name, site in sites.items():
        if not is_density(site):
            continue
        if is_factor(site):
            raise ModelError(
                f"The factor {name!r} has no data that could be simulated; "
                "`evidence_bounds` needs a model of observed sites."
            )
        if is_scaled(site):
            raise ModelError(
                f"The site {name!r} is under a scale, so that draws of the model do not "
                "have its density; `evidence_bounds` needs a model without scales."
            )


def _bennett(forward: Tensor, backward: Tensor) -> float:
    """Return the `c` with `Σ_F 1 / (1 + e^{c - A}) = Σ_R 1 / (1 + e^{A - c})`."""
    # Not at the top: it takes a tenth of a second that nothing else needs.
    from scipy.optimize import brentq

    def surplus(c: float) -> float:
        there = torch.sigmoid(forward - c).mean()
        return float(there - torch.sigmoid(c - backward).mean())

    works = torch.cat([forward, backward])
    # Walkers of weight zero are on one side of any number.
    works = works[works.isfinite()]
    low, high = float(works.min()) - 50, float(works.max()) + 50
    return float(brentq(surplus, low, high))
