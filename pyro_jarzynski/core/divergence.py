"""Collectives within code that not all ranks may run: refused, and not waited for.

A callback may do something on one rank alone, as to draw pictures. A collective there would
wait for ranks that never come to it. So within such code each rank writes down how many
collectives it has begun, and whether it has left, where all can read it; a collective goes
ahead once all ranks have begun it, and fails as soon as one has left without.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyro_jarzynski.core.failures import Watch
from pyro_jarzynski.errors import RankError

# Seconds between two looks at what others have written down, and for which to look. After
# that a rank may be dead, which a collective finds out.
PAUSE, PATIENCE = 0.002, 5.0


class Divergence:
    """Counts the collectives of each rank within code that ranks may run differently.

    Args:
        watch: The failures of the ranks, with the store of the process group.
    """

    def __init__(self, watch: Watch) -> None:
        """Begin outside of such code."""
        self.watch = watch
        # Of the present block: its number, what it is, and the collectives begun within.
        self.block, self.what, self.begun = 0, "", 0

    @contextmanager
    def allowed(self, what: str) -> Iterator[None]:
        """Let ranks do different things in the block; all of them must enter it.

        Raises:
            RankError: Another rank has begun a collective in the block, and this one not.
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
        """Wait until all ranks have begun this collective, if within such code.

        Raises:
            RankError: A rank has left the code without it, or has failed.
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
                if self.watch.told():
                    raise RankError(self.watch.told())
                if time.monotonic() > end:
                    return
                time.sleep(PAUSE)

    def _others(self) -> list[int]:
        return [rank for rank in range(self.watch.size) if rank != self.watch.rank]

    def _write(self, *, left: bool) -> None:
        self.watch.write("divergence", f"{self.block} {self.begun} {int(left)}")

    def _read(self, rank: int) -> tuple[int, int, int]:
        """Return block, collectives begun there, and whether a rank has left it."""
        found = self.watch.read("divergence", rank).split()
        return (int(found[0]), int(found[1]), int(found[2])) if found else (0, 0, 0)

    def _refuse(self, asking: int, missing: int) -> None:
        message = (
            f"in {self.what}, rank {asking} asks for something that all ranks must ask for "
            f"(`sample`, `cloud.walkers`, or else what needs walkers of all ranks), and "
            f"rank {missing} does not. Call it on all ranks, and use the result on one."
        )
        raise RankError(self.watch.accuse(message, asking))
