"""Hyperparameters of an optimiser and its scheduler, by which a resumed run is compared.

A checkpoint overwrites those of the optimiser that it is loaded into. Other ones in the
resumed program would have no effect, so that they raise an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_jarzynski.core.states import check_settings

# Updates at which functions of the step are compared.
NUM_POINTS = 32


def hyperparameters(
    model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler | None
) -> dict[str, Any]:
    """Return the options of an optimiser and the state of a scheduler as plain values.

    Names are those of the user: `optimizer.lr`, or `optimizer.param_groups[1].lr` if there
    are several groups. Parameters are given by their names in the model, in their order.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    groups = optimizer.param_groups
    found: dict[str, Any] = {}
    for number, group in enumerate(groups):
        path = "optimizer" if len(groups) == 1 else f"optimizer.param_groups[{number}]"
        options = {key: value for key, value in group.items() if key != "params"}
        options["params"] = [names.get(id(p)) for p in group["params"]]
        found |= _flat(path, options)
    if scheduler is not None:
        found |= _flat("lr_scheduler", scheduler.state_dict())
    return found


def check_hyperparameters(
    here: Mapping[str, Any], saved: Sequence[Mapping[str, Any]]
) -> None:
    """Raise unless hyperparameters are those of one of several moments of a run.

    Raises:
        ArgumentError: Names those that differ from the moment with the fewest differences.
    """
    check_settings(here, min(saved, key=lambda each: _num_differences(here, each)))


def function_values(scheduler: LRScheduler | None, last: int) -> dict[str, Any]:
    """Return values of the functions of a scheduler such as `LambdaLR`, up to an update.

    Args:
        scheduler: The scheduler.
        last: Number of the last update.
    """
    points = sorted({k * last // NUM_POINTS for k in range(NUM_POINTS + 1)})
    return {
        path: [[step, _value(function, step)] for step in points]
        for path, function in _functions("lr_scheduler", scheduler)
    }


def check_functions(scheduler: LRScheduler | None, saved: Mapping[str, Any]) -> None:
    """Raise if functions of a scheduler have other values than those that were saved."""
    functions = dict(_functions("lr_scheduler", scheduler))
    here, known = {}, {}
    for path, values in saved.items():
        for step, value in values:
            name = f"{path} at update {step}"
            known[name] = value
            here[name] = _value(functions[path], step) if path in functions else None
            if here[name] != value:
                # One update is enough to name the function.
                break
    check_settings(here, known)


def _functions(path: str, scheduler: Any) -> Iterator[tuple[str, Any]]:
    """Yield the functions of a scheduler and of the schedulers within it."""
    for number, function in enumerate(getattr(scheduler, "lr_lambdas", ())):
        yield f"{path}.lr_lambdas[{number}]", function
    for number, inner in enumerate(getattr(scheduler, "_schedulers", ())):
        yield from _functions(f"{path}[{number}]", inner)


def _value(function: Any, step: int) -> float | None:
    """Return a function's value; `None` where it has none, as beyond a table's end."""
    try:
        return float(function(step))
    except Exception:
        return None


def _flat(path: str, value: Any) -> dict[str, Any]:
    """Return plain values within dictionaries and lists by their paths."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        pairs = [(f"{path}.{key}", entry) for key, entry in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(f"{path}[{number}]", entry) for number, entry in enumerate(value)]
    else:
        plain = isinstance(value, bool | int | float | str | None)
        return {path: value} if plain else {}
    return {name: entry for pair in pairs for name, entry in _flat(*pair).items()}


def _num_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    return sum(one.get(name) != other.get(name) for name in one.keys() | other.keys())
