"""Einsum of log-probabilities whose gradient draws: a backend of `opt_einsum`.

Forward it sums over values of discrete variables, as `log_einsum` does. Backward it draws
one value of those that were summed, given the values that the gradient has of the others,
and passes one to it and zero to the rest. The gradient with respect to the log-probability
of a site is then one at the value drawn: filtering forward, sampling backward, on whatever
tree the contraction was.
"""

from typing import Any

import torch
from pyro.ops.einsum.util import Tensordot
from torch import Tensor

from pyro_jarzynski.core.resampling import cumulative
from pyro_jarzynski.infer.log_einsum import product, transpose

__all__ = ["einsum", "tensordot", "transpose"]


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Return `log Σ exp(Σ operands)` over the symbols that the output lacks."""
    inputs, output = equation.split("->")
    if inputs == output:
        return operands[0].clone()
    every = sorted(set(inputs) - {","})
    total, num_summed = product(inputs, output, every, operands)
    if not num_summed:
        return total
    flat = total.flatten(len(output))
    uniform = torch.rand(flat.shape[:-1], dtype=flat.dtype, device=flat.device)
    return _DrawnSum.apply(flat, uniform)


class _DrawnSum(torch.autograd.Function):
    """Log-sum-exp over the last dimension, whose gradient is a draw of it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, uniform: Tensor) -> Tensor:
        return torch.logsumexp(logits, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, uniform = ctx.saved_tensors
        below = cumulative(torch.softmax(logits, -1))
        below = below / below[..., -1:]
        chosen = (below <= uniform.unsqueeze(-1)).sum(-1, keepdim=True)
        values = torch.arange(logits.shape[-1], device=logits.device)
        return grad.unsqueeze(-1) * (values == chosen).to(grad.dtype), None


tensordot = Tensordot(einsum)
