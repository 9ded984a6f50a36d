"""A test of sampler and model that needs no truth: there and back again."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from scipy.special import ndtr
from torch import Tensor

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.backward import go_back
from pyro_jarzynski.core.evaluation import CombinedEnergy
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.errors import ArgumentError, ModelError
from pyro_jarzynski.infer.annealed_smc import AnnealedSMC
from pyro_jarzynski.infer.annealing import anneal, draw_base
from pyro_jarzynski.infer.legs import Leg, prepare
from pyro_jarzynski.infer.nonfinite import NonFiniteCounts
from pyro_jarzynski.infer.run_warnings import RunWarnings
from pyro_jarzynski.infer.schedules import DataTempering
from pyro_jarzynski.infer.settings import Settings
from pyro_jarzynski.infer.time_limit import TimeLimit

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


@standard_modes()
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

    Raises:
        ArgumentError: The sampler is one of `DataTempering`.
        TimeLimitError: The sampler's `max_seconds` were up before the test was finished.
        ModelError: The model has no latents, or cannot be used; the message names the site.

    Source:
        Crooks (1999), Phys. Rev. E 60(3), for the symmetry.

    Example:
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> y = torch.tensor([0.5, 1.5])
        >>> test = pj.self_test(pj.AnnealedSMC(model, num_walkers=256, progress=False), y)
        >>> test.verdict
        'passed'
    """
    sampler = model if isinstance(model, AnnealedSMC) else AnnealedSMC(model)
    # From the first base: a learned one would hide what is wrong with its draws.
    settings = replace(sampler.settings, learn_base=False)
    limit = TimeLimit(settings.max_seconds)
    with RunWarnings().deduplicated(), limit.enforced("the test"):
        leg, settings = _single_leg(sampler.model, args, kwargs, settings)
        return _toss(_there_and_back(leg, settings))


def _there_and_back(leg: Leg, settings: Settings) -> Tensor:
    """Return the log-weights of walkers that go to the posterior and back, `(N,)`."""
    plan = [reached for reached in anneal([leg], settings) if reached.counts]
    stages, leg = [reached.stage for reached in plan], plan[-1].leg
    num = settings.num_walkers * settings.num_chains
    generator = stream(settings.seed, "noise there and back", leg.posterior.device)
    counts = NonFiniteCounts(settings, leg.posterior)
    tools = Tools(generator, settings.walkers_per_call, faults=counts)
    base = CombinedEnergy(leg.terms, (1.0, 0.0))
    walkers = draw_base(leg, num, settings, "there and back", counts)
    forward = [stage._replace(ess_threshold=0.0) for stage in stages]
    for moved, _ in smc.follow(walkers, forward, tools=tools):
        walkers = moved
    return go_back(walkers, stages, base, tools, at_top=True).log_weight


def _toss(log_weight: Tensor) -> SelfTest:
    # Walkers that have not moved at all come back with nothing but rounding.
    log_weight = log_weight[log_weight.abs() > ROUNDING]
    head = torch.sigmoid(-log_weight.abs())
    information = float((head * (1 - head)).sum())
    surplus = float((log_weight > 0).double().sum() - head.sum())
    if information < MIN_INFORMATION:
        return SelfTest(1.0, 0.0, information, "no information")
    z = surplus / math.sqrt(information)
    p_value = float(2 * ndtr(-abs(z)))
    return SelfTest(
        p_value, z, information, "failed" if p_value < FALSE_ALARM else "passed"
    )


def _single_leg(
    model: Any, args: tuple, kwargs: dict[str, Any], settings: Settings
) -> tuple[Leg, Settings]:
    if isinstance(settings.schedule, DataTempering):
        raise ArgumentError(
            "`self_test` needs tempering, got `DataTempering`; use `AdaptiveTempering`."
        )
    (leg,), fitting = prepare(model, args, kwargs, settings)
    if not leg.posterior.size:
        raise ModelError(
            "The model has no continuous latents: its evidence is exact, and there is "
            "nothing to test."
        )
    return leg, fitting
