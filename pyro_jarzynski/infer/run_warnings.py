"""The warnings of a run: held back as it goes on, told once each, kept for its result."""

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

# Warnings of these categories say that a result may be wrong; others are of its speed.
CATEGORIES = {
    category.__name__: category
    for category in (
        EvidenceWarning,
        NonFiniteEnergyWarning,
        PrecisionWarning,
        SupportWarning,
    )
}
# A quoted name, which is kept, or a number.
_NAME_OR_NUMBER = re.compile(r"('[^']*')|\d[\d.,]*(?:e[-+]?\d+)?")
# Packages whose lines are not the user's.
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
class Held:
    """A kind of warning: category, last text, how many there were, whether it is told."""

    category: type[Warning]
    text: str
    number: int = 1
    told: bool = False

    def __str__(self) -> str:
        """Return the last text, with the number of warnings that were like it."""
        more = f" ({self.number} warnings like this.)" if self.number > 1 else ""
        return self.text + more


class RunWarnings:
    """The warnings of a run that say that its result may be wrong.

    Warnings that differ in their numbers alone are of one kind, which is told once.

    Args:
        whose: Text before each warning that is told.
    """

    def __init__(self, whose: str = "") -> None:
        """Start without warnings."""
        self.whose = whose
        self._held: dict[str, Held] = {}

    @property
    def texts(self) -> list[str]:
        """One text for each kind of warning, in the order of their first appearance."""
        return [str(held) for held in self._held.values()]

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Hold back the warnings of the categories above, and pass others on at once."""
        outer = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], *place: Any, **options: Any
        ) -> None:
            if category in CATEGORIES.values():
                self._hold(str(message), category)
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
    def told(self) -> Iterator[None]:
        """Record warnings, and tell them at the end, also after an error.

        Where filters make errors of warnings, an error that was raised inside goes before
        and has them as notes.
        """
        try:
            with self.recorded():
                yield
        except BaseException as error:
            try:
                self.tell()
            except Warning as warning:
                error.add_note(str(warning))
            raise
        self.tell()

    def tell(self) -> None:
        """Tell each kind that has not been told."""
        for held in self._held.values():
            if not held.told:
                held.told = True
                warn(f"{self.whose}{held}", held.category)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return all warnings."""
        return [
            {"category": held.category.__name__, "text": held.text, "number": held.number}
            for held in self._held.values()
        ]

    def load_state_dict(self, state: list[Mapping[str, Any]]) -> None:
        """Put back the warnings of an earlier process in the place of those up to now."""
        self._held = {
            kind_of(row["text"]): Held(
                CATEGORIES[row["category"]], row["text"], int(row["number"])
            )
            for row in state
        }

    def _hold(self, text: str, category: type[Warning]) -> None:
        known = self._held.get(kind_of(text))
        number = known.number + 1 if known else 1
        told = known is not None and known.told
        self._held[kind_of(text)] = Held(category, text, number, told)
