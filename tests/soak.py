"""Repeat small trainings and inference runs, and watch what they leave behind.

    python -m tests.soak [--minutes 30] [--every 60] [--megabytes 5]

Run it from the checkout, on Linux. A round trains a network with checkpoints, interrupts
it and goes on, anneals a Pyro model with a discrete latent, runs the kernel within
`pyro.infer.MCMC`, and exports and reports. Prints, at each interval, the resident memory,
open file handles, threads and child processes of this process. After a third of the time,
which is the warm-up, memory must not grow by more than `--megabytes`, by the Theil-Sen
slope over the rest, and no count may be above its first; otherwise it exits with 1.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from scipy.stats import theilslopes
from torch import Tensor

import pyro_jarzynski as pj
from tests.ebm.models import mixture_data, network_model

PROCESS = Path("/proc/self")
COLUMNS = ("minutes", "rounds", "memory, MB", "handles", "threads", "children")
WARM_UP = 1 / 3


class Reading(NamedTuple):
    """What a process holds at one moment.

    Attributes:
        minutes: Since the start.
        rounds: Done so far.
        megabytes: Resident memory.
        handles: Open file handles.
        threads: Threads.
        children: Child processes.
    """

    minutes: float
    rounds: int
    megabytes: float
    handles: int
    threads: int
    children: int


def read(minutes: float, rounds: int) -> Reading:
    """Read the state of this process, after what no name refers to has been freed."""
    gc.collect()
    pages = int((PROCESS / "statm").read_text().split()[1])
    tasks = list((PROCESS / "task").iterdir())
    children = [
        child for task in tasks for child in (task / "children").read_text().split()
    ]
    # The listing itself holds a handle.
    handles = len(os.listdir(PROCESS / "fd")) - 1
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Reading(minutes, rounds, memory, handles, len(tasks), len(children))


def after_warm_up(readings: Sequence[Reading]) -> list[Reading]:
    """Return the readings of the last two thirds of the time."""
    return [one for one in readings if one.minutes >= WARM_UP * readings[-1].minutes]


def faults(readings: Sequence[Reading], megabytes: float) -> list[str]:
    """Return what has leaked, in words.

    Args:
        readings: In the order of time, the warm-up included.
        megabytes: The growth of memory after the warm-up that is let pass.
    """
    last = readings[-1]
    warm = after_warm_up(readings)
    if len(warm) < 3:
        return [
            f"nothing that {len(warm)} readings after the warm-up could tell: run longer"
        ]
    times = [one.minutes for one in warm]
    slope = float(theilslopes([one.megabytes for one in warm], times)[0])
    growth = slope * (times[-1] - times[0])
    found = []
    if growth > megabytes:
        found.append(f"memory grew by {growth:.1f} MB, {slope:.2f} MB a minute")
    for name in ("handles", "threads", "children"):
        before, after = getattr(warm[0], name), getattr(last, name)
        if after > before:
            found.append(f"{name} grew from {before} to {after}")
    return found


def slope_of(readings: Sequence[Reading]) -> str:
    """Return the Theil-Sen slope after the warm-up with its 95 % interval."""
    last = readings[-1].minutes
    warm = [one for one in readings if one.minutes >= WARM_UP * last]
    slope, _, low, high = theilslopes(
        [x.megabytes for x in warm], [x.minutes for x in warm]
    )
    return f"{slope:+.3f} MB a minute (95 %: {low:+.3f} to {high:+.3f})"


def mixture(y: Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        part = pyro.sample("part", dist.Bernoulli(0.4))
        pyro.sample("y", dist.Normal(shift + 2 * part, 0.7), obs=y)


def train(folder: Path, seed: int) -> None:
    """Train with checkpoints, and go on from the last one as a new process would."""
    data = mixture_data(200, seed=seed).float()
    for steps, resume in ((20, False), (40, True)):
        model = network_model()
        learner = pj.JarzynskiLearner(
            model,
            torch.optim.Adam(model.parameters(), 0.01),
            num_walkers=100,
            audit_walkers=50,
            kernel=pj.MALA(0.3),
            seed=seed,
        )
        kept = pj.Checkpoints(folder / "kept", every=5, resume=resume)
        learner.fit(data, steps, validation=data[:50], checkpoints=kept)
    pj.save_model(folder / "model", model, learner.audit.cloud.walkers)


def infer(folder: Path, seed: int) -> None:
    """Anneal, within `MCMC` as well, and export to ArviZ and to a file."""
    y = torch.linspace(-1, 3, 12)
    sampler = pj.AnnealedSMC(mixture, num_walkers=128, seed=seed, progress=False)
    result = sampler.run(y)
    pj.to_arviz(result).to_netcdf(str(folder / "draws.nc"))
    kernel = pj.JarzynskiKernel(mixture, num_walkers=128, seed=seed)
    mcmc = pyro.infer.MCMC(kernel, num_samples=100, warmup_steps=20, disable_progbar=True)
    mcmc.run(y)
    pyro.clear_param_store()


def run_round(seed: int) -> None:
    """Train and infer once, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(Path(name), seed)
        infer(Path(name), seed)


def soak(minutes: float, every: float) -> list[Reading]:
    """Repeat rounds for some minutes, and print what is held every so many seconds."""
    print(f"| {' | '.join(COLUMNS)} |\n|" + "---|" * len(COLUMNS))
    start, rounds, readings = time.monotonic(), 0, []
    while (gone := time.monotonic() - start) < 60 * minutes or rounds == 0:
        run_round(rounds)
        rounds += 1
        if gone >= every * len(readings):
            readings.append(read((time.monotonic() - start) / 60, rounds))
            print(row(readings[-1]), flush=True)
    readings.append(read((time.monotonic() - start) / 60, rounds))
    print(row(readings[-1]))
    return readings


def row(one: Reading) -> str:
    """Return a reading as a row."""
    minutes, memory = f"{one.minutes:.1f}", f"{one.megabytes:.1f}"
    return f"| {minutes} | {one.rounds} | {memory} | {' | '.join(map(str, one[3:]))} |"


def main() -> int:
    """Soak, and return the status to exit with."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=60, help="seconds between readings")
    parser.add_argument("--megabytes", type=float, default=5, help="growth let pass")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    readings = soak(arguments.minutes, arguments.every)
    found = faults(readings, arguments.megabytes)
    if len(readings) > 3:
        print("\nMemory after the warm-up:", slope_of(readings))
    print("Leaks:", "; ".join(found) or "none")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
