"""One checkpoint on disk: tensors in shards, all else in a manifest, whole or not there.

    step-000000000500/
        manifest.json               what was saved, and SHA-256 and size of every shard
        shard-00000.safetensors     tensors

It is written under another name, and gets its own when every byte is on the disk. The
manifest carries a hash of itself. Nothing is ever unpickled.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from torch import Tensor

from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.errors import CheckpointError
from pyro_jarzynski.runtime import disk
from pyro_jarzynski.runtime.shard_states import merged, own_tensors
from pyro_jarzynski.runtime.state_files import decode, encode

FORMAT, VERSION = "pyro-jarzynski checkpoint", 1
MANIFEST = "manifest.json"
STEP = re.compile(r"step-([0-9]{12})")
SHARD = re.compile(r"shard-[0-9]{5}\.safetensors")
# Names of directories that are on their way in or out: nobody reads them.
PASSING = ".passing-"
# Bytes of a manifest, and of the tensors of one shard.
MAX_MANIFEST, SHARD_SIZE = 2**26, 2**28


def steps_in(directory: Path) -> dict[int, Path]:
    """Return the checkpoints of a directory by their steps, the newest first."""
    if not directory.is_dir():
        return {}
    found = {int(m[1]): p for p in directory.iterdir() if (m := STEP.fullmatch(p.name))}
    return dict(sorted(found.items(), reverse=True))


def clean(directory: Path) -> None:
    """Remove what writers that have died left behind."""
    for path in directory.glob(f"{PASSING}*"):
        with suppress(OSError):
            disk.remove(path)


def write_checkpoint(directory: Path, step: int, state: Any, ranks: Ranks) -> None:
    """Write the state after some step; if that fails, nothing of it is left.

    Of a run on several ranks each writes what it alone has, and rank 0 all else.

    Raises:
        CheckpointError: The state cannot be held by a checkpoint.
        OSError: The disk does not take it, on whichever rank.
    """
    values, tensors = encode(state)
    values, tensors = merged(values, ranks), own_tensors(tensors, ranks)
    temporary = directory / (PASSING + ranks.texts(uuid4().hex)[0])
    try:
        ranks.first(lambda: disk.make(temporary))
        written = ranks.attempt(lambda: _write_shards(temporary, tensors, ranks))
        files = [f for text in ranks.texts(json.dumps(written)) for f in json.loads(text)]
        ranks.first(lambda: _commit(temporary, step, files, values))
    except (OSError, MemoryError):
        if ranks.rank == 0:
            _discard(temporary)
        raise
    ranks.first(lambda: disk.sync_directory(directory))


def _write_shards(
    temporary: Path, tensors: Mapping[str, Tensor], ranks: Ranks
) -> list[dict[str, Any]]:
    """Write tensors, and return what the manifest says of their files."""
    files = []
    for number, part in enumerate(_shards(tensors)):
        name = f"shard-{ranks.rank + number * ranks.size:05d}.safetensors"
        content = disk.pack(part)
        disk.write(temporary / name, content)
        files.append({"name": name, "size": len(content), "sha256": disk.digest(content)})
    return files


def _commit(temporary: Path, step: int, files: list[dict[str, Any]], values: Any) -> None:
    """Write the manifest, and give the checkpoint its name."""
    record = {
        "format": FORMAT,
        "version": VERSION,
        "torch": torch.__version__,
        "step": step,
        "files": files,
        "values": values,
    }
    disk.write(temporary / MANIFEST, _manifest(record))
    disk.sync_directory(temporary)
    disk.rename(temporary, f"step-{step:012d}")


def read_checkpoint(path: Path) -> tuple[Any, str]:
    """Return the state of a checkpoint, and the version of torch that wrote it.

    Raises:
        CheckpointError: It is not whole, or not one of this release; says in what.
    """
    try:
        return _read(path)
    except OSError as error:
        raise CheckpointError(f"it cannot be read: {error}") from error
    except (RecursionError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"it asks for too much: {error!r}") from error


def _read(path: Path) -> tuple[Any, str]:
    if path.is_symlink() or not path.is_dir():
        raise CheckpointError("it is not a directory, but a link or a file")
    record = _checked(_parsed(disk.read(path / MANIFEST, MAX_MANIFEST)), path)
    tensors: dict[str, Tensor] = {}
    for file in record["files"]:
        part = _read_shard(path / file["name"], file["size"], file["sha256"])
        if part.keys() & tensors.keys():
            raise CheckpointError(f"{file['name']} repeats tensors of another shard")
        tensors |= part
    return decode(record["values"], tensors), record["torch"]


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield parts of the tensors that are not too large, unless one tensor is."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, value in tensors.items():
        if part and size + value.nbytes > SHARD_SIZE:
            yield part
            part, size = {}, 0
        part[name] = value
        size += value.nbytes
    if part:
        yield part


def _manifest(record: dict[str, Any]) -> bytes:
    signed = {"record": record, "sha256": disk.digest(_plain(record))}
    return _plain(signed)


def _plain(values: Any) -> bytes:
    """Return the one way in which values are written."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode()


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        signed = json.loads(content)
        same = _plain(signed) == content
    except ValueError as error:
        raise CheckpointError(
            f"{MANIFEST} is damaged: {error}{_code_in(content)}"
        ) from error
    if not same or not isinstance(signed, dict) or signed.keys() != {"record", "sha256"}:
        raise CheckpointError(f"{MANIFEST} is damaged: it is not as it was written")
    if signed["sha256"] != disk.digest(_plain(signed["record"])):
        raise CheckpointError(f"{MANIFEST} is damaged: its SHA-256 is another")
    return signed["record"]


