"""Trainings in which one rank does not behave; run by `launch.start`.

    python -m tests.distributed.failing KIND [FOLDER]

Prints the error that ends it, or the number of updates.
"""

import errno
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard

import pyro_jarzynski as pj
from pyro_jarzynski.core import failures
from pyro_jarzynski.ebm import learner as learner_module
from pyro_jarzynski.ebm.training_state import TrainingState
from pyro_jarzynski.runtime import disk
from tests.ebm.models import mixture_data, mixture_learner, network_model

# The rank that fails, and after which update.
BAD, WHEN = 1, 3
# Seconds in which the others wait for a rank that does not answer, and for each other.
# Only ranks that are under way have so little time: to start them takes longer.
WAIT = 20.0


def fail(kind: str, learner: Any) -> None:
    """Do what the kind says, on the rank that fails."""
    match kind:
        case "raises":
            raise ZeroDivisionError("the energy of rank 1")
        case "killed once" if os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
            return
        case "killed" | "killed once":
            os.kill(os.getpid(), signal.SIGKILL)
        case "drifts":
            with torch.no_grad():
                learner.parameters[0].flatten()[0] += 1e-12
        case "slow":
            # Until the test ends it.
            time.sleep(3600)
        case "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
        case "told to end":
            os.kill(os.getpid(), signal.SIGTERM)
        case "draws alone":
            learner.sample(3)
        case "counts alone" if learner.num_steps == WHEN:
            # What needs no other rank is for every rank.
            learner.nll(mixture_data(10))
            float(learner.audit.ess)


def full(*args: Any) -> None:
    """Say what the system says of a disk that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def exhausted(*args: Any) -> None:
    """Say what Python says of a memory that is full."""
    raise MemoryError


def until_there_is_none(learner: Any) -> Any:
    """Return a state before the first update, and run out of memory after that."""
    if learner.num_steps:
        raise MemoryError
    return TrainingState.state_dict(learner)


DISAGREEMENTS = ("settings", "data", "versions", "few walkers", "few shards")


def disagree(kind: str, *, here: bool) -> None:
    """Train with something that is not right, or not the same on all ranks."""
    seed = 2 if here and kind == "settings" else 1
    num = 5 if kind == "few walkers" else 100
    data = mixture_data(100) + (here and kind == "data")
    known = learner_module.versions
    if here and kind == "versions":
        learner_module.versions = lambda: known() | {"torch": "1.0"}
    with pj.distributed(num_shards=1 if kind == "few shards" else 8):
        mixture_learner(seed=seed, num_walkers=num).fit(data, 1)
    learner_module.versions = known


def fit_sliced(*, here: bool) -> None:
    """Train a network of slices, of which one rank fails while all gather layers."""
    model = network_model()
    fully_shard(model.net.layers[0])
    fully_shard(model)
    learner = mixture_learner(model=model, num_walkers=64, audit_walkers=32)

    def raises(*args: Any) -> None:
        if here and learner.num_steps == WHEN:
            raise ZeroDivisionError("the energy of rank 1")

    model.net.layers[0].register_forward_pre_hook(raises)
    learner.fit(mixture_data(100).float(), 6)


def main(kind: str, folder: str | None = None) -> None:
    """Train until something fails."""
    failures.GRACE = WAIT
    with pj.distributed() as ranks:
        here = ranks.rank == BAD
        if kind == "disagreements":
            for each in DISAGREEMENTS:
                told(lambda name=each: disagree(name, here=here))
            return
        if kind == "slices":
            fit_sliced(here=here)
        if here and kind == "disk":
            disk.write = full
        if here and kind == "memory":
            disk.pack = exhausted
        if here and kind == "memory for the state":
            pj.JarzynskiLearner.state_dict = until_there_is_none
        blocks = {"walker_batch_size": 25} if kind == "blocks" else {}
        learner = mixture_learner(kernel=pj.MALA(0.3), **blocks)
        kept = folder and pj.Checkpoints(folder, every=1, resume=True)

        def watch(learner: Any, row: dict[str, float]) -> None:
            if kind == "draws together":
                learner.sample(3)
                learner.audit.cloud.walkers  # noqa: B018
            if row["step"] == WHEN and kind == "slow":
                backend = distributed.group.WORLD._get_backend(torch.device("cpu"))
                backend._set_default_timeout(timedelta(seconds=WAIT))
            if here and row["step"] == WHEN:
                fail(kind, learner)

        data = mixture_data(100)
        if kind == "other batches":
            data = [data[: 30 + 10 * here]] * 3
        learner.fit(
            data,
            6,
            validation=data if blocks else None,
            eval_every=1,
            callbacks=[watch],
            checkpoints=kept,
        )
        print("updates", learner.num_steps)
        if ranks.rank == 0:
            print("log Z", learner.log_normalizer)


def told(act: Callable[[], None]) -> None:
    """Print the error that something ends with."""
    try:
        act()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", pj.CheckpointWarning)
        told(lambda: main(*sys.argv[1:]))
    for warning in caught:
        print(warning.message)
