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
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from digits_trainers import BASE, ByLoss, ByWalkers, Digits, Setting
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import pyro_jarzynski as pj
from pyro_jarzynski.core.adaptation import adapted
from pyro_jarzynski.errors import AuditWarning
from pyro_jarzynski.experiments.mixture import LEARNERS

MARKS = (0.25, 0.5, 0.75, 1.0)
SHORT = {"num_temperatures": 200, "num_walkers": 384, "num_moves": 3}
LONG = {"num_temperatures": 500, "num_walkers": 1024, "num_moves": 5}
# The audit counts as reporting, not as training.
AUDIT, AUDIT_EVERY = {"num_walkers": 512, "moves_per_update": 3}, 3


# Chosen by the validation NLL of seed 0. Noise contrast and denoising overfit before a
# quarter of the others' budget is spent; `cd`, `nce-mixture` and `sliced` were not tuned.
METHODS = {
    "jarzynski": Setting("jarzynski", 3e-4),
    "pcd": Setting("pcd", 3e-4),
    "cd": Setting("cd", 3e-4),
    "nce-mixture": Setting("nce", 3e-4, budget=1.2, components=10),
    "sliced": Setting("sliced", 1e-4, budget=1.2),
    "nce": Setting("nce", 3e-4, budget=1.2),
    "denoising": Setting("denoising", 1e-3, budget=2.0),
}


class Audited:
    """The running mean of the parameters after each step of an optimiser, and its audit."""

    def __init__(
        self, model: pj.EnergyModel, optimizer: Optimizer, decay: float, seed: int
    ):
        self.model, self.num_steps = model, 0
        self.mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.tracker = pj.LikelihoodTracker(
            self.mean.module, kernel=pj.MALA(0.3), seed=seed, **AUDIT
        )
        optimizer.register_step_post_hook(self)

    def __call__(self, *_: object) -> None:
        self.mean.update_parameters(self.model)
        self.num_steps += 1
        if self.num_steps % AUDIT_EVERY == 0:
            rate = float(self.tracker.update().acceptance_rate)
            # A mean over all walkers: what it owes to one of them hardly moves `log Z`.
            step_size = adapted(self.tracker.cloud.kernel, rate).step_size
            self.tracker.cloud.set_step_size(step_size)


class Score(NamedTuple):
    """What a check found after a share `at` of the updates, in nats.

    Attributes:
        at: The share.
        log_z: By the check.
        error: Its standard error.
        audit: By the audit.
        validation: NLL by the check.
        test: NLL by the check.
    """

    at: float
    log_z: float
    error: float
    audit: float
    validation: float
    test: float


def check(audited: Audited, digits: Digits, at: float, settings: dict[str, int]) -> Score:
    """Score a model by annealed walkers, whose seed no training has used."""
    model = audited.mean.module
    walkers = pj.annealed_walkers(model, num_pilot_walkers=64, seed=777, **settings)
    log_z, error = float(walkers.log_normalizer), float(walkers.log_normalizer_error)
    with torch.no_grad():
        validation, test = (
            float(model(x).double().mean()) + log_z
            for x in (digits.validation, digits.test)
        )
    return Score(at, log_z, error, audited.tracker.log_normalizer, validation, test)


def run(setting: Setting, digits: Digits, seed: int) -> dict[str, Any]:
    """Train by one method; return the score at every mark, and a long check of the best."""
    model = pj.EnergyModel(pj.MLP([64, 256, 256], seed=seed), BASE)
    start, scores, kept = time.process_time(), list[Score](), dict[float, Any]()
    kind = ByWalkers if setting.kind in LEARNERS else ByLoss
    trainer = kind(model, setting, digits, seed)
    audited = Audited(model, trainer.optimizer, setting.average, seed)
    for mark in MARKS:
        try:
            trainer.train(int(mark * setting.updates) - audited.num_steps)
            scores.append(check(audited, digits, mark, SHORT))
        except pj.JarzynskiError as error:
            print(f"{setting.kind} ended before {mark}: {error}", flush=True)
            break
        kept[mark] = deepcopy(audited.mean.state_dict())
    best = min(scores, key=lambda score: score.validation)
    audited.mean.load_state_dict(kept[best.at])
    final = check(audited, digits, best.at, LONG)._replace(audit=best.audit)
    seconds = time.process_time() - start
    return {"seed": seed, "seconds": seconds, "kept": final, "scores": scores}


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
        f"{max(abs(score.audit - score.log_z) for score in kept):.2f}",
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
    # The learners' own audits are cut to a few walkers: another one runs here.
    warnings.simplefilter("ignore", AuditWarning)
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
