"""How long it takes to save and to load a checkpoint: 10⁶ walkers of 32 dimensions.

    python tests/benchmarks/checkpoint_speed.py --directory /tmp --repeats 5

Walkers have a position and a gradient of 32 float32 each, and what belongs to every
walker, about 280 bytes. `write` is the same number of
bytes written and synced by itself, which no checkpoint can beat.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from pyro_jarzynski import QuadraticEnergy, init
from pyro_jarzynski.core.team import WHOLE
from pyro_jarzynski.core.walker_states import walkers_state
from pyro_jarzynski.runtime import disk
from pyro_jarzynski.runtime.checkpoint_files import read_checkpoint, write_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default=None)
    parser.add_argument("--walkers", type=int, default=10**6)
    parser.add_argument("--dimension", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(options.walkers, options.dimension, generator=generator)
    energy = QuadraticEnergy(torch.zeros(options.dimension))
    alone, whole = {"position": position}, walkers_state(init(position, energy))
    for name, state in (("positions alone", alone), ("walkers", whole)):
        with tempfile.TemporaryDirectory(dir=options.directory) as folder:
            measure(name, state, Path(folder), options.repeats)


def measure(name: str, state: Any, folder: Path, repeats: int) -> None:
    times: dict[str, list[tuple[float, float]]] = {"write": [], "save": [], "load": []}
    for number in range(repeats):
        path = folder / f"step-{number:012d}"
        times["save"].append(
            timed(lambda n=number: write_checkpoint(folder, n, state, WHOLE.ranks))
        )
        times["load"].append(timed(lambda p=path: read_checkpoint(p)))
        size = sum(file.stat().st_size for file in path.iterdir())
        content = os.urandom(size)
        times["write"].append(timed(lambda c=content: disk.write(folder / "plain", c)))
        disk.remove(path)
    print(f"{name}: {size / 1e6:.0f} MB")
    for what, each in times.items():
        walls = [wall for wall, _ in each]
        wall, busy = statistics.median(walls), statistics.median(cpu for _, cpu in each)
        print(
            f"  {what:5s} {wall:.2f} s ({min(walls):.2f} to {max(walls):.2f}), "
            f"{busy:.2f} s of the processor, {size / 1e6 / wall:.0f} MB/s"
        )


def timed(work: Any) -> tuple[float, float]:
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - busy


if __name__ == "__main__":
    main()
