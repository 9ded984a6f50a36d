"""Work that can be given up: a watcher is called before each evaluation inside it.

A stage of a run can take minutes. Whoever must not wait for its end, for a signal or a
time limit, puts a watcher around it, which may raise `Abandoned`. The walkers of such a
stage are discarded; those before it are valid.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from pyro_jarzynski.core.ranks import Ranks

T = TypeVar("T")
Watcher = Callable[[], None]

_WATCHERS: ContextVar[tuple[Watcher, ...]] = ContextVar("watchers", default=())


class Abandoned(BaseException):
    """Ends work that is given up."""


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Call a watcher before each evaluation inside the block; it may raise `Abandoned`."""
    token = _WATCHERS.set((*_WATCHERS.get(), watcher))
    try:
        yield
    finally:
        _WATCHERS.reset(token)


def look() -> None:
    """Call the watchers, before an evaluation.

    Raises:
        Abandoned: The work under way is given up.
    """
    for watcher in _WATCHERS.get():
        watcher()


def on_all(ranks: Ranks, work: Callable[[], T]) -> T:
    """Do work that needs no other rank; if one rank gives it up, all do.

    Raises:
        Abandoned: On all ranks.
    """
    if ranks.size == 1 or not _WATCHERS.get():
        return work()
    try:
        done, given_up = work(), False
    except Abandoned:
        given_up = True
    if any(ranks.largest(given_up)):
        raise Abandoned
    return done
