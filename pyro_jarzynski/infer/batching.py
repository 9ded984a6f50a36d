"""How the densities of many walkers are evaluated at once.

Three methods are tried in this order: `torch.func.vmap` over a run of the model, a plate
of particles around it, and one walker at a time. A method is taken only if densities and
gradients of a few walkers of the real cloud are those of each alone, up to rounding. A
plate can be silently wrong with right shapes: `a - a.mean()` then mixes walkers. It is
taken only if no walker changes with the others, and `Batched.confirm` compares again
wherever a run has moved its walkers.
"""

import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.core.compiled import TOLERANCE
from pyro_jarzynski.core.memory import chunk_size_for
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.trees import leaves, map_tree
from pyro_jarzynski.errors import ModelError, SlowModelWarning
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import PLATE_ERRORS
from pyro_jarzynski.infer.program_lines import line_of, random_call
from pyro_jarzynski.infer.run_warnings import warn
from pyro_jarzynski.infer.singular import SingularAsNaN
from pyro_jarzynski.infer.site_errors import named_errors, unusable
from pyro_jarzynski.infer.sites import seeded
from pyro_jarzynski.infer.slow_models import Refusal, advice

# From coordinates `(n, D)` to log prior and log joint, each `(n,)`.
Densities: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]

NUM_FIRST = 7
# Two ways to the numbers of a walker may differ by so many units in the last place of the
# largest of them, and by so many times the change that rounding its coordinates makes.
MAX_ROUNDING = 32
MAX_NOISE = 16
NUM_ROUNDED = 4


