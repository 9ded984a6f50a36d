"""How the densities of many walkers are evaluated at once.

Three methods are tried in this order: `torch.func.vmap` over a run of the model, a plate
of particles around it, and one walker at a time. A method is taken only if densities and
gradients of three walkers of the real cloud equal those of one walker at a time, because
a plate can be silently wrong with right shapes: `a - a.mean()` then mixes walkers.
"""

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.core.trees import leaves, map_tree
from pyro_jarzynski.errors import ModelError, SlowModelWarning
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import PLATE_ERRORS
from pyro_jarzynski.infer.singular import SingularAsNaN
from pyro_jarzynski.infer.sites import seeded

# From coordinates `(n, D)` to log prior and log joint, each `(n,)`.
Densities: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]

NUM_CHECKED = 3
NUM_FIRST = 7


class Batched(NamedTuple):
    """A way to evaluate many walkers.

    Attributes:
        densities: Log prior and log joint of walkers `(n, D)`, each `(n,)`.
        method: `"vmap"`, `"plate"` or `"loop"`.
        reasons: Why the methods before it were refused.
    """

    densities: Densities
    method: str
    reasons: dict[str, str]


def map_walkers(
    function: Callable[..., Any],
    *arguments: Any,
    by_loop: bool = False,
    chunk_size: int | None = None,
    randomness: bool = False,
) -> dict[str, Tensor]:
    """Map a function of one walker that returns tensors by name over all walkers.

    Args:
        function: Function of one row of each argument.
        arguments: Tensors, or dictionaries of tensors, with walkers along dimension 0.
        by_loop: Call it for one walker at a time; else that is done where `vmap` cannot
            map it.
        chunk_size: Walkers that are mapped at once; `None` takes all.
        randomness: Whether the function may draw, otherwise for every walker.

    Returns:
        Tensors by name, each `(N, *shape)`.
    """
    if not by_loop:
        mapped = torch.func.vmap(
            function,
            chunk_size=chunk_size,
            randomness="different" if randomness else "error",
        )
        try:
            with SingularAsNaN():
                return mapped(*arguments)
        except PLATE_ERRORS:
            pass
    num = len(next(leaves(arguments[0])))
    with SingularAsNaN():
        rows = [
            function(*(map_tree(lambda x, i=i: x[i], argument) for argument in arguments))
            for i in range(num)
        ]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def batch(model: PyroModel, walkers: Tensor, *, seed: int = 0) -> Batched:
    """Choose how to evaluate the densities of walkers.

    Args:
        model: The model.
        walkers: The real cloud, `(N, D)`, so that coincidences of shapes are met.
        seed: Seed of the check for hidden randomness.

    Raises:
        ModelError: Two runs of the model at one point differ.

    Warns:
        SlowModelWarning: The model can only be evaluated for one walker at a time.
    """
    few = torch.linspace(0, len(walkers) - 1, min(NUM_CHECKED, len(walkers))).long()
    loop = Guarded(_loop(model))
    truth, again = (_alone(loop, walkers[few], seed, run) for run in ("1", "2"))
    if not all(_equal(a, b, 0.0) for a, b in zip(truth, again, strict=True)):
        raise ModelError(
            "Two runs of the model at the same latents differ: it draws random numbers "
            "outside its sample sites. Make them latents, draw them before, or switch "
            "dropout off with `.eval()`."
        )
    tolerance = 1e-3 if walkers.dtype != torch.float64 else 1e-7
    reasons = {}
    for method, plain in (("vmap", _vmap(model)), ("plate", _plate(model))):
        densities = Guarded(plain)
        try:
            with seeded(seed, method):
                # A few walkers first: a plate can need memory that grows as their square.
                _with_gradients(densities, walkers[:NUM_FIRST])
                found = _with_gradients(densities, walkers, few)
        except PLATE_ERRORS as error:
            first_line = (str(error).strip().splitlines() or [""])[0]
            reasons[method] = f"{type(error).__name__}: {first_line}"
            continue
        if all(_equal(a, b, tolerance) for a, b in zip(found, truth, strict=True)):
            return Batched(densities, method, reasons)
        reasons[method] = "its numbers differ from those of one walker at a time"
    told = "; ".join(f"{method}: {reason}" for method, reason in reasons.items())
    warnings.warn(
        f"The model can only be evaluated one walker at a time, which is slow ({told}). "
        "Write it without branches on latents, `item()` and writing in place.",
        SlowModelWarning,
        stacklevel=2,
    )
    return Batched(loop, "loop", reasons)


def _alone(loop: Densities, walkers: Tensor, seed: int, run: str) -> list[Tensor]:
    """Evaluate walkers one at a time."""
    with seeded(seed, f"run {run}"):
        return _with_gradients(loop, walkers)


class Guarded:
    """Gives NaN to walkers at which a matrix cannot be factorised, instead of an error."""

    def __init__(self, densities: Densities) -> None:
        """Guard some densities."""
        self.densities = densities
        # Watching every operation takes time, which most models need not spend.
        self.watches = False

    def __call__(self, walkers: Tensor) -> tuple[Tensor, Tensor]:
        """Return log prior and log joint, each `(n,)`."""
        try:
            with SingularAsNaN() if self.watches else nullcontext():
                return self.densities(walkers)
        except torch.linalg.LinAlgError:
            if not self.watches:
                self.watches = True
                return self(walkers)
            if len(walkers) == 1:
                nothing = walkers.sum(1) * math.nan
                return nothing, nothing
            halves = [self(half) for half in walkers.chunk(2)]
            prior, joint = (torch.cat(parts) for parts in zip(*halves, strict=True))
            return prior, joint

    def __deepcopy__(self, memo: dict[int, Any]) -> "Guarded":
        """Return itself, as a function does."""
        return self

    def __reduce__(self) -> Any:
        """Refuse to go to another process: the model is code, run in many ways."""
        raise ModelError(
            "The result of a run holds its model, which cannot be pickled. Send what "
            "`get_samples()` returns, or run the model in the other process."
        )


def _vmap(model: PyroModel) -> Densities:
    return torch.func.vmap(model.log_densities)


def _plate(model: PyroModel) -> Densities:
    def densities(walkers: Tensor) -> tuple[Tensor, Tensor]:
        if model.enumerated is not None:
            raise ValueError("models with enumerated latents are not run in a plate")
        return model.log_densities(walkers, len(walkers))

    return densities


def _loop(model: PyroModel) -> Densities:
    def densities(walkers: Tensor) -> tuple[Tensor, Tensor]:
        rows = [model.log_densities(walker) for walker in walkers]
        prior, joint = (torch.stack(values) for values in zip(*rows, strict=True))
        return prior, joint

    return densities


def _with_gradients(
    densities: Densities, walkers: Tensor, rows: Tensor | None = None
) -> list[Tensor]:
    """Return log prior, log joint, and the gradients of both, at some rows."""
    with torch.enable_grad():
        point = walkers.detach().clone().requires_grad_()
        values = densities(point)
        found = [value.detach() for value in values]
        for value in values:
            if value.shape != (len(walkers),):
                raise ValueError(f"a log-density of shape {tuple(value.shape)}")
            if value.requires_grad:
                (grad,) = torch.autograd.grad(value.sum(), point, retain_graph=True)
            else:
                grad = torch.zeros_like(point)
            found.append(grad)
    return found if rows is None else [f[rows] for f in found]


def _equal(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Compare to a tolerance relative to the largest finite number of either."""
    finite = b[torch.isfinite(b)]
    scale = 1 + float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True)
