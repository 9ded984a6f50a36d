"""Networks that torch wraps for several ranks: taken as they are, unwrapped, or refused.

- `DistributedDataParallel` sums a gradient of its own; it is taken off, since gradients
  are summed here, weighted over the walkers of all ranks.
- `fully_shard` (FSDP2) gives each rank a slice of the parameters: `sliced_gradient.py`.

What is of torch is known by name, because to import all of it takes long.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pyro_jarzynski.core.slices import is_sliced, own_slice
from pyro_jarzynski.core.team import Team
from pyro_jarzynski.errors import ArgumentError

Module = TypeVar("Module", bound=nn.Module)

REPLICATED = "DistributedDataParallel"
# Modules that compute what another one does, and the names under which they have it.
WRAPPERS = {
    REPLICATED: "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
FULLY_SHARDED = "FSDPModule"
REFUSED = {REPLICATED, "FullyShardedDataParallel"}
# Along the dimensions of the mesh of ranks: slices, or slices of which there are copies.
SLICED = (["Shard"], ["Replicate", "Shard"])


def unwrapped(module: Module) -> Module:
    """Return the module within a `DistributedDataParallel`, or the module itself."""
    wrapper: Any = module
    return unwrapped(wrapper.module) if REPLICATED in _kinds(module) else module


def bare(module: nn.Module) -> nn.Module:
    """Return the module inside `DataParallel`, `torch.compile` and other wrappers."""
    name = _wrapped_name(module)
    return module if name is None else bare(module.get_submodule(name))


def bare_modules(model: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """Return path and module without wrappers, by the paths with them."""
    found: dict[str, tuple[str, nn.Module]] = {}

    def walk(path: str, bare_path: str, module: nn.Module) -> None:
        wrapped = _wrapped_name(module)
        if wrapped is None:
            found[path] = bare_path, module
        for name, child in module.named_children():
            inside = bare_path if name == wrapped else _joined(bare_path, name)
            walk(_joined(path, name), inside, child)

    walk("", "", model)
    return found


def bare_names(model: nn.Module) -> dict[str, str]:
    """Return the names of parameters and buffers without wrappers, by those with them."""
    paths = {path: bare_path for path, (bare_path, _) in bare_modules(model).items()}
    split = {name: name.rpartition(".") for name in model.state_dict()}
    return {
        name: _joined(paths.get(path, path), leaf)
        for name, (path, _, leaf) in split.items()
    }


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def settled(model: Module) -> Module:
    """Return a model for walkers: unwrapped, and sliced whenever it is not at work.

    torch leaves the outermost module gathered after a call without gradients, and would
    not see that its parameters change from then on.
    """
    model = unwrapped(model)
    for part in _slicing(model):
        part.set_reshard_after_forward(True, recurse=False)
        part.reshard()
    return model


def is_fully_sharded(model: nn.Module) -> bool:
    """Tell whether ranks have slices of some parameters."""
    return bool(_slicing(model))


def own_class(model: nn.Module) -> type:
    """Return the class of a model, and not the one that `fully_shard` puts over it."""
    kinds = type(model).__mro__
    names = [kind.__name__ for kind in kinds]
    return kinds[names.index(FULLY_SHARDED) + 1 if FULLY_SHARDED in names else 0]


def take_sums(model: nn.Module) -> None:
    """Let backward passes of a network leave sums over ranks, where torch takes means."""
    for part in _slicing(model):
        part.set_force_sum_reduction_for_comms(True)
        part.set_gradient_divide_factor(1.0)


def check_wrapping(model: nn.Module, team: Team) -> None:
    """Raise if ranks share a model in a way in which walkers cannot follow it."""
    for name, module in model.named_modules():
        found = _kinds(module) & REFUSED
        if found:
            raise ArgumentError(
                f"`model` has a {min(found)} at {name!r}. Give the network to the energy "
                "as it is, whole on every rank, or slice it by torch's `fully_shard`."
            )
    sliced = {n: p for n, p in model.named_parameters() if is_sliced(p)}
    if not sliced:
        return
    if (team.num_shards or 1) % team.ranks.size:
        raise ArgumentError(
            f"`num_shards` is {team.num_shards}: with a network that `fully_shard` has "
            f"sliced it must be a multiple of the {team.ranks.size} ranks, which evaluate "
            "it equally often."
        )
    within = [n for n, m in model.named_modules() if FULLY_SHARDED in _kinds(m)]
    for name, parameter in sliced.items():
        if not any(not n or name.startswith(f"{n}.") for n in within):
            raise ArgumentError(
                f"`model` has a DTensor at {name!r} that nobody gathers: slice the network "
                "by `fully_shard`."
            )
        _check_mesh(name, parameter, team.ranks.size)


def check_even(num_walkers: int, num_shards: int | None) -> None:
    """Raise unless walkers can be cut into equal shards, so that ranks keep step."""
    if num_walkers % (num_shards or 1):
        raise ArgumentError(
            f"{num_walkers} walkers cannot be cut into {num_shards} equal shards, which a "
            "network that `fully_shard` has sliced needs: take multiples of that for "
            "`num_walkers`, `walker_batch_size` and `audit_walkers`."
        )


@contextmanager
def shaken_in_place(model: nn.Module) -> Iterator[None]:
    """Move the parameters that are here at random, and put them and all buffers back."""
    tensors = [own_slice(x).detach() for x in (*model.parameters(), *model.buffers())]
    kept = [(x, x.clone()) for x in tensors]
    try:
        floating = (p for p in model.parameters() if p.is_floating_point())
        for x in map(own_slice, floating):
            x.detach().add_(torch.randn_like(x) * (0.1 + x.abs() / 10))
        yield
    finally:
        for x, value in kept:
            x.copy_(value)


def _check_mesh(name: str, parameter: Tensor, size: int) -> None:
    sliced: Any = parameter
    placed = [type(placement).__name__ for placement in sliced.placements]
    if sorted(placed) not in SLICED or sliced.device_mesh.size() != size:
        raise ArgumentError(
            f"`model` is shared among {sliced.device_mesh.size()} ranks at {name!r}, as "
            f"{', '.join(placed)}; `fully_shard` alone must have sliced it, among all "
            f"{size} ranks that share the walkers. Give it no mesh, or one of them all."
        )


def _slicing(model: nn.Module) -> list[Any]:
    """Return the modules that gather their parameters."""
    return [m for m in model.modules() if FULLY_SHARDED in _kinds(m)]


def _wrapped_name(module: nn.Module) -> str | None:
    """Return the name under which a wrapper has its module; `None` for other modules."""
    return next((WRAPPERS[kind] for kind in _kinds(module) & WRAPPERS.keys()), None)


def _kinds(module: nn.Module) -> set[str]:
    return {kind.__name__ for kind in type(module).__mro__}
