"""Table and picture of the records of `inference_rivals.py`."""

import math
import statistics
from pathlib import Path
from typing import Any

COLUMNS = (
    "problem",
    "sampler",
    "runs",
    "bias ± s.e., nat",
    "log mean Ẑ/Z",
    "sd of log Ẑ",
    "warm, CPU s",
    "cold, CPU s (wall)",
    "evaluations, 10³",
    "evidence work",
    "to the best rival",
)
OURS = "ours"
# A rival whose bias is larger does not count for the best.
MAX_BIAS = 0.3


def figures(record: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one record: bias, spread, seconds, evidence work."""
    runs = record["runs"]
    errors = [run["log_evidence"] - record["truth"] for run in runs]
    spread = statistics.stdev(errors)
    top = max(errors)
    log_mean = top + math.log(statistics.mean(math.exp(e - top) for e in errors))
    seconds = statistics.median(run["process_seconds"] for run in runs)
    return {
        "runs": len(runs),
        "bias": statistics.mean(errors),
        "standard_error": math.hypot(spread / math.sqrt(len(runs)), record["truth_error"]),
        "log_mean": log_mean,
        "spread": spread,
        "seconds": seconds,
        "wall": statistics.median(run["wall_seconds"] for run in runs),
        "cold": record["cold"]["process_seconds"],
        "cold_wall": record["cold"]["wall_seconds"],
        "evaluations": statistics.mean(run["evaluations"] for run in runs),
        "work": spread**2 * seconds,
    }


def measured(records: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict]]:
    """Return the records with at least two finite runs, and their figures."""
    return [
        (record, figures(record))
        for record in records
        if len(record["runs"]) > 1
        and all(math.isfinite(run["log_evidence"]) for run in record["runs"])
    ]


def best_rival(found: list[tuple[dict[str, Any], dict]], problem: str) -> float:
    """Return the least evidence work of others whose bias is not beyond 0.3 nat."""
    works = [
        f["work"]
        for r, f in found
        if r["problem"] == problem
        and not r["sampler"].startswith(OURS)
        and abs(f["bias"]) < MAX_BIAS
    ]
    return min(works, default=math.nan)


def table(known: dict[str, Any]) -> str:
    """Return the table as Markdown, with settings and versions under it."""
    found = measured(known["records"])
    told = ", ".join(f"{name} {number}" for name, number in known["versions"].items())
    lines = [
        f"{told}. One core, one thread. Evidence work is the variance of log Ẑ times warm "
        "seconds of the process; its standard error is √(2 / (runs - 1)) of it. The best "
        "rival is the one of least evidence work among those of a bias below "
        f"{MAX_BIAS} nat.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
    ]
    for record, f in found:
        ratio = f["work"] / best_rival(found, record["problem"])
        cells = (
            record["problem"],
            record["sampler"],
            f"{f['runs']:.0f}",
            f"{f['bias']:+.3f} ± {f['standard_error']:.3f}",
            f"{f['log_mean']:+.3f}",
            f"{f['spread']:.4f}",
            f"{f['seconds']:.3f}",
            f"{f['cold']:.1f} ({f['cold_wall']:.0f})",
            f"{f['evaluations'] / 1e3:.0f}",
            f"{f['work']:.2e}",
            f"{ratio:.2f}" if math.isfinite(ratio) else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Settings:", ""]
    settings = {r["sampler"]: r["settings"] for r in known["records"]}
    lines += [f"- {name}: {text}" for name, text in settings.items()]
    failed = [r for r in known["records"] if all(r is not kept for kept, _ in found)]
    for r in failed:
        why = r.get("failed", "an estimate that is not finite")
        lines.append(f"- no row of {r['sampler']} on {r['problem']}: {why}")
    return "\n".join(lines) + "\n"


def picture(known: dict[str, Any], path: Path) -> None:
    """Draw evidence work by problem, and the error that is left in it as bias."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = measured(known["records"])
    names = list(dict.fromkeys(r["problem"] for r, _ in found))
    rivals = list(dict.fromkeys(r["sampler"] for r, _ in found))
    marks = "osD^vPX*<>"
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 0.6 * len(names) + 2.4), sharey=True, layout="constrained"
    )
    for index, rival in enumerate(rivals):
        rows = [(names.index(r["problem"]), f) for r, f in found if r["sampler"] == rival]
        shift = 0.6 * (index / max(len(rivals) - 1, 1) - 0.5)
        height = [row + shift for row, _ in rows]
        style = {"linestyle": "", "marker": marks[index % len(marks)], "color": f"C{index}"}
        work = [f["work"] for _, f in rows]
        spread = [f["work"] * min(0.9, math.sqrt(2 / (f["runs"] - 1))) for _, f in rows]
        left.errorbar(work, height, xerr=spread, label=rival, **style)
        bias = [f["bias"] for _, f in rows]
        error = [2 * f["standard_error"] for _, f in rows]
        right.errorbar(bias, height, xerr=error, **style)
    left.set(xscale="log", xlabel="variance of log Ẑ × CPU seconds (less is better)")
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    right.set_xscale("symlog", linthresh=0.1)
    right.axvspan(-0.05, 0.05, color="0.9")
    right.set_xlabel("bias of log Ẑ, nat, ± 2 standard errors")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=6)
    figure.savefig(path, dpi=150)
    plt.close(figure)
