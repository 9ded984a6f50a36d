"""Signals that end a run at a step boundary, or give up the step that is under way."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.watching import Abandoned
from pyro_jarzynski.errors import RankError

T = TypeVar("T")

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
        self._thread = threading.get_native_id()
        self._loading = False
        self._when_child_ends: Any = None
        self._failure: Exception | None = None

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
        """Take note of the first signal; end the run at once at a further Ctrl-C.

        A further SIGTERM changes nothing: `timeout` and schedulers send it to the process
        and to its group.
        """
        del frame
        # Processes that load data inherit this handler, and work until this one ends. Their
        # main thread has another number.
        if threading.get_native_id() != self._thread:
            return
        first = self._received is None
        if not first and number != signal.SIGINT:
            return
        self._received = number
        # Among several ranks a signal counts from when all know of it.
        if not first or not self._shared:
            self.signal = number
        if not first:
            self()
        self._print(number)
        if self._loading and not self._shared:
            raise Abandoned

    def _print(self, number: int) -> None:
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        further = "A second one" if number == signal.SIGINT else "Ctrl-C"
        # Python refuses to print inside of another print to the same stream.
        with suppress(RuntimeError):
            print(
                f"\n{name}: the run stops after {self.waits_for}. {further} stops it at "
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

    def load(self, fetch: Callable[[], T]) -> T:
        """Return what `fetch` returns: a batch, for which other processes may work.

        A process that loads data may be ended by the same signal as this one. torch then
        raises an error in the main thread, wherever that is. Such errors are held back
        until the next call of this method, so that none interrupts an update.

        Raises:
            Abandoned: A signal came, and this process is alone.
            Exception: `fetch` failed, or a process that loads data has ended.
        """
        try:
            self._loading = True
            if self._failure is not None:
                raise self._failure
            if self.pending and not self._shared:
                raise Abandoned
            return fetch()
        finally:
            self._loading = False
            self._failure = None
            self._hold_children()

    def share(self, ranks: Ranks, *, failed: bool = False, **numbers: int) -> bool:
        """Act on a signal that any rank has received, all at once; all ranks must ask.

        Args:
            ranks: The processes.
            failed: Whether this one has failed.
            **numbers: Numbers of this step that must be the same on all ranks, unless the
                run ends.

        Returns:
            Whether any has failed.

        Raises:
            RankError: A number is not the same.
        """
        if ranks.size == 1:
            return failed
        self._shared = True
        negative = (-number for number in numbers.values())
        found, failures, *ends = ranks.largest(
            self._received or 0, int(failed), *numbers.values(), *negative
        )
        self.signal = found or None
        if found or failures:
            return bool(failures)
        for name, most, least in zip(numbers, ends, ends[len(numbers) :], strict=False):
            if most != -least:
                raise RankError(
                    f"`{name}` is {-least} on one rank and {most} on another in the same "
                    "step: give all ranks the same data and loaders."
                )
        return False

    def _hold_children(self) -> None:
        """Replace the SIGCHLD handler of torch by `child_ended`, which calls it."""
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self.child_ended and self._is_main:
            self._when_child_ends = handler
            signal.signal(signal.SIGCHLD, self.child_ended)

    def child_ended(self, number: int, frame: FrameType | None) -> None:
        """Call the handler of ended processes; hold its error back unless one loads."""
        try:
            self._when_child_ends(number, frame)
        except Exception as error:
            if self._loading:
                raise
            self._failure = error

    def restore_children(self) -> None:
        """Restore the SIGCHLD handler that was installed before."""
        if self._when_child_ends is not None:
            signal.signal(signal.SIGCHLD, self._when_child_ends)

    @property
    def _is_main(self) -> bool:
        return threading.current_thread() is threading.main_thread()


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
        interrupt.restore_children()
        for number, handler in previous.items():
            signal.signal(number, handler)
