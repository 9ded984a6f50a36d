"""Two ranks with one core each against one rank with one core, and what goes over the wire.

    python tests/benchmarks/ranks.py [--updates 20] [--rounds 3] [--ranks 1 2] [--sliced]

Trains a network of images by MALA (compute-bound), rounds of the numbers of ranks
alternating. Each rank is pinned to a core of its own. Bytes are those of the loopback
device during the updates, with the headers of TCP, and stand beside those of the model

    16 (R - 1) P + 8 (R - 1) (N + N_audit)

of all `R` ranks together: two sums of gradients by `P` parameters, each `2 (R - 1)` vectors
of float32, and the log-weights of both clouds, in float64, to all ranks.

With `--sliced` the network is cut by `fully_shard`, and gathered by each pass over it. Of
`S` shards, and of `m` moves of either cloud, that is

    4 (R - 1) P (S / R (5 + 4 m + g) + 2 + g) + 8 (R - 1) (N + N_audit)

bytes: `2 + 2 m` passes of a shard of the audit, and of the training `3 + 2 m` and a sum of
gradients; two passes and a sum for the data. A sum costs `g = 2`, since gloo scatters one
by a whole all-reduce; with NCCL it is 1. Memory is the rise of the largest that a process
had, from before the network to after the updates.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from one_core import one_core

ROOT = Path(__file__).parents[2]
# Of each cloud in an update.
MOVES = 4
# Vectors that gloo sends to scatter a sum of vectors.
SUM = 2
NUMBERS = ("updates", "walkers", "width", "shards")


def loopback() -> int:
    """Return the bytes that the loopback device has sent."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[8])
    return 0


def largest_memory() -> float:
    """Return the largest memory that this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def slice_up(model) -> None:
    """Cut a network among the ranks, layer by layer."""
    from torch.distributed.fsdp import fully_shard

    for module in list(model.net.layers):
        if list(module.parameters()):
            fully_shard(module)
    fully_shard(model)


def rank_main(updates: int, walkers: int, width: int, shards: int, sliced: bool) -> None:
    """Train on one rank, and print seconds and bytes of an update as JSON."""
    one_core(int(os.environ["RANK"]) % os.cpu_count())
    import torch

    import pyro_jarzynski as pj

    torch.set_num_threads(1)
    with pj.distributed(num_shards=shards) as ranks:
        before = largest_memory()
        torch.manual_seed(0)
        base = torch.distributions.Normal(torch.zeros(64), torch.ones(64))
        net = pj.MLP([64, width, width])
        model = pj.EnergyModel(net, torch.distributions.Independent(base, 1))
        if sliced:
            slice_up(model)
        learner = pj.JarzynskiLearner(
            model,
            torch.optim.Adam(model.parameters(), 1e-4),
            num_walkers=walkers,
            audit_walkers=walkers,
            kernel=pj.MALA(0.1),
            moves_per_update=MOVES,
        )
        data = torch.randn(1024, 64, generator=torch.Generator().manual_seed(1))
        learner.fit(data, 3, eval_every=10**6)
        ranks.largest(0)
        sent, own, began = loopback(), ranks.bytes_sent, time.perf_counter()
        learner.fit(data, updates, eval_every=10**6)
        seconds = time.perf_counter() - began
        ranks.largest(0)
        parameters = sum(p.numel() for p in model.parameters())
        found = {
            "seconds": seconds / updates,
            "wire": (loopback() - sent) / updates,
            "sent": sum(map(int, ranks.texts(str(ranks.bytes_sent - own)))) / updates,
            "model": model_bytes(ranks.size, parameters, walkers, shards, sliced),
            "memory": largest_memory() - before,
        }
        if ranks.rank == 0:
            print(json.dumps(found))


def model_bytes(
    size: int, parameters: int, walkers: int, shards: int, sliced: bool
) -> float:
    """Return the bytes that all ranks send in an update."""
    vectors = shards / size * (5 + 4 * MOVES + SUM) + 2 + SUM if sliced else 4
    gradients = vectors * (size - 1) * 4 * parameters
    weights = 2 * (size - 1) * 8 * walkers
    return gradients + weights


def launch(size: int, arguments: list[str]) -> dict[str, float]:
    """Run so many ranks, and return what the first prints."""
    command = ["torchrun", "--nproc-per-node", str(size), "--master-port", "29411"]
    command = [sys.executable, "-m", "torch.distributed.run", *command[1:]]
    done = subprocess.run(
        [*command, __file__, "--rank", *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--walkers", type=int, default=2048)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--sliced", action="store_true")
    parser.add_argument("--rank", action="store_true")
    chosen = parser.parse_args()
    if chosen.rank:
        rank_main(**{name: getattr(chosen, name) for name in (*NUMBERS, "sliced")})
        return
    named = {name: getattr(chosen, name) for name in NUMBERS}
    arguments = [
        text for name, value in named.items() for text in (f"--{name}", str(value))
    ]
    arguments += ["--sliced"] if chosen.sliced else []
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in chosen.ranks}
    for _ in range(chosen.rounds):
        for size in chosen.ranks:
            runs[size].append(launch(size, arguments))
    print("| ranks | seconds an update | throughput | wire, bytes | sent | model | MB |")
    print("|---|---|---|---|---|---|---|")
    alone = statistics.median(run["seconds"] for run in runs[chosen.ranks[0]])
    for size, found in runs.items():
        middle = {k: statistics.median(run[k] for run in found) for k in found[0]}
        print(
            f"| {size} | {middle['seconds']:.4f} | {alone / middle['seconds']:.2f} "
            f"| {middle['wire']:.0f} | {middle['sent']:.0f} | {middle['model']:.0f} "
            f"| {middle['memory']:.0f} |"
        )


if __name__ == "__main__":
    main()
