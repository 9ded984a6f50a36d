"""State of a loader: the random numbers and counters that decide which batch comes next.

A loader has no state of its own that can be saved. Its order follows from generators of
random numbers, which may be global or attributes of the loader, its samplers, its data set
and its functions, and from plain numbers among their attributes, such as an epoch.
"""

import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pyro_jarzynski.core.digests import digest
from pyro_jarzynski.core.noise import set_state
from pyro_jarzynski.core.states import check_settings

# Objects whose attributes are read, and entries of a container that are looked into.
MAX_OBJECTS, MAX_ENTRIES = 100, 50
PLAIN = (bool, int, float, str, type(None))
# Objects without attributes on which an order of batches depends.
OPAQUE = (
    nn.Module,
    torch.device,
    torch.dtype,
    type,
    ModuleType,
    BuiltinFunctionType,
    range,
)
# Attributes of a loader that may change between two processes: they change no batch.
FREE = {"num_workers", "prefetch_factor", "pin_memory", "pin_memory_device", "timeout"}


class Owner(NamedTuple):
    """An object that a loader holds.

    Attributes:
        path: Where it is held, such as `data.sampler`.
        value: The object.
    """

    path: str
    value: Any

    def attributes(self) -> Iterator[tuple[str, Any]]:
        """Iterate over the paths and values of its attributes."""
        for name, value in vars(self.value).items():
            if name != "_iterator":
                yield f"{self.path}.{name}", value


