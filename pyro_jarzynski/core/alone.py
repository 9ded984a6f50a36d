"""What a process has only once, and one thread at a time may use.

torch has one global generator, from which its distributions and layers draw, and Pyro one
stack of handlers. Two threads that used them at once would mix their draws and models.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Held while global state is used; a thread that holds it may take it again.
ALONE = threading.RLock()


@contextmanager
def global_stream(seed: int) -> Iterator[None]:
    """Seed torch's global generator, and put it back as it was after."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with ALONE, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
