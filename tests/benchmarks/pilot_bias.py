"""Bias of the evidence when walkers adapt themselves, against a pilot that does it.

    python tests/benchmarks/pilot_bias.py [--data sonar.all-data] [--seeds 8]

Logistic regression on the Sonar data, 61 coefficients of prior N(0, 1), columns
standardised. With `adapt="online"` temperatures, step sizes and preconditioners depend on
the walkers whose weights they shape; with `adapt="pilot"` on others. `log mean Ẑ` is the
mean of the estimates over all runs and islands, its error by the jackknife over runs.

The file is in the package `particles` (pip install particles), if no path is given.
"""

import argparse
import importlib.util
import math
import statistics
import sys
import time
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_jarzynski as pj

KERNELS = {
    "MALA": pj.MALA,
    "HMC": pj.HMC,
    "ULA": pj.ULA,
    "UnderdampedLangevin": pj.UnderdampedLangevin,
}


# The last two go from the prior, along the same path.
MODES = {
    "pilot, learned base": {"adapt": "pilot"},
    "pilot": {"adapt": "pilot", "learn_base": False},
    "online": {"adapt": "online"},
}


def read(path: Path | None) -> tuple[Tensor, Tensor]:
    """Return standardised columns with an intercept, and labels; or stop."""
    if path is None:
        spec = importlib.util.find_spec("particles")
        if spec is None or spec.origin is None:
            sys.exit("Give `--data`, the file sonar.all-data, or install `particles`.")
        path = Path(spec.origin).parent / "datasets" / "sonar.all-data"
    if not path.exists():
        sys.exit(f"There is no file {path}.")
    rows = [line.split(",") for line in path.read_text().split()]
    x = torch.tensor([[float(cell) for cell in row[:-1]] for row in rows])
    x = (x - x.mean(0)) / x.std(0, correction=0)
    y = torch.tensor([float(row[-1] == "M") for row in rows])
    return torch.cat([torch.ones(len(x), 1), x], 1), y


def model(x: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    pyro.sample("y", dist.Bernoulli(logits=x @ beta).to_event(1), obs=y)


def log_mean(per_run: Tensor) -> tuple[float, float]:
    """Return the log of the mean of `Ẑ`, `(runs, islands)`, and its jackknife error."""
    runs = len(per_run)

    def estimate(rows: Tensor) -> float:
        return float(rows.flatten().logsumexp(0)) - math.log(rows.numel())

    left = [estimate(torch.cat([per_run[:i], per_run[i + 1 :]])) for i in range(runs)]
    spread = statistics.pvariance(left) * (runs - 1)
    return estimate(per_run), math.sqrt(spread)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the file sonar.all-data")
    parser.add_argument("--seeds", type=int, default=8, help="runs per row")
    parser.add_argument("--walkers", type=int, nargs="+", default=[256, 1000])
    parser.add_argument("--kernels", nargs="+", choices=list(KERNELS), default=[*KERNELS])
    parser.add_argument("--reference", type=float, default=-108.4, help="log Z, nats")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    data = read(arguments.data)
    reference = arguments.reference
    print(f"log Z = {reference}; four islands, {arguments.seeds} runs per row")
    print(
        "| kernel | walkers | adapt | mean log Ẑ − log Z | log mean Ẑ − log Z "
        "| sd of an island | stages | gradients, 10⁶ | s / run |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for walkers in arguments.walkers:
        for name in arguments.kernels:
            for mode, options in MODES.items():
                found, seconds, gradients, stages = [], [], [], []
                for seed in range(arguments.seeds):
                    start = time.perf_counter()
                    result = pj.AnnealedSMC(
                        model,
                        num_walkers=walkers,
                        kernel=KERNELS[name](),
                        **options,
                        seed=seed,
                        progress=False,
                    ).run(*data)
                    seconds.append(time.perf_counter() - start)
                    gradients.append(result.num_gradients / 1e6)
                    stages.append(len(result.history["beta"]))
                    found.append(result.log_evidence_per_chain)
                islands = torch.stack(found) - reference
                ratio, error = log_mean(islands)
                runs = islands.logsumexp(1) - math.log(islands.shape[1])
                print(
                    f"| {name} | {walkers} | {mode} "
                    f"| {float(runs.mean()):+.3f} ± "
                    f"{float(runs.std()) / math.sqrt(len(runs)):.3f} "
                    f"| {ratio:+.3f} ± {error:.3f} | {float(islands.std()):.3f} "
                    f"| {statistics.mean(stages):.1f} "
                    f"| {statistics.mean(gradients):.2f} "
                    f"| {statistics.mean(seconds):.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