def _checked(record: Any, path: Path) -> dict[str, Any]:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError("it is no checkpoint of this package")
    if type(record.get("version")) is not int or record["version"] != VERSION:
        raise CheckpointError(
            f"it is of version {record.get('version')!r}; this release reads {VERSION}"
        )
    expected = {"torch": str, "step": int, "files": list, "values": dict}
    for name, kind in expected.items():
        if type(record.get(name)) is not kind:
            raise CheckpointError(f"{MANIFEST} has no valid entry {name!r}")
    if f"step-{record['step']:012d}" != path.name:
        raise CheckpointError(f"it is of step {record['step']}, whatever its name")
    for file in record["files"]:
        _check_file(file)
    names = [file["name"] for file in record["files"]]
    if len(set(names)) < len(names):
        raise CheckpointError(f"{MANIFEST} names a file twice")
    return record


def _check_file(file: Any) -> None:
    match file:
        case {"name": str(name), "size": int(size), "sha256": str(), **more}:
            if SHARD.fullmatch(name) and type(size) is int and size >= 0 and not more:
                return
    raise CheckpointError(f"{MANIFEST} names a file that is no shard: {str(file)[:80]}")


def _read_shard(path: Path, size: int, sha256: str) -> dict[str, Tensor]:
    content = disk.read(path, size)
    if len(content) < size:
        raise CheckpointError(f"{path.name} has {len(content)} of {size} bytes")
    found = disk.digest(content)
    if found != sha256:
        raise CheckpointError(
            f"{path.name} is damaged: its SHA-256 is {found[:12]}…, not {sha256[:12]}…"
        )
    try:
        return disk.unpack(content)
    except (SafetensorError, ValueError, LookupError) as error:
        raise CheckpointError(
            f"{path.name} is no safetensors file: {error}{_code_in(content)}"
        ) from error


def _code_in(content: bytes) -> str:
    """Tell of content that others would open, and that could run code then."""
    for start, kind in ((b"\x80", "a pickle"), (b"PK", "a zip archive")):
        if content.startswith(start):
            return f"; it looks like {kind}, which is never opened"
    return ""


def _discard(path: Path) -> None:
    """Remove what is left of a checkpoint, or leave it to the next who opens."""
    with suppress(OSError):
        disk.remove(path)
