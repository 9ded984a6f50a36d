"""Failures of the checks against what chance allows, by exact binomial bounds."""

import math
from dataclasses import dataclass, field

from scipy.stats import binom

from tests.identities import FALSE_ALARM
from tests.nightly.eprocess import Record
from tests.nightly.suite import is_exact

# The chance that a table says "beyond" though nothing is wrong, over all its bounds.
NIGHT_ALPHA = 1e-3
# p-values are counted below these: the declared rate, and one that gathers evidence sooner.
LEVELS = (FALSE_ALARM, 0.1)
COLUMNS = ("check", "runs", "failures", "allowed", "p ≤ 0.1", "allowed", "least p", "ln e")


@dataclass
class Outcomes:
    """What the runs of one check gave.

    Attributes:
        p_values: One for each run.
        failed: Seeds of the runs below the declared rate.
        errors: What was raised instead of a p-value.
    """

    p_values: list[float] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, p: float, seed: int) -> None:
        """Take the p-value of a run."""
        self.p_values.append(p)
        if p <= FALSE_ALARM:
            self.failed.append(seed)


def allowed(num_runs: int, rate: float, alpha: float) -> int:
    """Return how many failures chance explains: more have a probability of at most α."""
    return int(binom.isf(alpha, num_runs, rate)) if rate > 0 else 0


def beyond(name: str, outcomes: Outcomes, num_checks: int) -> bool:
    """Tell whether a check has failed more often than chance explains."""
    return any(hits > most for hits, most in _counts(name, outcomes, num_checks))


def table(found: dict[str, Outcomes], records: dict[str, Record]) -> str:
    """Return a Markdown table of all checks."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for name, outcomes in found.items():
        (hits, most), (few, many) = _counts(name, outcomes, len(found))
        cells = (
            f"**{name}**" if beyond(name, outcomes, len(found)) else name,
            f"{len(outcomes.p_values)}",
            f"{hits}",
            f"{most}",
            "" if is_exact(name) else f"{few}",
            "" if is_exact(name) else f"{many}",
            "" if is_exact(name) else f"{min(outcomes.p_values, default=math.nan):.1e}",
            "" if is_exact(name) else f"{records[name].log_wealth:+.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(found: dict[str, Outcomes]) -> str:
    """Return a sentence on the runs in which anything failed."""
    random = {name: one for name, one in found.items() if not is_exact(name)}
    seeds = {seed for one in random.values() for seed in one.failed}
    num_runs = max(len(one.p_values) for one in found.values())
    rate = min(1.0, len(random) * FALSE_ALARM)
    chance = float(binom.sf(len(seeds) - 1, num_runs, rate))
    failures = sum(len(one.failed) for one in random.values())
    total = sum(len(one.p_values) for one in random.values())
    return (
        f"{failures} of {total} statistical checks failed at the declared rate of "
        f"{FALSE_ALARM:g}, in {len(seeds)} of {num_runs} runs; that many runs or more have "
        f"a probability of at most {chance:.2g} by chance."
    )


def _counts(name: str, outcomes: Outcomes, num_checks: int) -> list[tuple[int, int]]:
    """Return failures, and what is allowed, at both levels."""
    alpha = NIGHT_ALPHA / num_checks / len(LEVELS)
    num_runs = len(outcomes.p_values)
    return [
        (
            sum(p <= level for p in outcomes.p_values),
            0 if is_exact(name) else allowed(num_runs, level, alpha),
        )
        for level in LEVELS
    ]
