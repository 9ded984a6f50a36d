"""How the densities of many walkers are evaluated at once.

Three methods are tried in this order: `torch.func.vmap` over a run of the model, a plate
of particles around it, and one walker at a time. A method is taken only if densities and
gradients of three walkers of the real cloud equal those of one walker at a time, because
a plate can be silently wrong with right shapes: `a - a.mean()` then mixes walkers.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.errors import ModelError, SlowModelWarning
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import PLATE_ERRORS
from pyro_jarzynski.infer.sites import seeded

# From coordinates `(n, D)` to log prior and log joint, `(n, 2)`.
Densities: TypeAlias = Callable[[Tensor], Tensor]

NUM_CHECKED = 3


class Batched(NamedTuple):
    """A way to evaluate many walkers.

    Attributes:
        densities: Log prior and log joint of walkers `(n, D)`, `(n, 2)`.
        method: `"vmap"`, `"plate"` or `"loop"`.
        reasons: Why the methods before it were refused.
    """

    densities: Densities
    method: str
    reasons: dict[str, str]


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
    loop = _loop(model)
    with seeded(seed, "first run"):
        truth = _with_gradients(loop, walkers[few])
    with seeded(seed, "second run"):
        again = _with_gradients(loop, walkers[few])
    if not all(_equal(a, b, 0.0) for a, b in zip(truth, again, strict=True)):
        raise ModelError(
            "Two runs of the model at the same latents differ: it draws random numbers "
            "outside its sample sites. Make them latents, draw them before, or switch "
            "dropout off with `.eval()`."
        )
    tolerance = 1e-3 if walkers.dtype != torch.float64 else 1e-7
    reasons = {}
    for method, densities in (("vmap", _vmap(model)), ("plate", _plate(model))):
        try:
            with seeded(seed, method):
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
        f"The model can only be evaluated one walker at a time, which is slow ({told}).",
        SlowModelWarning,
        stacklevel=2,
    )
    return Batched(loop, "loop", reasons)


def _vmap(model: PyroModel) -> Densities:
    return torch.func.vmap(model.log_densities)


def _plate(model: PyroModel) -> Densities:
    def densities(walkers: Tensor) -> Tensor:
        if model.enumerated is not None:
            raise ValueError("models with enumerated latents are not run in a plate")
        return model.log_densities(walkers, len(walkers))

    return densities


def _loop(model: PyroModel) -> Densities:
    return lambda walkers: torch.stack([model.log_densities(u) for u in walkers])


def _with_gradients(
    densities: Densities, walkers: Tensor, rows: Tensor | None = None
) -> list[Tensor]:
    """Return log prior, log joint, and the gradients of both, at some rows."""
    with torch.enable_grad():
        point = walkers.detach().clone().requires_grad_()
        values = densities(point)
        if values.shape != (len(walkers), 2):
            raise ValueError(f"densities of shape {tuple(values.shape)}")
        found = [values[:, 0].detach(), values[:, 1].detach()]
        for column in values.unbind(1):
            if column.requires_grad:
                (grad,) = torch.autograd.grad(column.sum(), point, retain_graph=True)
            else:
                grad = torch.zeros_like(point)
            found.append(grad)
    return found if rows is None else [f[rows] for f in found]


def _equal(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Compare to a tolerance relative to the largest finite number of either."""
    finite = b[torch.isfinite(b)]
    scale = 1 + float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True)
