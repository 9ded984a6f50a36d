"""Preconditioners: a constant covariance `C = L Lᵀ` that scales moves.

For a position that is one tensor, `C` is a tensor of the event's shape (a diagonal) or a
matrix `(d, d)` for an event of `d` numbers; for a dictionary, a dictionary of those.
`None` is the identity. Functions here take the factor that `factorise` returns: the
square root of a diagonal, or the lower Cholesky factor of a matrix.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.core.trees import Position, map_tree
from pyro_jarzynski.errors import ArgumentError

Covariance: TypeAlias = Tensor | dict[str, Tensor] | None


def factorise(covariance: Covariance) -> Covariance:
    """Return `L` with `C = L Lᵀ`, or raise if `C` is not positive definite."""
    return map_tree(_factorise, covariance)


def scale(factor: Covariance, position: Position) -> Position:
    """Return `L v`."""
    return _apply(factor, position, _scale)


def scale_transposed(factor: Covariance, position: Position) -> Position:
    """Return `Lᵀ v`."""
    return _apply(factor, position, lambda f, x: _scale(f.mT if _dense(f, x) else f, x))


def covary(factor: Covariance, position: Position) -> Position:
    """Return `C v = L Lᵀ v`."""
    return scale(factor, scale_transposed(factor, position))


def _apply(
    factor: Covariance, position: Position, fn: Callable[[Tensor, Tensor], Tensor]
) -> Position:
    if factor is None:
        return position
    return map_tree(lambda x, f: fn(f, x), position, factor)


def _factorise(covariance: Tensor) -> Tensor:
    is_matrix = covariance.ndim == 2 and covariance.shape[0] == covariance.shape[1]
    if is_matrix and covariance.shape[0] > 1:
        lower, failed = torch.linalg.cholesky_ex(covariance)
        if not failed and torch.isfinite(lower).all():
            return lower
    elif torch.isfinite(covariance).all() and (covariance > 0).all():
        return covariance.sqrt()
    raise ArgumentError(
        "`preconditioner` must be positive: a tensor of positive numbers in the shape "
        "of the event, or a symmetric positive definite matrix; got one of shape "
        f"{tuple(covariance.shape)} that is not."
    )


def _scale(factor: Tensor, x: Tensor) -> Tensor:
    return x @ factor.mT if _dense(factor, x) else x * factor


def _dense(factor: Tensor, x: Tensor) -> bool:
    event = x.shape[1:]
    if factor.shape == event:
        return False
    if len(event) == 1 and factor.shape == (event[0], event[0]):
        return True
    raise ArgumentError(
        f"`preconditioner` must have the shape of the event, {tuple(event)}, or be a "
        f"matrix over an event of one dimension; got shape {tuple(factor.shape)}."
    )
