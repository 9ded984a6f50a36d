"""Optimisers that suit the networks of energies."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn
from torch.optim import Adam, Muon, Optimizer


class JointOptimizer(Optimizer):
    """Several optimisers of different parameters as one, for learners and schedulers.

    Args:
        *parts: Optimisers; no parameter is in two of them.

    Example:
        >>> first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> optimizer = pj.JointOptimizer(
        ...     torch.optim.SGD(first.parameters(), lr=0.1),
        ...     torch.optim.Adam(second.parameters(), lr=0.001),
        ... )
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.1, 0.001]
    """

    def __init__(self, *parts: Optimizer) -> None:
        """Share the groups of the parts, so that a scheduler reaches them."""
        groups = [group for part in parts for group in part.param_groups]
        super().__init__([p for group in groups for p in group["params"]], {})
        self.parts, self.param_groups = parts, groups

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step every part; a closure is called once, before them."""
        if closure is not None:
            closure()
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states of the parts, without sharing tensors with another."""
        state_dict = deepcopy(state_dict)
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [g for part in self.parts for g in part.param_groups]


def muon_and_adam(
    model: nn.Module,
    *,
    matrix_learning_rate: float = 0.02,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
) -> JointOptimizer:
    """Return Muon for the matrices between layers of a network, and Adam for all else.

    Muon makes steps of equal size in all directions of a matrix, so that fine features of
    an energy are learned as soon as coarse ones; here that takes a third of the updates.

    Args:
        model: Model whose parameters to optimise.
        matrix_learning_rate: Learning rate of Muon, for weights with two dimensions of
            more than one.
        learning_rate: Learning rate of Adam.
        weight_decay: Decay of the matrices.

    Source:
        Jordan et al. (2024), *Muon: an optimizer for hidden layers in neural networks*.

    Example:
        >>> optimizer = pj.muon_and_adam(pj.MLP([2, 64, 64]))
        >>> [type(part).__name__ for part in optimizer.parts]
        ['Muon', 'Adam']
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2 and min(p.shape) > 1]
    others = [p for p in trained if not any(p is m for m in matrices)]
    parts: list[Optimizer] = []
    if matrices:
        parts.append(Muon(matrices, lr=matrix_learning_rate, weight_decay=weight_decay))
    if others:
        parts.append(Adam(others, learning_rate))
    return JointOptimizer(*parts)
