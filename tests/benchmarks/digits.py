"""Test NLL of one network on the digits, trained in several ways at equal gradients.

    python tests/benchmarks/digits.py [--seeds 5] [--methods jarzynski pcd denoising]

Every method trains the same energy from the same start on batches of the same data, until
a budget of rows (data, walkers or noise) has passed forward and backward through the
network; a derivative of a derivative counts as two. The learning rate is held and then
falls linearly to zero. A method that overfits long before is given a smaller budget.

An annealed check, which knows nothing of the training, gives `log Z` at some marks on the
way; the mark of the lowest validation NLL is kept, and a long check gives its test NLL.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from digits_rivals import Denoising, NoiseContrast, Sliced, mixture
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.optim.lr_scheduler import LambdaLR

import pyro_jarzynski as pj
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.data import DequantisedBatches, load_digits
from pyro_jarzynski.experiments.mixture import LEARNERS

BATCH, AUDIT_WALKERS = 256, 512
MARKS = (0.25, 0.5, 0.75, 1.0)
SHORT = {"num_temperatures": 200, "num_walkers": 384, "num_moves": 3}
LONG = {"num_temperatures": 500, "num_walkers": 1024, "num_moves": 5}
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
    """

    kind: str
    rate: float
    budget: float = 10.24
    hold: float = 0.3
    walkers: int = 512
    moves: int = 2
    ratio: int = 1
    components: int = 0
    scale: float = 0.3

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


METHODS = {
    "jarzynski": Setting("jarzynski", 4e-4),
    "pcd": Setting("pcd", 4e-4),
    "cd": Setting("cd", 4e-4),
    "nce": Setting("nce", 3e-4, budget=1.0),
    "nce-mixture": Setting("nce", 3e-4, budget=1.0, components=10),
    "denoising": Setting("denoising", 1e-3, budget=1.0),
    "sliced": Setting("sliced", 1e-4, budget=1.0),
}


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
        optimizer = torch.optim.Adam(model.parameters(), setting.rate)
        self.learner = LEARNERS[setting.kind](
            model,
            optimizer,
            num_walkers=setting.walkers,
            audit_walkers=AUDIT_WALKERS,
            kernel=pj.MALA(0.3),
            moves_per_update=setting.moves,
            lr_scheduler=falling(optimizer, setting),
            seed=seed,
        )
        self.batches = digits.batches(seed)

    def train(self, updates: int) -> None:
        self.learner.fit(self.batches, updates, eval_every=50)

    def log_z(self) -> float:
        return self.learner.log_normalizer


class ByLoss:
    """Adam on a loss that needs no walkers, so that no audit runs beside it."""

    def __init__(self, model: pj.EnergyModel, setting: Setting, digits: Digits, seed: int):
        self.model, self.loss = model, loss_of(setting, digits)
        parameters = [*model.parameters(), *self.loss.parameters()]
        self.optimizer = torch.optim.Adam(parameters, setting.rate)
        self.scheduler = falling(self.optimizer, setting)
        self.source = endless(digits.batches(seed))
        torch.manual_seed(seed)

    def train(self, updates: int) -> None:
        for _ in range(updates):
            self.optimizer.zero_grad()
            self.loss(self.model, next(self.source)).backward()
            self.optimizer.step()
            self.scheduler.step()

    def log_z(self) -> float:
        return math.nan


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


def falling(optimizer: torch.optim.Optimizer, setting: Setting) -> LambdaLR:
    """Return a schedule that holds the rate and then lets it fall linearly to zero."""
    fall = setting.updates * (1 - setting.hold)
    return LambdaLR(optimizer, lambda k: min(1.0, (setting.updates - k) / fall))


def endless(batches: DequantisedBatches) -> Iterator[Tensor]:
    while True:
        yield from batches


class Score(NamedTuple):
    """NLLs in nats by a check with its standard error; `log_z` is the audit's less its."""

    at: float
    validation: float
    test: float
    error: float
    log_z: float = math.nan


def check(model: pj.EnergyModel, digits: Digits, at: float, **settings: int) -> Score:
    """Return the NLLs by annealed walkers, whose seed no training has used."""
    walkers = pj.annealed_walkers(model, num_pilot_walkers=64, seed=777, **settings)
    log_z, error = float(walkers.log_normalizer), float(walkers.log_normalizer_error)
    with torch.no_grad():
        validation, test = (
            float(model(x).double().mean()) + log_z
            for x in (digits.validation, digits.test)
        )
    return Score(at, validation, test, error, -log_z)


def run(setting: Setting, digits: Digits, seed: int) -> dict[str, Any]:
    """Train by one method; return the score at every mark and a long check of the best."""
    model = pj.EnergyModel(pj.MLP([64, 256, 256], seed=seed), BASE)
    kind = ByWalkers if setting.kind in LEARNERS else ByLoss
    trainer, scores, best = kind(model, setting, digits, seed), list[Score](), {}
    start, done = time.process_time(), 0
    for mark in MARKS:
        to_do = int(mark * setting.updates) - done
        try:
            trainer.train(to_do)
            score = check(model, digits, mark, **SHORT)
        except pj.JarzynskiError as error:
            print(f"{setting.kind} ended before {mark}: {error}")
            break
        done += to_do
        scores.append(score._replace(log_z=trainer.log_z() + score.log_z))
        if scores[-1] is min(scores, key=lambda s: s.validation):
            best = deepcopy(model.state_dict())
    model.load_state_dict(best)
    kept = min(scores, key=lambda s: s.validation)
    return {
        "seed": seed,
        "seconds": time.process_time() - start,
        "kept": check(model, digits, kept.at, **LONG)._replace(log_z=kept.log_z),
        "scores": scores,
    }


def row(name: str, setting: Setting, runs: Sequence[dict[str, Any]]) -> str:
    """Return the line of the table for one method."""
    kept = [each["kept"] for each in runs]
    tests = [score.test for score in kept]
    spread = statistics.stdev(tests) if len(tests) > 1 else math.nan
    used = statistics.mean(score.at for score in kept) * setting.updates
    cells = [
        name,
        f"{setting.rate:g}",
        f"{setting.rows}",
        f"{used:.0f}",
        f"{1e-6 * used * setting.rows:.1f}",
        f"{statistics.mean(tests):.2f} ± {spread:.2f}",
        f"{max(score.error for score in kept):.2f}",
        f"{max(abs(score.log_z) for score in kept):.2f}",
        f"{statistics.mean(each['seconds'] for each in runs):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


HEAD = """\
| method | rate | rows per update | updates | million rows | test NLL, ± sd over seeds \
| error of the check | largest error of the audit | CPU, s |
|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5, help="runs per method")
    parser.add_argument("--set", nargs="*", default=[], help="name=number of a setting")
    parser.add_argument("--out", help="file to which every run is appended as JSON")
    arguments = parser.parse_args()
    changes = {
        name: json.loads(value) for name, value in (x.split("=") for x in arguments.set)
    }
    digits, lines = Digits(), [HEAD]
    for name in arguments.methods:
        setting, runs = replace(METHODS[name], **changes), list[dict[str, Any]]()
        for seed in range(arguments.seeds):
            runs.append(run(setting, digits, seed))
            if arguments.out:
                with open(arguments.out, "a", encoding="utf-8") as file:
                    file.write(
                        json.dumps({"name": name, **asdict(setting), **runs[-1]}) + "\n"
                    )
        lines.append(row(name, setting, runs))
        print(lines[-1], flush=True)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
