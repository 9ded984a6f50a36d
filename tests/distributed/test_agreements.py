"""Ranks of an annealing stop together, go on together, and say what differs."""

import re
import signal

import pytest
import torch

from pyro_jarzynski.core.interrupt import deferred_interrupt
from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.errors import ArgumentError
from tests.distributed.agreements import KEPT, SCOUTING, Kept, annealing, read
from tests.distributed.annealings import content
from tests.distributed.launch import run

TOLD = {
    "data": r"RankError `y` is 'a torch.float32 tensor \(6,\) \(\w+\)' on rank 1 and",
    "settings": "RankError `max_moves` is 4 on rank 1 and 3 on rank 0: start all ranks",
    "shards": "RankError `num_shards` is 9 on rank 1 and 8 on rank 0",
    "closure": "RankError Rank 1 computed other energies than rank 0 at the same walkers",
    "versions": "RankError `torch` is '2.1' on rank 1 and '2.0' on rank 0",
    "islands": "ArgumentError `num_shards` is 8: it must be a multiple of the 3 islands",
    "few walkers": "ArgumentError .*at most 3 for each of them",
    "online": 'ArgumentError .*Use `adapt="pilot"`',
    "waste-free": "ArgumentError `waste_free` is for one process",
    "interrupted": "KeyboardInterrupt",
    "late": "done",
    "scout": "done",
}

pytestmark = pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.EvidenceWarning")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Return what two ranks print, which is the same, and where their states are."""
    folder = tmp_path_factory.mktemp("states")
    first, second = run(2, "tests.distributed.agreements", str(folder))
    assert first == second
    return first.splitlines(), folder


@pytest.mark.parametrize("name", TOLD)
def test_every_rank_is_told(outcome, name):
    (line,) = [line for line in outcome[0] if line.startswith(f"{name}: ")]
    assert re.search(f"^{name}: {TOLD[name]}", line)


def test_ranks_stop_after_the_same_stage(outcome):
    """By a signal to one rank, and by a clock that is an hour ahead on one rank."""
    stages = [line for line in outcome[0] if line.startswith("stages ")]
    assert stages[:2] == [f"stages {KEPT} False True", "stages 1 False True"]


def test_ranks_give_up_a_scout_together(outcome):
    """Its clock ran out on one rank alone: neither has a learned base."""
    assert "ModelPosterior" in outcome[0]
    learned = annealing(**SCOUTING)()
    assert type(learned.posterior).__name__ == "LearnedPosterior"


def test_a_state_is_gone_on_with_on_other_ranks(outcome):
    """The state of two ranks, on two and in one process: the bits of an unbroken run."""
    lines, folder = outcome
    assert any(line.startswith("resumed True") for line in lines)
    expected = content(annealing()())
    found = content(annealing(checkpoints=Kept(read(folder, 2)))())
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_state_of_other_shards_is_refused(outcome):
    state = read(outcome[1], 2)
    with pytest.raises(ArgumentError, match="`num_shards` was 8 and is 4"):
        annealing(num_shards=4, checkpoints=Kept(state))()


class TwoRanks(Ranks):
    """A rank of two, the other of which has received a signal or none."""

    def __init__(self, other):
        super().__init__(alone=True)
        self.size, self.other = 2, other

    def largest(self, *numbers):
        return [max(number, self.other) for number in numbers]


def test_a_signal_counts_from_when_all_know_of_it():
    """One that comes between two steps waits until the ranks have asked each other."""
    with deferred_interrupt() as interrupt:
        interrupt.share(TwoRanks(0))
        signal.raise_signal(signal.SIGINT)
        assert not interrupt.pending
        interrupt()
        interrupt.share(TwoRanks(0))
        assert interrupt.pending
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_a_signal_of_another_rank_counts():
    with deferred_interrupt() as interrupt:
        interrupt.share(TwoRanks(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_the_second_signal_is_immediate_on_several_ranks():
    with deferred_interrupt() as interrupt:
        interrupt.share(TwoRanks(0))
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
