"""Validation of distributions switched off, also where a model asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from torch.distributions import Distribution


class _Off:
    """The attribute `_validate_args` of all distributions: false, whatever it is set to."""

    def __get__(self, fn: Any, kind: Any = None) -> bool:
        return False

    def __set__(self, fn: Any, value: Any) -> None:
        """Set nothing."""


@contextmanager
def unvalidated() -> Iterator[None]:
    """Validate neither parameters nor values, whatever `validate_args` says.

    Validation raises an error for all walkers if one of them is outside of a support or has
    an invalid parameter; `within_support` gives that walker density zero.
    """
    before = vars(Distribution)["_validate_args"]
    try:
        with pyro.validation_enabled(is_validate=False):
            setattr(Distribution, "_validate_args", _Off())  # noqa: B010
            yield
    finally:
        setattr(Distribution, "_validate_args", before)  # noqa: B010
