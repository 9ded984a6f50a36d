"""Ctrl-C at a step boundary: a run stops between two steps, never inside one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pyro_jarzynski.core.ranks import Ranks

# What a shell sees of a process that a signal ended.
TERMINATED = 128 + signal.SIGTERM


class Interrupt:
    """A signal that waits for the end of a step; to call it ends the run if one came.

    Attributes:
        signal: What the run is to act upon; `None` is nothing.
    """

    def __init__(self) -> None:
        """Start without a signal."""
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

    def share(self, ranks: Ranks) -> None:
        """Act on a signal that any rank has received, all at once; all ranks must ask."""
        if ranks.size == 1:
            return
        self._shared = True
        (found,) = ranks.largest(self._received or 0)
        self.signal = found or None


@contextmanager
def deferred_interrupt(*, terminate: bool = False) -> Iterator[Interrupt]:
    """Hold back the first Ctrl-C inside the block until what is yielded is called.

    The second Ctrl-C interrupts at once. Outside the main thread, where Python delivers
    no signals, the block changes nothing.

    Args:
        terminate: Whether to hold back SIGTERM as well, which then ends the program by
            `SystemExit`, so that it can clean up. A handler of one's own is left alone.
    """
    interrupt = Interrupt()
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
