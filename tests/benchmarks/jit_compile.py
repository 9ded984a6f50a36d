"""Models as they are against compiled models: an evaluation, a run, and the first run.

    python tests/benchmarks/jit_compile.py

Evaluations and warm runs are measured in one process on one thread, the two ways in turn,
and medians are printed. The first run of a process is measured in processes of their own:
as it is; compiled from nothing; and compiled where an earlier process has left its code on
disk. Seconds are of processor time for warm figures, and of the clock for first runs, since
compilers are other processes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import pyro
import pyro.distributions as dist
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.core.compiled import CompiledTerms
from pyro_jarzynski.core.evaluation import CombinedEnergy, evaluate
from pyro_jarzynski.infer.posterior import make_posterior

WALKERS, CHAINS = 1024, 4


def noise(*shape: int, seed: int) -> torch.Tensor:
    """Return standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def schools(y: torch.Tensor, sigma: torch.Tensor) -> None:
    """Eight schools, non-centred: 10 coordinates."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)


def logistic(x: torch.Tensor, y: torch.Tensor) -> None:
    """Logistic regression of 61 coefficients."""
    b = pyro.sample("b", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)


def hierarchy(x: torch.Tensor, group: torch.Tensor, y: torch.Tensor) -> None:
    """A line whose intercept depends on one of 20 groups: 24 coordinates."""
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.HalfNormal(2.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("groups", 20):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        line = mean + spread * a[..., group] + slope * x
        pyro.sample("y", dist.Normal(line, scale), obs=y)


def mixture(y: torch.Tensor) -> None:
    """A mixture of three normal laws, whose labels are summed out."""
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("components", 3):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def cases() -> dict[str, tuple[Callable[..., None], tuple]]:
    """Return the models with their data."""
    effects = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
    errors = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
    x, b = noise(200, 61, seed=0), noise(61, seed=1)
    label = (x @ b / 4 + noise(200, seed=2) > 0).float()
    line, group = noise(200, seed=3), torch.arange(200) % 20
    heights = 1 + noise(20, seed=4)[group] + 2 * line + noise(200, seed=5) / 2
    humps = noise(150, seed=6) + torch.tensor([-4.0, 0.0, 4.0]).repeat(50)
    return {
        "eight schools": (schools, (torch.tensor(effects), torch.tensor(errors))),
        "logistic regression": (logistic, (x, label)),
        "hierarchy a[g]": (hierarchy, (line, group, heights)),
        "mixture mu[z]": (mixture, (humps,)),
    }


def run(name: str, *, jit: bool, seed: int = 1) -> pj.SMCResult:
    """Run a model with default settings."""
    model, args = cases()[name]
    sampler = pj.AnnealedSMC(
        model,
        num_walkers=WALKERS,
        num_chains=CHAINS,
        seed=seed,
        jit_compile=jit,
        progress=False,
    )
    return sampler.run(*args)


def evaluations(name: str) -> dict[str, Callable[[], Any]]:
    """Return an evaluation of all walkers, both ways."""
    model, args = cases()[name]
    num = WALKERS * CHAINS
    posterior = make_posterior(model, args, {}, base="prior", num_walkers=num, seed=0)
    walkers = posterior.draw(num, seed=1, purpose="benchmark")
    fast = CompiledTerms(posterior.terms, WALKERS)
    energies = {
        "plain": CombinedEnergy(posterior.terms, (0.5, 0.5)),
        "compiled": CombinedEnergy(fast, (0.5, 0.5)),
    }
    fast.graded(walkers)
    assert fast.program is not None
    return {way: (lambda e=e: evaluate(e, walkers)) for way, e in energies.items()}


def in_turn(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median of seconds of processor time, the ways one after the other."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, call in ways.items():
            start = time.process_time()
            call()
            seconds[way].append(time.process_time() - start)
    return {way: median(values) for way, values in seconds.items()}


def first_runs(name: str) -> dict[str, float]:
    """Return seconds of the first run of a process: plain, from nothing, from disk."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder}

        def first(*options: str) -> float:
            command = [sys.executable, __file__, "--first", name, *options]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            )
            return float(done.stdout.split()[-1])

        return {"plain": first(), "cold": first("--jit"), "disk": first("--jit")}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(cases()))
    parser.add_argument("--first", help="only the first run of this model")
    parser.add_argument("--jit", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if arguments.first:
        start = time.perf_counter()
        run(arguments.first, jit=arguments.jit)
        print(time.perf_counter() - start)
        return
    print(f"torch {torch.__version__}, {CHAINS} x {WALKERS} walkers, one thread\n")
    columns = (
        "model",
        "evaluation, ms: plain, compiled",
        "gain",
        "run, s: plain, compiled",
        "gain",
        "first run, s: plain, compiled, from disk",
        "log evidence",
    )
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in arguments.models:
        once = in_turn(evaluations(name), 4 * arguments.rounds)
        results = [run(name, jit=jit) for jit in (False, True)]
        seeds = iter(range(10**6))
        ways = {
            "plain": lambda n=name, s=seeds: run(n, jit=False, seed=next(s)),
            "compiled": lambda n=name, s=seeds: run(n, jit=True, seed=next(s)),
        }
        whole, first = in_turn(ways, arguments.rounds), first_runs(name)
        print(
            f"| {name} | {1e3 * once['plain']:.2f}, {1e3 * once['compiled']:.2f} "
            f"| {once['plain'] / once['compiled']:.1f} "
            f"| {whole['plain']:.2f}, {whole['compiled']:.2f} "
            f"| {whole['plain'] / whole['compiled']:.1f} "
            f"| {first['plain']:.1f}, {first['cold']:.1f}, {first['disk']:.1f} "
            f"| {results[0].log_evidence:.3f}, {results[1].log_evidence:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
