"""Checks that walkers belong to the parameters that a model has now.

Walkers keep the energies that they were evaluated at. If parameters change and the walkers
do not follow, weights, log Z and draws are those of the earlier parameters.
"""

import math
from itertools import chain

import torch
from torch import Tensor, nn

from pyro_jarzynski.core.evaluation import EnergyFn, evaluate
from pyro_jarzynski.core.slices import own_slice
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.errors import ArgumentError

# Walkers of a first look, evenly spaced: neighbours often descend from one walker.
NUM_PROBES = 64
# Largest difference of an energy from the one that was kept, as a share of `1 + |U|`.
TOLERANCE = 1e-4


def is_current(model: EnergyFn, walkers: Walkers, *, chunk_size: int | None = None) -> bool:
    """Return whether walkers carry the energies that a model gives them now.

    Energies of low precision depend on how many walkers are evaluated at once. So where
    some differ at a first look, all are evaluated, in the chunks that they came in.

    Args:
        model: The energy, `(N, *event) -> (N,)`.
        walkers: Walkers with positions in one tensor.
        chunk_size: Walkers per call of the model; `None` takes all at once.
    """
    size = walkers.num_walkers
    every = torch.arange(size, device=walkers.log_weight.device)
    probes = every[:: max(1, size // NUM_PROBES)]
    for rows, chunk in ((probes, None), (every, chunk_size)):
        if not _differs(model, walkers, rows, chunk):
            return True
    return False


def check_current(model: EnergyFn, walkers: Walkers) -> None:
    """Raise unless walkers carry the energies that a model gives them now."""
    if not is_current(model, walkers):
        raise ArgumentError(STALE)


def slice_sums(model: nn.Module) -> Tensor:
    """Return sum and norm of this rank's slice of each parameter and buffer, `(k, 2)`.

    They change with the slices, and no other rank takes part, as it must in an evaluation
    of a model of which ranks hold slices.
    """
    tensors = chain(model.parameters(), model.buffers())
    own = [own_slice(x).detach().to(torch.float64) for x in tensors]
    return torch.stack([torch.stack([x.sum(), x.norm()]) for x in own])


def _differs(
    model: EnergyFn, walkers: Walkers, rows: Tensor, chunk_size: int | None
) -> bool:
    position = map_tree(lambda x: x[rows], walkers.position)
    found = evaluate(model, position, chunk_size=chunk_size, gradient=False).energy
    known = walkers.evaluation.energy[rows]
    # Walkers of weight zero carry a flat energy instead of their own.
    alive = walkers.log_weight[rows] > -math.inf
    close = (found - known).abs() <= TOLERANCE * (1 + known.abs())
    return bool((alive & ~close & torch.isfinite(known)).any())


STALE = (
    "The parameters of `model` have changed since its walkers followed them: they were "
    "loaded or set, or changed by a second optimiser, or by another process that shares "
    "their memory. Weights, log Z and draws would be those of the earlier parameters. "
    "Call `update()` of the tracker, or of the learner's `followers`, after each such "
    "change, and `renew()` of the tracker (`learner.audit`) after a large one; or put the "
    "earlier parameters back."
)
