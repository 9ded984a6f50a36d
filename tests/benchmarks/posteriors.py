"""Evidence and moments of posteriors that are known, over many seeds.

    python tests/benchmarks/posteriors.py [--seeds 32] [--only NAME ...]

Prints one row per posterior. The bars: the mean error of the log evidence is at most
0.05 nat (0.1 for the two hard ones), intervals of 90 % cover the truth in 80 to 97 % of
the runs (judged from 32 on), pooled means are within 0.02 posterior standard deviations,
and pooled standard deviations within 3 %. Truths are read from the folder shared/truth
beside the repository.
"""

import argparse
import math
import statistics
import time
import warnings
from collections import Counter
from dataclasses import dataclass

import torch
from analytic_models import analytic_cases
from posterior_models import Case
from posteriordb_models import posteriordb_cases
from torch import Tensor

import pyro_jarzynski as pj

KERNELS = {"MALA": pj.MALA, "HMC": pj.HMC}
COLUMNS = (
    "posterior",
    "runs",
    "log Ẑ − log Z, mean ± s.e.",
    "sd of log Ẑ",
    "log mean Ẑ/Z",
    "cover, %",
    "mean, pooled / sd",
    "its z",
    "mean, one run",
    "sd, pooled, %",
    "sd, one run, %",
    "stages",
    "gradients, 10⁶",
    "s / run",
    "doubted",
    "misses",
)


@dataclass(frozen=True)
class Run:
    """What one seed gave: errors of evidence, moments of parameters, cost."""

    error: float
    covered: bool
    means: Tensor
    squares: Tensor
    stages: int
    gradients: int
    seconds: float
    doubts: tuple[str, ...]


def run(case: Case, seed: int, options: dict) -> Run:
    """Anneal once."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smc = pj.AnnealedSMC(case.model, progress=False, seed=seed, **options)
        result = smc.run(*case.args)
    seconds = time.perf_counter() - start
    low, high = result.log_evidence_interval(0.9)
    draws = case.flat(result.get_samples(deterministic=True))
    values = torch.stack(list(draws.values())).double()
    centred = values - _truth(case)[0][:, None]
    return Run(
        error=result.log_evidence - case.log_evidence,
        covered=low <= case.log_evidence <= high,
        means=centred.mean(1),
        squares=centred.square().mean(1),
        stages=len(result.history["beta"]),
        gradients=result.num_gradients,
        seconds=seconds,
        doubts=tuple(result.doubts),
    )


def row(case: Case, runs: list[Run]) -> str:
    """Return the row of a posterior."""
    errors = torch.tensor([one.error for one in runs], dtype=torch.float64)
    spread = float(errors.std()) if len(runs) > 1 else math.nan
    mean_error = float(errors.mean())
    ratio = float(errors.logsumexp(0)) - math.log(len(runs))
    cover = statistics.mean(one.covered for one in runs)
    _, sd = _truth(case)
    means = torch.stack([one.means for one in runs])
    squares = torch.stack([one.squares for one in runs])
    pooled = (means.mean(0) / sd).abs()
    noise = means.std(0, correction=min(1, len(runs) - 1)) / math.sqrt(len(runs)) / sd
    worst = int(pooled.argmax())
    scored = ~torch.tensor([sd is None for _, sd in case.moments.values()])
    pooled_sd = (squares.mean(0) - means.mean(0).square()).sqrt() / sd - 1
    single_sd = (squares - means.square()).sqrt() / sd - 1
    name = list(case.moments)[worst]
    off = float(pooled.max())
    wide = float(pooled_sd[scored].abs().max()) if scored.any() else math.nan
    loose = float(_rms(single_sd)[scored].max()) if scored.any() else math.nan
    misses = [
        told
        for told, missed in (
            ("evidence", abs(mean_error) > (0.1 if case.hard else 0.05)),
            ("coverage", len(runs) >= 32 and not 0.8 <= cover <= 0.97),
            ("means", off > 0.02),
            ("sds", wide > 0.03),
        )
        if missed
    ]
    cells = (
        case.name,
        f"{len(runs)}",
        f"{mean_error:+.4f} ± {spread / math.sqrt(len(runs)):.4f}",
        f"{spread:.4f}",
        f"{ratio:+.4f}",
        f"{100 * cover:.0f}",
        f"{off:.4f} ({name})",
        f"{off / float(noise[worst]):.1f}" if len(runs) > 1 else "",
        f"{float(_rms(means / sd).max()):.4f}",
        f"{100 * wide:.2f}",
        f"{100 * loose:.2f}",
        f"{statistics.mean(one.stages for one in runs):.1f}",
        f"{statistics.mean(one.gradients for one in runs) / 1e6:.2f}",
        f"{statistics.mean(one.seconds for one in runs):.2f}",
        f"{sum(bool(one.doubts) for one in runs)}",
        ", ".join(misses) or "none",
    )
    return f"| {' | '.join(cells)} |"


def _truth(case: Case) -> tuple[Tensor, Tensor]:
    means, sds = zip(*case.moments.values(), strict=True)
    ones = [1.0 if sd is None else sd for sd in sds]
    return torch.tensor(means, dtype=torch.float64), torch.tensor(ones, dtype=torch.float64)


def _rms(values: Tensor) -> Tensor:
    return values.square().mean(0).sqrt()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=32, help="runs per posterior")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of names")
    parser.add_argument("--walkers", type=int, default=1024, help="walkers per island")
    parser.add_argument("--ess", type=float, default=0.8, help="share kept per step")
    parser.add_argument("--max-moves", type=int, default=25)
    parser.add_argument("--kernel", choices=sorted(KERNELS), default="MALA")
    parser.add_argument("--doubts", action="store_true", help="print what was warned of")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    options = {
        "num_walkers": arguments.walkers,
        "schedule": pj.AdaptiveTempering(arguments.ess),
        "max_moves": arguments.max_moves,
        "kernel": KERNELS[arguments.kernel](),
    }
    chosen = [
        case
        for case in [*posteriordb_cases(), *analytic_cases()]
        if not arguments.only or any(part in case.name for part in arguments.only)
    ]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments}\n")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|" + "---|" * len(COLUMNS), flush=True)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    told: Counter[str] = Counter()
    for case in chosen:
        try:
            runs = [run(case, seed, options) for seed in seeds]
        except RuntimeError as error:
            print(f"| {case.name} | {type(error).__name__}: {error} |", flush=True)
            continue
        print(row(case, runs), flush=True)
        told.update(f"{case.name}: {text}" for one in runs for text in one.doubts)
    if arguments.doubts:
        for text, number in told.most_common():
            print(f"- {number} × {text}")


if __name__ == "__main__":
    main()
