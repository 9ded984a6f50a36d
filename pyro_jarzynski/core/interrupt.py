"""Ctrl-C at a step boundary: a run stops between two steps, never inside one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Hold back the first Ctrl-C inside the block until the yielded function is called.

    The second Ctrl-C interrupts at once. Outside the main thread, where Python delivers
    no signals, the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    pending = threading.Event()
    previous = signal.getsignal(signal.SIGINT)

    def on_signal(number: int, frame: FrameType | None) -> None:
        if pending.is_set():
            signal.default_int_handler(number, frame)
        pending.set()

    def check() -> None:
        if pending.is_set():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, on_signal)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)
