"""What kernels share: reweighting, acceptance, and weights taken chunk by chunk."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.evaluation import (
    Energy,
    Evaluation,
    evaluate,
    is_outside,
    reevaluate,
)
from pyro_jarzynski.core.faults import Faults
from pyro_jarzynski.core.preconditioner import Covariance, Factor, factorise
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.trees import Position, map_tree, select
from pyro_jarzynski.core.walkers import Walkers, drop, find_outside

# Called on chunks of walkers under the new energy, as `visit(rows, energy, log_weight)`,
# while the graph of their energies `(n,)` is alive. Rows count within a shard: those of the
# next begin at 0 again.
Visit: TypeAlias = Callable[[slice, Tensor, Tensor], None]


# A move whose total energy rises by more, in nats, has diverged: it is refused as it would
# be anyway, and a NaN that it ran into is no fault of the energy.
MAX_ENERGY_ERROR = 1000.0


@contextmanager
def gathered(tools: Tools) -> Iterator[Tools]:
    """Give moves within what gathers their faults, and tell these at the end.

    Raises:
        NonFiniteEnergyError: Too many are NaN, or an energy is minus infinity.
    """
    faults = Faults() if tools.faults is None else tools.faults
    if faults.is_open:
        yield tools
        return
    with faults:
        yield tools._replace(faults=faults)


def reweight(
    walkers: Walkers, energy: Energy, tools: Tools, visit: Visit | None
) -> Walkers:
    """Return the walkers, where they are, with `A += U_k(X) - U_{k+1}(X)`."""
    here = walkers.evaluation

    def weigh(rows: slice, there: Evaluation) -> Tensor:
        gain = here.energy[rows].to(torch.float64) - there.energy.to(torch.float64)
        return weights.add(walkers.log_weight[rows], gain)

    there, log_weight = weighed(energy, walkers.position, weigh, tools, visit, here)
    switched = walkers._replace(evaluation=there, log_weight=log_weight)
    outside = find_outside(walkers, there, walkers.position, faults=tools.faults)
    return drop(switched, outside)


class Invariant:
    """A kernel whose moves leave the law invariant: it only reweights when it switches.

    `A += U_k(X) - U_{k+1}(X)` where the walkers are. Inherit from it and write
    `move(walkers, energy, tools)`, which returns the moved walkers and their acceptance
    rate: that is a kernel for `AnnealedSMC` as well. It keeps its step size, unless it is a
    dataclass with the fields `step_size` and `target_acceptance`, and its preconditioner,
    unless that is a field; `Kernel` has the meaning of all attributes.

    Source:
        Neal (2001), Stat. Comput. 11(2).

    Example:
        >>> class Mirror(pj.Invariant):  # for energies with U(-x) = U(x)
        ...     def move(self, walkers, energy, tools):
        ...         end = -walkers.position
        ...         there = pj.evaluate(energy, end)
        ...         ratio = walkers.evaluation.energy - there.energy
        ...         return pj.metropolis(walkers, end, there, ratio, tools)
        >>> energy = lambda x: (x.square() - 4).square().sum(1)
        >>> walkers = pj.init(torch.full((5, 1), 2.0), energy)
        >>> moved, rate = Mirror().move(walkers, energy, pj.Tools())
        >>> moved.position.unique(), float(rate)
        (tensor([-2.]), 1.0)
    """

    moves_on_switch: ClassVar[bool] = False
    # What a kernel is taken for that says nothing else.
    step_size: float = math.nan
    preconditioner: Covariance = None
    target_acceptance: float | None = None
    needs_gradient: ClassVar[bool] = True

    @property
    def langevin_step(self) -> float:
        """The Langevin step that a move is made of; NaN is none."""
        return math.nan

    def with_langevin_step(self, langevin_step: float) -> "Invariant":
        """Return this kernel: its moves are not made of Langevin steps."""
        del langevin_step
        return self

    @cached_property
    def factor(self) -> Factor:
        """Factor `L` of the preconditioner."""
        return factorise(self.preconditioner)

    def switch(
        self, walkers: Walkers, energy: Energy, tools: Tools, visit: Visit | None = None
    ) -> Walkers:
        """Weight the walkers, where they are, for `energy`."""
        return reweight(walkers, energy, tools, visit)


def metropolis(
    walkers: Walkers,
    end: Position,
    there: Evaluation,
    log_ratio: Tensor,
    tools: Tools,
    *,
    excused: Tensor | None = None,
) -> tuple[Walkers, Tensor]:
    """Accept moves to `end` with probability `min(1, e^{log_ratio})`.

    For a symmetric proposal `log_ratio` is `U(x) - U(y)`; for others the log of the ratio
    of their densities, backward to forward, comes on top. Points of density zero are
    refused, and so are NaN and an energy of minus infinity, which is told unless `excused`.

    Args:
        walkers: Walkers weighted for the energy of the move.
        end: Where they would go, in the shape of their position.
        there: The energy at `end`, from `evaluate`.
        log_ratio: Log of the acceptance ratio, `(N,)`, nats.
        tools: Generator of the draws that decide.
        excused: Walkers of which a NaN is not told, `(N,)`.

    Returns:
        The walkers, their weights unchanged, and their mean acceptance probability, `()` or
        one per island.

    Raises:
        NonFiniteEnergyError: More than half of the ends have no finite energy.

    Source:
        Metropolis and others (1953), J. Chem. Phys. 21(6); Hastings (1970), Biometrika
        57(1).

    Example:
        >>> energy = lambda x: x.square().sum(1) / 2
        >>> generator = torch.Generator().manual_seed(0)
        >>> walkers = pj.init(torch.randn(1000, 1, generator=generator), energy)
        >>> end = walkers.position + torch.randn(1000, 1, generator=generator)
        >>> there = pj.evaluate(energy, end)
        >>> ratio = walkers.evaluation.energy - there.energy
        >>> moved, rate = pj.metropolis(walkers, end, there, ratio, pj.Tools(generator))
        >>> 0.6 < float(rate) < 0.8
        True
    """
    refused = find_outside(
        walkers, there, end, where="proposed", excused=excused, faults=tools.faults
    )
    # Where the ratio of the way there overflows, so does that of the way back.
    refused = refused | log_ratio.isnan()
    probability = torch.where(refused, 0.0, log_ratio.clamp(max=0).exp())
    uniform = torch.rand(
        probability.shape,
        dtype=torch.float64,
        device=probability.device,
        generator=tools.generator,
    )
    position, evaluation = select(
        uniform < probability, (end, there), (walkers.position, walkers.evaluation)
    )
    moved = walkers._replace(position=position, evaluation=evaluation)
    return moved, walkers.by_island(probability).mean(-1)


def weighed(
    energy: Energy,
    position: Position,
    weigh: Callable[[slice, Evaluation], Tensor],
    tools: Tools,
    visit: Visit | None,
    known: Evaluation | None = None,
) -> tuple[Evaluation, Tensor]:
    """Evaluate an energy and the log-weights under it, showing chunks to `visit`.

    Args:
        energy: The energy to evaluate.
        position: Where to evaluate it.
        weigh: Returns the new log-weights of some rows from their evaluation.
        tools: Chunk size.
        visit: Sees each chunk while its graph is alive.
        known: An evaluation of another energy at the same position.

    Returns:
        The evaluation and the log-weights, `(N,)`.
    """
    chunk_size = tools.chunk_size
    if visit is None:
        if known is None:
            there = evaluate(energy, position, chunk_size=chunk_size)
        else:
            there = reevaluate(energy, position, known, chunk_size=chunk_size)
        return there, weigh(slice(None), there)
    parts: list[Tensor] = []

    def on_chunk(rows: slice, values: Tensor, there: Evaluation) -> None:
        parts.append(weigh(rows, there))
        outside, broken = is_outside(there)
        visit(rows, values, parts[-1].masked_fill(outside | broken, -torch.inf))

    gradient = known is None or known.grad_or_none is not None
    there = evaluate(
        energy, position, chunk_size=chunk_size, visit=on_chunk, gradient=gradient
    )
    return there, torch.cat(parts)


def rows_of(tree: tuple, rows: slice) -> tuple:
    """Return some rows of all tensors of a tree."""
    return map_tree(lambda x: x[rows], tree)
