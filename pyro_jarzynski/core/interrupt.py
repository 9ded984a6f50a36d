"""Signals that end a run at a step boundary, or give up the step that is under way."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.watching import Abandoned
from pyro_jarzynski.errors import RankError

# What a shell sees of a process that a signal ended.
TERMINATED = 128 + signal.SIGTERM


class Interrupt:
    """A signal that waits for the end of a step; to call it ends the run if one came.

    Args:
        waits_for: What a first signal waits for, which is printed when it comes.

    Attributes:
        signal: What the run is to act upon; `None` is nothing.
    """

    def __init__(self, waits_for: str) -> None:
        """Start without a signal."""
        self.waits_for = waits_for
        self.signal: int | None = None
        self._received: int | None = None
        self._shared = False

    @property
    def pending(self) -> bool:
        """Whether a signal waits."""
        return self.signal is not None

    def __call__(self) -> None:
        """Raise what the signal stands for, if one came."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal == signal.SIGTERM:
            raise SystemExit(TERMINATED)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Take note of the first signal; act on the second at once."""
        del frame
        second, self._received = self._received is not None, number
        # Among several ranks a signal counts from when all know of it.
        if second or not self._shared:
            self.signal = number
        if second:
            self()
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        # Python refuses to print inside of another print to the same stream.
        with suppress(RuntimeError):
            print(
                f"\n{name}: the run stops after {self.waits_for}. A second one stops it at "
                "once.",
                file=sys.stderr,
                flush=True,
            )

    def watch(self) -> None:
        """Give up the work under way if this process has received a signal.

        Raises:
            Abandoned: It has.
        """
        if self._received is not None:
            raise Abandoned

    def share(self, ranks: Ranks, **numbers: int) -> None:
        """Act on a signal that any rank has received, all at once; all ranks must ask.

        Args:
            ranks: The processes.
            **numbers: Numbers of this step that must be the same on all ranks.

        Raises:
            RankError: One of them is not.
        """
        if ranks.size == 1:
            return
        self._shared = True
        negative = (-number for number in numbers.values())
        found, *ends = ranks.largest(self._received or 0, *numbers.values(), *negative)
        for name, most, least in zip(numbers, ends, ends[len(numbers) :], strict=False):
            if most != -least:
                raise RankError(
                    f"`{name}` is {-least} on one rank and {most} on another in the same "
                    "step: give all ranks the same data and loaders."
                )
        self.signal = found or None


@contextmanager
def deferred_interrupt(
    waits_for: str = "the step under way", *, terminate: bool = False
) -> Iterator[Interrupt]:
    """Hold back the first Ctrl-C inside the block until what is yielded is called.

    The first one prints what it waits for; the second interrupts at once. Outside the main
    thread, where Python delivers no signals, the block changes nothing.

    Args:
        waits_for: What the first one waits for, in words.
        terminate: Whether to hold back SIGTERM as well, which then ends the program by
            `SystemExit`, so that it can clean up. A handler of one's own is left alone.
    """
    interrupt = Interrupt(waits_for)
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    held = [signal.SIGINT]
    if terminate and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        held.append(signal.SIGTERM)
    previous = {number: signal.signal(number, interrupt.receive) for number in held}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
