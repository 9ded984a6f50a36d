"""Time and memory of one weighted step against the number of walkers.

    python tests/benchmarks/walker_scaling.py

Steps of ULA for 64-dimensional walkers under a fully connected energy, in chunks, so that
the activations of the network stay bounded. Prints the slope of log time against log N.
"""

import argparse
import math
import resource
import statistics
import time

import torch
from torch.distributions import Independent, Normal

import pyro_jarzynski as pj
from pyro_jarzynski.core.transitions import Tools

SIZES = (10**3, 10**4, 10**5, 10**6)
CHUNK = 10**4


def step_seconds(num_walkers: int, repeats: int) -> float:
    """Return the median time of one step, s."""
    base = Independent(Normal(torch.zeros(64), torch.ones(64)), 1)
    model = pj.EnergyModel(pj.MLP([64, 64]), base)
    generator = torch.Generator().manual_seed(0)
    tools = Tools(generator, CHUNK)
    walkers = pj.init(model.draw(num_walkers, generator), model, chunk_size=CHUNK)
    kernel, times = pj.ULA(0.05), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        walkers, _ = pj.step(walkers, model, kernel, tools=tools)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Print the table and the slope."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="steps per size")
    arguments = parser.parse_args()
    print("| walkers | step, ms | µs per walker | peak memory so far, MiB |")
    print("|---|---|---|---|")
    points = []
    for size in SIZES:
        took = step_seconds(size, arguments.repeats)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        points.append((math.log(size), math.log(took)))
        print(f"| {size:.0e} | {1e3 * took:.2f} | {1e6 * took / size:.2f} | {peak:.0f} |")
    x_mean = statistics.mean(x for x, _ in points)
    y_mean = statistics.mean(y for _, y in points)
    over = sum((x - x_mean) * (y - y_mean) for x, y in points)
    print(f"slope: {over / sum((x - x_mean) ** 2 for x, _ in points):.3f}")


if __name__ == "__main__":
    main()
