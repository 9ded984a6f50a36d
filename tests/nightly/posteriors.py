"""Evidence of posteriors of posteriordb, against truths that lie beside the repository.

They are of stan-dev/posteriordb (BSD-3-Clause), with normalised priors; evidence is by
quadrature or in closed form.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from scipy.stats import t
from torch import Tensor

from pyro_jarzynski import AnnealedSMC
from tests.seeds import seed_of

TRUTH = Path(__file__).parents[3] / "shared" / "truth" / "posteriordb_truth.json"
NUM_ISLANDS = 8
# What the logarithm of a noisy evidence is too small by, at most, nats.
FLOOR = 5e-3


def eight_schools(y: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    raw = pyro.sample("raw", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))
    pyro.sample("y", dist.Normal(mu + tau * raw, sigma).to_event(1), obs=y)


def rate(k: Tensor, n: Tensor) -> None:
    theta = pyro.sample("theta", dist.Beta(1.0, 1.0))
    pyro.sample("k", dist.Binomial(n, theta), obs=k)


def regression(X: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([X.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    pyro.sample("y", dist.Normal(X @ beta, sigma).to_event(1), obs=y)


MODELS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "eight_schools-eight_schools_noncentered": (eight_schools, ("y", "sigma")),
    "Rate_1_data-Rate_1_model": (rate, ("k", "n")),
    "sblri-blr": (regression, ("X", "y")),
}


def p_value_of(name: str) -> float:
    """Return the p-value of the estimate of one evidence, by Student's law."""
    model, arguments = MODELS[name]
    known = json.loads(TRUTH.read_text(encoding="utf-8"))[name]
    dtype = torch.get_default_dtype()
    data = [torch.tensor(known["data"][key], dtype=dtype) for key in arguments]
    sampler = AnnealedSMC(
        model,
        num_walkers=256,
        num_chains=NUM_ISLANDS,
        seed=seed_of(0),
        progress=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = sampler.run(*data)
    gap = abs(result.log_evidence - known["exact"]["log_evidence"])
    return 2 * float(
        t.sf(max(0.0, gap - FLOOR) / result.log_evidence_error, NUM_ISLANDS - 1)
    )


def evidence() -> float:
    """Return the smallest p-value of all, times their number."""
    return min(1.0, len(MODELS) * min(map(p_value_of, MODELS)))