class Batched(NamedTuple):
    """A way to evaluate many walkers.

    Attributes:
        densities: Log prior and log joint of walkers `(n, D)`, each `(n,)`.
        alone: The same, one walker at a time.
        method: `"vmap"`, `"plate"` or `"loop"`.
        refusals: Why the methods before it cannot be used.
        chunk_size: Walkers per call; `None` is all at once.
    """

    densities: Densities
    alone: "Alone"
    method: str
    refusals: list[Refusal]
    chunk_size: int | None

    def confirm(
        self, walkers: Tensor, log_joint: Tensor, grad: Tensor, *, compiled: bool
    ) -> None:
        """Raise if walkers in a plate did not have the densities that each has alone.

        Args:
            walkers: Coordinates, `(N, D)`.
            log_joint: Log joint of each that was found, `(N,)`.
            grad: Its gradient, `(N, D)`.
            compiled: Whether compiled code found them, which rounds otherwise.

        Raises:
            ModelError: A few walkers have others.
        """
        if self.method != "plate":
            return
        rows = _spread(walkers)
        truth = self.alone.numbers(walkers[rows])
        slope = _where_finite(log_joint[rows], grad[rows])
        found = [truth[0], log_joint[rows], truth[2], slope]
        rounding = TOLERANCE[walkers.dtype] if compiled else None
        if not self.alone.agrees(found, truth, walkers[rows], rounding):
            gap = float((found[1] - truth[1]).abs().max())
            raise ModelError(
                "The model has other densities in a plate of all walkers than for each "
                f"alone, by {gap:.3g} nats: it mixes walkers, or branches on all of them. "
                "Write reductions over the last dimensions, such as `a.mean(-1)`, and "
                "`torch.where` in place of branches on latents."
            )


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
            randomness="different" if randomness else "same",
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
    walkers_of_run: int | None = None,
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
        walkers_of_run: Walkers of all clouds, for the expected time of a run; `None` is
            those of the largest.
        seed: Seed of the check for hidden randomness.

    Raises:
        ModelError: Two runs of the model at one point differ.

    Warns:
        SlowModelWarning: The model can only be evaluated for one walker at a time.
    """
    few = _spread(walkers)
    alone = Alone(model)
    truth = repeated(
        model, lambda: _numbers(model, alone, walkers[few]), walkers[0], seed=seed
    )
    refusals: list[Refusal] = []
    for method, plain in (("vmap", _vmap(model)), ("plate", _plate(model))):
        densities = Guarded(plain)
        try:
            with seeded(seed, method):
                # A few walkers first: a plate can need memory that grows as their square.
                _with_gradients(densities, walkers[:NUM_FIRST])
                per_call = _walkers_per_call(chunk_size, densities, walkers)
                sizes = _call_sizes(cloud_sizes or [len(walkers)], per_call)
                tried = [
                    _with_gradients(densities, _repeated(walkers, size)) for size in sizes
                ]
                mixed = method == "plate" and _mixes(
                    densities, _repeated(walkers, sizes[0])
                )
        except PLATE_ERRORS as error:
            refusals.append(Refusal.by(method, error))
            continue
        if not all(_agrees_at(few, found, truth, alone, walkers) for found in tried):
            differs = "its numbers differ from those of one walker at a time"
            refusals.append(Refusal(method, differs))
        elif mixed:
            changes = "the numbers of a walker change with other walkers"
            refusals.append(Refusal(method, changes))
        else:
            return Batched(densities, alone, method, refusals, per_call)
    start = time.perf_counter()
    alone.numbers(walkers[few])
    seconds = (time.perf_counter() - start) / len(few)
    num = walkers_of_run or max(cloud_sizes or [len(walkers)])
    warn(advice(refusals, seconds, num, model.size), SlowModelWarning)
    # One walker at a time needs the memory of one, whatever the chunk.
    per_call = 1 if isinstance(chunk_size, str) else chunk_size
    return Batched(alone.densities, alone, "loop", refusals, per_call)


def repeated(
    model: PyroModel, numbers: Callable[[], list[Tensor]], walker: Tensor, *, seed: int
) -> list[Tensor]:
    """Return numbers that two runs of a model have in common.

    Args:
        model: The model.
        numbers: Runs it.
        walker: A walker at which it is run, to find where it draws random numbers.
        seed: Seed of whatever it draws.

    Raises:
        ModelError: The runs differ, or fail since they leave torch.
    """
    found = []
    for run in ("run 1", "run 2"):
        with seeded(seed, run), _leaving_torch_explained():
            found.append(numbers())
    if any(_gaps(a, b).any() for a, b in zip(*found, strict=True)):
        with seeded(seed, "run 3"):
            call = random_call(lambda: model.run(walker))
        by = f" (by {call})" if call else ""
        raise ModelError(
            "Two runs of the model at the same latents differ: it draws random numbers "
            f"outside its sample sites{by}. Make them latents, draw them before, or switch "
            "dropout off with `.eval()`."
        )
    return found[0]


@contextmanager
def _leaving_torch_explained() -> Iterator[None]:
    """Name the line at which a model takes values out of torch that have a gradient."""
    try:
        yield
    except RuntimeError as error:
        if "requires grad" not in str(error):
            raise
        line = line_of(traceback.extract_tb(error.__traceback__))
        raise ModelError(
            f"The model takes latents out of torch at {line}, where they need a gradient "
            f"({error}). Write it with functions of torch. After `.detach()`, walkers move "
            "without this part of the gradient, which is slower."
        ) from error


def _numbers(model: PyroModel, alone: "Alone", walkers: Tensor) -> list[Tensor]:
    """Evaluate walkers one at a time; name the site if that is not possible."""
    try:
        with named_errors():
            return alone.numbers(walkers)
    except ModelError:
        raise
    except RuntimeError as error:
        site = model.site_without_gradient(walkers[0])
        if site is None:
            raise
        raise unusable(site, error) from error


class Alone:
    """The densities of walkers one at a time, with which others are compared.

    Args:
        model: The model.
    """

    def __init__(self, model: PyroModel) -> None:
        """Take the coarsest type of a latent for that of the model."""
        self.densities = Guarded(_loop(model))
        self.eps = max(torch.finfo(latent.dtype).eps for latent in model.latents)

    def numbers(self, walkers: Tensor) -> list[Tensor]:
        """Return log prior, log joint, and the gradients of both."""
        return _with_gradients(self.densities, walkers)

    def agrees(
        self,
        found: list[Tensor],
        truth: list[Tensor],
        walkers: Tensor,
        rounding: float | None = None,
    ) -> bool:
        """Tell whether numbers that were found otherwise are the same up to rounding.

        Rounding is that of a walker's own largest number. It is more where matrices are
        nearly singular: how much, shows at coordinates that differ in the last place.

        Args:
            found: Numbers of walkers, each `(n,)` or `(n, D)`.
            truth: Those of each alone.
            walkers: The walkers, `(n, D)`.
            rounding: Share of the largest number; `None` is that of sums in their dtype.
        """
        if _agree(found, truth, [0.0] * len(truth), rounding):
            return True
        return _agree(found, truth, self._noise(truth, walkers), rounding)

    def _noise(self, truth: list[Tensor], walkers: Tensor) -> list[Tensor]:
        """Return the largest change of the numbers of each walker by rounding, `(n, 1)`."""
        size = 2 * self.eps * walkers.abs().clamp(min=1e-2)
        generator = stream(0, "rounding", walkers.device)
        noise = [torch.zeros_like(walkers[:, :1])] * len(truth)
        for _ in range(NUM_ROUNDED):
            sign = torch.randint(
                2, walkers.shape, generator=generator, device=walkers.device
            )
            rounded = self.numbers(walkers + size * (2 * sign - 1))
            noise = [
                torch.maximum(most, _gaps(a, b).amax(1, keepdim=True))
                for most, a, b in zip(noise, rounded, truth, strict=True)
            ]
        return noise


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
    # What is drawn is without effect, as of values that parameters have at first.
    return torch.func.vmap(model.log_densities, randomness="same")


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
            found.append(_where_finite(value.detach(), grad))
    return found


def _where_finite(value: Tensor, grad: Tensor) -> Tensor:
    """Return gradients `(n, D)`, and NaN where the value is not finite."""
    return torch.where(torch.isfinite(value)[:, None], grad, torch.nan)


def _spread(walkers: Tensor) -> Tensor:
    """Return the rows of a few walkers."""
    last = len(walkers) - 1
    rows = sorted({0, (last + 1) // 2, last})
    return torch.tensor(rows, device=walkers.device)


def _agrees_at(
    rows: Tensor,
    found: list[Tensor],
    truth: list[Tensor],
    alone: Alone,
    walkers: Tensor,
) -> bool:
    """Compare some rows, as far as there are so many, to the numbers they have alone."""
    rows = rows[rows < len(found[0])]
    known = [x[: len(rows)] for x in truth]
    return alone.agrees([x[rows] for x in found], known, walkers[rows])


def _agree(
    found: list[Tensor],
    truth: list[Tensor],
    noise: Sequence[Tensor | float],
    rounding: float | None = None,
) -> bool:
    """Compare numbers by walker to what rounding can do to each, and to known noise."""
    for a, b, most in zip(found, truth, noise, strict=True):
        numbers = torch.where(torch.isfinite(b), b, 0.0).reshape(len(b), -1)
        size = 1 + numbers.abs().amax(1, keepdim=True)
        share = rounding or MAX_ROUNDING * torch.finfo(b.dtype).eps
        limit = share * size + MAX_NOISE * most
        if not (_gaps(a, b) <= limit).all():
            return False
    return True


def _gaps(a: Tensor, b: Tensor) -> Tensor:
    """Return absolute differences `(n, k)`: infinite where one alone is not finite."""
    gaps = (a - b).abs().nan_to_num(torch.inf)
    equal = (a == b) | (a.isnan() & b.isnan())
    return torch.where(equal, 0.0, gaps).reshape(len(gaps), -1)


def _mixes(densities: Densities, walkers: Tensor) -> bool:
    """Tell whether densities of some walkers change with where others are.

    The derivative of a walker's density with respect to another walker must be zero, and
    the density must stay as it is when the others are put elsewhere.
    """
    odd = torch.arange(len(walkers), device=walkers.device) % 2 == 1
    with torch.enable_grad():
        point = walkers.detach().clone().requires_grad_()
        values = densities(point)
        for value in values:
            sound = torch.isfinite(value)
            for half in (odd, ~odd):
                own, others = value[half & sound], ~half & sound
                if not (own.requires_grad and others.any()):
                    continue
                (grad,) = torch.autograd.grad(own.sum(), point, retain_graph=True)
                if (grad[others] != 0).any():
                    return True
        before = [value.detach() for value in values]
    for half in (odd, ~odd):
        with torch.no_grad():
            after = densities(torch.where(half[:, None], walkers[:1], walkers))
        kept, known = ([v[~half] for v in values] for values in (after, before))
        if not _agree(kept, known, [0.0] * len(before)):
            return True
    return False
