"""Preconditioners: a constant covariance `C = L Lᵀ` that scales moves.

For a position that is one tensor, `C` is a tensor of the event's shape (a diagonal), or a
symmetric matrix `(d, d)` for an event of `d` numbers; for a dictionary, a dictionary of
those. `None` is the identity. The functions here take what `factorise` returns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.core.trees import Position, map_tree
from pyro_jarzynski.errors import ArgumentError

Covariance: TypeAlias = Tensor | dict[str, Tensor] | None
# A `Root` for each tensor of a position.
Factor: TypeAlias = Any


class Root(NamedTuple):
    """Square roots of a covariance, read as a diagonal and as a matrix.

    Only the shape of an event tells which reading is meant; one that does not exist is
    `None`.
    """

    shape: torch.Size
    diagonal: Tensor | None
    lower: Tensor | None


def factorise(covariance: Covariance) -> Factor:
    """Return `L` with `C = L Lᵀ`, or raise if `C` is not positive."""
    return map_tree(_factorise, covariance)


def scale(factor: Factor, position: Position) -> Position:
    """Return `L v`."""
    return _apply(factor, position, lambda lower, x: x @ lower.mT)


def scale_transposed(factor: Factor, position: Position) -> Position:
    """Return `Lᵀ v`."""
    return _apply(factor, position, lambda lower, x: x @ lower)


def _apply(
    factor: Factor, position: Position, multiply: Callable[[Tensor, Tensor], Tensor]
) -> Position:
    if factor is None:
        return position

    def apply(x: Tensor, root: Root) -> Tensor:
        event = x.shape[1:]
        device = next(part.device for part in root[1:] if part is not None)
        if device != x.device:
            raise ArgumentError(
                f"`preconditioner` must be on the device of the walkers, {x.device}, got "
                f"{device}; call `.to('{x.device}')`."
            )
        if root.diagonal is not None and root.shape == event:
            return x * root.diagonal.to(x.dtype)
        if root.lower is not None and len(event) == 1 and root.shape[:1] == event:
            return multiply(root.lower.to(x.dtype), x)
        raise ArgumentError(
            "`preconditioner` must be positive numbers in the shape of the event, "
            f"{tuple(event)}, or a positive definite matrix over an event of one "
            f"dimension; got shape {tuple(root.shape)}."
        )

    return map_tree(apply, position, factor)


def _factorise(covariance: Tensor) -> Root:
    holds = [torch.isfinite(covariance).all(), (covariance > 0).all()]
    square = covariance.ndim == 2 and covariance.shape[0] == covariance.shape[1]
    if square:
        found, failed = torch.linalg.cholesky_ex(covariance)
        close = torch.isclose(covariance, covariance.mT)
        holds += [close.all() & (failed == 0)]
    # One read for all of them: on a GPU each is a wait.
    finite, positive, *definite = torch.stack(holds).tolist()
    diagonal = covariance.sqrt() if finite and positive else None
    lower = found if finite and definite == [True] else None
    if diagonal is None and lower is None:
        raise ArgumentError(
            "`preconditioner` must be positive: a tensor of positive numbers in the shape "
            "of the event, or a symmetric positive definite matrix; got one of shape "
            f"{tuple(covariance.shape)} that is neither."
        )
    return Root(covariance.shape, diagonal, lower)