class LoaderState:
    """Reads and restores all from which the order of a loader's batches follows.

    A loader with `state_dict` and `load_state_dict` is asked for its own state as well.
    After `load_state_dict` its next epoch must begin with the batch that was next.

    Args:
        loader: Iterable of batches.
    """

    def __init__(self, loader: Iterable) -> None:
        """Find the objects that the loader holds, and what is constant in them."""
        self.loader = loader
        self.owners, self._held = _contents(loader)
        self._begun = self._numbers()
        self._digests: dict[str, str] | None = None

    @property
    def has_own_state(self) -> bool:
        """Whether the loader can be asked for its position."""
        return hasattr(self.loader, "state_dict") and hasattr(
            self.loader, "load_state_dict"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all generators, and the numbers that have changed."""
        loader: Any = self.loader
        numbers = self._numbers()
        return {
            "generators": {
                path: state
                for path, generator in self._generators().items()
                if (state := _generator_state(generator)) is not None
            },
            "numbers": {
                path: value
                for path, value in numbers.items()
                if path not in self._begun or self._begun[path] != value
            },
            "has_workers": [path for path, each in self._persistent() if _workers(each)],
            "own": loader.state_dict() if self.has_own_state else None,
        }

    @property
    def has_persistent_workers(self) -> bool:
        """Whether the loader has worker processes that live longer than an epoch."""
        return any(True for _ in self._persistent())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore generators and numbers; those that are not found stay as they are."""
        for path, each in self._persistent():
            # torch draws a seed when it starts workers, and not when it uses them again.
            if path in state["has_workers"] and not _workers(each):
                iter(each)
            elif path not in state["has_workers"]:
                each._iterator = None
        self.restore_numbers(state)

    def restore_numbers(self, state: Mapping[str, Any]) -> None:
        """Restore generators and numbers in this process, and leave workers as they are."""
        loader: Any = self.loader
        if self.has_own_state and state["own"] is not None:
            loader.load_state_dict(state["own"])
        owners = {owner.path: owner.value for owner in self.owners}
        numbers = self._numbers()
        changed = {path: x for path, x in self._begun.items() if numbers.get(path, x) != x}
        for path, value in (changed | state["numbers"]).items():
            owner, _, name = path.rpartition(".")
            if owner in owners:
                vars(owners[owner])[name] = value
        for path, generator in self._generators().items():
            if path in state["generators"]:
                _set_generator(generator, state["generators"][path])

    def constants(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """Return classes, numbers and digests of tensors, but for `changed` numbers."""
        if self._digests is None:
            self._digests = self._tensors()
        classes = {owner.path: type(owner.value).__name__ for owner in self.owners}
        numbers = {
            path: value
            for path, value in self._begun.items()
            if isinstance(value, bool | int | float)
            and path not in changed
            and not path.rpartition(".")[2].startswith("_")
            and path.rpartition(".")[2] not in FREE
        }
        return classes | numbers | self._digests

    def check(self, constants: Mapping[str, Any]) -> None:
        """Raise if this is another loader than that of the constants; name what differs."""
        here = self.constants({})
        check_settings({path: here.get(path) for path in constants}, constants)

    def _numbers(self) -> dict[str, Any]:
        return {
            path: value
            for owner in self.owners
            for path, value in owner.attributes()
            if isinstance(value, PLAIN)
        }

    def _generators(self) -> dict[str, Any]:
        """Return all generators: global ones, those of functions, and attributes."""
        found: dict[str, Any] = {"torch": torch.default_generator}
        if torch.cuda.is_initialized():
            for number, generator in enumerate(torch.cuda.default_generators):
                found[f"torch.cuda:{number}"] = generator
        found |= {"numpy": np.random.mtrand._rand, "random": random._inst}
        found |= self._held
        for owner in self.owners:
            found |= {p: value for p, value in owner.attributes() if _is_generator(value)}
        return found

    def _persistent(self) -> Iterator[tuple[str, Any]]:
        for path, value in self.owners:
            if isinstance(value, DataLoader) and value.persistent_workers:
                yield path, value

    def _tensors(self) -> dict[str, str]:
        values = {"data": self.loader}
        for owner in self.owners:
            values |= owner.attributes()
        found = {path: _as_tensors(value) for path, value in values.items()}
        return {path: digest(each) for path, each in found.items() if each is not None}


def _contents(loader: Any) -> tuple[list[Owner], dict[str, Any]]:
    """Return the objects with attributes that a loader holds, and other generators."""
    owners: list[Owner] = []
    held: dict[str, Any] = {}
    seen: set[int] = set()
    left = deque([("data", loader)])
    while left and len(owners) < MAX_OBJECTS:
        path, value = left.popleft()
        if id(value) in seen or isinstance(value, (*PLAIN, *OPAQUE)):
            continue
        seen.add(id(value))
        if _is_generator(value):
            held[path] = value
        elif isinstance(value, list | tuple):
            left += [(f"{path}[{k}]", x) for k, x in enumerate(value[:MAX_ENTRIES])]
        elif isinstance(value, dict):
            entries = list(zip(value, range(MAX_ENTRIES), strict=False))
            left += [(f"{path}[{key!r}]", value[key]) for key, _ in entries]
        elif isinstance(value, MethodType):
            left += [(path, value.__self__), (path, value.__func__)]
        elif isinstance(value, FunctionType):
            left += _used_by(path, value)
        elif isinstance(value, partial):
            left += [(path, value.func), (path, value.args), (path, value.keywords)]
        elif hasattr(value, "__dict__") and not hasattr(value, "__array__"):
            owners.append(Owner(path, value))
            left += owners[-1].attributes()
            left += _used_by_methods(path, type(value))
    return owners, held


def _used_by(path: str, function: FunctionType) -> list[tuple[str, Any]]:
    """Return the variables of a function's closure, and the global generators it names."""
    code, known = function.__code__, function.__globals__
    found = [(f"{path}.{name}", known.get(name)) for name in code.co_names]
    found = [(name, value) for name, value in found if _is_generator(value)]
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        # A variable that has no value yet has an empty cell.
        with suppress(ValueError):
            found.append((f"{path}.{name}", cell.cell_contents))
    return found


def _used_by_methods(path: str, kind: type) -> list[tuple[str, Any]]:
    """Return what the methods of a class use, but for classes of torch and Python."""
    return [
        pair
        for each in kind.__mro__
        if each.__module__.partition(".")[0] not in {"torch", *sys.stdlib_module_names}
        for method in vars(each).values()
        if isinstance(method, FunctionType)
        for pair in _used_by(path, method)
    ]


def _is_generator(value: Any) -> bool:
    return isinstance(
        value,
        torch.Generator | np.random.Generator | np.random.RandomState | random.Random,
    )


def _generator_state(generator: Any) -> Any:
    """Return the state of a generator in plain values; `None` if it has none."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return _plain(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state(legacy=False))
    if isinstance(generator, random.SystemRandom):
        return None
    return generator.getstate()


def _set_generator(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        set_state(generator, state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)


def _plain(state: Any) -> Any:
    """Return a state of NumPy with lists and numbers of Python."""
    if isinstance(state, Mapping):
        return {key: _plain(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state


def _workers(loader: Any) -> bool:
    """Return whether the persistent workers of a `DataLoader` have been started."""
    return loader._iterator is not None


def _as_tensors(value: Any) -> Any:
    """Return tensors and arrays in memory as tensors; `None` if it is anything else."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and not isinstance(value, np.memmap):
        return torch.from_numpy(value) if value.dtype.kind in "biufc" else None
    if isinstance(value, list | tuple) and value:
        first = _as_tensors(value[0])
        found = [] if first is None else [_as_tensors(each) for each in value]
        return found if found and all(each is not None for each in found) else None
    return None
