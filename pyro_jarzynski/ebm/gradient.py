"""The gradient of `log Z_θ`, from weighted walkers.

-∂_θ log Z_θ = E_ρ[∂_θ U_θ] ≈ Σ_i W_i ∂_θ U_θ(X_i)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.evaluation import EnergyFn
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import Walkers


class WalkerGradient:
    """Gathers `Σ_i W_i ∂_θ U_θ(X_i)` from chunks of walkers as they are evaluated.

    It is a `Visit` of the kernels: it shares the forward pass that the walkers need
    anyway, and keeps one running sum, so that memory stays that of one chunk.

    Args:
        parameters: Parameters to differentiate by.
        weighted: Use the walkers' weights; if false all count alike.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], *, weighted: bool = True
    ) -> None:
        """Start from nothing seen."""
        self.parameters, self.weighted = list(parameters), weighted
        self.log_total = torch.tensor(-torch.inf, dtype=torch.float64)
        self.sum = [torch.zeros_like(p) for p in self.parameters]

    def __call__(self, rows: slice, energy: Tensor, log_weight: Tensor) -> None:
        """Take the energies of `rows`, with their graph, and their log-weights."""
        del rows
        alive = log_weight > -torch.inf
        if not alive.any():
            return
        if not self.weighted:
            log_weight = torch.zeros_like(log_weight).masked_fill(~alive, -torch.inf)
        log_part, share = weights.sum_and_shares(log_weight)
        share = share.to(energy.dtype)
        slopes = torch.autograd.grad(
            energy, self.parameters, grad_outputs=share, materialize_grads=True
        )
        log_total = self.log_total.to(log_part.device)
        self.log_total, keep, gain = weights.merge(log_total, log_part)
        self.sum = [
            keep * old + gain * new for old, new in zip(self.sum, slopes, strict=True)
        ]


def walker_gradient(
    model: EnergyFn,
    walkers: Walkers,
    parameters: Sequence[nn.Parameter],
    *,
    weighted: bool = True,
    chunk_size: int | None = None,
) -> list[Tensor]:
    """Return `Σ_i W_i ∂_θ U_θ(X_i)` at walkers of positive weight, by a pass of its own.

    Raises:
        WeightCollapseError: All weights are zero.
    """
    log_weight = weights.as_log_weight(walkers.log_weight)
    alive = log_weight > -torch.inf
    log_weight = log_weight[alive]
    position = map_tree(lambda x: x[alive], walkers.position)
    gather = WalkerGradient(parameters, weighted=weighted)
    with torch.enable_grad():
        step = chunk_size or len(log_weight)
        for start in range(0, len(log_weight), step):
            rows = slice(start, start + step)
            chunk = map_tree(lambda x, r=rows: x[r], position)
            gather(rows, model(chunk), log_weight[rows])
    return gather.sum
