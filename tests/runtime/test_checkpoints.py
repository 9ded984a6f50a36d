"""Checkpoints on disk: when they are written, which are kept, which are gone on with."""

import errno
import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter as Tally
from collections import OrderedDict

import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.core.team import WHOLE
from pyro_jarzynski.errors import ArgumentError, CheckpointError
from pyro_jarzynski.runtime import checkpoint_files, disk, lock
from pyro_jarzynski.runtime.checkpoint_files import write_checkpoint
from pyro_jarzynski.runtime.state_files import decode, encode
from tests.runtime.small_states import STEP, Counter, count


def steps(folder):
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_two_are_kept(tmp_path):
    count(tmp_path / "a" / "b", 7, every=2)
    assert names(tmp_path / "a" / "b") == [".lock", STEP.format(4), STEP.format(6)]


def test_as_many_as_asked_are_kept(tmp_path):
    Counter().count_to(9, pj.Checkpoints(tmp_path, every=1, keep=4))
    assert steps(tmp_path) == [6, 7, 8, 9]


def test_by_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    run = Counter()
    with pj.Checkpoints(tmp_path, seconds=10, keep=9).opened(run) as keep:
        for run.step in range(1, 8):
            now[0] += 4
            keep(run.step)
    assert steps(tmp_path) == [3, 6]


def test_what_failed_is_tried_again_when_it_is_time_again(tmp_path, monkeypatch):
    now, tried = [0.0], []

    def refuse(path):
        tried.append(now[0])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(disk, "make", refuse)
    run = Counter()
    with pj.Checkpoints(tmp_path, seconds=10).opened(run) as keep:
        for run.step in range(1, 8):
            now[0] += 4
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", pj.CheckpointWarning)
                keep(run.step)
    assert tried == [12, 24]


def test_a_minute_if_nobody_says_otherwise(tmp_path):
    assert pj.Checkpoints(tmp_path).seconds == 60
    assert pj.Checkpoints(tmp_path, every=5).seconds is None


def test_a_step_is_kept_once_and_at_once_where_asked(tmp_path):
    run = Counter()
    with pj.Checkpoints(tmp_path, every=5).opened(run) as keep:
        for run.step in range(1, 4):
            keep(run.step)
        keep(3, now=True)
        before = (tmp_path / STEP.format(3)).stat().st_mtime_ns
        keep(3, now=True)
    assert (tmp_path / STEP.format(3)).stat().st_mtime_ns == before


def test_resume_without_checkpoints_begins(tmp_path):
    assert count(tmp_path, 3, resume=True).step == 3
    assert count(tmp_path, 3, resume=True).step == 3
    assert count(tmp_path, 5, resume=True).step == 5


def test_checkpoints_of_another_run_are_not_overwritten(tmp_path):
    count(tmp_path, 3)
    with pytest.raises(CheckpointError, match=r"of another run, the last of step 3\..*res"):
        count(tmp_path, 5)
    assert steps(tmp_path) == [2, 3]


def test_clear(tmp_path):
    folder = tmp_path / "kept"
    pj.Checkpoints(folder).clear()
    count(folder, 3)
    assert pj.Checkpoints(folder).steps == [3, 2]
    pj.Checkpoints(folder).clear()
    assert not pj.Checkpoints(folder).steps
    assert not folder.exists()


def test_clear_leaves_what_is_not_its_own(tmp_path):
    count(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("mine")
    pj.Checkpoints(tmp_path).clear()
    assert names(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    "settings", [{"every": 0}, {"seconds": 0}, {"seconds": -1.0}, {"keep": 1}]
)
def test_bad_settings(tmp_path, settings):
    with pytest.raises(ArgumentError, match=next(iter(settings))):
        pj.Checkpoints(tmp_path, **settings)


def test_large_states_have_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "SHARD_SIZE", 50)
    count(tmp_path, 1)
    shards = sorted((tmp_path / STEP.format(1)).glob("shard-*"))
    assert len(shards) == 3
    assert count(tmp_path, 1, resume=True).step == 1


