"""Whether the work is shared, and with whom."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import distributed as dist

from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.shards import Shards
from pyro_jarzynski.core.team import WHOLE, Team
from pyro_jarzynski.errors import count

# Shards of every cloud, unless one asks for another number: those of one machine.
NUM_SHARDS = 8


class Sharing(NamedTuple):
    """How the work is shared.

    Attributes:
        ranks: The processes.
        num_shards: Shards of every cloud.
        local_resampling: Whether shards resample by themselves.
    """

    ranks: Ranks
    num_shards: int = NUM_SHARDS
    local_resampling: bool = False


_CURRENT: ContextVar[Sharing | None] = ContextVar("sharing", default=None)


@contextmanager
def sharing(num_shards: int = NUM_SHARDS, *, local: bool = False) -> Iterator[Sharing]:
    """Share the work inside the block among the ranks of the process group, if any."""
    known = Sharing(Ranks(), count("num_shards", num_shards), local)
    token = _CURRENT.set(known)
    try:
        yield known
    finally:
        _CURRENT.reset(token)


def current() -> Sharing | None:
    """Return how the work is shared: as was said, or by a process group of several ranks.

    A process group of one rank shares nothing, unless `sharing` says so.
    """
    known = _CURRENT.get()
    if known is not None or not (dist.is_available() and dist.is_initialized()):
        return known
    return _of_group() if dist.get_world_size() > 1 else None


def ranks_now() -> Ranks:
    """Return the processes that share the work now."""
    known = current()
    return WHOLE.ranks if known is None else known.ranks


def team_for(*, seed: int, purpose: str, device: torch.device) -> Team:
    """Return who has the walkers of a run; see `Shards`."""
    known = current()
    if known is None:
        return WHOLE
    return Shards(
        known.ranks,
        known.num_shards,
        seed=seed,
        purpose=purpose,
        device=device,
        local_resampling=known.local_resampling,
    )


# The sharing of the last process group that somebody else has made, with its store: another
# group has another, where numbers and addresses of groups come again.
_FOUND: list[tuple[dist.Store, Sharing]] = []


def _of_group() -> Sharing:
    """Return the sharing of a process group that somebody else has made."""
    store = dist.distributed_c10d._get_default_store()
    if not _FOUND or _FOUND[0][0] is not store:
        _FOUND[:] = [(store, Sharing(Ranks()))]
    return _FOUND[0][1]
