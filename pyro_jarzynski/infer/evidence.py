"""Checks of the evidence: one that needs no truth, and bounds on simulated data."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from pyro_jarzynski.core import smc, weights
from pyro_jarzynski.core.evaluation import CombinedEnergy
from pyro_jarzynski.core.kernels import Tools
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import Resampler, get_resampler
from pyro_jarzynski.core.smc import Stage
from pyro_jarzynski.core.walkers import Walkers, init, resample
from pyro_jarzynski.errors import ArgumentError, ModelError, count
from pyro_jarzynski.infer.annealed_smc import AnnealedSMC
from pyro_jarzynski.infer.annealing import Leg, anneal, make_legs
from pyro_jarzynski.infer.enumeration import is_density
from pyro_jarzynski.infer.posterior import ModelPosterior
from pyro_jarzynski.infer.schedules import DataTempering
from pyro_jarzynski.infer.settings import Settings

# Below this information the coin of the self test says nothing.
MIN_INFORMATION = 10.0
FALSE_ALARM = 1e-4
ROUNDING = 1e-9


class SelfTest(NamedTuple):
    """Outcome of `self_test`.

    Attributes:
        p_value: Probability of a deviation as large if all is right.
        z: The deviation in standard errors.
        information: Variance of the number of heads; below 10 the test says nothing.
        verdict: `"passed"`, `"failed"` or `"no information"`.
    """

    p_value: float
    z: float
    information: float
    verdict: str


class EvidenceBounds(NamedTuple):
    """Outcome of `evidence_bounds`, over simulated data sets.

    Attributes:
        lower: Mean of `log Ẑ` forward, per data set: below `log Z` on average.
        upper: Mean of `-log Ẑ⁻¹` backward, per data set: above `log Z` on average.
        bennett: Bennett's combination of both directions, per data set.
        gap: Mean of `upper - lower` in nats: it bounds the error of the sampler.
        gap_error: Its standard error; NaN for a single data set.
    """

    lower: Tensor
    upper: Tensor
    bennett: Tensor
    gap: float
    gap_error: float


def self_test(model: Any, *args: Any, **kwargs: Any) -> SelfTest:
    """Test sampler and model without a truth: there and back again.

    Walkers go from the base to the posterior and back on the same plan. Their log-weights
    `A` then follow a law with `p(-a) = e^a p(a)`, whatever the model, so that given `|A|`
    the sign is a coin with `P(A > 0) = 1 / (1 + e^{|A|})`. Errors of the prior's draws, of
    kernels and of weights turn the coin; errors that both ways share do not.

    Args:
        model: A Pyro model, a `Target`, or an `AnnealedSMC` with its settings.
        *args: Arguments of the model.
        **kwargs: Keyword arguments of the model.

    Returns:
        The p-value and a verdict, which is `"failed"` below 1e-4.

    Source:
        Crooks (1999), Phys. Rev. E 60(3), for the symmetry.
    """
    sampler = model if isinstance(model, AnnealedSMC) else AnnealedSMC(model)
    # From the first base: a learned one would hide what is wrong with its draws.
    settings = replace(sampler.settings, learn_base=False)
    leg = _single_leg(sampler, args, kwargs)
    plan = [reached for reached in anneal([leg], settings) if reached.counts]
    stages, leg = [reached.stage for reached in plan], plan[-1].leg
    num = settings.num_walkers * settings.num_chains
    drawn = leg.posterior.draw(num, seed=settings.seed, purpose="there and back")
    tools = Tools(stream(settings.seed, "noise there and back"), settings.chunk_size)
    base = CombinedEnergy(leg.terms, (1.0, 0.0))
    walkers = init(drawn, base, chunk_size=settings.chunk_size)
    forward = [stage._replace(ess_threshold=0.0) for stage in stages]
    for moved, _ in smc.follow(walkers, forward, tools=tools):
        walkers = moved
    for moved in _backward(walkers, stages, base, tools, at_top=True):
        walkers = moved
    return _toss(walkers.log_weight)


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
        num_simulations: Data sets to simulate.
        **kwargs: Keyword arguments of the model.

    Raises:
        ModelError: The model has factors, whose data cannot be simulated.

    Source:
        Grosse, Ghahramani, Adams (2015), arXiv:1511.02543; Bennett (1976), J. Comput.
        Phys. 22(2).
    """
    sampler = model if isinstance(model, AnnealedSMC) else AnnealedSMC(model)
    count("num_simulations", num_simulations)
    settings = sampler.settings
    if settings.base != "prior" or isinstance(settings.schedule, DataTempering):
        raise ArgumentError(
            "`evidence_bounds` needs walkers that start from the prior, and tempering."
        )
    rows = []
    for index in range(num_simulations):
        seed = stream(settings.seed, f"simulation {index}").initial_seed()
        simulated = _Simulate()(sampler.model)
        fresh = replace(settings, seed=seed)
        rows.append(_bounds(make_legs(simulated, args, kwargs, fresh)[0], fresh))
    lower, upper, bennett = torch.tensor(rows, dtype=torch.float64).unbind(1)
    gaps = upper - lower
    error = float(gaps.std()) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
    return EvidenceBounds(lower, upper, bennett, float(gaps.mean()), error)


