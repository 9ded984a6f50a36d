"""Run the statistical checks with fresh seeds, and judge how often they fail.

    python -m tests.nightly --runs 20 [--budget-minutes 12] [--state night.json]
        [--only NAME ...] [--first-seed 1]

Run it from the checkout, each night, with the same state file. Prints a Markdown table:
per check, the failures at its declared false-alarm rate and how many of them chance
explains (exact binomial bounds, 1e-3 for the whole table), and the logarithm of its
e-process, which adds up evidence over the nights and alarms falsely with probability 1e-4
in a lifetime. Exits with 1 if a check is beyond its bound or has ever alarmed, with 2 if
the state cannot be used. `FRESH_SEED=… python -m pytest …` repeats a run that failed.
"""

import argparse
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from tests.nightly import eprocess
from tests.nightly.eprocess import Record, StateError
from tests.nightly.posteriors import TRUTH
from tests.nightly.suite import Check, is_exact, suite
from tests.nightly.table import Outcomes, beyond, summary, table
from tests.seeds import VARIABLE


def run_once(
    checks: dict[str, Check], seed: int, found: dict[str, Outcomes]
) -> dict[str, float]:
    """Run all checks with one seed, and return their p-values; an error is a failure."""
    p_values = {}
    with patch.dict(os.environ, {VARIABLE: str(seed)}):
        for name, check in checks.items():
            try:
                p_values[name] = check()
            # What pytest fails with is no `Exception`.
            except (Exception, pytest.fail.Exception) as error:
                found[name].errors.append(f"{type(error).__name__}: {error}")
                p_values[name] = 0.0
            found[name].add(p_values[name], seed)
    return p_values


def run(
    checks: dict[str, Check], seeds: Iterator[int], state: Path | None = None
) -> tuple[dict[str, Outcomes], dict[str, Record]]:
    """Run all checks with each seed; the state is saved after every one."""
    found = {name: Outcomes() for name in checks}
    records = eprocess.load(state)
    for seed in seeds:
        for name, p in run_once(checks, seed, found).items():
            if not is_exact(name):
                records.setdefault(name, Record()).update(p)
        eprocess.save(state, records)
    return found, records


def seeds_within(
    num_runs: int,
    minutes: float,
    first: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[int]:
    """Yield fresh seeds, until the time for another run would be too short."""
    start, longest = clock(), 0.0
    for index in range(num_runs):
        begun = clock()
        if index and begun - start + longest > 60 * minutes:
            return
        yield secrets.randbelow(2**32) if first is None else first + index
        longest = max(longest, clock() - begun)


def report(found: dict[str, Outcomes], records: dict[str, Record]) -> list[str]:
    """Print what was found, and return the checks that are beyond what chance explains."""
    print(table(found, records), "\n")
    print(summary(found))
    for name, outcomes in found.items():
        for seed in outcomes.failed:
            print(f"- {name} failed with {VARIABLE}={seed}")
        for error in outcomes.errors:
            print(f"- {name} raised {error}")
    bad = [name for name, one in found.items() if beyond(name, one, len(found))]
    alarmed = [name for name, record in records.items() if record.alarmed]
    print(f"Beyond the bound: {', '.join(bad) or 'none'}.")
    print(f"Alarms of the e-processes: {', '.join(alarmed) or 'none'}.")
    return bad + alarmed


def main() -> int:
    """Run the checks, and return the status to exit with."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="runs, each with a fresh seed")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"))
    parser.add_argument("--state", type=Path, help="file of the e-processes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of names")
    parser.add_argument("--first-seed", type=int, help="seeds in a row, to repeat a night")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checks = {
        name: check
        for name, check in suite().items()
        if not arguments.only or any(part in name for part in arguments.only)
    }
    if not TRUTH.exists():
        print(f"Left out: the evidence of posteriordb; there is no {TRUTH}.")
    if arguments.runs < 1 or not checks:
        parser.error("there is nothing to run: --runs below 1, or no check of that name.")
    seeds = seeds_within(arguments.runs, arguments.budget_minutes, arguments.first_seed)
    try:
        found, records = run(checks, seeds, arguments.state)
    except StateError as error:
        print(error, file=sys.stderr)
        return 2
    return 1 if report(found, records) else 0


if __name__ == "__main__":
    sys.exit(main())
