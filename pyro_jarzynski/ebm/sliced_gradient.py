"""The gradient of `log Z_θ` where ranks hold slices of the parameters.

That is what torch's `fully_shard` (FSDP2) makes of a network. A rank gathers the layers one
after the other as they are needed, so that all ranks must evaluate it equally often; a
backward pass leaves in each slice the sum over all ranks. Parameters that are whole beside
such a network are summed here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.evaluation import EnergyFn
from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.slices import any_sliced, is_sliced, num_copies, own_slice
from pyro_jarzynski.core.team import Team


class SlicedGradient:
    """Gathers `Σ_i W_i ∂_θ U_θ(X_i)` from chunks of walkers, of all ranks in each of them.

    A `Visit` of the kernels, as `WalkerGradient`. The shares of a chunk are relative to the
    weight of the chunks that all ranks show at once, and one running sum is kept.

    Args:
        parameters: Parameters to differentiate by.
        ranks: The processes.
        weighted: Use the walkers' weights; if false all count alike.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], ranks: Ranks, *, weighted: bool = True
    ) -> None:
        """Start from nothing seen."""
        self.parameters, self.ranks, self.weighted = list(parameters), ranks, weighted
        device = self.parameters[0].device
        self.log_total = torch.tensor(-torch.inf, dtype=torch.float64, device=device)
        self.slopes = [torch.zeros_like(p) for p in self.parameters]

    def chosen(self, log_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return as many rows as there are, and weights: the living stand for the dead.

        Otherwise ranks would not evaluate equally often.
        """
        order = torch.arange(len(log_weight), device=log_weight.device)
        alive = order[log_weight > -torch.inf]
        if not len(alive):
            alive = order
        rows = alive[order % len(alive)]
        return rows, log_weight[rows].masked_fill(order >= len(alive), -torch.inf)

    def __call__(self, rows: slice, energy: Tensor, log_weight: Tensor) -> None:
        """Take the energies of `rows`, with their graph, and their log-weights."""
        del rows
        if not self.weighted:
            log_weight = weights.equal(log_weight)
        log_part, share = log_weight.new_tensor(-torch.inf), torch.zeros_like(log_weight)
        if (log_weight > -torch.inf).any():
            log_part, share = weights.sum_and_shares(log_weight)
        log_parts = self.ranks.gather(log_part[None], [1] * self.ranks.size)
        if (log_parts == -torch.inf).all():
            return
        log_all = weights.log_sum_exp(log_parts)
        share = share * weights.ratio(log_part, log_all)
        found = summed(energy, share.to(energy.dtype), self.parameters)
        self.log_total, keep, gain = weights.merge(self.log_total.to(log_all), log_all)
        known = zip(self.slopes, found, strict=True)
        self.slopes = [(keep * old + gain * new).to(old.dtype) for old, new in known]

    def mean(self, team: Team) -> list[Tensor]:
        """Return the weighted mean over all walkers, of all ranks."""
        return whole_summed(self.slopes, team.ranks)

    def is_finite(self, slopes: Sequence[Tensor]) -> bool:
        """Tell whether slopes are finite, on all ranks alike."""
        return bool(torch.isfinite(norm_of(slopes, self.ranks)))


def sliced_data_gradient(
    model: EnergyFn, batch: Tensor, parameters: Sequence[nn.Parameter], team: Team
) -> tuple[Tensor, list[Tensor]]:
    """Return the mean energy of data that every rank has, and its gradient."""
    part = torch.cat(team.share(batch))
    # A rank without data takes part as well.
    energy = model(part if len(part) else batch[:1])
    share = torch.full_like(energy, bool(len(part)) / len(batch))
    slopes = whole_summed(summed(energy, share, parameters), team.ranks)
    mean = team.ranks.total([(energy.detach() @ share)[None]], team.ranks.size)
    return mean[0], slopes


def summed(
    energy: Tensor, share: Tensor, parameters: Sequence[nn.Parameter]
) -> list[Tensor]:
    """Return `Σ_i s_i ∂_θ U(X_i)`: over all ranks in slices, and else over those here."""
    for parameter in parameters:
        parameter.grad = None
    torch.autograd.backward(energy, share)
    slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return slopes


def whole_summed(slopes: Sequence[Tensor], ranks: Ranks) -> list[Tensor]:
    """Return slopes of which those that are whole are summed over ranks."""
    here = [slope for slope in slopes if not is_sliced(slope)]
    if not here:
        return list(slopes)
    of_all = iter(ranks.totals([here], ranks.size))
    return [slope if is_sliced(slope) else next(of_all) for slope in slopes]


def norm_of(slopes: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """Return the norm of a gradient, `()`, the same on all ranks."""
    if not any_sliced(slopes):
        return nn.utils.get_total_norm(slopes)
    squares = torch.zeros(2, dtype=torch.float64, device=own_slice(slopes[0]).device)
    for slope in slopes:
        square = own_slice(slope).detach().to(torch.float64).square().sum()
        if is_sliced(slope):
            squares[1] += square / num_copies(slope)
        else:
            squares[0] += square
    of_all = ranks.total([squares[1:]], ranks.size)
    return (squares[0] + of_all[0]).sqrt()
