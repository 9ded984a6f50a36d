"""A cloud in fixed shards, on one rank or on many, with the same bits.

A shard is moved by the plain kernels, by noise of its own, and never knows of the others:
so it does not matter who has it. The number of shards is part of the settings of a run,
as its seed is; the number of ranks is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.exchange import exchange
from pyro_jarzynski.core.gradients import TermsFn
from pyro_jarzynski.core.noise import set_state, stream
from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.resampling import Resampler
from pyro_jarzynski.core.shard_parts import (
    LOCAL,
    local_rows,
    resample_apart,
    rows_of,
    side_by_side,
    sizes_of_shards,
)
from pyro_jarzynski.core.shard_tree import arrange
from pyro_jarzynski.core.team import WHOLE, Act, Place, Tools
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walker_states import walkers_from, walkers_state
from pyro_jarzynski.core.walkers import Walkers, bank
from pyro_jarzynski.core.watching import on_all
from pyro_jarzynski.errors import ArgumentError


class Shards:
    """The shards of the clouds of one purpose: a `Team`.

    Args:
        ranks: The processes.
        num_shards: Shards of every cloud, at least one for each rank.
        seed: Seed of the run.
        purpose: What the clouds are for; those of one run differ in it.
        device: Where the walkers are.
        local_resampling: Whether shards resample by themselves. No walker travels then;
            the shards keep their weights, which stay uneven.

    Attributes:
        of_ranks: Shards of each rank.
        here: Shards of this one.
        num_moved: Walkers that resampling has put on another rank.
    """

    def __init__(
        self,
        ranks: Ranks,
        num_shards: int,
        *,
        seed: int,
        purpose: str,
        device: torch.device,
        local_resampling: bool = False,
    ) -> None:
        """Begin the randomness of the shards that live here."""
        if num_shards < ranks.size:
            raise ArgumentError(
                f"`num_shards` must be at least {ranks.size}, one for each rank, got "
                f"{num_shards}."
            )
        self.ranks, self.num_shards = ranks, num_shards
        self.local_resampling = local_resampling
        self.of_ranks = [ranks.range_of(num_shards, rank) for rank in range(ranks.size)]
        self.here = self.of_ranks[ranks.rank]
        self.generators = [stream(seed, purpose + _label(k), device) for k in self.here]
        self.num_moved = 0

    def start(
        self, num: int, generator: torch.Generator, place: Place, islands: int | None
    ) -> Walkers:
        """Return `num` walkers that are placed shard by shard."""
        del generator
        rows = rows_of(self.sizes(num, islands or 1))
        parts = on_all(
            self.ranks,
            lambda: [
                place(rows[k], own, _label(k))
                for k, own in zip(self.here, self.generators, strict=True)
            ],
        )
        first = parts[0]
        shape = () if islands is None else (islands,)
        blank = first._replace(
            log_weight=torch.zeros(num, dtype=torch.float64, device=first.steps.device),
            log_banked=first.log_banked.expand(shape).clone(),
            ancestor=torch.arange(num, device=first.steps.device),
        )
        return self._joined(blank, parts, weighs=True)

    def each(
        self, walkers: Walkers, tools: Tools, act: Act, *, weighs: bool
    ) -> tuple[Walkers, Tensor]:
        """Let each shard do something by itself, and gather what all must know."""
        done = on_all(
            self.ranks,
            lambda: [
                act(part, tools._replace(generator=own, team=WHOLE))
                for part, own in zip(self.parts(walkers), self.generators, strict=True)
            ],
        )
        moved = self._joined(walkers, [part for part, _ in done], weighs=weighs)
        rates = self._of_shards(torch.stack([rate for _, rate in done]))
        sizes = rates.new_tensor(self._sizes_of(walkers))
        of_islands = (*walkers.log_banked.shape, -1)
        rates, sizes = rates.view(of_islands), sizes.view(of_islands)
        return moved, (rates * sizes).sum(-1) / sizes.sum(-1)

    def parts(self, walkers: Walkers) -> list[Walkers]:
        """Return the walkers that are here, shard by shard."""
        rows = [rows_of(self._sizes_of(walkers))[k] for k in self.here]
        first = rows[0].start
        return [
            local_rows(walkers, slice(r.start - first, r.stop - first))._replace(
                log_weight=walkers.log_weight[r],
                ancestor=walkers.ancestor[r],
                log_banked=walkers.log_banked.new_zeros(()),
            )
            for r in rows
        ]

    def resample(
        self,
        walkers: Walkers,
        low: Tensor,
        threshold: float,
        resampler: Resampler,
        generator: torch.Generator | None,
    ) -> tuple[Walkers, Tensor]:
        """Resample the islands that are low, so that few walkers change their rank."""
        if self.local_resampling:
            return self._resample_apart(walkers, threshold, resampler), low
        log_weight = walkers.by_island(walkers.log_weight)
        ancestors = resampler(log_weight, log_weight.shape[-1], generator)
        islands = walkers.log_banked.numel()
        sizes = self._sizes_of(walkers)
        each = len(sizes) // islands
        ancestors = torch.stack(
            [
                arrange(of_island, sizes[k * each : (k + 1) * each])
                for k, of_island in enumerate(ancestors.reshape(islands, -1))
            ]
        )
        banked, rows = bank(walkers, ancestors, low)
        local = tuple(getattr(walkers, name) for name in LOCAL)
        found, moved = exchange(self.ranks, local, rows, self._on_ranks(sizes))
        self.num_moved += moved
        ancestor = walkers.ancestor[rows]
        return banked._replace(
            **dict(zip(LOCAL, found, strict=True)), ancestor=ancestor
        ), low

    def whole(self, walkers: Walkers) -> Walkers:
        """Return the walkers with the positions of all of them; all ranks must ask."""
        everywhere = {
            name: map_tree(lambda x: self._of_all(walkers, x), getattr(walkers, name))
            for name in LOCAL
        }
        return walkers._replace(**everywhere)

    def own(self, walkers: Walkers) -> Walkers:
        """Return whole walkers with the positions of those that live here."""
        rows = rows_of(self._sizes_of(walkers))
        mine = slice(rows[self.here.start].start, rows[self.here.stop - 1].stop)
        return local_rows(walkers, mine)

    def gathered(self, rows: Tensor, num: int, islands: int = 1) -> Tensor:
        """Return rows of all of `num` walkers, of which those of this rank are given."""
        return self.ranks.gather(rows, self._on_ranks(self.sizes(num, islands)))

    def weighted_sum(
        self, log_totals: Sequence[Tensor], sums: Sequence[list[Tensor]]
    ) -> list[Tensor]:
        """Return `Σ_s S_s e^{T_s} / Σ_s e^{T_s}` over all shards, from those here."""
        here = torch.stack(list(log_totals))
        log_total = weights.log_sum_exp(self._of_shards(here))
        shares = weights.ratio(here, log_total)
        return self.total(
            [(share * slope).to(slope.dtype) for slope in slopes]
            for share, slopes in zip(shares, sums, strict=True)
        )

    def total(self, sums: Iterable[list[Tensor]]) -> list[Tensor]:
        """Return the sums over all shards, from those here."""
        return self.ranks.totals(sums, self.num_shards)

    def share(self, rows: Tensor) -> list[Tensor]:
        """Return the parts of rows that every rank has which are this one's to work on."""
        parts = rows.tensor_split(self.num_shards)
        return [parts[k] for k in self.here]

    def state(self, walkers: Walkers) -> dict[str, Any]:
        """Return walkers as a state, shard by shard, those of other ranks left out."""
        known = walkers_state(walkers)
        parts = [walkers_state(part) for part in self.parts(walkers)]
        shards = {
            str(k): {name: part[name] for name in LOCAL}
            for k, part in zip(self.here, parts, strict=True)
        }
        return {k: v for k, v in known.items() if k not in LOCAL} | {"shards": shards}

    def restored(
        self, state: Mapping[str, Any], device: torch.device, source: TermsFn | None = None
    ) -> Walkers:
        """Return the walkers of a state that all ranks have made."""
        shared = {name: value for name, value in state.items() if name != "shards"}
        parts = [
            walkers_from(shared | state["shards"][str(k)], device, source)
            for k in self.here
        ]
        return self._joined(parts[0], parts, weighs=False)

    def generators_state(self) -> dict[str, Any]:
        """Return the randomness of the shards that are here."""
        named = zip(self.here, self.generators, strict=True)
        return {"shards": {str(k): own.get_state() for k, own in named}}

    def set_generators(self, state: Mapping[str, Any]) -> None:
        """Go on with the randomness of a state."""
        for k, own in zip(self.here, self.generators, strict=True):
            set_state(own, state["shards"][str(k)])

    def sizes(self, num: int, islands: int = 1) -> list[int]:
        """Return how many of `num` walkers each shard has."""
        return sizes_of_shards(self.num_shards, num, islands)

    def _sizes_of(self, walkers: Walkers) -> list[int]:
        return self.sizes(walkers.num_walkers, walkers.log_banked.numel())

    def _on_ranks(self, sizes: list[int]) -> list[int]:
        """Return how many walkers live on each rank."""
        return [sum(sizes[k] for k in shards) for shards in self.of_ranks]

    def _of_all(self, walkers: Walkers, here: Tensor) -> Tensor:
        """Return rows of all walkers, of which those here are given."""
        return self.gathered(here, walkers.num_walkers, walkers.log_banked.numel())

    def _of_shards(self, here: Tensor) -> Tensor:
        """Return one number for each shard, of which those here are given."""
        return self.ranks.gather(here, [len(shards) for shards in self.of_ranks])

    def _joined(
        self, walkers: Walkers, parts: Sequence[Walkers], *, weighs: bool
    ) -> Walkers:
        """Return shards side by side, with what all ranks know of the walkers."""
        local = {
            name: map_tree(side_by_side, *(getattr(part, name) for part in parts))
            for name in LOCAL
        }
        joined = walkers._replace(**local)
        if not weighs:
            return joined
        here = torch.cat([part.log_weight for part in parts])
        return joined._replace(log_weight=self._of_all(walkers, here))

    def _resample_apart(
        self, walkers: Walkers, threshold: float, resampler: Resampler
    ) -> Walkers:
        """Resample each shard that is low by itself, and tell all ranks of it."""
        parts = [
            resample_apart(part, threshold, resampler, own)
            for part, own in zip(self.parts(walkers), self.generators, strict=True)
        ]
        joined = self._joined(walkers, parts, weighs=True)
        here = torch.cat([part.ancestor for part in parts])
        return joined._replace(ancestor=self._of_all(walkers, here))


def _label(shard: int) -> str:
    """Return what tells the randomness of a shard from that of others."""
    return f", shard {shard}"
