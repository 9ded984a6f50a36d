"""Pyro models with data drawn from them, and what their posteriors say of the truth."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from scipy.stats import norm
from torch import Tensor

from pyro_jarzynski import AnnealedSMC, SMCResult
from pyro_jarzynski.infer.sites import seeded as drawing
from tests.seeds import seed_of, seeded

SPREAD, NUM_FLIPS = 0.5, 20
LAW = {"infer": {"enumerate": "parallel"}}


def scales(y: Tensor | None = None, *, spread: float = SPREAD) -> Any:
    """Four groups of three data, around a mean that they share."""
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("group", 4):
        effect = pyro.sample("effect", dist.Normal(mean, scale))
        with pyro.plate("datum", 3):
            return pyro.sample("y", dist.Normal(effect, spread), obs=y)


def of_scales(x: dict[str, Tensor], y: Tensor) -> Tensor:
    return dist.Normal(x["effect"][:, None], SPREAD).log_prob(y).sum((1, 2))


def mixed(y: Tensor | None = None) -> Any:
    """Counts of three kinds, in unknown shares; which is of which kind is summed out."""
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("datum", 6):
        kind = pyro.sample("kind", dist.Categorical(share), **LAW)
        return pyro.sample("y", dist.Poisson(rate * (1 + kind)), obs=y)


def of_mixed(x: dict[str, Tensor], y: Tensor) -> Tensor:
    rates = x["rate"][:, None, None] * torch.arange(1.0, 4)
    parts = x["share"].log()[:, None] + dist.Poisson(rates).log_prob(y[:, None])
    return parts.logsumexp(2).sum(1)


def coin(y: Tensor | None = None) -> Any:
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    return pyro.sample("y", dist.Binomial(NUM_FLIPS, p), obs=y)


def of_coin(x: dict[str, Tensor], y: Tensor) -> Tensor:
    return dist.Binomial(NUM_FLIPS, x["p"]).log_prob(y)


def evidence_of_coin(y: Tensor) -> float:
    return float(dist.BetaBinomial(2.0, 3.0, NUM_FLIPS).log_prob(y))


class Case(NamedTuple):
    """A model, and its likelihood by hand: `(values by site, (n, *shape), y) -> (n,)`."""

    model: Callable[..., Any]
    log_likelihood: Callable[[dict[str, Tensor], Tensor], Tensor]


CASES = {
    "scales": Case(scales, of_scales),
    "mixed": Case(mixed, of_mixed),
    "coin": Case(coin, of_coin),
}


class Simulation(NamedTuple):
    """A data set, what made it, and what was inferred from it."""

    truth: dict[str, Tensor]
    y: Tensor
    result: SMCResult


def simulations(case: Case, size: int, **changes: Any) -> Iterator[Simulation]:
    """Yield data sets with their posteriors; `changes` are of the model that infers."""
    for number in range(size):
        with drawing(seed_of(number), "simulated data"):
            trace = poutine.trace(case.model).get_trace()
        values = {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}
        y = trace.nodes["_RETURN"]["value"]
        settings = {"num_walkers": 128, "max_moves": 10, "learn_base": False}
        sampler = AnnealedSMC(case.model, seed=seed_of(number), progress=False, **settings)
        with warnings.catch_warnings():
            # Few walkers are doubted now and then.
            warnings.simplefilter("ignore")
            yield Simulation(values, y, sampler.run(y, **changes))


def scores(case: Case, size: int, **changes: Any) -> Tensor:
    """Normal scores of all parameters and the log-likelihood, `(size, columns)`."""
    rows = [_share_below(case, found) for found in simulations(case, size, **changes)]
    below = torch.stack(rows)
    jitter = torch.rand(below.shape, generator=seeded(7), dtype=torch.float64)
    num_draws = 4 * 128
    return torch.as_tensor(norm.ppf((below + jitter) / (num_draws + 1)))


def _share_below(case: Case, found: Simulation) -> Tensor:
    """Count the draws below the truth, for each parameter and the log-likelihood."""
    draws = found.result.get_samples()
    truth = {name: found.truth[name][None] for name in draws}
    columns = []
    for values in (draws, truth):
        flat = [value.reshape(len(value), -1) for value in values.values()]
        columns.append(torch.cat([*flat, case.log_likelihood(values, found.y)[:, None]], 1))
    here, actual = columns
    return (here < actual).sum(0).double()
