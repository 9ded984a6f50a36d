"""Trainings with processes that load data, which receive signals: a program of its own.

    python -m tests.runtime.signalled FOLDER

Each training is a process with a group of its own, whose signals reach the loading
processes as well. Prints the exit status and the checkpoints of each.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

import pyro_jarzynski as pj
from tests.ebm.models import mixture_data, mixture_learner

# How loading processes are started, and whether before `fit`.
KINDS: dict[str, dict[str, Any]] = {
    "fork": {},
    "spawn": {"multiprocessing_context": "spawn"},
    "persistent": {"persistent_workers": True},
}
CASES = [
    (kind, number, target)
    for kind in KINDS
    for number in (signal.SIGINT, signal.SIGTERM)
    for target in ("process", "group")
    # What a signal to the process does is the same, however others were started.
    if kind == "fork" or target == "group"
]


def name_of(case: tuple[str, signal.Signals, str]) -> str:
    kind, number, target = case
    return f"{kind}, {number.name} to the {target}"


def train(kind: str, folder: Path, ready: int) -> None:
    """Train without end, and write a byte when an update is made."""
    loader = DataLoader(mixture_data(100), 10, shuffle=True, num_workers=1, **KINDS[kind])
    if kind == "persistent":
        next(iter(loader))

    def callback(learner: Any, row: Any) -> None:
        if learner.num_steps == 15:
            os.write(ready, b".")

    mixture_learner().fit(
        loader,
        10**6,
        eval_every=1,
        callbacks=[callback],
        checkpoints=pj.Checkpoints(folder, every=10**9),
    )


def outcome(case: tuple[str, signal.Signals, str], folder: Path) -> dict[str, Any]:
    """Send the signal of a case to a training; return how it ended and what it left."""
    kind, number, target = case
    is_ready, ready = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.setsid()
            train(kind, folder, ready)
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except SystemExit as stop:
            code = int(stop.code or 0)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(ready)
    os.read(is_ready, 1)
    os.close(is_ready)
    (os.killpg if target == "group" else os.kill)(process, number)
    _, status = os.waitpid(process, 0)
    kept = pj.Checkpoints(folder)
    state = kept.load() if kept.steps else None
    return {
        "code": os.waitstatus_to_exitcode(status),
        "steps": kept.steps,
        "updates": state and state["num_steps"],
    }


def main(folder: str) -> None:
    found = {
        name_of(case): outcome(case, Path(folder) / str(number))
        for number, case in enumerate(CASES)
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
