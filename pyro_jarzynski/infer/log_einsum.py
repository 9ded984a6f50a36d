"""Einsum of log-probabilities that `torch.func.vmap` can map: a backend of `opt_einsum`.

Pyro's own, `pyro.ops.einsum.torch_log`, ends in an `autograd.Function` that `vmap`
refuses.
"""

import math
from typing import Any

import torch
from pyro.ops.einsum.util import Tensordot
from torch import Tensor

# Numbers up to which the product of all operands is written out.
MAX_PRODUCT = 100_000

__all__ = ["einsum", "tensordot", "transpose"]


def transpose(operand: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Permute dimensions."""
    return operand.permute(axes)


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Return `log Σ exp(Σ operands)` over the symbols that the output lacks."""
    symbols = sorted(set(equation) - set(",->"))
    # torch.einsum knows Latin letters alone.
    short = dict(zip(symbols, "abcdefghijklmnopqrstuvwxyz", strict=False))
    equation = "".join(short.get(s, s) for s in equation)
    inputs, output = equation.split("->")
    if inputs == output:
        return operands[0].clone()
    every = sorted(set(inputs) - {","})
    sizes = {
        name: size
        for names, operand in zip(inputs.split(","), operands, strict=True)
        for name, size in zip(names, operand.shape, strict=True)
    }
    if math.prod(sizes.values()) <= MAX_PRODUCT:
        return _sum_of_products(inputs, output, every, operands)
    shifts, scaled = [], []
    for names, operand in zip(inputs.split(","), operands, strict=True):
        summed = [i for i, name in enumerate(names) if name not in output]
        top = operand.detach()
        top = top.amax(summed, keepdim=True) if summed else top
        # A finite shift, so that minus infinity does not become NaN.
        top = top.clamp(min=torch.finfo(top.dtype).min)
        scaled.append((operand - top).exp())
        kept = "".join(name for name in names if name in output)
        shifts.append((top.squeeze(summed) if summed else top, kept))
    total = _SafeLog.apply(torch.einsum(equation, scaled))
    for shift, kept in shifts:
        total = total + aligned(shift, kept, output)
    return total


def _sum_of_products(
    inputs: str, output: str, every: list[str], operands: tuple[Tensor, ...]
) -> Tensor:
    """Multiply before summing, which does not underflow where factors contradict."""
    total, num_summed = product(inputs, output, every, operands)
    summed = list(range(len(output), len(output) + num_summed))
    if not summed:
        return total
    top = total.detach().amax(summed, keepdim=True).clamp(min=torch.finfo(total.dtype).min)
    return _SafeLog.apply((total - top).exp().sum(summed)) + top.squeeze(summed)


def product(
    inputs: str, output: str, every: list[str], operands: tuple[Tensor, ...]
) -> tuple[Tensor, int]:
    """Return the sum of operands, with the output's dimensions first, and how many more."""
    others = [name for name in every if name not in output]
    order = output + "".join(others)
    total = operands[0].new_zeros(())
    for names, operand in zip(inputs.split(","), operands, strict=True):
        total = total + aligned(operand, names, order)
    return total, len(others)


def aligned(operand: Tensor, names: str, output: str) -> Tensor:
    """Return a tensor of some of the output's dimensions in the order of all of them."""
    present = [name for name in output if name in names]
    operand = operand.permute([names.index(name) for name in present])
    sizes = iter(operand.shape)
    return operand.reshape([next(sizes) if name in names else 1 for name in output])


class _SafeLog(torch.autograd.Function):
    """The logarithm with a gradient that stays finite at zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.log()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad / x.clamp(min=torch.finfo(x.dtype).eps)


tensordot = Tensordot(einsum)
