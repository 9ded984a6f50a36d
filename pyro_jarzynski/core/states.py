"""States of runs: trees of tensors and plain values, from which a run goes on.

A state holds tensors, numbers, strings, None, and lists, tuples and dictionaries of
these. Nothing in it is evaluated again: a run that is given its state goes on with the
same bits. Files are the concern of others; a run only offers its state to whoever keeps it.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

import torch

from pyro_jarzynski.core.kernels import Kernel
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError

# What kernels learn on the way.
CHANGING = ("step_size", "preconditioner")


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


def copied(state: Any) -> Any:
    """Return a state with copies of its tensors, dictionaries and lists."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        copy = type(state)()
        copy.update({key: copied(value) for key, value in state.items()})
        return copy
    if isinstance(state, list):
        return [copied(value) for value in state]
    if isinstance(state, tuple):
        return tuple(copied(value) for value in state)
    return deepcopy(state)


@contextmanager
def keeping(checkpoints: Checkpointing | None, run: Resumable) -> Iterator[Keep]:
    """Open checkpoints for a run; `None` keeps nothing."""
    if checkpoints is None:
        yield _keep_nothing
        return
    if not hasattr(checkpoints, "opened"):
        raise ArgumentTypeError(
            "`checkpoints` must be `Checkpoints`, such as `Checkpoints('directory')`; got "
            f"{checkpoints!r}."
        )
    with checkpoints.opened(run) as keep:
        yield keep


def settings_of(kernel: Kernel) -> dict[str, Any]:
    """Return the name of a kernel and its settings, but for those that a run changes."""
    described: Any = kernel
    names = [f.name for f in fields(described)] if is_dataclass(kernel) else vars(kernel)
    named = {name: getattr(kernel, name) for name in names if name not in CHANGING}
    # A kernel of the user may have anything, of which numbers and texts are compared.
    kept = {k: v for k, v in named.items() if isinstance(v, int | float | str | None)}
    return {"name": type(kernel).__name__} | kept


def check_settings(here: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise if a state is of a run with other settings, and say which differ."""
    differing = [
        f"`{name}` was {saved.get(name)!r} and is {here.get(name)!r}"
        for name in sorted(here.keys() | saved.keys())
        if here.get(name) != saved.get(name)
    ]
    if differing:
        raise ArgumentError(
            f"The state is of another run: {'; '.join(differing)}. Use the same settings, "
            "or begin anew."
        )


def _keep_nothing(step: int, *, now: bool = False) -> None:
    del step, now


def kernel_state(kernel: Kernel) -> dict[str, Any]:
    """Return what a kernel has learned as a state."""
    described: Any = kernel
    names: list[str] = [f.name for f in fields(described)] if is_dataclass(kernel) else []
    return {name: getattr(kernel, name) for name in CHANGING if name in names}


def kernel_from(state: Mapping[str, Any], kernel: Kernel, device: torch.device) -> Kernel:
    """Return a kernel with what another of its kind had learned."""
    settings: Any = kernel
    learned = map_tree(lambda x: x.to(device), dict(state))
    return replace(settings, **learned) if learned else kernel
