"""Programs on several ranks of this machine, as `torchrun` starts them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed

ROOT = Path(__file__).parents[2]
# Seconds after which programs hang, however loaded the machine is.
PATIENCE = 1800.0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def group_of_one() -> Iterator[None]:
    """Be the only rank of a process group."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def start(num: int, *arguments: str, **variables: str) -> list[subprocess.Popen]:
    """Start a module of Python on so many ranks, each with one thread."""
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(num),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | variables,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num)
    ]


def finish(
    processes: list[subprocess.Popen], seconds: float = PATIENCE
) -> list[tuple[int, str]]:
    """Return exit code and output of each rank, once all have ended."""
    ended = []
    for process in processes:
        try:
            out, error = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for other in processes:
                other.kill()
            raise
        ended.append((process.returncode, out + error))
    return ended


def run(num: int, *arguments: str, **variables: str) -> list[str]:
    """Run a module on so many ranks; return what each printed, or fail with it."""
    ended = finish(start(num, *arguments, **variables))
    told = "\n".join(f"rank {rank}:\n{text}" for rank, (_, text) in enumerate(ended))
    assert all(code == 0 for code, _ in ended), told
    return [text for _, text in ended]


def torchrun(num: int, *arguments: str, restarts: int = 0) -> str:
    """Run a module by `torchrun`, and return what all ranks print."""
    command = [sys.executable, "-m", "torch.distributed.run"]
    options = {"nproc-per-node": num, "master-port": free_port(), "max-restarts": restarts}
    command += [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [*command, "-m", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    return told
