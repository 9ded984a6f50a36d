"""Files that are whole once they are there, and tensors as the bytes of one."""

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import torch
from safetensors.torch import load, save
from torch import Tensor

# Bytes per call of the system: an interrupted write loses no more.
CHUNK = 2**26
# End of the names of files that are about to be replaced.
EARLIER = ".earlier"


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the content of a safetensors file."""
    # Copies, because tensors that share memory cannot be saved as they are.
    plain = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    return save(plain)


def unpack(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; raise `SafetensorError` if it is none."""
    # Copies, because sums may depend on how tensors are aligned in memory.
    return {name: x.to("cpu", copy=True) for name, x in load(content).items()}


def digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def write(path: Path, content: bytes) -> None:
    """Write a file, and wait until it is on the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    file = os.open(path, flags, 0o666)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left[:CHUNK]) :]
        os.fsync(file)
    finally:
        os.close(file)


def replace(path: Path, content: bytes) -> None:
    """Write a file in the place of another, of which one or the other is there, whole."""
    replace_all({path: content})


def replace_all(contents: Mapping[Path, bytes | Callable[[Path], None]]) -> None:
    """Write files of one directory in the place of others: all of them, or none.

    The content of a file is its bytes, or a function that writes them into a file.

    Whatever fails or interrupts this, either all files are new or all are as they were. If
    the process is killed between the last calls of the system, all but the last file may be
    new: `earlier` finds those that they have replaced.
    """
    # Names of their own: all ranks of a run may write the same.
    name = uuid4().hex
    new = {path: path.with_name(f"{path.name}.{name}.part") for path in contents}
    *others, last = contents
    kept = {path: path.with_name(f"{path.name}.{name}{EARLIER}") for path in others}
    try:
        for path, content in contents.items():
            if isinstance(content, bytes):
                write(new[path], content)
            else:
                content(new[path])
        for path, copy in kept.items():
            _keep(path, copy)
        for path in contents:
            os.replace(new[path], path)
    except BaseException:
        # An interrupt may come after the last file is in its place.
        if new[last].exists():
            _put_back(kept, new)
        _unlink(*new.values(), *kept.values())
        raise
    _unlink(*(copy for path in others for copy in earlier(path)))
    sync_directory(last.parent)


def earlier(path: Path) -> list[Path]:
    """Return the files that a process has left of which this one took the place."""
    return list(path.parent.glob(f"{path.name}.*{EARLIER}"))


def _keep(path: Path, copy: Path) -> None:
    """Give a file a second name, if it is there."""
    with suppress(FileNotFoundError):
        try:
            os.link(path, copy)
        except FileNotFoundError:
            raise
        except OSError:
            # Not all file systems have links.
            shutil.copyfile(path, copy)


def _put_back(kept: Mapping[Path, Path], new: Mapping[Path, Path]) -> None:
    for path, copy in kept.items():
        if copy.exists():
            os.replace(copy, path)
        elif not new[path].exists():
            # Nothing was there before.
            _unlink(path)


def _unlink(*paths: Path) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)


def read(path: Path, limit: int) -> bytes:
    """Return the content of a file that is one: no link, no device, not longer than told.

    Raises:
        OSError: It cannot be read, or is something else.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    # A pipe would let us wait for ever.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    file = os.open(path, flags)
    with os.fdopen(file, "rb") as opened:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path.name} is not a regular file")
        if found.st_size > limit:
            raise OSError(f"{path.name} has {found.st_size} bytes, more than {limit}")
        return opened.read(found.st_size)


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk, where systems know of that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def make(path: Path) -> None:
    """Make a directory that must not be there."""
    os.mkdir(path)


def rename(path: Path, name: str) -> Path:
    """Give a directory another name beside it, and return where it is."""
    target = path.with_name(name)
    os.rename(path, target)
    return target


def remove(path: Path) -> None:
    """Remove a directory of files, if it is there; of a link only itself."""
    if path.is_symlink():
        os.unlink(path)
        return
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return
    for name in names:
        os.unlink(path / name)
    os.rmdir(path)
