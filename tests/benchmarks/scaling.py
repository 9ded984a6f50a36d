"""Time per step against walkers, dimension, temperatures and data, with slopes.

    python tests/benchmarks/scaling.py [--only walkers ...] [--out FOLDER]

- walkers: ULA of 64-dimensional walkers under a fully connected energy, 10² ... 10⁶
- dimension: MALA of 1,000 walkers under a Gaussian, 2 ... 10⁴
- temperatures: a whole annealing of 1,000 walkers in 32 dimensions, 8 ... 2,048
- data: MALA of 256 walkers of a logistic regression with 16 coefficients, 10² ... 10⁵ rows

A slope is that of log time against log size over the upper half of the sizes, where the
constant cost of a step no longer shows; 1 is proportional. Walkers are evaluated in chunks
as `chunk_size="auto"` takes them. Memory is the peak of the process, so far.
"""

import argparse
import json
import math
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

import pyro_jarzynski as pj
from pyro_jarzynski.core.evaluation import EnergyFn
from pyro_jarzynski.core.kernels import Kernel
from pyro_jarzynski.core.memory import chunk_size_for
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.team import Tools

SIZES = {
    "walkers": [10**2, 10**3, 10**4, 10**5, 10**6],
    "dimension": [2, 10, 10**2, 10**3, 10**4],
    "temperatures": [8, 32, 128, 512, 2048],
    "data": [10**2, 10**3, 10**4, 10**5],
}


def seconds(task: Callable[[], object], repeats: int) -> float:
    """Return the median processor time of a call after one to warm up, s."""
    task()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        task()
        times.append(time.process_time() - start)
    return statistics.median(times)


def step_seconds(energy: EnergyFn, position: Tensor, kernel: Kernel, repeats: int) -> float:
    """Return the time of one weighted step, s."""
    chunk_size = chunk_size_for("auto", energy, position)
    tools = Tools(stream(0, "steps"), chunk_size)
    walkers = pj.init(position, energy, chunk_size=chunk_size)
    return seconds(lambda: pj.step(walkers, energy, kernel, tools=tools), repeats)


def walkers_seconds(size: int, repeats: int) -> float:
    """Return the time of a step of so many walkers, s."""
    base = Independent(Normal(torch.zeros(64), torch.ones(64)), 1)
    model = pj.EnergyModel(pj.MLP([64, 64]), base)
    return step_seconds(model, model.draw(size, stream(0, "base")), pj.ULA(0.05), repeats)


def dimension_seconds(size: int, repeats: int) -> float:
    """Return the time of a step in so many dimensions, s."""
    position = torch.randn(1000, size, generator=stream(0, "base"))
    kernel = pj.MALA(size ** (-1 / 3))
    return step_seconds(lambda x: x.square().sum(1) / 2, position, kernel, repeats)


def temperatures_seconds(size: int, repeats: int) -> float:
    """Return the time of an annealing through so many temperatures, s."""
    betas = torch.linspace(0, 1, size + 1).tolist()

    def normal(num: int, generator: torch.Generator) -> Tensor:
        return torch.randn(num, 32, generator=generator)

    target = pj.Target(
        lambda x: -x.square().sum(1) / 2, lambda x: -2 * (x - 1).square().sum(1), normal
    )
    smc = pj.AnnealedSMC(
        target,
        num_walkers=250,
        kernel=pj.MALA(0.1),
        schedule=betas,
        adapt="off",
        progress=False,
    )
    with warnings.catch_warnings():
        # Few temperatures give a bad evidence, which is not what is measured.
        warnings.simplefilter("ignore", pj.EvidenceWarning)
        return seconds(smc.run, max(1, repeats // 3))


def data_seconds(size: int, repeats: int) -> float:
    """Return the time of a step with so many data, s."""
    generator = stream(0, "data")
    x = torch.randn(size, 16, generator=generator)
    y = (torch.rand(size, generator=generator) < 0.5).float()

    def energy(w: Tensor) -> Tensor:
        logits = w @ x.T
        return w.square().sum(1) / 2 + (
            torch.nn.functional.softplus(logits) - y * logits
        ).sum(1)

    position = torch.randn(256, 16, generator=generator)
    return step_seconds(energy, position, pj.MALA(1 / size), repeats)


TIMED = {
    "walkers": walkers_seconds,
    "dimension": dimension_seconds,
    "temperatures": temperatures_seconds,
    "data": data_seconds,
}


def slope(sizes: list[int], times: list[float]) -> float:
    """Return the slope of log time against log size over the upper half of the sizes."""
    half = len(sizes) // 2
    x, y = ([math.log(v) for v in values[half:]] for values in (sizes, times))
    return statistics.linear_regression(x, y).slope


def draw(found: dict[str, dict], path: Path) -> None:
    """Draw all curves into one picture."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(found), figsize=(3.2 * len(found), 3), squeeze=False
    )
    for panel, (name, row) in zip(panels[0], found.items(), strict=True):
        panel.loglog(row["sizes"], [1e3 * t for t in row["seconds"]], "o-")
        anchor = row["seconds"][-1] / row["sizes"][-1]
        ends = [row["sizes"][len(row["sizes"]) // 2], row["sizes"][-1]]
        panel.loglog(ends, [1e3 * anchor * size for size in ends], "--", color="grey")
        panel.set(title=f"slope {row['slope']:.2f}", xlabel=name)
    panels[0][0].set_ylabel("processor time, ms")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the table; write it and the picture to a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5, help="steps per size")
    parser.add_argument("--out", type=Path, help="folder of scaling.json and scaling.png")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(
        "| what | size | time, ms | µs per unit | peak memory, MiB |\n|---|---|---|---|---|"
    )
    found = {}
    for name in arguments.only:
        times = []
        for size in SIZES[name]:
            took = TIMED[name](size, arguments.repeats)
            times.append(took)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"| {name} | {size:,} | {1e3 * took:.2f} | {1e6 * took / size:.2f} "
                f"| {peak:.0f} |",
                flush=True,
            )
        found[name] = {"sizes": SIZES[name], "seconds": times}
        found[name]["slope"] = slope(SIZES[name], times)
        print(f"| {name} | slope | {found[name]['slope']:.2f} | | |")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "scaling.json").write_text(json.dumps(found, indent=1) + "\n")
        draw(found, arguments.out / "scaling.png")


if __name__ == "__main__":
    main()
