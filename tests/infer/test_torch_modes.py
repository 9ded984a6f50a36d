"""Inference is the same in all modes of torch that a caller may have set."""

from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_jarzynski as pj
from tests.core.test_modes import MODES

pytestmark = [
    pytest.mark.global_state,
    pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled"),
    pytest.mark.filterwarnings("ignore::pyro_jarzynski.EvidenceWarning"),
]
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(12, 3, generator=GENERATOR), torch.randn(12, generator=GENERATOR)
PRIOR, NOISE = torch.zeros(3), torch.tensor(1.0)


def regression(x, y):
    """A product of matrices, which low precision changes."""
    weights = pyro.sample("w", dist.Normal(PRIOR, NOISE).to_event(1))
    mean = (x @ weights.unsqueeze(-1)).squeeze(-1)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, NOISE), obs=y)


def sampler():
    settings = {"num_walkers": 32, "num_chains": 2, "progress": False, "max_moves": 3}
    return pj.AnnealedSMC(regression, **settings)


def of_run():
    result = sampler().run(X, Y)
    return [result.log_evidence, *read(result)]


@cache
def known_result():
    return sampler().run(X, Y)


def read(result):
    return [
        result.get_samples(5)["w"],
        result.log_likelihood()["y"],
        result.weighted_samples()[1],
        float(pj.to_arviz(result).log_likelihood["y"].sum()),
    ]


def of_reading():
    """What is computed after the run, anew each time."""
    result = known_result()
    for name in ("values", "_latent_values"):
        vars(result).pop(name, None)
    return read(result)


def of_bounds():
    bounds = pj.evidence_bounds(sampler(), X, Y, num_simulations=1)
    return [bounds.lower, bounds.upper, bounds.forward]


def of_self_test():
    return list(pj.self_test(sampler(), X, Y))


def of_mcmc():
    kernel = pj.JarzynskiKernel(regression, num_walkers=32, max_moves=3, seed=0)
    mcmc = pyro.infer.MCMC(kernel, 10, warmup_steps=4, disable_progbar=True)
    mcmc.run(X, Y)
    return [mcmc.get_samples()["w"]]


JOBS = {
    "run": of_run,
    "reading": of_reading,
    "bounds": of_bounds,
    "self-test": of_self_test,
    "mcmc": of_mcmc,
}
expected = cache(lambda name: JOBS[name]())
CHOSEN = ["autocast", "inference_mode", "no_grad", "medium", "deterministic", "vmap"]


@pytest.mark.parametrize("mode", CHOSEN)
@pytest.mark.parametrize("job", JOBS)
def test_all_is_the_same(job, mode):
    known = expected(job)
    with MODES[mode]():
        found = JOBS[job]()
    for a, b in zip(found, known, strict=True):
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b)
        else:
            assert a == b
