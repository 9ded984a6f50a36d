"""Walkers: positions with log-weights, and the energy that they are weighted for.

A cloud of `N` walkers stands for the law `ρ = e^{-U} / Z`. With `Ẑ` its estimate of `Z`,

    E[Ẑ] = Z     and     E[Ẑ Σ W_i f(X_i)] = Z E_ρ[f]     for every N.

Several independent clouds, called islands, can move as one batch: their walkers follow
each other along dimension 0, and what is known of a cloud gets a dimension `(C,)`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.evaluation import Energy, Evaluation, evaluate, is_outside
from pyro_jarzynski.core.faults import Faults, Finding, Where, may_hold
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.precision import warn_if_coarse
from pyro_jarzynski.core.trees import Position, leaves, map_tree, num_walkers, select
from pyro_jarzynski.errors import ArgumentError, count


class Walkers(NamedTuple):
    """Weighted walkers at one energy of a path. Never changed in place.

    Attributes:
        position: Positions, `(N, *event)`, or a dictionary of such tensors.
        evaluation: Energy and gradient there, carried so that a step costs one call.
        log_weight: Log-weights since the last resampling, `(N,)`, float64.
        log_banked: `log Z_0` plus what earlier resamplings banked, float64: `()` for one
            cloud, `(C,)` for `C` islands of `N / C` walkers each.
        ancestor: Walker of the first cloud from which each descends, `(N,)`, int64.
        steps: Number of energies visited since the start, `()`, int64.
        momentum: Momenta of kernels that keep them, in the shape of the position.
    """

    position: Position
    evaluation: Evaluation
    log_weight: Tensor
    log_banked: Tensor
    ancestor: Tensor
    steps: Tensor
    momentum: Position | None = None

    @property
    def num_walkers(self) -> int:
        """Number of walkers `N`."""
        return len(self.log_weight)

    @property
    def log_normalizer(self) -> Tensor:
        """Estimate of `log Z`, `()` or `(C,)`, float64; `Ẑ` itself is unbiased."""
        return self.log_banked + weights.log_mean_exp(self.by_island(self.log_weight))

    @property
    def log_normalizer_error(self) -> Tensor:
        """Standard error of `log_normalizer` from the genealogy, `()` or `(C,)`."""
        log_weight = self.by_island(self.log_weight)
        return weights.relative_variance(log_weight, self.ancestor).sqrt()

    @property
    def weight(self) -> Tensor:
        """Normalised weights, `(N,)` or `(C, N / C)`, float64."""
        return weights.normalise(self.by_island(self.log_weight))

    @property
    def ess(self) -> Tensor:
        """Effective sample size, at least 1, `()` or `(C,)`."""
        return weights.ess(self.by_island(self.log_weight))

    @property
    def num_ancestors(self) -> Tensor:
        """Number of first walkers that still have descendants, `()` or `(C,)`, int64."""
        ordered = self.by_island(self.ancestor).sort(-1).values
        return 1 + (ordered.diff() != 0).sum(-1)

    def by_island(self, values: Tensor) -> Tensor:
        """Return one number per walker as `(N,)`, or `(C, N / C)` if there are islands."""
        return values.reshape(*self.log_banked.shape, -1)


@standard_modes()
def init(
    position: Position,
    energy: Energy,
    *,
    log_normalizer: float = 0.0,
    log_weight: Tensor | None = None,
    num_islands: int | None = None,
    chunk_size: int | None = None,
    gradient: bool = True,
    faults: Faults | None = None,
) -> Walkers:
    """Start walkers that are draws of the law of `energy`.

    Args:
        position: Independent draws of `e^{-U_0} / Z_0`, `(N, *event)`.
        energy: `U_0`, in nats.
        log_normalizer: `log Z_0`; 0 for an energy that is a normalised `-log density`.
        log_weight: Log-weights of draws from another law, `(N,)`; `None` is zero.
        num_islands: Number `C` of independent clouds, of which the first `N / C` draws
            are one; `None` is a single cloud.
        chunk_size: Walkers per call of the energy; `None` takes all at once.
        gradient: Whether the walkers carry the gradient of their energy, as all kernels
            but `BlockGibbs` need it.
        faults: Gathers what is wrong; `None` tells it at once.

    Returns:
        Walkers weighted for `energy`.

    Raises:
        NonFiniteEnergyError: More than 1 % of the energies are NaN.

    Warns:
        PrecisionWarning: The energies are too large for their dtype.

    Example:
        >>> draws = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> walkers = pj.init(
        ...     draws, lambda x: x.square().sum(1) / 2, log_normalizer=math.log(2 * math.pi)
        ... )
        >>> walkers.num_walkers, round(float(walkers.ess), 3)
        (1000, 1000.0)
        >>> round(float(walkers.log_normalizer), 3)  # log 2π, as it was told
        1.838
    """
    size = num_walkers(position)
    device = next(leaves(position)).device
    if device.type == "meta":
        raise ArgumentError(
            "`position` is on the meta device, which holds shapes and no numbers; draw it "
            "on another."
        )
    evaluation = evaluate(energy, position, chunk_size=chunk_size, gradient=gradient)
    if log_weight is None:
        log_weight = torch.zeros(size, dtype=torch.float64, device=device)
    if log_weight.shape != (size,):
        raise ArgumentError(
            f"`log_weight` must have shape ({size},), one per walker; got "
            f"{tuple(log_weight.shape)}."
        )
    if log_weight.device != device:
        raise ArgumentError(
            f"`log_weight` must be on the device of `position`, {device}, got "
            f"{log_weight.device}; call `.to('{device}')`."
        )
    shape = () if num_islands is None else (count("num_islands", num_islands),)
    if size % (num_islands or 1):
        raise ArgumentError(
            f"`num_islands` must divide the {size} walkers of `position`, got "
            f"{num_islands}; take another number of either."
        )
    walkers = Walkers(
        position=map_tree(Tensor.detach, position),
        evaluation=evaluation,
        log_weight=log_weight.to(torch.float64),
        log_banked=torch.full(shape, log_normalizer, dtype=torch.float64, device=device),
        ancestor=torch.arange(size, device=device),
        steps=torch.zeros((), dtype=torch.int64, device=device),
    )
    outside = find_outside(walkers, evaluation, walkers.position, faults=faults)
    walkers = drop(walkers, outside)
    warn_if_coarse(walkers.evaluation.energy)
    return walkers


def find_outside(
    walkers: Walkers,
    evaluation: Evaluation,
    position: Position,
    *,
    where: Where = "standing",
    excused: Tensor | None = None,
    faults: Faults | None = None,
) -> Tensor:
    """Return the mask of walkers that have no density where they were evaluated.

    An energy of plus infinity is legal there. A NaN is a fault of the energy: it counts as
    plus infinity, with a warning, for up to 1 % of the walkers, and for up to half of the
    moves that are refused for it. So does minus infinity at the end of such a move;
    elsewhere it is an error.

    Args:
        walkers: Walkers before the evaluation.
        evaluation: Energies at the points in question.
        position: The points, in the shape of the walkers' positions.
        where: What the points are. The weights of moves without acceptance step miss the
            paths that cross the edge of the support and come back, which is told by a
            warning.
        excused: Walkers of which a NaN is not told, `(N,)`.
        faults: Gathers what is wrong; `None` tells it at once.

    Raises:
        NonFiniteEnergyError: Too many are NaN, or an energy is minus infinity.
    """
    strange = ~torch.isfinite(evaluation.energy)
    if not may_hold(strange):
        return strange
    outside, broken = is_outside(evaluation)
    alive = walkers.log_weight > -math.inf
    told = broken & alive if excused is None else broken & alive & ~excused
    left = outside & alive & (where == "moved")
    infinite = (evaluation.energy == -math.inf) & (where != "proposed")
    found = Finding(where, position, walkers.steps, infinite, told, left)
    (Faults() if faults is None else faults).note(found)
    return outside | broken


def drop(walkers: Walkers, mask: Tensor, stay: Walkers | None = None) -> Walkers:
    """Give weight zero to the walkers of a mask, with a flat energy to stay finite.

    Args:
        walkers: Walkers after a step.
        mask: Those to drop, `(N,)`.
        stay: Walkers before the step, whose positions the dropped ones keep.
    """
    if not may_hold(mask):
        return walkers
    if stay is not None:
        position = select(mask, stay.position, walkers.position)
        walkers = walkers._replace(position=position)
    zero = map_tree(torch.zeros_like, walkers.evaluation)
    flat = select(mask, zero, walkers.evaluation)
    dead = torch.where(mask, -math.inf, walkers.log_weight)
    return walkers._replace(evaluation=flat, log_weight=dead)


def bank(
    walkers: Walkers, ancestors: Tensor, chosen: Tensor | None = None
) -> tuple[Walkers, Tensor]:
    """Bank the evidence so far and make weights equal; return also whose children come.

    Args:
        walkers: Weighted walkers.
        ancestors: Index of each new walker's ancestor in its island, as `by_island` has
            them.
        chosen: Islands to resample, `(C,)`; `None` is all. The others stay as they are.

    Returns:
        Walkers with new weights at old places, and the row of each ancestor, `(n,)`.
    """
    size = walkers.num_walkers // walkers.log_banked.numel()
    first = size * torch.arange(walkers.log_banked.numel(), device=ancestors.device)
    ancestors = ancestors.reshape(len(first), -1)
    log_weight = walkers.by_island(walkers.log_weight)
    log_banked = walkers.log_normalizer
    if chosen is None:
        log_weight = log_weight.new_zeros(len(first), ancestors.shape[1])
    else:
        itself = torch.arange(size, device=ancestors.device)
        ancestors = torch.where(chosen[..., None], ancestors, itself)
        log_weight = torch.where(chosen[..., None], 0.0, log_weight)
        log_banked = torch.where(chosen, log_banked, walkers.log_banked)
    banked = walkers._replace(log_weight=log_weight.flatten(), log_banked=log_banked)
    return banked, (ancestors + first[:, None]).flatten()


def resample(walkers: Walkers, ancestors: Tensor, chosen: Tensor | None = None) -> Walkers:
    """Replace walkers by their ancestors' copies and bank the evidence so far.

    Arguments are those of `bank`.
    """
    banked, rows = bank(walkers, ancestors, chosen)
    position, evaluation, ancestor, momentum = map_tree(
        lambda x: x[rows],
        (walkers.position, walkers.evaluation, walkers.ancestor, walkers.momentum),
    )
    return banked._replace(
        position=position, evaluation=evaluation, ancestor=ancestor, momentum=momentum
    )
