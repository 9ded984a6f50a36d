"""Errors about memory, in words of walkers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_jarzynski.errors import WalkerMemoryError


@contextmanager
def shortage_told(num: int) -> Iterator[None]:
    """Say, where torch finds no memory, how many walkers were too many and what to do.

    Args:
        num: Walkers that are treated at once.

    Raises:
        WalkerMemoryError: There is no memory left.
    """
    try:
        yield
    except WalkerMemoryError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        raise WalkerMemoryError(
            f"{num} walkers at once do not fit into memory "
            f"({str(error).strip().splitlines()[0]}). Evaluate fewer per call by "
            "`chunk_size`, which changes no number but by rounding, or take fewer walkers."
        ) from error


def is_shortage(error: BaseException) -> bool:
    """Tell whether an error says that there is no memory, on a GPU or elsewhere."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
