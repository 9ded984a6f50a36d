"""Means over weighted walkers, with errors that know which walkers are relatives."""

import torch
from torch import Tensor

from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError


def family_errors(walkers: Walkers, values: Tensor) -> Tensor:
    """Return the standard error of the mean of each scalar, `(d,)`, from the genealogy.

    `√ Σ_e (Σ_{i∈e} W_i (f_i - f̄))²` over the families `e` of a common ancestor.

    Args:
        walkers: The walkers, on their islands.
        values: Values of all of them, `(C N, *shape)` with `d` scalars.

    Source:
        Chan, Lai (2013), Annals of Statistics 41(6).
    """
    flat = values.double().reshape(len(values), -1)
    weight = walkers.weight.flatten()[:, None] / walkers.log_banked.numel()
    centred = weight * (flat - (weight * flat).sum(0))
    families = torch.zeros_like(centred).index_add_(0, walkers.ancestor, centred)
    return families.square().sum(0).sqrt()


def family_concentration(walkers: Walkers) -> float:
    """Return `Σ_e W_e²` over the families of a common ancestor: 1 if there is only one."""
    weight = walkers.weight.flatten() / walkers.log_banked.numel()
    families = torch.zeros_like(weight).index_add_(0, walkers.ancestor, weight)
    return float(families.square().sum())


def check_labels(name: str, labels: object, size: int) -> Tensor:
    """Return the class of each draw, `(size,)`, int64, or raise and say what came.

    Args:
        name: Name of the function that gave them, for the message.
        labels: What it returned.
        size: Number of draws.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise ArgumentTypeError(
            f"`{name}` must return a tensor of integers, the mode of each draw; got {got}. "
            "Call `.long()` on it."
        )
    if labels.shape != (size,):
        raise ArgumentError(
            f"`{name}` must return one mode per draw, shape ({size},); got "
            f"{tuple(labels.shape)}."
        )
    if (labels < 0).any():
        raise ArgumentError(
            f"`{name}` must return modes from 0, got {int(labels.min())}; give draws of no "
            "mode a mode of their own."
        )
    return labels.long()
