"""The report of a run: one HTML page that stands alone.

Pictures are embedded, and there is no script, font or link from elsewhere, so that the
file can be mailed and kept.
"""

import math
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pyro_jarzynski.ebm.history import COLUMNS, History
from pyro_jarzynski.errors import OutputError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NUM_ROWS = 12


def write_report(
    path: Path | str,
    *,
    title: str,
    summary: Mapping[str, str],
    settings: Mapping[str, str],
    figures: Mapping[str, Path],
    history: History | None,
    notes: Sequence[str] = (),
) -> Path:
    """Write the report of a run as one HTML page; the old one stays until it is whole.

    Args:
        path: File to write, in a directory that exists.
        title: Title of the page.
        summary: What the reader wants to know first, values with units by name.
        settings: Settings of the run, by name.
        figures: PNG files by caption.
        history: Its last rows are shown, without the columns that have no number; `None`
            leaves the section out.
        notes: Paragraphs below the summary.

    Returns:
        The path.

    Raises:
        OutputError: A figure cannot be read or is not a PNG, or the page cannot be
            written.
    """
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
            **_table(history),
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


def _table(history: History | None) -> dict[str, Any]:
    rows = [] if history is None else history.rows
    columns = {
        name: meaning
        for name, meaning in COLUMNS.items()
        if not all(math.isnan(row[name]) for row in rows)
    }
    shown = [[_number(row[name]) for name in columns] for row in rows[-NUM_ROWS:]]
    return {"columns": columns, "rows": shown, "num_rows": len(rows)}


def _number(value: float) -> str:
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
