"""A signal leaves a checkpoint, whatever it does to processes that load data."""

import json
import os
import signal
import subprocess
import sys

import pytest

from pyro_jarzynski.core.interrupt import deferred_interrupt
from pyro_jarzynski.core.watching import Abandoned
from tests.runtime.signalled import CASES, name_of


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signalled")
    command = [sys.executable, "-W", "ignore", "-m", "tests.runtime.signalled", folder]
    # A hang ends the test; nothing is measured.
    found = subprocess.run(
        [str(x) for x in command], capture_output=True, text=True, timeout=1800
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_signal_leaves_a_checkpoint(outcomes, case):
    found = outcomes[name_of(case)]
    assert found["code"] == 128 + case[1]
    (step,) = found["steps"]
    assert step == found["updates"] >= 15


def test_a_second_sigterm_changes_nothing():
    """`timeout` sends it to the process, and to its group."""
    with deferred_interrupt(terminate=True) as interrupt:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit):
            interrupt()


def test_ctrl_c_after_sigterm_stops_at_once():
    with deferred_interrupt(terminate=True):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_ends_the_wait_for_a_batch():
    reached = []

    def fetch():
        signal.raise_signal(signal.SIGINT)
        reached.append(1)

    with deferred_interrupt() as interrupt:
        with pytest.raises(Abandoned):
            interrupt.load(fetch)
        assert interrupt.pending
        with pytest.raises(Abandoned):
            interrupt.load(fetch)
    assert reached == []


class TestProcessesThatLoad:
    """torch raises an error in the main thread when a process that loads data ends."""

    @pytest.fixture(autouse=True)
    def _handler_is_restored(self):
        before = signal.getsignal(signal.SIGCHLD)
        yield
        signal.signal(signal.SIGCHLD, before)

    @staticmethod
    def fail(*_):
        raise RuntimeError("DataLoader worker is killed")

    def fetch(self):
        """Install a handler, as torch does when it starts processes."""
        signal.signal(signal.SIGCHLD, self.fail)
        return "batch"

    def test_their_end_does_not_interrupt_an_update(self):
        with deferred_interrupt() as interrupt:
            assert interrupt.load(self.fetch) == "batch"
            signal.raise_signal(signal.SIGCHLD)
            with pytest.raises(RuntimeError, match="is killed"):
                interrupt.load(self.fetch)
            # It is raised once.
            assert interrupt.load(lambda: "next") == "next"
        assert signal.getsignal(signal.SIGCHLD) == self.fail

    def test_their_end_ends_the_wait_for_a_batch(self):
        with deferred_interrupt() as interrupt:
            interrupt.load(self.fetch)
            with pytest.raises(RuntimeError, match="is killed"):
                interrupt.load(lambda: signal.raise_signal(signal.SIGCHLD))

    def test_they_ignore_the_handler_that_they_inherit(self, capfd):
        with deferred_interrupt() as interrupt:
            process = os.fork()
            if process == 0:
                signal.raise_signal(signal.SIGINT)
                os._exit(3 if interrupt.pending else 0)
            _, status = os.waitpid(process, 0)
        assert status == 0
        assert "Ctrl-C" not in capfd.readouterr().err
