"""Curvature of an energy at its walkers, against which a step size must be small.

Weights of unadjusted Langevin have infinite variance once `h λ ≥ 2`, with `λ` the largest
eigenvalue of the Hessian in the metric of the preconditioner.
"""

import warnings

import torch
from torch import Tensor

from pyro_jarzynski.core.evaluation import Energy, evaluate, is_outside
from pyro_jarzynski.core.kernels import Kernel
from pyro_jarzynski.core.noise import normal_like, stream
from pyro_jarzynski.core.preconditioner import Factor, scale, scale_transposed
from pyro_jarzynski.core.trees import Position, inner, leaves, map_tree, per_walker, select
from pyro_jarzynski.errors import StepSizeWarning


def largest_curvature(
    energy: Energy,
    position: Position,
    *,
    factor: Factor = None,
    num_iterations: int = 10,
    num_walkers: int = 32,
) -> Tensor:
    """Estimate the largest curvature of `U` over some walkers by power iteration.

    Uses central differences of the gradient, `H v ≈ [∇U(x + δv) - ∇U(x - δv)] / 2δ`, so
    the energy need not be twice differentiable by torch.

    Args:
        energy: The energy, in nats.
        position: Walkers, `(N, *event)`; the first `num_walkers` are looked at.
        factor: Factor `L` of a preconditioner; `None` is the identity.
        num_iterations: Power iterations, two evaluations each.
        num_walkers: Walkers to look at.

    Returns:
        The largest eigenvalue found of `Lᵀ H L`, `()`, in inverse squared units.
    """
    point = map_tree(lambda x: x[:num_walkers].detach(), position)
    device = next(leaves(point)).device

    def largest_modulus(shift: float) -> Tensor:
        """Return the eigenvalue of `LᵀHL + shift` of largest modulus, per walker."""
        direction = _unit(normal_like(point, stream(0, "power iteration", device)))
        for _ in range(num_iterations):
            product = _hessian_product(energy, point, direction, factor)
            product = map_tree(lambda p, v: p + shift * v, product, direction)
            value = inner(direction, product)
            direction = _unit(product)
        return value

    first = largest_modulus(0.0)
    shift = -float(first.min())
    # A negative eigenvalue of large modulus hides a positive one: shift it to zero.
    found = largest_modulus(shift) - shift if shift > 0 else first
    finite = found[torch.isfinite(found)]
    return finite.max() if len(finite) else found.new_tensor(torch.inf)


def warn_if_unstable(
    kernel: Kernel, energy: Energy, position: Position, *, num_walkers: int = 32
) -> None:
    """Warn when the weights of an unadjusted kernel have infinite variance."""
    if not kernel.moves_on_switch:
        return
    curvature = float(
        largest_curvature(energy, position, factor=kernel.factor, num_walkers=num_walkers)
    )
    product = kernel.langevin_step * curvature
    if product < 2:
        return
    safe = kernel.with_langevin_step(1 / curvature).step_size
    warnings.warn(
        f"Step size {kernel.step_size:.3g} is too large for the curvature of the energy, "
        f"{curvature:.3g}: from {product:.3g} ≥ 2 on (step size times "
        f"curvature) the weights have infinite variance. Use a step size of at most "
        f"{safe:.2g}, a preconditioner, or MALA.",
        StepSizeWarning,
        stacklevel=3,
    )


def _hessian_product(
    energy: Energy, point: Position, direction: Position, factor: Factor
) -> Position:
    """Return `Lᵀ H L v` by central differences of the gradient.

    Zero where a difference is across the edge of the support: a jump is no curvature.
    """
    delta = _difference_step(point)
    shift = scale(factor, map_tree(lambda v: delta * v, direction))
    ahead = evaluate(energy, map_tree(torch.add, point, shift))
    behind = evaluate(energy, map_tree(torch.sub, point, shift))
    product = map_tree(lambda a, b: (a - b) / (2 * delta), ahead.grad, behind.grad)
    product = scale_transposed(factor, product)
    across = is_outside(ahead)[0] | is_outside(behind)[0]
    return select(across, map_tree(torch.zeros_like, product), product)


def _unit(vector: Position) -> Position:
    norm = inner(vector, vector).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    return map_tree(lambda v: v / per_walker(norm, v), vector)


def _difference_step(position: Position) -> float:
    spread = max(float(x.abs().max()) for x in leaves(position))
    epsilon = max(torch.finfo(x.dtype).eps for x in leaves(position))
    return epsilon ** (1 / 3) * max(spread, 1.0)
