"""Moves without acceptance step that end outside of the support of an energy.

Let `S` be the support of the next energy `V`. A proposal `y` outside of `S` is turned back:
the walker stays at `x`, and the move that undoes it proposes the same `y`. So the log-ratio
of the move back to the move there is

    U(x) - V(x) + log q_V(x → y) - log q_U(x → y),

that of a move that ends at `x` with the gradient `-∇V(x)`. Moves from `y` in `S` under `V`
go to a point of `S` or are turned back, with probabilities that sum to one, so that
`E[e^A f] = ∫ e^{-V} f` holds for every step size. Without turning, the mass of moves back
that leave `S` would be missing near its walls. A walker that is outside of `S` already, as
the support of the next energy is smaller, has weight zero, and is turned back as well.

It concerns energies that have a method `in_support`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core.evaluation import Energy, EnergyFn
from pyro_jarzynski.core.trees import Position, map_tree, num_walkers

# Returns at which walkers a density is positive, `(N,)`; `None` is everywhere.
InSupport = Callable[[Any], Tensor | None]


def find_turned(
    energy: Energy, start: Position, end: Position, *, chunk_size: int | None = None
) -> Tensor | None:
    """Return which moves start or end outside of the support, `(N,)`; `None` if none can.

    Args:
        energy: The energy at the end of the moves.
        start: Where they start.
        end: Where they end.
        chunk_size: Walkers per call; `None` takes all at once.
    """
    in_support: InSupport | None = getattr(energy, "in_support", None)
    if in_support is None:
        return None
    size = num_walkers(end)
    step = chunk_size or size
    parts = []
    with torch.no_grad():
        for first in range(0, size, step):
            rows = slice(first, first + step)
            chunks = (map_tree(lambda x, r=rows: x[r], place) for place in (start, end))
            before, after = map(in_support, chunks)
            if before is None or after is None:
                return None
            parts.append(~(before & after))
    return torch.cat(parts)


def common_support(energies: Sequence[EnergyFn]) -> InSupport | None:
    """Return the function of walkers in the supports of all of some energies."""
    known = [e.in_support for e in energies if hasattr(e, "in_support")]
    if not known:
        return None

    def in_support(position: Position) -> Tensor | None:
        masks = [mask for of in known if (mask := of(position)) is not None]
        return torch.stack(masks).all(0) if masks else None

    return in_support
