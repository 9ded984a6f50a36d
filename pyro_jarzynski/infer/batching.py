"""How the densities of many walkers are evaluated at once.

Three methods are tried in this order: `torch.func.vmap` over a run of the model, a plate
of particles around it, and one walker at a time. A method is taken only if densities and
gradients of three walkers of the real cloud equal those of one walker at a time, because
a plate can be silently wrong with right shapes: `a - a.mean()` then mixes walkers.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.core.memory import chunk_size_for
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
        chunk_size: Walkers per call; `None` is all at once.
    """

    densities: Densities
    method: str
    reasons: dict[str, str]
    chunk_size: int | None


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


def batch(
    model: PyroModel,
    walkers: Tensor,
    cloud_sizes: Sequence[int] | None = None,
    *,
    chunk_size: int | str | None = None,
    seed: int = 0,
) -> Batched:
    """Choose how to evaluate the densities of walkers.

    A method is tried with as many walkers as the calls of a run have, so that coincidences
    of shapes are met, and never with more, so that it needs no more memory than the run.

    Args:
        model: The model.
        walkers: Some draws of the base, `(n, D)`.
        cloud_sizes: Numbers of walkers of the clouds to come; `None` is `n` alone.
        chunk_size: Walkers per call; `"auto"` chooses by memory, `None` takes all at once.
        seed: Seed of the check for hidden randomness.

    Raises:
        ModelError: Two runs of the model at one point differ.

    Warns:
        SlowModelWarning: The model can only be evaluated for one walker at a time.
    """
    number = min(NUM_CHECKED, len(walkers))
    few = torch.linspace(0, len(walkers) - 1, number, device=walkers.device).long()
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
                per_call = _walkers_per_call(chunk_size, densities, walkers)
                tried = [
                    _with_gradients(densities, _repeated(walkers, size))
                    for size in _call_sizes(cloud_sizes or [len(walkers)], per_call)
                ]
        except PLATE_ERRORS as error:
            first_line = (str(error).strip().splitlines() or [""])[0]
            reasons[method] = f"{type(error).__name__}: {first_line}"
            continue
        if all(_agrees(found, truth, few, tolerance) for found in tried):
            return Batched(densities, method, reasons, per_call)
        reasons[method] = "its numbers differ from those of one walker at a time"
    told = "; ".join(f"{method}: {reason}" for method, reason in reasons.items())
    warnings.warn(
        f"The model can only be evaluated one walker at a time, which is slow ({told}). "
        "Write it without branches on latents, `item()` and writing in place.",
        SlowModelWarning,
        stacklevel=2,
    )
    # One walker at a time needs the memory of one, whatever the chunk.
    per_call = 1 if isinstance(chunk_size, str) else chunk_size
    return Batched(loop, "loop", reasons, per_call)


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


def _walkers_per_call(
    chunk_size: int | str | None, densities: Densities, walkers: Tensor
) -> int | None:
    """Return a number of walkers per call, chosen by memory if it is `"auto"`."""

    def energy(position: Tensor) -> Tensor:
        prior, joint = densities(position)
        # Of densities that are constant, the gradient is zero and no error.
        return prior + joint + 0 * position.sum(1)

    return chunk_size_for(chunk_size, energy, walkers)


def _call_sizes(cloud_sizes: Sequence[int], per_call: int | None) -> list[int]:
    """Return the numbers of walkers that the calls of a run have, the largest first."""
    sizes: set[int] = set()
    for num in cloud_sizes:
        most = num if per_call is None else min(per_call, num)
        sizes |= {most, num % most}
    return sorted(sizes - {0}, reverse=True)


def _repeated(walkers: Tensor, num: int) -> Tensor:
    """Return so many walkers, the same again and again if there are fewer."""
    return walkers[torch.arange(num, device=walkers.device) % len(walkers)]


def _agrees(
    found: list[Tensor], truth: list[Tensor], rows: Tensor, tolerance: float
) -> bool:
    """Compare some rows, as far as there are so many, to the numbers they have alone."""
    there = rows < len(found[0])
    return all(
        _equal(a[rows[there]], b[there], tolerance)
        for a, b in zip(found, truth, strict=True)
    )


def _with_gradients(densities: Densities, walkers: Tensor) -> list[Tensor]:
    """Return log prior, log joint, and the gradients of both."""
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
    return found


def _equal(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Compare to a tolerance relative to the largest finite number of either."""
    finite = b[torch.isfinite(b)]
    scale = 1 + float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True)
