"""Always-valid tests of p-values that keep coming: e-processes with one lifetime budget.

Each run bets on small p-values. A p-value `p` becomes the e-value `∫ κ p^(κ-1) dκ` over
`κ` in [0, 1], `(1 - p + p log p) / (p log² p)`, whose mean is at most 1 if `p` is no
smaller than uniform (Vovk and Wang 2021, arXiv:1912.06116). The process is a mixture over
the run `j` in which an error came into the code, of weight `w_j = 1 / (j (j + 1))`,

    M_t = Σ_{j ≤ t} w_j Π_{s = j..t} e_s + Σ_{j > t} w_j,

so that a thousand good nights do not hide what breaks afterwards. If nothing is wrong,
it exceeds `1 / α` at any time with probability at most `α` (Ville's inequality).
"""

import json
import math
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

FORMAT = 1
# The chance that any check ever alarms without a reason, and the number of checks, now and
# later, over which it is split.
LIFETIME_ALPHA = 1e-4
CAPACITY = 200
# p-values of z-tests are right to a factor of 1.2, and to the size of `FLOOR`: they are
# raised by more than that, and none counts as smaller.
MARGIN, FLOOR = 1.3, 1e-5


class StateError(ValueError):
    """A file of states that cannot be used."""


def log_e_value(p: np.ndarray | float) -> np.ndarray:
    """Return the logarithm of the e-value of p-values."""
    p = np.clip(MARGIN * np.asarray(p, dtype=float), FLOOR, 1.0)
    # Both parts vanish at p = 1, where the limit is 1/2.
    log_p = np.minimum(np.log(p), -1e-4)
    p = np.exp(log_p)
    return np.log1p(-p + p * log_p) - log_p - 2 * np.log(-log_p)


def advance(
    log_active: np.ndarray | float, num_runs: int, p: np.ndarray | float
) -> np.ndarray:
    """Return the logarithm of the part that bets already, after one run more.

    Args:
        log_active: The same before, `-inf` at first.
        num_runs: Runs before this one.
        p: The p-value of this run.
    """
    joining = -math.log((num_runs + 1) * (num_runs + 2))
    return np.logaddexp(log_active, joining) + log_e_value(p)


def log_wealth(log_active: np.ndarray | float, num_runs: int) -> np.ndarray:
    """Return `log M_t` after some runs."""
    return np.logaddexp(log_active, -math.log(num_runs + 1))


@dataclass
class Record:
    """The e-process of one check.

    Attributes:
        num_runs: Runs so far.
        log_active: Logarithm of the part of the wealth that bets.
        log_peak: Logarithm of the largest wealth so far: an alarm stays.
    """

    num_runs: int = 0
    log_active: float = -math.inf
    log_peak: float = 0.0

    def update(self, p: float) -> None:
        """Take the p-value of a run."""
        self.log_active = float(advance(self.log_active, self.num_runs, p))
        self.num_runs += 1
        self.log_peak = max(self.log_peak, float(self.log_wealth))

    @property
    def log_wealth(self) -> float:
        return float(log_wealth(self.log_active, self.num_runs))

    @property
    def alarmed(self) -> bool:
        return self.log_peak >= math.log(CAPACITY / LIFETIME_ALPHA)


def load(path: Path | None) -> dict[str, Record]:
    """Return the records of a file; none where there is no file yet.

    Raises:
        StateError: The file is damaged, or of another format or budget.
    """
    if path is None or not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        head = {key: data[key] for key in _head()}
        records = {name: Record(**fields) for name, fields in data["checks"].items()}
        sound = all(map(_is_sound, records.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused(path, f"it is damaged ({type(error).__name__}: {error})") from error
    if head != _head():
        raise _refused(path, f"expected {_head()}, got {head}")
    if not sound:
        raise _refused(path, "it is damaged (numbers that no run can leave)")
    return records


def save(path: Path | None, records: dict[str, Record]) -> None:
    """Write the records to a file at once: readers see the old or the new, never half."""
    if path is None:
        return
    if len(records) > CAPACITY:
        raise StateError(f"{len(records)} checks, but the budget is split over {CAPACITY}.")
    checks = {name: asdict(record) for name, record in sorted(records.items())}
    text = json.dumps(_head() | {"checks": checks}, indent=1, allow_nan=False)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _head() -> dict[str, float]:
    return {"format": FORMAT, "alpha": LIFETIME_ALPHA, "capacity": CAPACITY}


def _is_sound(record: Record) -> bool:
    numbers = (record.log_active, record.log_peak)
    return (
        type(record.num_runs) is int
        and record.num_runs > 0
        and all(type(x) is float and math.isfinite(x) for x in numbers)
        and record.log_peak >= max(0.0, record.log_wealth)
    )


def _refused(path: Path, why: str) -> StateError:
    return StateError(
        f"The state of the nightly checks in {path} cannot be used: {why}. "
        "Restore it from a copy, or name another file to begin with a new budget."
    )
