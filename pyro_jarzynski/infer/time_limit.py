"""The time that a run may take."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.core.watching import Abandoned, watched
from pyro_jarzynski.errors import TimeLimitError


class TimeLimit:
    """The time that a run may take, from now on.

    Between two stages a run stops once the time is up. A stage that is under way has
    `grace` seconds left to end; then it is given up.

    Args:
        max_seconds: The time, in seconds; `None` is no limit.

    Attributes:
        start: Time of the clock at which the run began.
    """

    grace: ClassVar[float] = 2.0
    clock: ClassVar[Callable[[], float]] = time.monotonic

    def __init__(self, max_seconds: float | None) -> None:
        """Start the clock."""
        self.seconds = math.inf if max_seconds is None else max_seconds
        self.start = self.now()

    def now(self) -> float:
        """Return the time of the clock, in seconds."""
        return type(self).clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.now() - self.start

    def is_over(self, share: float = 1.0) -> bool:
        """Tell whether a share of the time is up."""
        return self.elapsed > share * self.seconds

    def watch(self, share: float = 1.0) -> None:
        """Give up the work under way if a share of the time, and the grace, is up.

        Raises:
            Abandoned: They are.
        """
        if self.elapsed > share * self.seconds + self.grace:
            raise Abandoned

    @contextmanager
    def enforced(self, work: str) -> Iterator[None]:
        """Raise an error if the time and the grace are up inside the block.

        Work that several ranks do together is not given up.

        Args:
            work: What is done inside, in words.

        Raises:
            TimeLimitError: They are.
        """
        if ranks_now().size > 1:
            yield
            return
        try:
            with watched(self.watch):
                yield
        except Abandoned:
            raise self.error(work) from None

    def error(self, work: str) -> TimeLimitError:
        """Return the error of work that was not finished in time."""
        return TimeLimitError(
            f"`max_seconds` is {self.seconds:g}, and {work} was not finished then: there "
            "is no result. Allow more time, or take fewer walkers."
        )
