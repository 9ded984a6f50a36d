"""Errors for collectives that only some ranks call, within callbacks.

A callback may run code on one rank alone, for example to draw figures. A collective in it
would wait for ever for the other ranks. Within callbacks each rank therefore writes to the
store of the process group how many collectives it has started, and whether it has returned.
A collective starts once all ranks have reached it, and raises if one has returned before.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyro_jarzynski.core.failures import Watch
from pyro_jarzynski.errors import RankError

# Seconds between two reads of the store, and until the collective is started regardless: a
# rank may have died, which the collective itself finds out.
PAUSE, PATIENCE = 0.002, 5.0


class Divergence:
    """Counts the collectives of each rank within code that ranks may run differently.

    Args:
        watch: The failures of the ranks, with the store of the process group.
    """

    def __init__(self, watch: Watch) -> None:
        """Start outside of callbacks."""
        self.watch = watch
        # Number and description of the present block, and collectives started in it.
        self.block, self.what, self.begun = 0, "", 0

    @contextmanager
    def allowed(self, what: str) -> Iterator[None]:
        """Allow ranks to run different code in the block, which all of them enter.

        Args:
            what: Description of the block, for the error.

        Raises:
            RankError: Another rank has started a collective in the block that this one has
                not.
        """
        if self.watch.size == 1:
            yield
            return
        self.block, self.what, self.begun = self.block + 1, what, 0
        try:
            yield
            self._write(left=True)
            for rank in self._others():
                block, begun, left = self._read(rank)
                if block == self.block and not left and begun > self.begun:
                    self._refuse(rank, self.watch.rank)
        finally:
            self.what = ""

    def begin(self) -> None:
        """Wait until all ranks have reached this collective, if it is within a block.

        Raises:
            RankError: A rank has left the block without this collective, or has failed.
        """
        if not self.what:
            return
        self.begun += 1
        self._write(left=False)
        end = time.monotonic() + PATIENCE
        for rank in self._others():
            while (state := self._read(rank))[:2] < (self.block, self.begun):
                block, _, left = state
                if block == self.block and left:
                    self._refuse(self.watch.rank, rank)
                if self.watch.failure():
                    raise RankError(self.watch.failure())
                if time.monotonic() > end:
                    return
                time.sleep(PAUSE)

    def _others(self) -> list[int]:
        return [rank for rank in range(self.watch.size) if rank != self.watch.rank]

    def _write(self, *, left: bool) -> None:
        self.watch.write("divergence", f"{self.block} {self.begun} {int(left)}")

    def _read(self, rank: int) -> tuple[int, int, int]:
        """Return the block of a rank, its collectives there, and whether it has left."""
        found = self.watch.read("divergence", rank).split()
        return (int(found[0]), int(found[1]), int(found[2])) if found else (0, 0, 0)

    def _refuse(self, caller: int, missing: int) -> None:
        message = (
            f"in {self.what}, rank {caller} called something that needs all ranks, such as "
            f"`sample` or `cloud.walkers`, and rank {missing} did not. Call it on all, and "
            "use the result on one."
        )
        raise RankError(self.watch.accuse(message, caller))
