"""Matrices that cannot be factorised or inverted give NaN instead of an error.

`torch.linalg` raises an error for a whole batch of matrices if one of them has no factor.
Here each matrix has its own result, so that one walker does not stop the others.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Functions that raise an error, and those that return a flag of each matrix instead.
_FLAGGED: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.linalg.cholesky: torch.linalg.cholesky_ex,
    torch.cholesky: torch.linalg.cholesky_ex,
    torch.Tensor.cholesky: torch.linalg.cholesky_ex,
    torch.linalg.inv: torch.linalg.inv_ex,
    torch.inverse: torch.linalg.inv_ex,
    torch.Tensor.inverse: torch.linalg.inv_ex,
    torch.linalg.solve: torch.linalg.solve_ex,
}


class SingularAsNaN(TorchFunctionMode):
    """Puts NaN in the place of factors, inverses and solutions that do not exist.

    Numbers of other matrices keep their bits.

    Example:
        >>> matrices = torch.stack([4 * torch.eye(1), -torch.eye(1)])
        >>> with SingularAsNaN():
        ...     torch.linalg.cholesky(matrices).flatten()
        tensor([2., nan])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or the one that takes its place."""
        del types
        flagged = _FLAGGED.get(func)
        if flagged is None:
            return func(*args, **(kwargs or {}))
        found, info = flagged(*args, **(kwargs or {}))
        assert isinstance(found, Tensor)
        exists = (info == 0).reshape(info.shape + (1,) * (found.ndim - info.ndim))
        return torch.where(exists, found, torch.nan)
