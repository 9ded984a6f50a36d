"""States of runs: trees of tensors and plain values, from which a run goes on.

A state holds tensors, numbers, strings, None, and lists, tuples and dictionaries of
these. Nothing in it is evaluated again: a run that is given its state goes on with the
same bits. Files are the concern of others; a run only offers its state to whoever keeps it.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch

from pyro_jarzynski.core.evaluation import Evaluation, Term, TermsFn
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import Walkers


class Resumable(Protocol):
    """A run whose state can be taken and put back."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a continuation needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class Keep(Protocol):
    """Called after each step of a run, to keep its state if it is time."""

    def __call__(self, step: int, *, now: bool = False) -> None:
        """Keep the state after so many steps; `now` does not wait until it is time."""


class Checkpointing(Protocol):
    """Where states of a run are kept; `runtime.checkpoints` keeps them on disk."""

    def opened(self, run: Resumable) -> AbstractContextManager[Keep]:
        """Put back the state to go on from, if there is one, and keep those to come."""


@contextmanager
def keeping(checkpoints: Checkpointing | None, run: Resumable) -> Iterator[Keep]:
    """Open checkpoints for a run; `None` keeps nothing."""
    if checkpoints is None:
        yield _keep_nothing
        return
    with checkpoints.opened(run) as keep:
        yield keep


def _keep_nothing(step: int, *, now: bool = False) -> None:
    del step, now


def walkers_state(walkers: Walkers) -> dict[str, Any]:
    """Return walkers with their energies and gradients as a state."""
    evaluation = walkers.evaluation._asdict()
    # A function is no state: whoever restores the walkers knows it.
    del evaluation["source"]
    evaluation["terms"] = [term._asdict() for term in walkers.evaluation.terms]
    return walkers._asdict() | {"evaluation": evaluation}


def walkers_from(
    state: Mapping[str, Any], device: torch.device, source: TermsFn | None = None
) -> Walkers:
    """Return the walkers of a state.

    Args:
        state: From `walkers_state`.
        device: Where they are to be.
        source: Function that gave the terms of their evaluation.
    """
    evaluation = dict(state["evaluation"])
    evaluation["terms"] = tuple(Term(**term) for term in evaluation["terms"])
    known = Evaluation(**evaluation, source=source)
    walkers = Walkers(**(dict(state) | {"evaluation": known}))
    return map_tree(lambda x: x.to(device), walkers)
