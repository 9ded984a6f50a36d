"""The report of a run: one HTML page that stands alone.

Pictures are embedded, and there is no script, font or link from elsewhere, so that the
file can be mailed and kept.
"""

import math
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pyro_jarzynski.ebm.history import COLUMNS, History
from pyro_jarzynski.errors import OutputError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NUM_ROWS = 12


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        columns: Meaning of each column, by name.
        rows: A number, or the name of the row, for every column.
        first: Show only so many rows from the start; `None` is all.
        last: Show only so many rows from the end; `None` is all.

    Example:
        >>> table = pj.Table({"mass": "share of a mode"}, [{"mass": 0.25}, {"mass": 0.75}])
        >>> len(table.rows)
        2
    """

    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, float | str]]
    first: int | None = None
    last: int | None = None

    @property
    def shown(self) -> Sequence[Mapping[str, float | str]]:
        """The rows that are shown."""
        rows = self.rows[: self.first]
        return rows if self.last is None else rows[-self.last :]

    @property
    def told(self) -> str:
        """Which rows are shown."""
        number, total = len(self.shown), len(self.rows)
        if number == total:
            return f"All {total} rows." if total > 1 else "The only row."
        end = "last" if self.last is not None else "first"
        return f"The {end} {number} of {total} rows."

    @property
    def used(self) -> dict[str, str]:
        """Columns that have a number in any row."""
        return {
            name: meaning
            for name, meaning in self.columns.items()
            if not all(_is_missing(row[name]) for row in self.rows)
        }

    @property
    def cells(self) -> list[list[str]]:
        """The rows that are shown, as text."""
        return [[_text(row[name]) for name in self.used] for row in self.shown]


def write_report(
    path: Path | str,
    *,
    title: str,
    summary: Mapping[str, str],
    settings: Mapping[str, str],
    figures: Mapping[str, Path],
    history: History | Table | None,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    tables: Mapping[str, Table] | None = None,
) -> Path:
    """Write the report of a run as one HTML page; the old one stays until it is whole.

    Args:
        path: File to write, in a directory that exists.
        title: Title of the page.
        summary: What the reader wants to know first, values with units by name.
        settings: Settings of the run, by name.
        figures: PNG files by caption.
        history: Of a `History` the last rows are shown. Columns without any number are left
            out; `None` leaves the section out.
        notes: Paragraphs below the summary.
        warnings: Paragraphs above the notes that nobody should miss.
        tables: Further tables by heading, above the history.

    Returns:
        The path.

    Raises:
        OutputError: A figure cannot be read or is not a PNG, or the page cannot be
            written.

    Example:
        >>> page = pj.write_report(
        ...     "report.html",
        ...     title="A run",
        ...     summary={"Test NLL": "78.6 nats"},
        ...     settings={"seed": "0"},
        ...     figures={},
        ...     history=None,
        ... )
        >>> "78.6 nats" in page.read_text(encoding="utf-8")
        True
    """
    shown = [*(tables or {}).items(), ("History", _as_table(history))]
    content = (
        _environment()
        .get_template("report.html")
        .render(
            title=title,
            summary=summary,
            settings=settings,
            figures={
                caption: _embed(caption, Path(file)) for caption, file in figures.items()
            },
            notes=notes,
            warnings=warnings,
            tables=[(heading, table) for heading, table in shown if table.rows],
        )
    )
    _replace(Path(path), content.encode())
    return Path(path)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("pyro_jarzynski", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _embed(caption: str, file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise OutputError(
            f"`figures[{caption!r}]` must be a PNG file that can be read, got {file}: "
            f"{error.strerror}. Save the figure before the report."
        ) from error
    if not content.startswith(PNG_SIGNATURE):
        raise OutputError(f"`figures[{caption!r}]` must be a PNG file, {file} is not.")
    return b64encode(content).decode()


def _as_table(history: History | Table | None) -> Table:
    if isinstance(history, Table):
        return history
    return Table(COLUMNS, [] if history is None else history.rows, last=NUM_ROWS)


def _is_missing(value: float | str) -> bool:
    return not isinstance(value, str) and math.isnan(value)


def _text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return "–"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.5g}"


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OutputError(
            f"`path` must be a file that can be written, got {path}: {error.strerror}."
        ) from error