def test_a_newer_one_that_is_damaged_is_passed_over(tmp_path):
    count(tmp_path, 5)
    (tmp_path / STEP.format(5) / "manifest.json").unlink()
    told = rf"goes on from step 4.*{STEP.format(5)}: it cannot be read.*manifest.json"
    with pytest.warns(pj.CheckpointWarning, match=told):
        run = count(tmp_path, 4, resume=True)
    assert run.step == 4
    # It can be looked into, and is never again taken for the newest.
    with pytest.warns(pj.CheckpointWarning, match="goes on from step 4"):
        assert count(tmp_path, 8, resume=True, every=6).step == 8
    assert steps(tmp_path) == [4, 6]
    assert len(list(tmp_path.glob(f"refused-{STEP.format(5)}-*"))) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count(tmp_path, 6, resume=True).step == 6


def test_if_none_is_whole_the_run_does_not_begin_anew(tmp_path):
    count(tmp_path, 5)
    for path in tmp_path.glob("step-*"):
        (path / "manifest.json").write_text("{")
    told = rf"No checkpoint.*{STEP.format(5)}: .*{STEP.format(4)}: manifest.json is damaged"
    with pytest.raises(CheckpointError, match=told):
        count(tmp_path, 6, resume=True)
    assert steps(tmp_path) == [4, 5]


def test_another_torch_is_told(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "1.0")
        count(tmp_path, 1)
    with pytest.warns(pj.CheckpointWarning, match=r"of torch 1\.0, and this is 2.*bits"):
        count(tmp_path, 2, resume=True)


def test_rests_of_a_writer_that_died_are_removed(tmp_path):
    count(tmp_path, 2)
    rest = tmp_path / ".passing-0123"
    rest.mkdir()
    (rest / "shard-00000.safetensors").write_bytes(b"half")
    count(tmp_path, 3, resume=True)
    assert names(tmp_path) == [".lock", STEP.format(2), STEP.format(3)]


class TestStates:
    @pytest.mark.parametrize(
        "value",
        [
            0.1 + 0.2,
            -0.0,
            5e-324,
            float("-inf"),
            2**80,
            True,
            "tab\t, é, \U0001f600, \x00",
            (1, (2.0, [None])),
            {"tensor": "x", "float": {"dict": 1}},
            {3: "a", 0: [], "b": {}},
            Tally({4: 2, 1: 1}),
        ],
        ids=repr,
    )
    def test_values_come_back(self, value):
        found = decode(json.loads(json.dumps(encode(value)[0])), {})
        assert repr(found) == repr(value)

    def test_an_ordered_dictionary_is_one(self):
        state = OrderedDict(b=1, a=2)
        assert decode(*encode(state)) == {"b": 1, "a": 2}

    @pytest.mark.parametrize(
        "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16]
    )
    def test_tensors_keep_dtype_and_bits(self, tmp_path, dtype):
        value = torch.arange(6).reshape(2, 3).to(dtype)
        found = self.through_a_file(tmp_path, value)
        assert found.dtype == dtype
        assert torch.equal(found, value)

    def test_payloads_of_nan_come_back(self, tmp_path):
        strange = torch.tensor([0x7FF8000000000123, 0x7FF0000000000001])
        found = self.through_a_file(tmp_path, strange.view(torch.float64))
        assert torch.equal(found.view(torch.int64), strange)

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
    def test_tensors_lie_in_memory_as_before(self, tmp_path, order):
        value = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
        value = value.permute(order)
        found = self.through_a_file(tmp_path, value)
        assert torch.equal(found, value)
        assert found.stride() == value.stride()

    def test_expanded_tensors_come_back_whole(self, tmp_path):
        value = torch.arange(3.0).expand(2, 3)
        assert torch.equal(self.through_a_file(tmp_path, value), value)

    def test_tensors_are_aligned_as_those_of_torch(self, tmp_path):
        for size in range(1, 20):
            found = self.through_a_file(tmp_path / str(size), torch.ones(size))
            assert found.data_ptr() % 64 == 0

    def test_tensors_that_share_memory(self, tmp_path):
        whole = torch.arange(4.0)
        first, again = self.through_a_file(tmp_path, [whole[:2], whole])
        assert torch.equal(first, whole[:2])
        assert torch.equal(again, whole)

    @pytest.mark.parametrize(
        "value",
        [print, {1, 2}, {(1, 2): 3}, object(), b"x"],
        ids=["function", "set", "key", "object", "bytes"],
    )
    def test_code_and_other_objects_are_refused(self, value):
        told = rf"has a {type(value).__name__} at 'deep.0'.*never code"
        with pytest.raises(CheckpointError, match=told):
            encode({"deep": [value]})

    @staticmethod
    def through_a_file(folder, value):
        folder.mkdir(exist_ok=True)
        write_checkpoint(folder, 1, {"value": value}, WHOLE.ranks)
        return pj.Checkpoints(folder).load()["value"]


