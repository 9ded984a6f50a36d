"""Checkpoints made to harm: refused, without running or overwriting anything."""

import io
import json
import os
import pickle
import struct
import time
import zipfile

import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.errors import CheckpointError
from pyro_jarzynski.runtime import disk
from pyro_jarzynski.runtime.checkpoint_files import read_checkpoint
from tests.runtime.small_states import STEP, Counter, count

SHARD = "shard-00000.safetensors"


@pytest.fixture
def folder(tmp_path):
    count(tmp_path, 1)
    return tmp_path / STEP.format(1)


def sign(folder, record):
    """Write a manifest with the hash that belongs to it, as an attacker would."""
    plain = json.dumps(record, separators=(",", ":")).encode()
    signed = {"record": record, "sha256": disk.digest(plain)}
    content = json.dumps(signed, separators=(",", ":")).encode()
    (folder / "manifest.json").write_bytes(content)


def record_of(folder):
    return json.loads((folder / "manifest.json").read_bytes())["record"]


def edit(folder, **changes):
    sign(folder, record_of(folder) | changes)


def forge(folder, content):
    """Put other content into the shard, with size and hash that belong to it."""
    (folder / SHARD).write_bytes(content)
    file = {"name": SHARD, "size": len(content), "sha256": disk.digest(content)}
    edit(folder, files=[file])


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder)
    return str(caught.value)


def test_the_forger_can_write_what_is_read(folder):
    edit(folder)
    assert read_checkpoint(folder)[0]["step"] == 1
    forge(folder, (folder / SHARD).read_bytes())
    assert read_checkpoint(folder)[0]["step"] == 1


