"""Loaders whose order of batches comes from sources of many kinds."""

# Users draw from the global generator of NumPy.
# ruff: noqa: NPY002

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from tests.ebm.models import mixture_data

SIZE, BATCH = 70, 30
DATA = mixture_data(SIZE)
# A generator of the module, which methods below use.
SHARED: np.random.Generator = np.random.default_rng(0)


def seed_all() -> None:
    """Seed all global generators, as the beginning of a program does."""
    global SHARED
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    SHARED = np.random.default_rng(4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_noise(row: Tensor, noise: Any) -> Tensor:
    return row + 0.1 * torch.as_tensor(noise, dtype=row.dtype)


class Rows(Dataset):
    """Data set that adds random noise to each datum."""

    def __init__(self, noise: Callable[[], Any]) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, row: int) -> Tensor:
        return with_noise(DATA[row], self.noise())


class OwnNoise(Dataset):
    """The data with noise by a generator that belongs to the data set."""

    def __init__(self, rng: Any) -> None:
        self.rng = rng

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, row: int) -> Tensor:
        return with_noise(DATA[row], self.rng.random())


class SharedNoise(Dataset):
    """The data with noise by a generator of the module."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, row: int) -> Tensor:
        return with_noise(DATA[row], SHARED.standard_normal(3))


class Stream(IterableDataset):
    """The data in an order of the global generator."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(DATA[torch.randperm(SIZE)])


class Epochs(IterableDataset):
    """The data in an order that follows from the number of the epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.epoch += 1
        return iter(DATA[torch.randperm(SIZE, generator=seeded(self.epoch))])


class Buffer(IterableDataset):
    """The data through a buffer from which a generator draws."""

    def __init__(self, rng: Any) -> None:
        self.rng = rng

    def __iter__(self) -> Iterator[Tensor]:
        held: list[Tensor] = []
        for row in DATA:
            held.append(row)
            if len(held) > 20:
                yield held.pop(self.rng.randrange(len(held)))
        yield from held


class Batches:
    """Batches by a generator that is made anew in every epoch."""

    def __init__(self) -> None:
        self.rng, self.number = random.Random(0), 0

    def __iter__(self) -> Iterator[Tensor]:
        self.rng = random.Random(self.number)
        rows = list(range(SIZE))
        self.rng.shuffle(rows)
        for start in range(0, SIZE, BATCH):
            yield DATA[rows[start : start + BATCH]]
        self.number += 1


class InPlace:
    """Batches of a list that is shuffled in place: its order is a hidden state."""

    def __init__(self) -> None:
        self.rows = list(range(SIZE))

    def __iter__(self) -> Iterator[Tensor]:
        random.shuffle(self.rows)
        for start in range(0, SIZE, BATCH):
            yield DATA[self.rows[start : start + BATCH]]


class Endless:
    """Batches without an end, whose position is in an array."""

    def __init__(self) -> None:
        self.position = np.zeros(1, dtype=int)

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            self.position += 1
            yield DATA[
                torch.randperm(SIZE, generator=seeded(int(self.position[0])))[:BATCH]
            ]


class WithState(Endless):
    """The same, with methods that save and restore the position."""

    def state_dict(self) -> dict[str, int]:
        return {"position": int(self.position[0])}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position[0] = state["position"]


def closure() -> Callable[[list[Tensor]], Tensor]:
    rng = seeded(5)
    return lambda rows: torch.stack(rows) + torch.rand(1, generator=rng, dtype=DATA.dtype)


def generator() -> Iterator[Tensor]:
    while True:
        yield DATA[:BATCH]


def entropy() -> float:
    return np.random.default_rng().random()


def loaded(data: Any, **arguments: Any) -> Callable[[], DataLoader]:
    """Return how to make a loader; functions among the arguments are called then."""

    def make() -> DataLoader:
        made = {k: v() if callable(v) else v for k, v in arguments.items()}
        return DataLoader(data() if callable(data) else data, BATCH, **made)

    return make


def by_batches(**arguments: Any) -> Callable[[], DataLoader]:
    def make() -> DataLoader:
        made = {k: v() for k, v in arguments.items()}
        sampler = BatchSampler(RandomSampler(DATA, **made), BATCH, drop_last=False)
        return DataLoader(TensorDataset(DATA), batch_sampler=sampler)

    return make


WORKERS = {"shuffle": True, "num_workers": 1}
PERSISTENT = WORKERS | {"persistent_workers": True}
# Loaders of which a resumed run has the same batches.
REPRODUCED: dict[str, Callable[[], Iterable]] = {
    "list of batches": lambda: list(DATA.split(BATCH)),
    "tuples with labels": lambda: [(rows, 0) for rows in DATA.split(BATCH)],
    "global generator": loaded(DATA, shuffle=True),
    "generator": loaded(DATA, shuffle=True, generator=seeded),
    "subset, global": loaded(DATA, sampler=lambda: SubsetRandomSampler(range(SIZE))),
    "weighted, global": loaded(
        DATA, sampler=lambda: WeightedRandomSampler(torch.ones(SIZE), SIZE)
    ),
    "weighted, generator": loaded(
        DATA, sampler=lambda: WeightedRandomSampler(torch.ones(SIZE), SIZE, True, seeded())
    ),
    "with replacement": loaded(DATA, sampler=lambda: RandomSampler(DATA, replacement=True)),
    "batch sampler": by_batches(),
    "generator within a batch sampler": by_batches(generator=seeded),
    "random split": loaded(lambda: random_split(DATA, [60, 10], seeded())[0], shuffle=True),
    "subset": loaded(lambda: Subset(DATA, range(40)), shuffle=True),
    "distributed sampler": loaded(
        DATA, sampler=lambda: DistributedSampler(DATA, num_replicas=1, rank=0)
    ),
    "stream": loaded(Stream),
    "stream by epochs": loaded(Epochs),
    "stream through a buffer": loaded(lambda: Buffer(random.Random(0))),
    "noise of torch": loaded(lambda: Rows(lambda: torch.rand(3)), shuffle=True),
    "noise of NumPy": loaded(lambda: Rows(lambda: np.random.rand(3)), shuffle=True),
    "noise of Python": loaded(lambda: Rows(random.random), shuffle=True),
    "generator of NumPy": loaded(lambda: OwnNoise(np.random.default_rng(3))),
    "old generator of NumPy": loaded(lambda: OwnNoise(np.random.RandomState(3))),
    "generator of Python": loaded(lambda: OwnNoise(random.Random(3))),
    "generator of the module": loaded(SharedNoise),
    "generator of a closure": loaded(DATA, collate_fn=lambda: closure()),
    "generator made anew": Batches,
    "state of its own": WithState,
    "workers": loaded(lambda: Rows(lambda: torch.rand(3)), **WORKERS),
    "persistent workers": loaded(DATA, **PERSISTENT),
}
# Loaders with which checkpoints are refused.
REFUSED: dict[str, Callable[[], Iterable]] = {
    "iterator": generator,
    "list shuffled in place": InPlace,
    "position in an array": Endless,
    "entropy": loaded(lambda: Rows(entropy)),
    "noise of persistent workers": loaded(
        lambda: Rows(lambda: torch.rand(3)), **PERSISTENT
    ),
}
