"""Settings of blackjax's tempered SMC by evidence work, for `inference_rivals.py`.

    python tests/benchmarks/inference_tuning.py [--seeds 12] [--only sonar] [--ionosphere F]

Prints, for each problem and setting, spread and bias of the log evidence, seconds of the
process per run, and their product with the mean square error.
"""

import argparse
import statistics
import time
from pathlib import Path

from one_core import one_core

one_core()
from inference_models import sonar_file  # noqa: E402
from inference_problems import problems  # noqa: E402
from inference_samplers import Tempered, blackjax_smc  # noqa: E402

# Step, leapfrog steps, moves, ESS, and whether the mass is that of the particles.
FIRST = [(0.1, 10, 2, 0.5, False), (0.1, 5, 2, 0.5, False)]
GRID = {
    "sonar": [
        *FIRST,
        (0.07, 5, 2, 0.5, False),
        (0.1, 3, 3, 0.5, False),
        (0.1, 5, 2, 0.8, False),
        (0.3, 3, 5, 0.5, True),
        (0.3, 6, 2, 0.5, True),
        (0.5, 3, 5, 0.5, True),
    ],
    "ionosphere": [
        *FIRST,
        (0.2, 5, 2, 0.5, False),
        (0.3, 3, 5, 0.5, True),
        (0.5, 3, 2, 0.5, True),
        (0.5, 3, 5, 0.5, True),
    ],
    "seeds": [
        *FIRST,
        (0.2, 10, 2, 0.5, False),
        (0.3, 3, 5, 0.5, True),
        (0.3, 6, 5, 0.5, True),
        (0.5, 3, 2, 0.5, True),
        (0.5, 3, 5, 0.5, True),
        (0.8, 3, 5, 0.5, True),
    ],
    "eight schools": [
        *FIRST,
        (0.3, 10, 2, 0.5, False),
        (0.3, 5, 2, 0.5, False),
        (0.5, 3, 2, 0.5, True),
        (0.5, 6, 5, 0.5, True),
    ],
    "mixture": [
        *FIRST,
        (0.2, 10, 2, 0.5, False),
        (0.3, 10, 2, 0.5, False),
        (0.3, 10, 5, 0.5, False),
        (0.2, 10, 2, 0.8, False),
    ],
    "gaussian": [
        *FIRST,
        (0.3, 3, 5, 0.5, True),
        (0.3, 6, 5, 0.5, True),
        (0.5, 3, 5, 0.5, True),
        (0.5, 3, 10, 0.5, True),
    ],
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--ionosphere", type=Path)
    arguments = parser.parse_args()
    print("| problem | settings | bias | sd | CPU s | evidence work |")
    print("|" + "---|" * 6)
    for problem in problems(sonar_file(), arguments.ionosphere):
        if arguments.only and problem.name not in arguments.only:
            continue
        for step, leapfrog, moves, ess, covariance in GRID[problem.name]:
            how = Tempered(1000, step, leapfrog, moves, ess, covariance)
            run = blackjax_smc("", {"": how}).prepare(problem)
            run(1000)
            errors, seconds = [], []
            for seed in range(arguments.seeds):
                start = time.process_time()
                errors.append(run(seed).log_evidence - problem.log_evidence)
                seconds.append(time.process_time() - start)
            square = statistics.mean(e**2 for e in errors)
            cost = statistics.median(seconds)
            print(
                f"| {problem.name} | {how} | {statistics.mean(errors):+.3f} "
                f"| {statistics.stdev(errors):.3f} | {cost:.3f} | {square * cost:.2e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
