"""How the methods of `digits.py` train: by a learner of the package, or by a loss."""

from dataclasses import dataclass
from itertools import chain, islice, repeat

import torch
from digits_rivals import Denoising, NoiseContrast, Sliced, mixture
from torch import nn
from torch.distributions import Independent, Normal
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import pyro_jarzynski as pj
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.data import DequantisedBatches, load_digits
from pyro_jarzynski.experiments.mixture import LEARNERS

BATCH = 256
BASE = Independent(Normal(torch.zeros(64), torch.ones(64)), 1)


@dataclass(frozen=True)
class Setting:
    """How one method is trained; what a method lacks has no effect on it.

    Attributes:
        kind: `jarzynski`, `pcd`, `cd`, `nce`, `denoising` or `sliced`.
        rate: First learning rate of Adam.
        budget: Rows that pass through the network, in millions.
        hold: Share of the updates for which the rate is held.
        walkers: Walkers that train.
        moves: MALA moves per update.
        ratio: Draws of the noise per datum.
        components: Gaussians of the noise; 0 is the base of the model.
        scale: Standard deviation of the noise of denoising.
        average: Decay of the running mean of the parameters, which is what is scored; with
            0 it is the parameters themselves.
    """

    kind: str
    rate: float
    budget: float = 10.24
    hold: float = 0.5
    walkers: int = 256
    moves: int = 5
    ratio: int = 1
    components: int = 0
    scale: float = 0.3
    average: float = 0.0

    @property
    def rows(self) -> int:
        """Rows of one update."""
        if self.kind in LEARNERS:
            passes = self.moves + (2 if self.kind == "cd" else 1)
            return self.walkers * passes + BATCH
        return BATCH * {"nce": 1 + self.ratio, "denoising": 2, "sliced": 4}[self.kind]

    @property
    def updates(self) -> int:
        """Updates within the budget."""
        return int(1e6 * self.budget / self.rows)


class Digits:
    """The digits in the coordinates of the training."""

    def __init__(self) -> None:
        self.images, fixed = load_digits(), stream(0, "fixed dequantisation")
        place = self.images.whitening.to_coordinates
        self.validation = place(self.images.validation, fixed)
        self.test = place(self.images.test, fixed)

    def batches(self, seed: int) -> DequantisedBatches:
        generator = stream(seed, "dequantisation")
        return DequantisedBatches(
            self.images.train, self.images.whitening, BATCH, generator
        )


class ByWalkers:
    """A learner of the package."""

    def __init__(self, model: pj.EnergyModel, setting: Setting, digits: Digits, seed: int):
        self.optimizer = torch.optim.Adam(model.parameters(), setting.rate)
        self.learner = LEARNERS[setting.kind](
            model,
            self.optimizer,
            num_walkers=setting.walkers,
            audit_walkers=8,
            kernel=pj.MALA(0.3),
            moves_per_update=setting.moves,
            lr_scheduler=falling(self.optimizer, setting),
            seed=seed,
        )
        self.batches = digits.batches(seed)

    def train(self, updates: int) -> None:
        self.learner.fit(self.batches, updates, eval_every=50)


class ByLoss:
    """Adam on a loss that needs no walkers."""

    def __init__(self, model: pj.EnergyModel, setting: Setting, digits: Digits, seed: int):
        self.model, self.loss = model, loss_of(setting, digits)
        parameters = [*model.parameters(), *self.loss.parameters()]
        self.optimizer = torch.optim.Adam(parameters, setting.rate)
        self.scheduler = falling(self.optimizer, setting)
        self.batches = digits.batches(seed)
        torch.manual_seed(seed)

    def train(self, updates: int) -> None:
        endless = chain.from_iterable(repeat(self.batches))
        for batch in islice(endless, updates):
            self.optimizer.zero_grad()
            self.loss(self.model, batch).backward()
            self.optimizer.step()
            self.scheduler.step()


def loss_of(setting: Setting, digits: Digits) -> nn.Module:
    if setting.kind == "denoising":
        return Denoising(setting.scale)
    if setting.kind == "sliced":
        return Sliced()
    noise = BASE
    if setting.components:
        many = torch.cat([x for _ in range(8) for x in digits.batches(1)])
        noise = mixture(many, setting.components)
    return NoiseContrast(noise, setting.ratio)


def falling(optimizer: Optimizer, setting: Setting) -> LambdaLR:
    """Return a schedule that holds the rate and then lets it fall linearly to zero."""
    fall = setting.updates * (1 - setting.hold)
    return LambdaLR(optimizer, lambda k: min(1.0, (setting.updates - k) / fall))
