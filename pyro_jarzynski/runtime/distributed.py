"""Several processes that share one run: `torchrun` starts them, and this lets them in."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist

from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.sharing import NUM_SHARDS, sharing
from pyro_jarzynski.errors import JarzynskiError, RankError, positive

# Seconds in which threads of the process group let go of what they hold.
LAST_WORDS = 0.1
# What `torchrun` tells each process.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_launched() -> bool:
    """Tell whether this process is one of several that `torchrun`, or its like, started."""
    return all(name in os.environ for name in VARIABLES)


@contextmanager
def distributed(
    *,
    num_shards: int = NUM_SHARDS,
    local_resampling: bool = False,
    timeout: float = 600.0,
    backend: str | None = None,
) -> Iterator[Ranks]:
    """Share the walkers of all runs inside the block among the ranks of a process group.

    Every rank runs the same program on the same data. Walkers live in fixed shards, each
    with noise of its own, and results have the same bits on any number of ranks up to
    that of the shards, one included. What is reported is known to all ranks; what has
    positions of walkers in it (`learner.sample`, `cloud.walkers`) all of them must ask for.

    A network is whole on every rank, or cut among them by torch's `fully_shard`, which
    gathers it anew for each shard, so that few shards are faster. Its sums over ranks are
    torch's: results then differ between numbers of ranks by their rounding.

    Args:
        num_shards: Shards of every cloud, at least one for each rank. It belongs to the
            settings of a run as its seed does.
        local_resampling: Whether shards resample by themselves and keep their weights: no
            walker travels, and the effective sample size is lower.
        timeout: Seconds after which a rank that does not answer is given up.
        backend: Of `torch.distributed`; `None` is NCCL where each rank has a GPU of its
            own, and gloo elsewhere.

    Yields:
        The processes; `rank` and `size` are their number and how many there are. Alone,
        where nobody has started several.

    Raises:
        RankError: Another rank has failed, on all others: it names the rank, and why.
        ArgumentError: A number is out of its range.

    Source:
        Whiteley, Lee, Heine (2016), Bernoulli 22(1), for resampling within groups.
    """
    positive("timeout", timeout)
    made = is_launched() and not dist.is_initialized()
    if made:
        _join(backend, timedelta(seconds=timeout))
    try:
        with sharing(num_shards, local=local_resampling) as known:
            try:
                with known.ranks.watch:
                    yield known.ranks
            except RankError:
                raise
            except JarzynskiError as error:
                raise _told(known.ranks, error) from error
            except Exception as error:
                _told(known.ranks, error)
                raise
    finally:
        if made and dist.is_initialized():
            # Threads of gloo drop the tensors of the last collective only when they get the
            # interpreter; if that is about to end by then, they abort the process.
            time.sleep(LAST_WORDS)
            dist.destroy_process_group()


def _join(backend: str | None, timeout: timedelta) -> None:
    """Take part in the process group that `torchrun` has prepared."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    own_gpu = torch.cuda.is_available() and local < torch.cuda.device_count()
    if own_gpu:
        torch.cuda.set_device(local)
    name = backend or ("cpu:gloo,cuda:nccl" if own_gpu else "gloo")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _store(rank, size, timeout)
    dist.init_process_group(name, store=store, rank=rank, world_size=size, timeout=timeout)


def _store(rank: int, size: int, timeout: timedelta) -> dist.Store:
    """Return the place where ranks find each other, and those of this attempt alone.

    `torchrun` starts ranks again with the store of those that have died, where torch's own
    rendezvous reads the addresses of the dead.
    """
    agent_has_it = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        size,
        is_master=rank == 0 and not agent_has_it,
        timeout=timeout,
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"pyro_jarzynski/attempt {attempt}", store)


def _told(ranks: Ranks, error: Exception) -> Exception:
    """Tell the other ranks why this one fails; return the error that all of them raise."""
    if ranks.size == 1:
        return error
    return RankError(ranks.watch.accuse(f"{type(error).__name__}: {error}"))