HOLD = """
import sys
import pyro_jarzynski as pj
from tests.runtime.small_states import Counter
with pj.Checkpoints(sys.argv[1], every=1).opened(Counter()):
    print("held", flush=True)
    sys.stdin.read()
"""


class TestOneWriter:
    def test_two_processes(self, tmp_path):
        held = subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert held.stdout.readline() == "held\n"
            told = rf"Another process \({held.pid} on .*\) writes checkpoints into"
            with pytest.raises(CheckpointError, match=told):
                count(tmp_path, 1)
        finally:
            held.kill()
            held.communicate()
        # The lock of a process that has died holds nobody up.
        assert count(tmp_path, 2).step == 2

    def test_two_runs_of_one_process(self, tmp_path):
        told = rf"\({os.getpid()} on"
        with pj.Checkpoints(tmp_path).opened(Counter()):
            with pytest.raises(CheckpointError, match=told):
                count(tmp_path, 1)
            assert pj.Checkpoints(tmp_path).load() is None
        count(tmp_path, 1)

    def test_a_lock_file_of_nobody(self, tmp_path):
        (tmp_path / ".lock").write_text("4711 on another machine")
        assert count(tmp_path, 1).step == 1

    def test_the_lock_ends_with_an_error(self, tmp_path):
        with (
            pytest.raises(ZeroDivisionError),
            pj.Checkpoints(tmp_path).opened(Counter()),
        ):
            raise ZeroDivisionError
        count(tmp_path, 1)

    def test_a_lock_that_is_a_link(self, tmp_path):
        (tmp_path / "victim").write_text("precious")
        (tmp_path / ".lock").symlink_to(tmp_path / "victim")
        with pytest.raises(CheckpointError, match="must be one that can be written"):
            count(tmp_path, 1)
        assert (tmp_path / "victim").read_text() == "precious"

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    def test_a_worker_that_lives_on_does_not_keep_the_lock(self, tmp_path):
        """Workers of data loaders are forks, with copies of all open files."""
        reader, writer = os.pipe()
        with pj.Checkpoints(tmp_path).opened(Counter()):
            worker = os.fork()
            if not worker:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
        os.close(reader)
        try:
            assert count(tmp_path, 1).step == 1
        finally:
            os.close(writer)
            os.waitpid(worker, 0)

    def test_a_file_system_without_locks(self, tmp_path, monkeypatch):
        """Nobody is kept out, and the run goes on."""

        def refuse(file, how):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(lock.fcntl, "flock", refuse)
        assert count(tmp_path, 2).step == 2

    def test_a_system_without_locks(self, tmp_path, monkeypatch):
        monkeypatch.setattr(lock, "fcntl", None)
        assert count(tmp_path, 2).step == 2

    def test_a_lock_that_was_removed_meanwhile_is_none(self, tmp_path, monkeypatch):
        """Between open and lock its owner has cleared the directory."""
        flock = lock.fcntl.flock

        def remove_first(file, how):
            (tmp_path / ".lock").unlink(missing_ok=True)
            flock(file, how)

        monkeypatch.setattr(lock.fcntl, "flock", remove_first)
        with pytest.raises(CheckpointError, match="Another process"):
            count(tmp_path, 1)


@pytest.mark.parametrize(
    "error",
    [KeyError("step"), AttributeError("no step"), ZeroDivisionError("by zero")],
    ids=lambda error: type(error).__name__,
)
def test_a_state_that_the_run_cannot_take(tmp_path, error):
    class Other(Counter):
        def load_state_dict(self, state):
            raise error

    count(tmp_path, 1)
    told = rf"does not fit this run: {type(error).__name__}\("
    with pytest.raises(CheckpointError, match=told):
        Other().count_to(2, pj.Checkpoints(tmp_path, resume=True))
