"""Trainings of every kind, to be interrupted and gone on with."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR, SequentialLR
from torch.utils.data import DataLoader, TensorDataset

import pyro_jarzynski as pj
from tests.ebm.models import mixture_data, mixture_learner, network_model

STEPS, ROW = 30, 4


def train(
    name: str,
    folder: Any = None,
    *,
    steps: int = STEPS,
    resume: bool = False,
    callbacks: tuple = (),
    every: int = 1,
) -> pj.JarzynskiLearner:
    """Build a training afresh, as a new process would, and fit it."""
    build, settings = RUNS[name]
    learner, data = build()
    kept = None
    if folder is not None:
        kept = pj.Checkpoints(folder, every=every, keep=100, resume=resume)
    arguments = {"eval_every": ROW, "checkpoints": kept, "callbacks": callbacks}
    learner.fit(data, steps, **(arguments | settings))
    return learner


def mixture(**settings: Any) -> Callable[[], Any]:
    return lambda: (mixture_learner(seed=3, **settings), mixture_data(100))


def by_scheduler(make: Callable[[Any], Any]) -> Callable[[], Any]:
    def build() -> Any:
        model = network_model()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        learner = pj.JarzynskiLearner(
            model,
            optimizer,
            num_walkers=60,
            audit_walkers=40,
            kernel=pj.MALA(0.3),
            lr_scheduler=make(optimizer),
        )
        return learner, mixture_data(100).float()

    return build


def muon() -> Any:
    model = network_model(hidden=8)
    optimizer = pj.muon_and_adam(model)
    fall = LambdaLR(optimizer, lambda step: 0.9**step)
    learner = pj.JarzynskiLearner(
        model,
        optimizer,
        num_walkers=64,
        walker_batch_size=16,
        audit_walkers=40,
        kernel=pj.HMC(0.2, 3),
        lr_scheduler=fall,
        renewal=pj.Renewal(every=7, num_temperatures=3, num_moves=1),
    )
    return learner, mixture_data(100).float()


def loader() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(mixture_data(100))
    return DataLoader(data, batch_size=30, shuffle=True, generator=generator)


class Jittered:
    """A loader that draws noise with every batch, by a generator of its own."""

    def __init__(self) -> None:
        self.data, self.generator = mixture_data(100), torch.Generator().manual_seed(5)

    def __iter__(self) -> Any:
        for batch in self.data.split(30):
            noise = torch.randn(batch.shape, generator=self.generator, dtype=batch.dtype)
            yield batch + noise / 10


def loaded(data: Callable[[], Any], **settings: Any) -> Callable[[], Any]:
    return lambda: (mixture_learner(seed=3, **settings), data())


SHUFFLED = {"batch_size": 30}
GOAL = {"validation": mixture_data(seed=3)[:50] * 0.6, "batch_size": 30}
# The model moves away from these from its first update on.
WORSE = {"validation": mixture_data(50) * 0, "batch_size": 30, "patience": 8}
RUNS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "ULA": (mixture(kernel=pj.ULA(0.1), ess_threshold=0.99), SHUFFLED),
    "MALA": (mixture(kernel=pj.MALA(0.3), moves_per_update=2), SHUFFLED),
    "HMC": (mixture(kernel=pj.HMC(0.2, 3), chunk_size=33), SHUFFLED),
    "underdamped": (mixture(kernel=pj.UnderdampedLangevin(0.2)), SHUFFLED),
    "blocks": (mixture(kernel=pj.MALA(0.3), walker_batch_size=30), GOAL),
    "lazy audit": (mixture(kernel=pj.MALA(0.3), audit_every=5), SHUFFLED),
    "fast": (mixture(kernel=pj.MALA(0.3), learning_rate=0.8, conditional_ess=0.99), GOAL),
    "patience": (mixture(learning_rate=0.2), WORSE),
    "PCD": (mixture(kind=pj.PersistentContrastiveDivergence), SHUFFLED),
    "CD": (mixture(kind=pj.ContrastiveDivergence, restart_every=3), SHUFFLED),
    "Adam, cosine": (by_scheduler(lambda o: CosineAnnealingLR(o, STEPS)), SHUFFLED),
    "Adam, steps": (by_scheduler(lambda o: MultiStepLR(o, [5, 9])), SHUFFLED),
    "Adam, sequence": (
        by_scheduler(
            lambda o: SequentialLR(
                o, [LambdaLR(o, lambda k: k / 5), CosineAnnealingLR(o, 20)], [6]
            )
        ),
        SHUFFLED,
    ),
    "Muon, blocks, renewal": (muon, SHUFFLED),
    "loader": (loaded(loader), {}),
    "noisy loader": (loaded(Jittered), {}),
    "noisy loader, CD": (loaded(Jittered, kind=pj.ContrastiveDivergence), {}),
    "list of batches": (loaded(lambda: list(mixture_data(100).split(30))), {}),
}
