"""The history of a training run: one rectangular table."""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pyro_jarzynski.errors import ArgumentError, DataError

COLUMNS = {
    "step": "updates of the parameters so far",
    "seconds": "wall time since training began, s",
    "train_nll": "mean NLL of the batches since the last row, by the audit, nats",
    "validation_nll": "NLL of the validation data, by the audit, nats",
    "log_z": "log Z by the audit walkers, nats",
    "log_z_error": "standard error of log_z, nats",
    "training_log_z": "log Z by the walkers that train the model: biased, nats",
    "ess": "effective sample size of the training walkers, fraction of N",
    "audit_ess": "effective sample size of the audit walkers, fraction of N",
    "resamplings": "resamplings of the training walkers so far",
    "audit_resamplings": "resamplings of the audit walkers so far",
    "acceptance_rate": "mean acceptance of the training walkers' moves",
    "step_size": "step size of the moves",
    "learning_rate": "learning rate of the first parameter group, as far as it was used",
    "grad_norm": "norm of the gradient of the cross-entropy",
}
# Columns of whole numbers.
COUNTS = ("step", "resamplings", "audit_resamplings")


class History:
    """Rows of one run, each with a number for every column of `COLUMNS`.

    A number that a run does not have (the validation NLL without validation data) is NaN
    in its whole column.

    Example:
        >>> history = pj.History()
        >>> history.best() is None, history["step"]
        (True, [])
    """

    def __init__(self) -> None:
        """Start without rows."""
        self.rows: list[dict[str, float]] = []

    def append(self, **row: float) -> dict[str, float]:
        """Add one row; every column must be given."""
        if set(row) != set(COLUMNS):
            raise ArgumentError(
                f"a row must have exactly the columns {', '.join(COLUMNS)}; got "
                f"{', '.join(row)}."
            )
        self.rows.append({name: row[name] for name in COLUMNS})
        return self.rows[-1]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, float]]:
        """Iterate over copies of the rows."""
        return map(dict, self.rows)

    def __getitem__(self, column: str) -> list[float]:
        """Return one column."""
        if column not in COLUMNS:
            raise ArgumentError(
                f"`column` must be one of {', '.join(COLUMNS)}, got {column!r}."
            )
        return [row[column] for row in self.rows]

    def to_csv(self, path: Path | str) -> None:
        """Write the table as comma-separated values with one header line."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(COLUMNS))
            writer.writeheader()
            writer.writerows(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return all rows as one table, `(rows, columns)`, float64."""
        rows = [[float(row[name]) for name in COLUMNS] for row in self.rows]
        table = torch.tensor(rows, dtype=torch.float64, device="cpu")
        table = table.reshape(-1, len(COLUMNS))
        return {"columns": list(COLUMNS), "table": table}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the rows of a state in the place of those that are here."""
        self.rows.clear()
        for values in state["table"].tolist():
            row = dict(zip(state["columns"], values, strict=True))
            self.append(**(row | {name: int(row[name]) for name in COUNTS}))

    @classmethod
    def from_csv(cls, path: Path | str) -> "History":
        """Read a table that `to_csv` wrote; raise `DataError` if it is damaged."""
        history = cls()
        with open(path, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                try:
                    history.append(**{name: _number(name, row[name]) for name in row})
                except (TypeError, ValueError) as error:
                    raise DataError(
                        f"Line {number} of {path} is damaged: {error}. Remove it; the "
                        "others can be read without it."
                    ) from error
        return history

    def best(self) -> dict[str, float] | None:
        """Return the row of the lowest finite validation NLL; `None` without any."""
        scored = [r for r in self.rows if math.isfinite(r["validation_nll"])]
        return min(scored, key=lambda r: r["validation_nll"], default=None)


def _number(column: str, text: str) -> float:
    """Return a number of a column from its text, a whole one if it counts something."""
    return int(text) if column in COUNTS and text.isdigit() else float(text)
