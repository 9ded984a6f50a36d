"""Whatever happens to disk or process, the last whole checkpoint is there."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings

import pytest

import pyro_jarzynski as pj
from pyro_jarzynski.errors import CheckpointError
from pyro_jarzynski.runtime import checkpoint_files, disk
from pyro_jarzynski.runtime.checkpoint_files import read_checkpoint
from tests.runtime.small_states import STEP, Counter, Died, FailingDisk, count, use
from tests.runtime.test_resume import assert_same_bits, state_of
from tests.runtime.training_runs import train

LAST = 4


@pytest.fixture
def many_files(monkeypatch):
    monkeypatch.setattr(checkpoint_files, "SHARD_SIZE", 50)
    monkeypatch.setattr(disk, "CHUNK", 200)


class Watched(Counter):
    """A run that takes note of the steps whose checkpoints were whole."""

    whole = 0

    def count_to(self, last, checkpoints):
        with checkpoints.opened(self) as keep:
            while self.step < last:
                self.step += 1
                keep(self.step)
                if keep.last_step == self.step:
                    self.whole = self.step
        return self


def number_of_calls(folder, monkeypatch, last=LAST):
    with monkeypatch.context() as patch:
        counted = use(patch, FailingDisk(None))
        count(folder, last)
    return counted.num


@pytest.mark.usefixtures("many_files")
def test_a_process_that_dies_anywhere(tmp_path, monkeypatch):
    """Three ways to die at each call that changes the disk, in four checkpoints."""
    calls = number_of_calls(tmp_path / "counted", monkeypatch)
    tried = 0
    for how in ("before", "half", "after"):
        for at in range(calls):
            folder = tmp_path / f"{how}-{at}"
            run = Watched()
            with monkeypatch.context() as patch:
                use(patch, FailingDisk(at, how))
                with pytest.raises(Died):
                    run.count_to(LAST, pj.Checkpoints(folder, every=1))
            tried += 1
            with warnings.catch_warnings(), monkeypatch.context() as patch:
                # What is there is whole: nothing has to be refused.
                warnings.simplefilter("error")
                use(patch, FailingDisk(None))
                found = pj.Checkpoints(folder).load()
                kept = [read_checkpoint(path) for path in folder.glob("step-*")]
                assert len(kept) >= min(2, run.whole)
                assert (found["step"] if found else 0) in (run.whole, run.step)
                assert count(folder, LAST, resume=True).step == LAST
            left = {path.name for path in folder.iterdir()}
            if run.whole < LAST:
                assert left == {".lock", STEP.format(LAST - 1), STEP.format(LAST)} or (
                    found is not None and found["step"] == LAST
                )
            shutil.rmtree(folder)
    assert tried >= 200, tried


@pytest.mark.usefixtures("many_files")
def test_a_disk_that_fails_once_anywhere(tmp_path, monkeypatch):
    """The run goes on, says so, and the next checkpoint is whole."""
    calls = number_of_calls(tmp_path / "counted", monkeypatch)
    for at in range(calls):
        folder = tmp_path / str(at)
        run = Watched()
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            use(patch, FailingDisk(at))
            run.count_to(LAST, pj.Checkpoints(folder, every=1))
        assert run.step == LAST
        assert run.whole >= LAST - 1
        kept = [str(w.message) for w in told if w.category is pj.CheckpointWarning]
        assert len(kept) == len(told) <= 1
        assert all("Input/output error. The run goes on" in message for message in kept)
        found = pj.Checkpoints(folder).load()
        assert found["step"] in (run.whole, LAST)
        shutil.rmtree(folder)


def test_all_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """What a loss of power may leave, as far as the order of calls tells."""
    watched = use(monkeypatch, FailingDisk(None))
    count(tmp_path, 1)
    file, names = ["open", "write", "fsync"], ["open", "fsync"]
    assert watched.called == ["mkdir", *file, *file, *names, "rename", *names]


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    run = Watched()
    use(monkeypatch, FailingDisk(30, "full"))
    with pytest.warns(pj.CheckpointWarning) as told:
        run.count_to(9, pj.Checkpoints(tmp_path, every=1))
    assert run.step == 9
    message = str(told[-1].message)
    assert "checkpoint of step 9" in message
    assert "No space left on device. The run goes on and tries again" in message
    assert f"the last that is kept is that of step {run.whole}" in message
    assert pj.Checkpoints(tmp_path).load()["step"] == run.whole > 0
    # Nothing of what did not fit is left to fill the disk.
    assert not list(tmp_path.glob(".passing-*"))


def test_a_lack_of_memory(tmp_path, monkeypatch):
    def pack(tensors):
        raise MemoryError

    run = Counter()
    with pj.Checkpoints(tmp_path, every=1).opened(run) as keep:
        with monkeypatch.context() as patch:
            patch.setattr(disk, "pack", pack)
            with pytest.warns(pj.CheckpointWarning, match=r"MemoryError\(\)\. The run"):
                keep(1)
        assert not list(tmp_path.glob(".passing-*"))
        run.step = 2
        keep(2)
    assert pj.Checkpoints(tmp_path).load()["step"] == 2


def test_a_limit_on_the_size_of_files(tmp_path):
    """A true error of the system, in a process of its own."""
    program = (
        "import resource, sys, warnings\n"
        "from tests.runtime.small_states import count\n"
        "warnings.simplefilter('always')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "print(count(sys.argv[1], 3).step)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "3\n"
    assert "File too large. The run goes on" in done.stderr
    assert "the last that is kept is none" in done.stderr


def test_a_directory_that_becomes_read_only(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    run = Counter()
    with pj.Checkpoints(tmp_path, every=1).opened(run) as keep:
        run.step = 1
        keep(1)
        with monkeypatch.context() as patch:
            patch.setattr(disk, "make", refuse)
            run.step = 2
            with pytest.warns(pj.CheckpointWarning, match="Read-only file system.*step 1"):
                keep(2)
        run.step = 3
        keep(3)
    assert pj.Checkpoints(tmp_path).load()["step"] == 3


def test_a_directory_that_cannot_be_made_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"must be one that can be written, got"):
        count(tmp_path / "file" / "kept", 1)


def test_a_run_goes_on_from_a_read_only_directory(tmp_path):
    count(tmp_path, 2)
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write anywhere")
    assert pj.Checkpoints(tmp_path).load()["step"] == 2
    with pytest.warns(pj.CheckpointWarning, match=r"Permission denied\. The run goes on"):
        assert count(tmp_path, 3, resume=True).step == 3
    tmp_path.chmod(0o700)


@pytest.fixture
def small(tmp_path):
    count(tmp_path, 1)
    folder = tmp_path / STEP.format(1)
    return {path: path.read_bytes() for path in sorted(folder.iterdir())}


def is_refused(folder):
    try:
        read_checkpoint(folder)
    except CheckpointError:
        return True
    return False


def test_flipped_bits_are_found(small):
    """Five hundred at random places, of the manifest and of the tensors."""
    chance = random.Random(0)
    folder = next(iter(small)).parent
    assert read_checkpoint(folder)[0]["step"] == 1
    for number in range(500):
        path, content = chance.choice(list(small.items()))
        damaged = bytearray(content)
        bit = chance.randrange(8 * len(damaged))
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert is_refused(folder), f"bit {bit} of {path.name} in try {number}"
        path.write_bytes(content)


def test_truncated_and_longer_files_are_found(small):
    folder = next(iter(small)).parent
    for path, content in small.items():
        for size in [*range(0, len(content), 97), len(content) - 1]:
            path.write_bytes(content[:size])
            assert is_refused(folder), f"{size} bytes of {path.name}"
        path.write_bytes(content + b"\n")
        assert is_refused(folder)
        path.write_bytes(content)
    assert read_checkpoint(folder)[0]["step"] == 1


def test_how_much_of_a_file_is_missing_is_told(small):
    path = next(path for path in small if path.suffix == ".safetensors")
    path.write_bytes(small[path][:50])
    with pytest.raises(CheckpointError, match=f"has 50 of {len(small[path])} bytes"):
        read_checkpoint(path.parent)


TRAIN = """
import sys
from tests.runtime.training_runs import train
train("Muon, blocks, renewal", sys.argv[1], resume=True, steps=100_000)
"""


def reached(folder):
    return max((int(path.name[5:]) for path in folder.glob("step-*")), default=0)


def kill_at_random_moments(folder, times, seed):
    """Let a training go on until it has made some way, and kill it, again and again."""
    chance = random.Random(seed)
    for _ in range(times):
        before = reached(folder)
        process = subprocess.Popen(
            [sys.executable, "-c", TRAIN, folder], stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and reached(folder) == before:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        _, told = process.communicate()
        assert process.returncode == -signal.SIGKILL, told


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.AuditWarning")
@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_training_that_is_killed_at_random_moments(tmp_path, times):
    """In the end it is where it would be had nobody killed it."""
    kill_at_random_moments(tmp_path, times, seed=times)
    last, name = reached(tmp_path) + 2, "Muon, blocks, renewal"
    with warnings.catch_warnings():
        # Nothing that is there has to be refused.
        warnings.simplefilter("error", pj.CheckpointWarning)
        resumed = train(name, tmp_path, resume=True, steps=last)
    assert_same_bits(state_of(train(name, steps=last)), state_of(resumed))


def test_a_step_is_not_written_twice_where_only_its_name_was_not_waited_for(
    tmp_path, monkeypatch
):
    """The last call of the system fails, and the same step is asked for again."""
    calls = number_of_calls(tmp_path / "counted", monkeypatch, 1)
    run, folder = Counter(), tmp_path / "kept"
    with (
        pj.Checkpoints(folder, every=1).opened(run) as keep,
        monkeypatch.context() as patch,
    ):
        run.step = 1
        use(patch, FailingDisk(calls - 1))
        with pytest.warns(pj.CheckpointWarning, match="Input/output error"):
            keep(1)
        before = (folder / STEP.format(1)).stat().st_mtime_ns
        again = use(patch, FailingDisk(None))
        keep(1)
    assert again.called == ["open", "fsync"]
    assert (folder / STEP.format(1)).stat().st_mtime_ns == before
    assert pj.Checkpoints(folder).load()["step"] == 1


def test_what_cannot_be_removed_is_left_to_the_next(tmp_path, monkeypatch):
    """A full disk is told, and not that its rests could not be removed."""

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    run = Counter()
    with pj.Checkpoints(tmp_path, every=1).opened(run) as keep:
        run.step = 1
        with monkeypatch.context() as patch:
            failing = use(patch, FailingDisk(1, "full"))
            patch.setattr(disk, "remove", refuse)
            with pytest.warns(pj.CheckpointWarning, match="No space left on device"):
                keep(1)
        assert failing.called
        assert list(tmp_path.glob(".passing-*"))
        run.step = 2
        keep(2)
    assert not list(tmp_path.glob(".passing-*"))


def test_a_directory_that_another_has_removed(tmp_path):
    disk.remove(tmp_path / "gone")
