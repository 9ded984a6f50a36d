"""Optimisers that suit the networks of energies."""

import inspect
import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, Muon, Optimizer, SparseAdam

from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    nonnegative,
    positive,
)


class JointOptimizer(Optimizer):
    """Several optimisers of different parameters as one, for learners and schedulers.

    Args:
        *parts: Optimisers; no parameter is in two of them.

    Attributes:
        parts: The optimisers.

    Raises:
        ArgumentError: There is no optimiser, two share a parameter, or one needs a closure.
        ArgumentTypeError: One is no torch optimiser.

    Example:
        >>> first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> optimizer = pj.JointOptimizer(
        ...     torch.optim.SGD(first.parameters(), lr=0.1),
        ...     torch.optim.Adam(second.parameters(), lr=0.001),
        ... )
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.1, 0.001]
    """

    parts: tuple[Optimizer, ...]

    def __init__(self, *parts: Optimizer) -> None:
        """Check the parts."""
        if not parts:
            raise ArgumentError("`parts` must be at least one optimiser; got none.")
        for part in parts:
            check_optimizer("parts", part)
        held = [p for part in parts for group in part.param_groups for p in group["params"]]
        if len(set(map(id, held))) < len(held):
            raise ArgumentError(
                "`parts` must be optimisers of different parameters: two share some."
            )
        # Groups and states are those of the parts: the class above would keep its own.
        self.__setstate__({"parts": parts, "defaults": {}})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all parts, which a scheduler may change."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """The state of every parameter."""
        return {p: known for part in self.parts for p, known in part.state.items()}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every part; return the loss of a closure, called once before them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raise: nothing says which of the parts should take the group."""
        raise ArgumentError(
            "A group of parameters must be added to one of the parts: call "
            "`optimizer.parts[0].add_param_group(…)`, or that of another."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states of the parts, without sharing tensors with another."""
        state_dict = deepcopy(state_dict)
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)

    def __getstate__(self) -> dict[str, Any]:
        """Return the parts, for copies and pickles."""
        return {"parts": self.parts, "defaults": self.defaults}


def check_optimizer(name: str, optimizer: object) -> None:
    """Raise unless something is an optimiser whose steps walkers can follow.

    Args:
        name: What it is called.
        optimizer: The optimiser, or several as one.
    """
    if isinstance(optimizer, type) or not isinstance(optimizer, Optimizer):
        raise ArgumentTypeError(
            f"`{name}` must be a torch optimiser, such as `torch.optim.Adam("
            f"model.parameters(), 1e-3)`; got {_named(optimizer)}."
        )
    kind = type(optimizer).__name__
    if needs_argument(type(optimizer).step):
        raise ArgumentError(
            f"`{name}` is {kind}, whose steps need a closure that returns the loss; of an "
            "energy-based model only its gradient is known. Use Adam or SGD."
        )
    if isinstance(optimizer, SparseAdam):
        raise ArgumentError(
            f"`{name}` is {kind}, which takes sparse gradients alone; use Adam."
        )
    for group in optimizer.param_groups:
        rate = float(group.get("lr") or 0.0)
        if not 0 <= rate < math.inf:
            raise ArgumentError(
                f"`{name}` has a learning rate of {rate:g}, which must be finite and not "
                "negative: build it with another `lr`, or set that of its `param_groups`."
            )
        eps = group.get("eps")
        if isinstance(eps, float) and any(_is_zero(eps, p) for p in group["params"]):
            raise ArgumentError(
                f"`{name}` has `eps={eps:g}`, which is zero in torch.float16, the dtype of "
                "its parameters, so that its steps are NaN where a gradient is zero: build "
                "it with `eps=1e-4`, or the model with parameters of torch.float32."
            )
        if group.get("maximize"):
            raise ArgumentError(
                f"`{name}` has `maximize=True`, which would drive the model away from its "
                "data: leave it out."
            )
        if group.get("differentiable"):
            raise ArgumentError(
                f"`{name}` has `differentiable=True`, so that it cannot change parameters: "
                "leave it out."
            )
        if group.get("capturable") and any(p.is_cpu for p in group["params"]):
            raise ArgumentError(
                f"`{name}` has `capturable=True`, and parameters on the CPU, where nothing "
                "is captured: leave it out, or move the model to a GPU first."
            )


def check_scheduler(scheduler: Any, optimizer: Any) -> None:
    """Raise unless something is a scheduler of an optimiser that steps by itself."""
    if scheduler is None:
        return
    if isinstance(scheduler, type) or not hasattr(scheduler, "load_state_dict"):
        raise ArgumentTypeError(
            "`lr_scheduler` must be a torch scheduler, such as `torch.optim.lr_scheduler."
            f"StepLR(optimizer, 100)`; got {_named(scheduler)}."
        )
    kind = type(scheduler).__name__
    if needs_argument(type(scheduler).step):
        raise ArgumentError(
            f"`lr_scheduler` is {kind}, whose steps need a score, and this is stepped at "
            f"every update. Make it a callback: `class Plateau({kind}): __call__ = lambda "
            "self, learner, row: self.step(row['validation_nll'])`, and pass "
            "`callbacks=[Plateau(optimizer)]` to `fit`."
        )
    known = [optimizer, *getattr(optimizer, "parts", ())]
    if not any(getattr(scheduler, "optimizer", None) is each for each in known):
        raise ArgumentError(
            f"`lr_scheduler` is a {kind} of another optimiser than `optimizer`, which it "
            "would not change: build it from that one."
        )


def check_schedule_length(scheduler: Any, num_steps: int) -> None:
    """Raise if a scheduler ends before so many further updates."""
    total = getattr(scheduler, "total_steps", None)
    done = getattr(scheduler, "last_epoch", 0)
    if isinstance(total, int) and done + num_steps > total:
        raise ArgumentError(
            f"`lr_scheduler` is a {type(scheduler).__name__} of {total} updates, of which "
            f"{done} are over, and `num_steps` asks for {num_steps}: build it with "
            f"`total_steps={done + num_steps}`."
        )


def _is_zero(number: float, like: torch.Tensor) -> bool:
    """Return whether a positive number is zero in the dtype of a tensor."""
    half = like.dtype == torch.float16
    rounded = torch.tensor(number, dtype=like.dtype, device="cpu")
    return half and number > 0 and float(rounded) == 0


def needs_argument(method: Callable[..., Any] | None) -> bool:
    """Return whether a method cannot be called without arguments."""
    if method is None:
        return False
    _, *others = inspect.signature(method).parameters.values()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(p.default is p.empty and p.kind not in optional for p in others)


def _named(value: object) -> str:
    """Return what a value is: a class by its name, which must be called first."""
    if isinstance(value, type):
        return f"the class {value.__name__}; call it"
    return type(value).__name__


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

    Raises:
        ArgumentError: A rate is out of its range, or nothing can be trained.

    Source:
        Jordan et al. (2024), *Muon: an optimizer for hidden layers in neural networks*.

    Example:
        >>> optimizer = pj.muon_and_adam(pj.MLP([2, 64, 64]))
        >>> [type(part).__name__ for part in optimizer.parts]
        ['Muon', 'Adam']
    """
    positive("matrix_learning_rate", matrix_learning_rate)
    positive("learning_rate", learning_rate)
    nonnegative("weight_decay", weight_decay)
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ArgumentError("`model` has no parameter with `requires_grad`.")
    matrices = [p for p in trained if p.ndim == 2 and min(p.shape) > 1]
    others = [p for p in trained if not any(p is m for m in matrices)]
    parts: list[Optimizer] = []
    if matrices:
        parts.append(Muon(matrices, lr=matrix_learning_rate, weight_decay=weight_decay))
    if others:
        parts.append(Adam(others, learning_rate))
    return JointOptimizer(*parts)
