"""One writer per directory: a lock that its process cannot leave behind."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyro_jarzynski.errors import CheckpointError

try:
    import fcntl
except ImportError:  # where systems have no such locks, nobody is kept out
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory inside the block.

    The system takes it from a process that has died, however it did: only the file, which
    names its last writer, stays behind.

    Raises:
        CheckpointError: Another process holds it, or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        file = os.open(directory / NAME, flags, 0o666)
    except OSError as error:
        raise CheckpointError(
            f"`directory` of the checkpoints must be one that can be written, got "
            f"{directory}: {error.strerror}."
        ) from error
    try:
        _take(file, directory)
        yield
    finally:
        # Also of copies of the file that workers of a data loader have inherited.
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)


def _take(file: int, directory: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it may have removed the file that was opened here.
        held = os.path.samestat(os.fstat(file), os.stat(directory / NAME))
    except (BlockingIOError, FileNotFoundError):
        held = False
    except OSError:
        # A file system without locks.
        return
    if not held:
        owner = os.read(file, 200).decode(errors="replace").strip() or "of unknown name"
        raise CheckpointError(
            f"Another process ({owner}) writes checkpoints into {directory}: wait until it "
            "has ended, or use another directory."
        )
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
