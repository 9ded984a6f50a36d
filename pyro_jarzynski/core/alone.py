"""What a process has only once, and one thread at a time may use.

torch has one global generator, from which its distributions and layers draw, and Pyro one
stack of handlers. Two threads that used them at once would mix their draws and models.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pyro_jarzynski.errors import JarzynskiError

# Seconds between two looks at whether the thread that others wait for is alive.
PATIENCE = 0.2


class Alone:
    """Held while global state is used; a thread that holds it may take it again.

    A process that is forked meanwhile, by another thread, has that state as it was just
    then, with nobody to put it back: it is told so, in place of waiting for ever.
    """

    def __init__(self) -> None:
        """Start free."""
        self._lock, self._depth = threading.RLock(), 0
        self._owner: threading.Thread | None = None

    def __enter__(self) -> None:
        """Wait for the other threads."""
        while not self._lock.acquire(timeout=PATIENCE):
            # After a fork, only the thread that forked is alive.
            if self._owner is not None and not self._owner.is_alive():
                raise JarzynskiError(
                    "This process was forked while another thread was running an inference "
                    "or a training. Fork before such threads start or after they have "
                    'ended, or use `multiprocessing.get_context("spawn")`.'
                )
        self._owner, self._depth = threading.current_thread(), self._depth + 1

    def __exit__(self, *failure: Any) -> None:
        """Let the next thread go on."""
        self._depth -= 1
        if not self._depth:
            self._owner = None
        self._lock.release()


ALONE = Alone()


@contextmanager
def global_stream(seed: int) -> Iterator[None]:
    """Seed torch's global generators, those of accelerators too, and restore them after."""
    before, accelerator = torch.initial_seed(), torch.accelerator.current_accelerator()
    module: Any = accelerator and torch.get_device_module(accelerator)
    in_use = hasattr(module, "is_initialized") and module.is_initialized()
    devices = range(module.device_count()) if in_use else ()
    with ALONE, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            if accelerator and not in_use:
                # It is seeded when it is first used: by the seed from before.
                torch.manual_seed(before)
