"""A resumed training has the batches of the uninterrupted one, or is refused."""

# Users draw from the global generator of NumPy.
# ruff: noqa: NPY002

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import pyro_jarzynski as pj
from pyro_jarzynski.errors import ArgumentError, CheckpointError, DataError
from tests.ebm.models import mixture_learner
from tests.runtime.loaders import (
    BATCH,
    DATA,
    REFUSED,
    REPRODUCED,
    SIZE,
    Buffer,
    Rows,
    seed_all,
)

# An epoch has three batches: resumed at its beginning, within it, and at its end.
STEPS, RESUMED_AFTER = 8, (4, 5, 6)

pytestmark = [
    pytest.mark.filterwarnings("ignore::pyro_jarzynski.AuditWarning"),
    # torch's message about workers and few processors.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


@pytest.fixture(autouse=True)
def _global_generators_are_restored():
    known = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    torch.set_rng_state(known[0])
    np.random.set_state(known[1])
    random.setstate(known[2])


def draw_and_count(data):
    """Return a callback that draws global numbers and sets the epoch of a sampler."""
    sampler = getattr(data, "sampler", None)

    def callback(learner, row):
        torch.rand(1), np.random.rand(), random.random()
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(row["step"] // 3)

    return callback


def train(make, folder=None, steps=STEPS, *, every=1, **settings):
    """Train as a new process would, and return the NLLs of all batches."""
    seed_all()
    data = make()
    learner = mixture_learner(num_walkers=8, audit_walkers=8)
    kept = None if folder is None else pj.Checkpoints(folder, every=every, resume=True)
    arguments = {"eval_every": 1, "callbacks": [draw_and_count(data)]} | settings
    learner.fit(data, steps, checkpoints=kept, **arguments)
    return learner.history["train_nll"]


@pytest.mark.parametrize("name", REPRODUCED)
def test_a_resumed_training_has_the_same_batches(tmp_path, name):
    whole = train(REPRODUCED[name])
    for steps in RESUMED_AFTER:
        folder = tmp_path / str(steps)
        assert train(REPRODUCED[name], folder, steps) == whole[:steps]
        assert train(REPRODUCED[name], folder) == whole


@pytest.mark.parametrize("name", REFUSED)
def test_a_loader_that_cannot_be_repeated_is_refused_at_once(tmp_path, name):
    with pytest.raises(ArgumentError, match=r"^`data` (gives another|is an iterator)"):
        train(REFUSED[name], tmp_path)
    assert len(train(REFUSED[name])) == STEPS


def test_hidden_state_that_shows_later_is_refused_when_resumed(tmp_path):
    """The first batches are the same; from then on they come from the system's entropy."""

    class Late:
        def __iter__(self):
            yield DATA[:BATCH]
            while True:
                yield DATA[np.random.default_rng().permutation(SIZE)[:BATCH]]

    train(Late, tmp_path, 4)
    with pytest.raises(CheckpointError, match=r"batch 4 of the epoch differs"):
        train(Late, tmp_path)


def test_a_buffer_that_a_callback_disturbs_is_refused_when_resumed(tmp_path):
    """What it holds follows from all numbers that were drawn since the epoch began."""

    def make():
        return DataLoader(Buffer(random), BATCH)

    train(make, tmp_path, 6)
    with pytest.raises(CheckpointError, match=r"a callback that draws global numbers"):
        train(make, tmp_path)


def test_numbers_that_a_callback_changes_are_restored(tmp_path):
    class Harder(Rows):
        def __init__(self):
            super().__init__(lambda: 0)
            self.level = 0.0

        def __getitem__(self, row):
            return DATA[row] * (1 + self.level)

    def run(folder, steps):
        data = Harder()

        def callback(learner, row):
            if row["step"] == 4:
                data.level = 0.5

        return train(lambda: DataLoader(data, BATCH), folder, steps, callbacks=[callback])

    whole = run(None, STEPS)
    run(tmp_path, 4)
    assert run(tmp_path, STEPS) == whole


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (lambda: DataLoader(DATA, 20), r"`data\.batch_size` was 30 and is 20"),
        (lambda: DataLoader(DATA, BATCH, drop_last=True), r"`data\.drop_last` was False"),
        (
            lambda: DataLoader(DATA, BATCH, shuffle=True),
            r"`data\.sampler` was 'SequentialSampler' and is 'RandomSampler'",
        ),
        (lambda: DataLoader(DATA + 1, BATCH), r"`data\.dataset` was "),
        (lambda: list(DATA.split(BATCH)), r"`data` was .*DataLoader"),
    ],
)
def test_another_loader_is_named(tmp_path, changed, told):
    train(lambda: DataLoader(DATA, BATCH), tmp_path, 4)
    with pytest.raises(CheckpointError, match=told):
        train(changed, tmp_path)


def test_what_changes_no_batch_may_change(tmp_path):
    whole = train(lambda: DataLoader(DATA, BATCH, shuffle=True))
    train(lambda: DataLoader(DATA, BATCH, shuffle=True), tmp_path, 4)
    with_workers = train(
        lambda: DataLoader(DATA, BATCH, shuffle=True, num_workers=1), tmp_path
    )
    assert with_workers == whole


def test_a_loader_that_fails_leaves_a_checkpoint_before_the_batch(tmp_path):
    class Broken:
        whole = False

        def __iter__(self):
            for number, batch in enumerate(DATA[torch.randperm(SIZE)].split(20)):
                if number == 2 and not Broken.whole:
                    raise OSError("no such file")
                yield batch

    with pytest.raises(OSError, match="no such file"):
        train(Broken, tmp_path, every=1000)
    assert pj.Checkpoints(tmp_path).steps == [2]
    Broken.whole = True
    assert train(Broken, tmp_path) == train(Broken)


def test_an_iterator_that_ends_is_named_without_checkpoints():
    with pytest.raises(DataError, match=r"ended after 3 batches.*cannot be begun again"):
        train(lambda: iter(DATA.split(BATCH)))
