"""Ctrl-C waits for the end of a step."""

import signal
import threading

import pytest

from pyro_jarzynski.core.interrupt import deferred_interrupt


def test_interrupt_waits_for_the_check():
    finished = []

    def run():
        with deferred_interrupt() as check:
            check()
            signal.raise_signal(signal.SIGINT)
            finished.append("step")
            check()
            finished.append("next step")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert finished == ["step"]


def test_second_interrupt_is_immediate():
    finished = []

    def run():
        with deferred_interrupt():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            finished.append("step")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert not finished


@pytest.mark.parametrize("error", [None, ValueError])
def test_handler_is_put_back(error):
    before = signal.getsignal(signal.SIGINT)
    try:
        with deferred_interrupt():
            assert signal.getsignal(signal.SIGINT) is not before
            if error:
                raise error
    except ValueError:
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_are_left_alone():
    seen = []

    def work():
        before = signal.getsignal(signal.SIGINT)
        with deferred_interrupt() as check:
            check()
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
