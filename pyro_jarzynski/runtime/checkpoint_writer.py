"""Checkpoints of a run while it goes on: when one is written, and which are removed."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.errors import CheckpointWarning
from pyro_jarzynski.runtime import disk
from pyro_jarzynski.runtime.checkpoint_files import (
    PASSING,
    clean,
    steps_in,
    write_checkpoint,
)


class Writer:
    """Writes checkpoints of one run while it goes on: a `Keep`.

    Args:
        state: Returns the state of the run.
        directory: Where they are kept.
        every: Steps between two, if it goes by steps.
        seconds: Seconds between two, if it goes by time.
        num_kept: Whole checkpoints to keep.
        last: Step of the checkpoint that the run goes on from, if there is one.
        refused: Newer ones that could not be read.
        ranks: The processes of the run.
    """

    def __init__(
        self,
        state: Callable[[], dict[str, Any]],
        directory: Path,
        *,
        every: int | None,
        seconds: float | None,
        num_kept: int,
        last: int | None,
        refused: list[Path],
        ranks: Ranks,
    ) -> None:
        """Begin to wait for the next."""
        self.state, self.directory, self.ranks = state, directory, ranks
        self.every, self.seconds, self.num_kept = every, seconds, num_kept
        self.refused = refused
        self.last_step, self.last_time = last, time.monotonic()

    def __call__(self, step: int, *, now: bool = False) -> None:
        """Write a checkpoint if it is time, or a warning if that fails."""
        if step == self.last_step or not (now or self._is_time(step)):
            return
        try:
            self._write(step)
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or repr(error)
            warnings.warn(
                f"To keep a checkpoint of step {step} in {self.directory} failed: "
                f"{reason}. The run goes on and tries again at the next; "
                f"the last that is kept is {self._last_kept()}.",
                CheckpointWarning,
                stacklevel=4,
            )
        else:
            self.last_step = step
        self.last_time = time.monotonic()

    def _is_time(self, step: int) -> bool:
        if self.every is not None and step % self.every == 0:
            return True
        if self.seconds is None:
            return False
        waited = time.monotonic() - self.last_time
        # Clocks of ranks differ: if it is time for one, it is for all.
        return bool(self.ranks.largest(waited >= self.seconds)[0])

    def _write(self, step: int) -> None:
        directory, ranks = self.directory, self.ranks
        ranks.first(self._make_room)
        # What may fail on one rank alone is tried on all before any goes on.
        there = ranks.attempt(lambda: step in steps_in(directory))
        if any(ranks.largest(there)):
            # All went well but for the last call of the system.
            ranks.first(lambda: disk.sync_directory(directory))
        else:
            state = ranks.attempt(self.state)
            write_checkpoint(directory, step, state, ranks)
        ranks.first(self._remove_old)

    def _make_room(self) -> None:
        """Remove what others have left, and put aside what was refused."""
        clean(self.directory)
        # What cannot be read must not be taken for the newest; it may be looked into.
        for path in self.refused:
            disk.rename(path, f"refused-{path.name}-{uuid4().hex[:8]}")
        self.refused = []

    def _remove_old(self) -> None:
        for path in list(steps_in(self.directory).values())[self.num_kept :]:
            disk.remove(disk.rename(path, f"{PASSING}{uuid4().hex}"))

    def _last_kept(self) -> str:
        steps = list(steps_in(self.directory))
        return f"that of step {steps[0]}" if steps else "none"
