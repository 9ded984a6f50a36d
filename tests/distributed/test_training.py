"""Trainings have the same bits on any number of ranks, and go on on another number."""

import pytest
import torch
from safetensors.torch import load_file

from pyro_jarzynski import Checkpoints
from pyro_jarzynski.core.sharing import sharing
from tests.distributed.launch import run
from tests.distributed.trainings import STEPS, outcome
from tests.runtime.training_runs import RUNS

RESUMED = ("ULA", "blocks", "Muon, blocks, renewal", "underdamped", "PCD")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Runs:
    """What so many ranks come to, each number of them started once."""

    def __init__(self, folder):
        self.folder, self.known = folder, {}

    def kept(self, way, steps):
        """Return trainings that are kept on the way from one number of ranks to another."""
        return [f"{name}:{steps}:{self.folder / way}" for name in RESUMED]

    def names(self, num):
        """Return what so many ranks train, and go on with, and leave to others."""
        further = {2: self.kept("2 to 4", STEPS // 2), 4: self.kept("4 to 1", STEPS // 2)}
        if num == 4:
            self.on(2)
            self.check_halfway("2 to 4")
            further[4] += self.kept("2 to 4", STEPS)
        return [*RUNS, *further.get(num, ())]

    def check_halfway(self, way):
        """Check that what is gone on with is there."""
        for name in RESUMED:
            assert Checkpoints(self.folder / way / name).steps[0] == STEPS // 2

    def on(self, num):
        """Return the outcomes of so many ranks, by name and key."""
        if num not in self.known:
            file = self.folder / f"{num}.safetensors"
            run(num, "tests.distributed.trainings", str(file), *self.names(num))
            self.known[num] = load_file(file)
        return self.known[num]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone():
    """Return what one process comes to, each training made once."""
    known = {}

    def of(name):
        if name not in known:
            with sharing():
                known[name] = outcome(name)
        return known[name]

    return of


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # The walkers of contrastive divergence have no `log Z`, which is NaN.
        assert torch.equal(found[key].nan_to_num(-1), value.nan_to_num(-1)), key


def part(found, name):
    """Return the outcome of one training."""
    return {
        k.removeprefix(f"{name}/"): x for k, x in found.items() if k.startswith(f"{name}/")
    }


@pytest.mark.parametrize("num", [2, 3, 4])
@pytest.mark.parametrize("name", RUNS)
def test_bits_are_those_of_one_process(runs, alone, name, num):
    same(part(runs.on(num), name), alone(name))


@pytest.mark.parametrize("name", RESUMED)
def test_training_of_two_ranks_goes_on_on_four(runs, alone, name):
    (kept,) = (n for n in runs.kept("2 to 4", STEPS) if n.startswith(f"{name}:"))
    same(part(runs.on(4), kept), alone(name))


@pytest.mark.parametrize("name", RESUMED)
def test_training_of_four_ranks_goes_on_on_one(runs, alone, name):
    runs.on(4)
    last = Checkpoints(runs.folder / "4 to 1" / name).steps[0]
    assert last == STEPS // 2
    (kept,) = (n for n in runs.kept("4 to 1", STEPS) if n.startswith(f"{name}:"))
    with sharing():
        same(outcome(kept), alone(name))