class Bomb:
    """A pickle that makes a directory when it is opened."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.mkdir, (str(self.sentinel),)


def as_zip(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", [SHARD, "manifest.json"])
def test_code_is_never_run(folder, tmp_path, name, zipped, protocol):
    content = pickle.dumps(Bomb(tmp_path / "sentinel"), protocol)
    content = as_zip(content) if zipped else content
    if name == SHARD:
        forge(folder, content)
    else:
        (folder / name).write_bytes(content)
    kind = "a zip archive" if zipped else "a pickle"
    assert f"looks like {kind}, which is never opened" in refusal(folder)
    assert not (tmp_path / "sentinel").exists()


def test_a_file_of_torch_in_place_of_the_directory(folder, tmp_path):
    target = tmp_path / STEP.format(2)
    torch.save({"step": 2}, target)
    assert "not a directory, but a link or a file" in refusal(target)


def header(entries, data=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin, end, dtype="U8", shape=None):
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 10**8 + 1) + b" " * 100,
        header(b"[" * 100_000),
        header(b"{" * 10),
        header({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)),
        header({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)),
        header({"a": entry(0, 2), "b": entry(4, 6)}, bytes(6)),
        header({"a": entry(0, 400)}, bytes(4)),
        header({"a": entry(0, 4)}, bytes(400)),
        header({"a": entry(4, 0, shape=[4])}, bytes(4)),
        header({"a": entry(0, 4, shape=[2**40])}, bytes(4)),
        header({"a": entry(0, 4, shape=[2**62, 2**62, 2**62])}, bytes(4)),
        header({"a": entry(0, 4, dtype="OBJECT")}, bytes(4)),
        header({"a": entry(0, 4, dtype=7)}, bytes(4)),
        header({"a": {"dtype": "U8", "shape": [-4], "data_offsets": [0, 4]}}, bytes(4)),
        header({"a": "string"}, bytes(4)),
        header([], bytes(4)),
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_shards_that_are_no_safetensors(folder, content):
    began = time.process_time()
    forge(folder, content)
    assert "is no safetensors file" in refusal(folder)
    # It takes some ms: the bound finds work that grows as a square of the file.
    assert time.process_time() - began < 60


def test_many_tensors_that_nobody_names(folder):
    entries = {f"extra{k}": entry(k, k + 1) for k in range(10_000)}
    forge(folder, header(entries, bytes(10_000)))
    assert "values of no known kind" in refusal(folder)
    edit(folder, values={"dict": {}})
    assert "has a tensor that nobody names: 'extra0'" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../../secret",
        "/etc/passwd",
        "..",
        "",
        "shard-00000.safetensors/../../secret",
        "shard-0.safetensors",
        "SHARD-00000.safetensors",
        "shard-00000.safetensors\x00",
        "shard-00000.safetensors\n",
        "shard-٠٠٠٠٠.safetensors",
        "manifest.json",
    ],
)
def test_names_of_other_files(folder, tmp_path, name):
    content = (folder / SHARD).read_bytes()
    (tmp_path / "secret").write_bytes(content)
    file = {"name": name, "size": len(content), "sha256": disk.digest(content)}
    edit(folder, files=[file])
    assert "names a file that is no shard" in refusal(folder)


class TestLinks:
    @pytest.mark.parametrize("name", [SHARD, "manifest.json"])
    def test_a_file(self, folder, tmp_path, name):
        (folder / name).rename(tmp_path / "elsewhere")
        (folder / name).symlink_to(tmp_path / "elsewhere")
        assert "cannot be read" in refusal(folder)

    def test_a_directory(self, folder):
        folder.rename(folder.with_name("elsewhere"))
        folder.symlink_to(folder.with_name("elsewhere"))
        assert "but a link or a file" in refusal(folder)

    @pytest.mark.parametrize("name", [SHARD, "manifest.json"])
    def test_a_pipe_is_not_waited_for(self, folder, name):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert "is not a regular file" in refusal(folder)

    def test_a_directory_in_place_of_a_file(self, folder):
        (folder / SHARD).unlink()
        (folder / SHARD).mkdir()
        assert "cannot be read" in refusal(folder)

    def test_what_is_cleaned_up_is_not_followed(self, folder, tmp_path):
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "file").write_text("mine")
        (tmp_path / ".passing-link").symlink_to(precious)
        count(tmp_path, 3, resume=True)
        pj.Checkpoints(tmp_path).clear()
        assert (precious / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": "other"}, "no checkpoint of this package"),
        ({"format": None}, "no checkpoint of this package"),
        ({"version": 0}, "of version 0; this release reads 1"),
        ({"version": 2}, "of version 2; this release reads 1"),
        ({"version": "1"}, "of version '1'"),
        ({"version": True}, "of version True"),
        ({"version": 1.0}, "of version 1.0"),
        ({"torch": 2}, "no valid entry 'torch'"),
        ({"step": "1"}, "no valid entry 'step'"),
        ({"step": 1.0}, "no valid entry 'step'"),
        ({"step": True}, "no valid entry 'step'"),
        ({"step": 2}, "it is of step 2, whatever its name"),
        ({"step": -1}, "it is of step -1"),
        ({"files": {}}, "no valid entry 'files'"),
        ({"files": [[]]}, "a file that is no shard"),
        ({"files": [{"name": SHARD}]}, "a file that is no shard"),
        ({"files": [{"name": SHARD, "size": "9", "sha256": ""}]}, "no shard"),
        ({"files": [{"name": SHARD, "size": -1, "sha256": ""}]}, "no shard"),
        ({"files": [{"name": SHARD, "size": True, "sha256": ""}]}, "no shard"),
        ({"files": [{"name": SHARD, "size": 1, "sha256": 7}]}, "no shard"),
        ({"files": [{"name": SHARD, "size": 1, "sha256": "", "x": 1}]}, "no shard"),
        ({"files": [{"name": SHARD, "size": 2**60, "sha256": ""}]}, "bytes"),
        ({"files": 2 * [{"name": SHARD, "size": 9, "sha256": ""}]}, "a file twice"),
        ({"values": []}, "no valid entry 'values'"),
        ({"values": {"tensor": "nobody"}}, "values of no known kind"),
        ({"values": {"dict": []}}, "values of no known kind"),
        ({"values": {"tuple": {}}}, "values of no known kind"),
        ({"values": {"float": "1e3"}}, "values of no known kind"),
        ({"values": {"items": [[1]]}}, "values of no known kind"),
        ({"values": {"items": [[[], 1]]}}, "values of no known kind"),
        ({"values": {"counter": 3}}, "values of no known kind"),
        ({"values": {"dict": {}, "tuple": []}}, "values of no known kind"),
        ({"values": {"python/object": "os.system"}}, "values of no known kind"),
        ({"values": {"dict": {}}}, "tensor that nobody names"),
    ],
    ids=str,
)
def test_wrong_entries(folder, changes, told):
    edit(folder, **changes)
    assert told in refusal(folder)


@pytest.mark.parametrize(
    "order", [[0], [0, 0], [0, 2], [0, 1, 2], ["0", "1"], [0.0, 1.0], 1, [True, False]]
)
def test_wrong_layouts(folder, order):
    record = record_of(folder)
    record["values"]["dict"]["turned"]["order"] = order
    sign(folder, record)
    assert "tensor of unknown layout" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'{"record": 1}',
        b"not json",
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b'{"record":' + b'{"a":' * 50_000,
        b"1" * 5000,
        b'{"record":{},"sha256":NaN}',
    ],
    ids=lambda content: str(content[:12]),
)
def test_manifests_that_are_none(folder, content):
    (folder / "manifest.json").write_bytes(content)
    told = refusal(folder)
    assert "manifest.json is damaged" in told or "asks for too much" in told


def test_a_deep_manifest_that_is_signed(folder):
    values = {"list": "deep"}
    for _ in range(300):
        values = {"tuple": [values]}
    edit(folder, values={"dict": {"deep": values}})
    assert "no known kind" in refusal(folder)


def test_a_huge_manifest_is_not_read(folder, monkeypatch):
    monkeypatch.setattr("pyro_jarzynski.runtime.checkpoint_files.MAX_MANIFEST", 100)
    assert "more than 100" in refusal(folder)


class Picky(Counter):
    def load_state_dict(self, state):
        int(state["step"])
        _ = state["grid"][10, 10]


@pytest.mark.parametrize("wrong", [None, "one", [], {"a": 1}])
def test_states_of_another_kind_are_told_to_be(folder, wrong):
    record = record_of(folder)
    record["values"]["dict"]["step"] = wrong if type(wrong) is not dict else {"dict": wrong}
    sign(folder, record)
    kept = pj.Checkpoints(folder.parent, resume=True)
    for run in (Counter(), Picky()):
        with (
            pytest.raises(CheckpointError, match="does not fit this run"),
            kept.opened(run),
        ):
            pass


def test_shards_that_repeat_each_other(folder):
    content = (folder / SHARD).read_bytes()
    again = "shard-00001.safetensors"
    (folder / again).write_bytes(content)
    first = record_of(folder)["files"][0]
    edit(folder, files=[first, first | {"name": again}])
    assert f"{again} repeats tensors of another shard" in refusal(folder)
