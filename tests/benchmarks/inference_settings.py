"""Which settings of `AnnealedSMC` give the evidence most exactly for their cost.

    python tests/benchmarks/inference_settings.py [--seeds 16] [--only sonar seeds]
        [--settings NAME ...] [--ionosphere FILE] [--first-seed 0] [--jit]

One row per setting: bias and standard deviation of `log Ẑ`, share of runs whose interval
of 90 % covers the truth, gradients, seconds of the process, and the variance times either:
what a run of any length costs for a given error.
"""

import argparse
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

from one_core import one_core

one_core()
import torch  # noqa: E402
from inference_models import sonar_file  # noqa: E402
from inference_problem import Problem  # noqa: E402
from inference_problems import problems  # noqa: E402

import pyro_jarzynski as pj  # noqa: E402

HMC = pj.HMC()
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "ess 0.5": {"schedule": pj.AdaptiveTempering(0.5)},
    "ess 0.9": {"schedule": pj.AdaptiveTempering(0.9)},
    "HMC": {"kernel": HMC},
    "HMC, ess 0.5": {"kernel": HMC, "schedule": pj.AdaptiveTempering(0.5)},
    "HMC, ess 0.9": {"kernel": HMC, "schedule": pj.AdaptiveTempering(0.9)},
    "HMC, 5 leapfrog": {"kernel": pj.HMC(num_leapfrog=5)},
    "HMC, 8 islands of 512": {"kernel": HMC, "num_walkers": 512, "num_chains": 8},
    "HMC, 8 islands": {"kernel": HMC, "num_chains": 8},
    "8 islands of 512": {"num_walkers": 512, "num_chains": 8},
    "8 islands": {"num_chains": 8},
    "2 moves": {"num_moves": 2},
    "4 moves": {"num_moves": 4},
    "HMC, 1 move": {"kernel": HMC, "num_moves": 1},
    "HMC, waste-free": {"kernel": HMC, "waste_free": True, "num_moves": 4},
    "waste-free": {"waste_free": True, "num_moves": 7},
    "diagonal": {"preconditioner": "diagonal"},
    "from the prior": {"learn_base": False},
    "HMC, from the prior": {"kernel": HMC, "learn_base": False},
}


def row(problem: Problem, name: str, seeds: range, *, jit: bool) -> str:
    """Return the row of a setting on a problem."""
    options = SETTINGS[name] | ({"jit_compile": True} if jit else {})
    errors, covered, gradients, seconds, stages = [], [], [], [], []
    for seed in seeds:
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            smc = pj.AnnealedSMC(problem.model, seed=seed, progress=False, **options)
            result = smc.run(*problem.args)
        seconds.append(time.process_time() - start)
        low, high = result.log_evidence_interval(0.9)
        errors.append(result.log_evidence - problem.log_evidence)
        covered.append(low <= problem.log_evidence <= high)
        gradients.append(result.num_gradients)
        stages.append(len(result.history["beta"]))
    variance, cost = statistics.variance(errors), statistics.mean(gradients)
    spread, middle = math.sqrt(variance), statistics.median(seconds)
    cells = (
        problem.name,
        name,
        f"{len(errors)}",
        f"{statistics.mean(errors):+.4f} ± {spread / math.sqrt(len(errors)):.4f}",
        f"{spread:.4f}",
        f"{100 * statistics.mean(covered):.0f}",
        f"{statistics.mean(stages):.1f}",
        f"{cost / 1e6:.3f}",
        f"{middle:.2f}",
        f"{variance * cost:.0f}",
        f"{spread * math.sqrt(cost / 2.56e6):.4f}",
        f"{variance * middle:.2e}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=["sonar", "seeds"])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS))
    parser.add_argument("--ionosphere", type=Path)
    parser.add_argument("--jit", action="store_true", help="jit_compile=True")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| problem | settings | runs | bias ± s.e. | sd of log Ẑ | cover, % | stages "
        "| gradients, 10⁶ | CPU s | variance × gradients | sd at 2.56 · 10⁶ gradients "
        "| variance × s |"
    )
    print("|" + "---|" * 12, flush=True)
    for problem in problems(sonar_file(), arguments.ionosphere):
        if problem.name not in arguments.only:
            continue
        torch.set_default_dtype(torch.float64 if problem.double else torch.float32)
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for name in arguments.settings or SETTINGS:
            print(row(problem, name, seeds, jit=arguments.jit), flush=True)


if __name__ == "__main__":
    main()
