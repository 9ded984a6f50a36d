"""Effective draws per second on eight schools, non-centred, against Pyro's NUTS.

    python tests/benchmarks/eight_schools.py

Both run the same model in one process on one thread, one after the other, and are judged
by the same estimator, ArviZ's bulk effective sample size of `mu` and `tau` (the smaller).
Draws of walkers come in random order, which hides common ancestors from that estimator, so
theirs are also counted by the variance of the posterior mean over independent runs, and
the smaller of the two is taken.
"""

import argparse
import statistics
import time
import warnings

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS

import pyro_jarzynski as pj

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
# Exact posterior standard deviation of mu, by quadrature.
SD_MU = 3.3177


def model():
    """Eight schools, non-centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, SIGMA), obs=Y)


def nuts(seed: int, draws: int) -> dict[str, torch.Tensor]:
    """Draw with NUTS, as many for warming up as for keeping."""
    pyro.set_rng_seed(seed)
    mcmc = MCMC(NUTS(model), num_samples=draws, warmup_steps=draws, disable_progbar=True)
    mcmc.run()
    return mcmc.get_samples(group_by_chain=True)


def jarzynski(seed: int, draws: int) -> dict[str, torch.Tensor]:
    """Draw with annealed walkers behind the same interface."""
    pyro.set_rng_seed(seed)
    kernel = pj.JarzynskiKernel(model, num_walkers=draws)
    mcmc = MCMC(kernel, num_samples=draws, warmup_steps=20, disable_progbar=True)
    mcmc.run()
    return mcmc.get_samples(group_by_chain=True)


def smc(seed: int, draws: int) -> dict[str, torch.Tensor]:
    """Draw with `AnnealedSMC` on four islands."""
    sampler = pj.AnnealedSMC(model, num_walkers=draws // 4, seed=seed, progress=False)
    return sampler.run().get_samples(group_by_chain=True)


def measure(run, draws: int, repeats: int) -> tuple[float, float, float]:
    """Return seconds, smallest bulk ESS, and ESS by the variance of the mean."""
    seconds, sizes, means = [], [], []
    for seed in range(repeats):
        start = time.perf_counter()
        samples = run(seed, draws)
        seconds.append(time.perf_counter() - start)
        sizes.append(min(float(arviz.ess(samples[n].numpy())) for n in ("mu", "tau")))
        means.append(samples["mu"].mean())
    by_variance = SD_MU**2 / float(torch.stack(means).var())
    return statistics.median(seconds), statistics.mean(sizes), by_variance


def main() -> None:
    """Print one row per sampler."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nuts-repeats", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    jarzynski(0, 100)
    seconds, size, _ = measure(nuts, 300, arguments.nuts_repeats)
    floor = size / seconds
    print("| sampler | seconds | bulk ESS | ESS by variance | ESS/s | ratio |")
    print("|---|---|---|---|---|---|")
    print(f"| NUTS, 300 + 300 | {seconds:.2f} | {size:.0f} | | {floor:.0f} | 1 |")
    rows = {
        "JarzynskiKernel, 1024 walkers": (jarzynski, 1024),
        "AnnealedSMC, 4 x 1024 walkers": (smc, 4096),
    }
    for name, (run, draws) in rows.items():
        seconds, bulk, spread = measure(run, draws, arguments.repeats)
        rate = min(bulk, spread) / seconds
        print(
            f"| {name} | {seconds:.2f} | {bulk:.0f} | {spread:.0f} | {rate:.0f} | "
            f"{rate / floor:.0f} |"
        )


if __name__ == "__main__":
    main()
