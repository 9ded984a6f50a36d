"""Evidence work of this package and of others: variance of `log Ẑ` times seconds per run.

    python tests/benchmarks/inference_rivals.py --out DIR [--seeds 32] [--slow-seeds 8]
        [--ionosphere FILE] [--only PROBLEM ...] [--samplers NAME ...] [--jit]

Writes `DIR/inference.md`, `.json` and `.png`; run again with other problems or samplers,
it adds to them. One process on one core and one thread for all; rivals take turns seed by
seed. Seconds are those of the process, medians over seeds; wall time is in the JSON file.
The first run, with compilation by this process and its children into an empty cache, is
told as `cold`; what another sampler has compiled for the same shapes is there by then.
Packages that are not installed are named and left out: blackjax, jax, pymc, particles
(whose file of the Sonar data is read).
The Ionosphere data come with none of them: `--ionosphere` names the file of the UCI
repository, `ionosphere.data`.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from one_core import one_core

one_core()
import torch  # noqa: E402
from inference_models import sonar_file  # noqa: E402
from inference_problem import Problem  # noqa: E402
from inference_problems import problems  # noqa: E402
from inference_report import picture, table  # noqa: E402
from inference_samplers import (  # noqa: E402
    Run,
    Sampler,
    Tempered,
    annealed,
    blackjax_smc,
    particles_smc,
    pymc_smc,
)

import pyro_jarzynski as pj  # noqa: E402

# By `inference_tuning.py`, on the same problems.
TUNED = {
    "sonar": Tempered(step=0.1, leapfrog=5, ess=0.8),
    "mixture": Tempered(step=0.2, ess=0.8),
    "eight schools": Tempered(step=0.1, leapfrog=5),
    "seeds": Tempered(step=0.3, leapfrog=3, moves=5, covariance=True),
    "": Tempered(step=0.5, leapfrog=3, moves=5, covariance=True),
}
COLD_SEED = 10_000


def samplers(*, jit: bool) -> list[Sampler]:
    """Return the rivals; with `jit` ours also compiled, and then get few seeds without."""
    # Many walkers where the model is small, so that Python does not count.
    ours: dict[str, dict[str, Any]] = {
        "ours": {},
        "ours, HMC": {"kernel": pj.HMC()},
        "ours, 16384 walkers": {"num_walkers": 16384},
    }
    compiled = [
        annealed(f"{name}, compiled", **options, jit_compile=True)
        for name, options in ours.items()
    ]
    return [
        *(annealed(name, slow=jit, **options) for name, options in ours.items()),
        *(compiled if jit else []),
        blackjax_smc("blackjax", {"": Tempered()}),
        blackjax_smc("blackjax, tuned", TUNED),
        pymc_smc(),
        particles_smc(),
    ]


def spent() -> float:
    """Return the seconds of processors that this process and its children have used."""
    return sum(os.times()[:4])


def timed(run: Run, seed: int) -> dict[str, float]:
    """Run once, and tell the estimate, points evaluated, and seconds."""
    process, wall = spent(), time.perf_counter()
    found = run(seed)
    return {
        "seed": seed,
        "log_evidence": found.log_evidence,
        "evaluations": found.evaluations,
        "stages": found.stages,
        "process_seconds": spent() - process,
        "wall_seconds": time.perf_counter() - wall,
    }


def compare(problem: Problem, rivals: list[Sampler], seeds: int, slow: int) -> list[dict]:
    """Return a record per rival: its first run, and its runs in turn with the others'."""
    records: list[dict[str, Any]] = []
    ready: list[tuple[Run, dict[str, Any]]] = []
    for rival in rivals:
        record: dict[str, Any] = {
            "problem": problem.name,
            "truth": problem.log_evidence,
            "truth_error": problem.evidence_error,
            "sampler": rival.name,
            "settings": rival.settings,
            "seeds": slow if rival.slow else seeds,
            "runs": [],
        }
        records.append(record)
        try:
            run = rival.prepare(problem)
            record["cold"] = timed(run, COLD_SEED)
        except (ValueError, ArithmeticError, RuntimeError, TypeError) as error:
            record["failed"] = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"{problem.name}, {rival.name}: {record['failed']}", flush=True)
        else:
            ready.append((run, record))
    for seed in range(seeds):
        for run, record in ready:
            if seed < record["seeds"]:
                record["runs"].append(timed(run, seed))
    return records


def versions(rivals: list[Sampler]) -> dict[str, str]:
    """Return the versions of what is compared, and of what it runs on."""
    named = {rival.package: rival.version for rival in rivals}
    found = {name: known for name, known in named.items() if known is not None}
    if "blackjax" in found:
        found["jax"] = version("jax")
    machine = {"torch": torch.__version__, "python": platform.python_version()}
    return found | machine


def merge(path: Path, records: list[dict], known_versions: dict[str, str]) -> dict:
    """Add records to those of a file, in place of older ones of the same pair."""
    before = json.loads(path.read_text()) if path.exists() else {"records": []}
    new = {(r["problem"], r["sampler"]) for r in records}
    kept = [r for r in before["records"] if (r["problem"], r["sampler"]) not in new]
    return {"versions": known_versions, "records": kept + records}


def main() -> None:
    """Measure, and write table, records and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--slow-seeds", type=int, default=8, help="of pymc, particles")
    parser.add_argument("--ionosphere", type=Path, help="file of the UCI repository")
    parser.add_argument("--only", nargs="+", metavar="PROBLEM")
    parser.add_argument("--samplers", nargs="+", metavar="NAME")
    parser.add_argument("--jit", action="store_true", help="ours compiled, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rivals = samplers(jit=arguments.jit)
    if arguments.samplers:
        rivals = [rival for rival in rivals if rival.name in arguments.samplers]
    for rival in [rival for rival in rivals if rival.version is None]:
        print(f"{rival.package} is not installed: no row of {rival.name}.")
    rivals = [rival for rival in rivals if rival.version is not None]
    sonar = sonar_file()
    if sonar is None:
        print("The Sonar data are not here: install `particles`, which has them.")
    if arguments.ionosphere is None:
        print("The Ionosphere data are not here: name them by `--ionosphere`.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "inference.json"
    for problem in problems(sonar, arguments.ionosphere):
        if arguments.only and problem.name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as empty:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
            records = compare(problem, rivals, arguments.seeds, arguments.slow_seeds)
        known = merge(path, records, versions(rivals))
        path.write_text(json.dumps(known, indent=1), encoding="utf-8")
        text = table(known)
        path.with_suffix(".md").write_text(text, encoding="utf-8")
        picture(known, path.with_suffix(".png"))
    print(path.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
