"""Checks of the parameters of a model: who trains them, and who follows them."""

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from pyro_jarzynski.core.digests import fingerprint
from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.slices import is_sliced
from pyro_jarzynski.ebm.followers import Followers
from pyro_jarzynski.ebm.soundness import check_walkers_are_independent
from pyro_jarzynski.errors import ArgumentError


def trainable(model: nn.Module, optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters that are trained, or raise if the optimiser misses some."""
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not named:
        raise ArgumentError(
            "`model` has no parameter with `requires_grad`: there is nothing to train."
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in named.items() if id(p) not in held]
    if missing:
        raise ArgumentError(
            f"`optimizer` does not hold the parameters {', '.join(missing)} of `model`; "
            "build it from `model.parameters()`, or set their `requires_grad` to False."
        )
    known = {id(p) for p in model.parameters()}
    shapes = [
        str(tuple(p.shape))
        for group in optimizer.param_groups
        for p in group["params"]
        if id(p) not in known
    ]
    if shapes:
        raise ArgumentError(
            f"`optimizer` holds {len(shapes)} tensors that are no parameters of `model`, "
            f"of shape {', '.join(shapes)}, which would never be trained: build it from "
            "`model.parameters()`."
        )
    return list(named.values())


def check_followed(followers: Followers) -> None:
    """Raise unless walkers belong to their model as it is now.

    A network may have become random since they were drawn, or couple them, by modules that
    were replaced or by attributes.

    Raises:
        ArgumentError: The model is on another device, or at other parameters.
        EnergyError: Its energy couples walkers, or is random.
    """
    followers.cloud.check_kind()
    with followers.module_modes:
        check_walkers_are_independent(followers.model, followers.cloud.shard)
    followers.cloud.check_current()


def check_alike(parameters: Sequence[nn.Parameter], ranks: Ranks, step: int) -> None:
    """Raise unless all ranks have the same of what is whole on each of them.

    Raises:
        RankError: Names the ranks that differ.
    """
    if ranks.size > 1:
        whole = (parameter for parameter in parameters if not is_sliced(parameter))
        ranks.agree({f"parameters after update {step}": fingerprint(whole)})