def _toss(log_weight: Tensor) -> SelfTest:
    # Walkers that have not moved at all come back with nothing but rounding.
    log_weight = log_weight[log_weight.abs() > ROUNDING]
    head = torch.sigmoid(-log_weight.abs())
    information = float((head * (1 - head)).sum())
    surplus = float((log_weight > 0).double().sum() - head.sum())
    if information < MIN_INFORMATION:
        return SelfTest(1.0, 0.0, information, "no information")
    z = surplus / math.sqrt(information)
    p_value = float(2 * norm.sf(abs(z)))
    return SelfTest(
        p_value, z, information, "failed" if p_value < FALSE_ALARM else "passed"
    )


def _backward(
    walkers: Walkers,
    stages: list[Stage],
    base: CombinedEnergy,
    tools: Tools,
    *,
    at_top: bool = False,
    resampler: Resampler | None = None,
) -> Iterator[Walkers]:
    """Carry walkers down again: the moves of the way up, in the opposite order.

    Args:
        walkers: Walkers at the last energy.
        stages: The way up.
        base: The first energy.
        tools: Generator and chunk size.
        at_top: Whether the moves at the last energy have been made.
        resampler: Resamples when the effective sample size is low; `None` never does.
    """
    energies = [base, *(stage.energy for stage in stages)]
    for index in range(len(stages), 0, -1):
        stage = stages[index - 1]
        if not (at_top and index == len(stages)):
            left = stage.num_moves - stage.kernel.moves_on_switch
            walkers, _ = smc.move(
                walkers, stage.energy, stage.kernel, num_moves=left, tools=tools
            )
        walkers = stage.kernel.switch(walkers, energies[index - 1], tools)
        if resampler is not None:
            log_weight = walkers.by_island(walkers.log_weight)
            size = log_weight.shape[-1]
            chosen = weights.ess(log_weight) < stage.ess_threshold * size
            if chosen.any():
                drawn = resampler(log_weight, size, tools.generator)
                walkers = resample(walkers, drawn, chosen)
        yield walkers


def _bounds(leg: Leg, settings: Settings) -> tuple[float, float, float]:
    """Return lower bound, upper bound and Bennett's estimate for one data set."""
    assert isinstance(leg.posterior, ModelPosterior)
    # The data were simulated in the first run of the model, with these latents.
    latents = leg.posterior.model.first_coordinates
    plan = [reached for reached in anneal([leg], settings) if reached.counts]
    stages, leg = [reached.stage for reached in plan], plan[-1].leg
    num, islands = settings.num_walkers * settings.num_chains, settings.num_chains
    truth = latents.expand(num, -1)
    tools = Tools(stream(settings.seed, "back"), settings.chunk_size)
    base = CombinedEnergy(leg.terms, (1.0, 0.0))
    top = CombinedEnergy(leg.terms, (0.0, 1.0))
    start = init(truth, top, num_islands=islands, chunk_size=settings.chunk_size)
    resampler = get_resampler(settings.resampler)
    for walkers in _backward(start, stages, base, tools, resampler=resampler):
        back = walkers
    for walkers in _backward(start, stages, base, tools):
        alone_back = walkers
    drawn = leg.posterior.draw(num, seed=settings.seed, purpose="forward")
    alone = init(drawn, base, chunk_size=settings.chunk_size)
    forward = [stage._replace(ess_threshold=0.0) for stage in stages]
    for walkers, _ in smc.follow(alone, forward, tools=tools):
        alone = walkers
    return (
        float(plan[-1].walkers.log_normalizer.mean()),
        -float(back.log_normalizer.mean()),
        _bennett(alone.log_weight, -alone_back.log_weight),
    )


def _bennett(forward: Tensor, backward: Tensor) -> float:
    """Return the `c` with `Σ_F 1 / (1 + e^{c - A}) = Σ_R 1 / (1 + e^{A - c})`."""

    def surplus(c: float) -> float:
        there = torch.sigmoid(forward - c).mean()
        return float(there - torch.sigmoid(c - backward).mean())

    low = float(torch.cat([forward, backward]).min()) - 50
    high = float(torch.cat([forward, backward]).max()) + 50
    return float(brentq(surplus, low, high))


def _single_leg(sampler: AnnealedSMC, args: tuple, kwargs: dict[str, Any]) -> Leg:
    if isinstance(sampler.settings.schedule, DataTempering):
        raise ArgumentError("`self_test` needs tempering, not `DataTempering`.")
    leg = make_legs(sampler.model, args, kwargs, sampler.settings)[0]
    if not leg.posterior.size:
        raise ModelError("The model has no latents, so there is nothing to test.")
    return leg


class _Simulate(Messenger):
    """Puts draws in the place of observations: the same in every run of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.data: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or msg["infer"].get("_deterministic"):
            return
        if not is_density(msg):
            return
        name, fn = msg["name"], msg["fn"]
        if type(fn).__name__ == "Unit":
            raise ModelError(
                f"The factor {name!r} has no data that could be simulated; "
                "`evidence_bounds` needs a model of observed sites."
            )
        if name not in self.data:
            self.data[name] = fn.sample().detach()
        msg["value"] = self.data[name]
