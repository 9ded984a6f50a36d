"""Who has which walkers: one process has them all, or ranks share them in fixed shards.

A cloud on several ranks is a `Walkers` of which every rank knows all log-weights and
ancestors, and has the positions, energies and gradients of its own shards alone. What
happens to single walkers happens shard by shard; what concerns all of them needs only
their weights, but for resampling, which sends walkers elsewhere. This file has what both
must offer, and the plain way of one process; `shards.py` has the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from pyro_jarzynski.core.faults import Faults
from pyro_jarzynski.core.gradients import TermsFn
from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.resampling import Resampler
from pyro_jarzynski.core.walker_states import walkers_from, walkers_state
from pyro_jarzynski.core.walkers import Walkers, resample

# What walkers do by themselves; returns them, and a mean over them, `()`.
Act: TypeAlias = "Callable[[Walkers, Tools], tuple[Walkers, Tensor]]"
# Puts walkers of some rows at the start, by a generator; the text tells shards apart.
Place: TypeAlias = Callable[[slice, torch.Generator, str], Walkers]


class Team(Protocol):
    """What the engine asks of those who have the walkers.

    Attributes:
        ranks: The processes.
    """

    ranks: Ranks

    @property
    def num_shards(self) -> int | None:
        """Shards of every cloud; `None` is one cloud in one piece."""

    @property
    def local_resampling(self) -> bool:
        """Whether shards resample by themselves."""

    def start(
        self, num: int, generator: torch.Generator, place: Place, islands: int | None
    ) -> Walkers:
        """Return `num` walkers that are placed shard by shard."""

    def each(
        self, walkers: Walkers, tools: Tools, act: Act, *, weighs: bool
    ) -> tuple[Walkers, Tensor]:
        """Let all walkers do something by themselves; return them, and the mean.

        Args:
            walkers: The walkers.
            tools: Tools of the whole cloud.
            act: What a shard does with tools of its own.
            weighs: Whether it may change their log-weights.
        """

    def parts(self, walkers: Walkers) -> list[Walkers]:
        """Return the walkers that are here, shard by shard."""

    def resample(
        self,
        walkers: Walkers,
        low: Tensor,
        threshold: float,
        resampler: Resampler,
        generator: torch.Generator | None,
    ) -> tuple[Walkers, Tensor]:
        """Resample the islands that are low; return also which were."""

    def whole(self, walkers: Walkers) -> Walkers:
        """Return the walkers with the positions of all of them; all ranks must ask."""

    def own(self, walkers: Walkers) -> Walkers:
        """Return whole walkers with the positions of those that live here."""

    def gathered(self, rows: Tensor, num: int, islands: int = 1) -> Tensor:
        """Return rows of all of `num` walkers, of which those of this rank are given."""

    def weighted_sum(
        self, log_totals: Sequence[Tensor], sums: Sequence[list[Tensor]]
    ) -> list[Tensor]:
        """Return `Σ_s S_s e^{T_s} / Σ_s e^{T_s}` over all shards, from those here."""

    def total(self, sums: Iterable[list[Tensor]]) -> list[Tensor]:
        """Return the sums over all shards, from those here; few are held at once."""

    def share(self, rows: Tensor) -> list[Tensor]:
        """Return the parts of rows that every rank has which are this one's to work on."""

    def state(self, walkers: Walkers) -> dict[str, Any]:
        """Return walkers as a state, those of other ranks left out."""

    def restored(
        self, state: Mapping[str, Any], device: torch.device, source: TermsFn | None = None
    ) -> Walkers:
        """Return the walkers of a state that all ranks have made."""

    def generators_state(self) -> dict[str, Any]:
        """Return the randomness of the shards that are here."""

    def set_generators(self, state: Mapping[str, Any]) -> None:
        """Go on with the randomness of a state."""


class Whole:
    """One process that has all walkers, in one piece."""

    num_shards: ClassVar[None] = None
    local_resampling: ClassVar[bool] = False

    def __init__(self) -> None:
        """Be alone, whatever process group there is."""
        self.ranks = Ranks(alone=True)

    def start(
        self, num: int, generator: torch.Generator, place: Place, islands: int | None
    ) -> Walkers:
        """Return `num` walkers that are placed at once."""
        walkers = place(slice(0, num), generator, "")
        if islands is None:
            return walkers
        return walkers._replace(log_banked=walkers.log_banked.expand(islands).clone())

    def each(
        self, walkers: Walkers, tools: Tools, act: Act, *, weighs: bool
    ) -> tuple[Walkers, Tensor]:
        """Let all walkers do something by themselves."""
        del weighs
        return act(walkers, tools)

    def parts(self, walkers: Walkers) -> list[Walkers]:
        """Return all walkers."""
        return [walkers]

    def resample(
        self,
        walkers: Walkers,
        low: Tensor,
        threshold: float,
        resampler: Resampler,
        generator: torch.Generator | None,
    ) -> tuple[Walkers, Tensor]:
        """Resample the islands that are low."""
        del threshold
        log_weight = walkers.by_island(walkers.log_weight)
        ancestors = resampler(log_weight, log_weight.shape[-1], generator)
        return resample(walkers, ancestors, low), low

    def whole(self, walkers: Walkers) -> Walkers:
        """Return the walkers."""
        return walkers

    def own(self, walkers: Walkers) -> Walkers:
        """Return the walkers."""
        return walkers

    def gathered(self, rows: Tensor, num: int, islands: int = 1) -> Tensor:
        """Return the rows."""
        del num, islands
        return rows

    def weighted_sum(
        self, log_totals: Sequence[Tensor], sums: Sequence[list[Tensor]]
    ) -> list[Tensor]:
        """Return the only sum."""
        del log_totals
        return sums[0]

    def total(self, sums: Iterable[list[Tensor]]) -> list[Tensor]:
        """Return the only sum."""
        (only,) = sums
        return only

    def share(self, rows: Tensor) -> list[Tensor]:
        """Return all rows."""
        return [rows]

    def state(self, walkers: Walkers) -> dict[str, Any]:
        """Return walkers as a state."""
        return walkers_state(walkers)

    def restored(
        self, state: Mapping[str, Any], device: torch.device, source: TermsFn | None = None
    ) -> Walkers:
        """Return the walkers of a state."""
        return walkers_from(state, device, source)

    def generators_state(self) -> dict[str, Any]:
        """Return nothing: there are no shards."""
        return {}

    def set_generators(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there are no shards."""


WHOLE = Whole()


class Tools(NamedTuple):
    """What a move needs beside walkers and energy.

    Attributes:
        generator: Source of randomness on the walkers' device; `None` is torch's own.
        chunk_size: Walkers per call of the energy; `None` takes all at once.
        team: Who has which walkers.
        faults: Gathers what is wrong with walkers; `None` tells it at once.
    """

    generator: torch.Generator | None = None
    chunk_size: int | None = None
    team: Team = WHOLE
    faults: Faults | None = None
