"""Warnings of a run: recorded, emitted once for each kind, and kept for its result."""

import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyro_jarzynski.errors import (
    EvidenceWarning,
    NonFiniteEnergyWarning,
    PrecisionWarning,
    SupportWarning,
)

# Warnings of these categories say that a result may be wrong; others concern its speed.
CATEGORIES = {
    category.__name__: category
    for category in (
        EvidenceWarning,
        NonFiniteEnergyWarning,
        PrecisionWarning,
        SupportWarning,
    )
}
# A quoted name, which is kept, or a number, which is not.
_NAME_OR_NUMBER = re.compile(r"('[^']*')|\d[\d.,]*(?:e[-+]?\d+)?")
# Packages whose frames lie between the user's line and a warning.
_INTERNAL = {"pyro_jarzynski", "pyro", "contextlib", "torch"}


def kind_of(text: str) -> str:
    """Return a warning without its numbers, in which those of one kind may differ."""
    return _NAME_OR_NUMBER.sub(lambda found: found[1] or "#", text)


def warn(text: str, category: type[Warning]) -> None:
    """Warn at the line of the user's program that called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back and str(frame.f_globals.get("__name__")).split(".")[0] in _INTERNAL:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


@dataclass
class Recorded:
    """Warnings of one kind.

    Attributes:
        category: Their category.
        text: The last of them.
        number: How many there were.
        emitted: Whether one was emitted.
    """

    category: type[Warning]
    text: str
    number: int = 1
    emitted: bool = False

    def __str__(self) -> str:
        """Return the last text, with the number of warnings of the kind."""
        more = f" ({self.number} warnings like this.)" if self.number > 1 else ""
        return self.text + more


class RunWarnings:
    """The warnings of a run that say that its result may be wrong.

    Warnings that differ in their numbers alone are of one kind, of which one is emitted.

    Args:
        prefix: Text before each warning that is emitted.
    """

    def __init__(self, prefix: str = "") -> None:
        """Start without warnings."""
        self.prefix = prefix
        self._kinds: dict[str, Recorded] = {}

    @property
    def texts(self) -> list[str]:
        """One text for each kind of warning, in the order of their first appearance."""
        return [str(recorded) for recorded in self._kinds.values()]

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record warnings of `CATEGORIES` in place of emitting them."""
        outer = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], *place: Any, **options: Any
        ) -> None:
            if category in CATEGORIES.values():
                self._add(str(message), category)
            else:
                outer(message, category, *place, **options)

        with warnings.catch_warnings():
            for category in CATEGORIES.values():
                warnings.simplefilter("always", category)
            warnings.showwarning = show
            try:
                yield
            finally:
                warnings.showwarning = outer

    @contextmanager
    def deduplicated(self) -> Iterator[None]:
        """Record warnings, and emit one of each kind at the end, also after an error.

        Warnings that filters turn into errors are added to an error that was raised inside,
        as notes.
        """
        try:
            with self.recorded():
                yield
        except BaseException as error:
            self.emit(error)
            raise
        self.emit()

    def emit(self, error: BaseException | None = None) -> None:
        """Emit one warning of each kind of which none was emitted.

        Args:
            error: Takes warnings that filters turn into errors, as notes; `None` raises
                the first of them.
        """
        for recorded in self._kinds.values():
            if recorded.emitted:
                continue
            recorded.emitted = True
            try:
                warn(f"{self.prefix}{recorded}", recorded.category)
            except Warning as warning:
                if error is None:
                    raise
                error.add_note(str(warning))

    def state_dict(self) -> list[dict[str, Any]]:
        """Return all warnings."""
        return [
            {"category": kind.category.__name__, "text": kind.text, "number": kind.number}
            for kind in self._kinds.values()
        ]

    def load_state_dict(self, state: list[Mapping[str, Any]]) -> None:
        """Replace the warnings by those of an earlier process."""
        self._kinds = {
            kind_of(row["text"]): Recorded(
                CATEGORIES[row["category"]], row["text"], int(row["number"])
            )
            for row in state
        }

    def _add(self, text: str, category: type[Warning]) -> None:
        known = self._kinds.get(kind_of(text))
        number, emitted = (known.number + 1, known.emitted) if known else (1, False)
        self._kinds[kind_of(text)] = Recorded(category, text, number, emitted)
