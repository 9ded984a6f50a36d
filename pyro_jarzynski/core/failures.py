"""What becomes of the other ranks when one fails: all leave, and all say who it was.

A rank that raises writes its message where all can read it, and leaves the process group.
One that was killed, or is slower than the timeout, is found out by the others: those that
are left sign a list, and whoever has not signed is missing.
"""

import itertools
import time
import traceback
from types import TracebackType

from torch import distributed as dist

from pyro_jarzynski.errors import RankError

# What was written for an earlier watch is not for the next: all ranks count them alike.
_NUMBERS = itertools.count()
# Seconds in which those that are left sign.
GRACE = 3.0


class Watch:
    """Turns the failure of a collective into an error that names the rank at fault.

    Args:
        rank: Number of this process.
        size: Number of processes.
    """

    def __init__(self, rank: int, size: int) -> None:
        """Keep the store of the process group, which outlives it."""
        self.rank, self.size = rank, size
        grouped = size > 1
        self.store = dist.distributed_c10d._get_default_store() if grouped else None
        number = next(_NUMBERS) if grouped else 0
        self.prefix = f"pyro_jarzynski/{number}"
        self.failed, self.signed = f"{self.prefix}/failed", f"{self.prefix}/signed"

    def __enter__(self) -> None:
        """Begin a collective."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Pass on what is no failure of a collective; else tell who is at fault.

        A collective is one of this package, or of a network that torch shares among ranks.

        Raises:
            RankError: A rank has failed; the message is the same on every rank.
        """
        # What a process group raises is a `DistBackendError` or a plain `RuntimeError`.
        shared = self.store is not None
        if shared and isinstance(error, RuntimeError) and _in_collective(trace):
            raise RankError(self.verdict()) from error

    def accuse(self, message: str, rank: int | None = None) -> str:
        """Say why a rank fails, by default this; return what was said first, by any."""
        if self.store is None:
            return message
        try:
            failed = self.rank if rank is None else rank
            told = self.store.compare_set(
                self.failed, "", f"Rank {failed} failed: {message}"
            )
        except RuntimeError:
            return f"Rank 0, which holds the store of the process group, is gone: {message}"
        return told.decode()

    def verdict(self) -> str:
        """Return which rank failed, and why, as far as anybody knows."""
        assert self.store is not None
        try:
            known = self.failure()
            if known:
                return known
            missing = self._missing()
            if not missing:
                return self._accused("A collective failed on all ranks.")
            names = ", ".join(str(rank) for rank in missing)
            return self._accused(
                f"Rank {names} does not answer: the process was killed, or is slower than "
                "the timeout of the process group. Look at its own output; a run with "
                "checkpoints goes on from the last of them."
            )
        except RuntimeError:
            return (
                "Rank 0, which holds the store of the process group, does not answer: look "
                "at its own output; a run with checkpoints goes on from the last of them."
            )

    def write(self, name: str, text: str) -> None:
        """Write a text of this rank to the store of the process group."""
        assert self.store is not None
        self.store.set(f"{self.prefix}/{name}/{self.rank}", text)

    def read(self, name: str, rank: int) -> str:
        """Return the text that a rank has written; an empty string if it has not."""
        assert self.store is not None
        key = f"{self.prefix}/{name}/{rank}"
        return self.store.get(key).decode() if self.store.check([key]) else ""

    def failure(self) -> str:
        """Return which rank has failed and why; an empty string if none has."""
        assert self.store is not None
        known = self.store.check([self.failed])
        return self.store.get(self.failed).decode() if known else ""

    def _accused(self, message: str) -> str:
        """Let one verdict stand for all ranks."""
        assert self.store is not None
        return self.store.compare_set(self.failed, "", message).decode()

    def _missing(self) -> list[int]:
        """Sign, wait for the others, and return those that have not."""
        assert self.store is not None
        self.store.set(f"{self.signed}/{self.rank}", "here")
        end = time.monotonic() + GRACE
        keys = [f"{self.signed}/{rank}" for rank in range(self.size)]
        while time.monotonic() < end and not self.store.check(keys) and not self.failure():
            time.sleep(0.05)
        return [r for r, key in enumerate(keys) if not self.store.check([key])]


def _in_collective(trace: TracebackType | None) -> bool:
    """Tell whether an error was raised within `torch.distributed`."""
    if trace is None:
        return False
    frame = list(traceback.walk_tb(trace))[-1][0]
    return frame.f_globals.get("__name__", "").startswith("torch.distributed")
