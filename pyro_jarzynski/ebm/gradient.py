"""The gradient of `log Z_θ`, from weighted walkers.

-∂_θ log Z_θ = E_ρ[∂_θ U_θ] ≈ Σ_i W_i ∂_θ U_θ(X_i)
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.evaluation import EnergyFn
from pyro_jarzynski.core.slices import any_sliced
from pyro_jarzynski.core.team import Team, Tools
from pyro_jarzynski.core.trees import Position, map_tree
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.ebm.sliced_gradient import SlicedGradient, sliced_data_gradient


class Part(NamedTuple):
    """A weighted sum over some walkers.

    Attributes:
        log_total: `log Σ_i e^{A_i}`, `()`, float64.
        slopes: `Σ_i W_i ∂_θ U_θ(X_i)`, by weights that add up to one.
    """

    log_total: Tensor
    slopes: list[Tensor]


class WalkerGradient:
    """Gathers `Σ_i W_i ∂_θ U_θ(X_i)` from chunks of walkers as they are evaluated.

    It is a `Visit` of the kernels: it shares the forward pass that the walkers need
    anyway, and keeps one running sum for each shard, so that memory stays that of one
    chunk.

    Args:
        parameters: Parameters to differentiate by.
        weighted: Use the walkers' weights; if false all count alike.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], *, weighted: bool = True
    ) -> None:
        """Start from nothing seen."""
        self.parameters, self.weighted = list(parameters), weighted
        self.parts: list[Part] = []

    def chosen(self, log_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of walkers of positive weight, and their log-weights."""
        alive = log_weight > -torch.inf
        return alive, log_weight[alive]

    def __call__(self, rows: slice, energy: Tensor, log_weight: Tensor) -> None:
        """Take the energies of `rows`, with their graph, and their log-weights."""
        if not rows.start:
            nothing = torch.full_like(log_weight[0], -torch.inf)
            self.parts.append(Part(nothing, [torch.zeros_like(p) for p in self.parameters]))
        if not (log_weight > -torch.inf).any():
            return
        if not self.weighted:
            log_weight = weights.equal(log_weight)
        log_part, share = weights.sum_and_shares(log_weight)
        share = share.to(energy.dtype)
        found = torch.autograd.grad(
            energy, self.parameters, grad_outputs=share, materialize_grads=True
        )
        log_total, keep, gain = weights.merge(self.parts[-1].log_total, log_part)
        known = zip(self.parts[-1].slopes, found, strict=True)
        # A product of two numbers has the dtype of the wider one.
        slopes = [(keep * old + gain * new).to(old.dtype) for old, new in known]
        self.parts[-1] = Part(log_total, slopes)

    def mean(self, team: Team) -> list[Tensor]:
        """Return the weighted mean over all walkers, of all ranks."""
        return team.weighted_sum(
            [part.log_total for part in self.parts], [part.slopes for part in self.parts]
        )

    def is_finite(self, slopes: Sequence[Tensor]) -> bool:
        """Tell whether slopes are finite."""
        return bool(torch.stack([torch.isfinite(slope).all() for slope in slopes]).all())


Gather: TypeAlias = WalkerGradient | SlicedGradient


def gather_for(
    parameters: Sequence[nn.Parameter], team: Team, *, weighted: bool = True
) -> Gather:
    """Return what gathers the gradient by parameters that are whole, or sliced."""
    if any_sliced(parameters):
        return SlicedGradient(parameters, team.ranks, weighted=weighted)
    return WalkerGradient(parameters, weighted=weighted)


def walker_gradient(
    model: EnergyFn,
    walkers: Walkers,
    parameters: Sequence[nn.Parameter],
    *,
    weighted: bool = True,
    tools: Tools = Tools(),  # noqa: B008
) -> list[Tensor]:
    """Return `Σ_i W_i ∂_θ U_θ(X_i)` at walkers of positive weight, by a pass of its own.

    Raises:
        WeightCollapseError: All weights are zero.
    """
    weights.as_log_weight(walkers.log_weight)
    gather = gather_for(parameters, tools.team, weighted=weighted)
    with torch.enable_grad():
        for part in tools.team.parts(walkers):
            chosen, log_weight = gather.chosen(part.log_weight)
            position = map_tree(lambda x, c=chosen: x[c], part.position)
            _gather(gather, model, position, log_weight, tools.chunk_size)
    return gather.mean(tools.team)


def _gather(
    gather: Gather,
    model: EnergyFn,
    position: Position,
    log_weight: Tensor,
    chunk_size: int | None,
) -> None:
    """Show the walkers of a shard, chunk by chunk."""
    step = chunk_size or max(len(log_weight), 1)
    for start in range(0, max(len(log_weight), 1), step):
        rows = slice(start, start + step)
        chunk = map_tree(lambda x, r=rows: x[r], position)
        gather(rows, model(chunk), log_weight[rows])


def data_gradient(
    model: EnergyFn,
    batch: Tensor,
    parameters: Sequence[nn.Parameter],
    team: Team,
) -> tuple[Tensor, list[Tensor]]:
    """Return the mean energy of data and its gradient, by the parts that are here.

    Args:
        model: The energy.
        batch: Data that every rank has, `(n, *event)`.
        parameters: Parameters to differentiate by.
        team: Who has which part.
    """
    if any_sliced(parameters):
        return sliced_data_gradient(model, batch, parameters, team)

    def of(part: Tensor) -> list[Tensor]:
        # A shard without data has a sum of zero, of the energy's dtype.
        energy = model(part if len(part) else batch[:1]).sum() * bool(len(part))
        slopes = torch.autograd.grad(energy, parameters, materialize_grads=True)
        return [x / len(batch) for x in (energy.detach()[None], *slopes)]

    total = team.total(map(of, team.share(batch)))
    return total[0][0], total[1:]
