"""One chain of `MCMC`: walkers that are annealed step by step, then given out as draws."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import systematic
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.walkers import resample
from pyro_jarzynski.infer.annealing import Reached, anneal
from pyro_jarzynski.infer.legs import Leg
from pyro_jarzynski.infer.settings import Settings

# Share of the walkers that must have moved before they are given out again.
MOVED = 0.99


class Chain:
    """The walkers of a chain.

    Args:
        legs: The path to the posterior.
        settings: How to anneal; one island.
    """

    def __init__(self, legs: Sequence[Leg], settings: Settings) -> None:
        """Start before the first temperature."""
        self.settings = settings
        self.stages = anneal(legs, settings)
        generator = stream(settings.seed, "draws", legs[0].posterior.device)
        self.tools = Tools(generator, settings.walkers_per_call)
        self.betas: list[float] = []
        self.ess: list[float] = []
        self.annealed: Reached | None = None
        self.present: Reached | None = None
        self.pending: Tensor | list[Tensor] = []
        self.given: list[Tensor] = []

    @property
    def position(self) -> Tensor:
        """Where the walkers are, `(N, D)`."""
        assert self.present is not None
        position = self.present.walkers.position
        assert isinstance(position, Tensor)
        return position

    def advance(self, *, to_the_end: bool = False) -> Tensor:
        """Anneal by one temperature, or by all that are left; return a walker."""
        while True:
            present = next(self.stages, None)
            if present is None:
                assert self.present is not None
                self.present = self.present.whole
                self._move(1)
                return self.position[0]
            self.present = present
            if present.counts:
                self.annealed = present
                self.betas.append(present.beta)
                self.ess.append(float(present.info.ess[0]))
            if not to_the_end:
                return self.position[0]

    def draw(self) -> Tensor:
        """Return the next walker."""
        if not len(self.pending):
            self._refill()
        first, self.pending = self.pending[0], self.pending[1:]
        self.given.append(first)
        return first

    def logging(self) -> OrderedDict[str, str]:
        """Return the state of the annealing in short."""
        if self.present is None:
            return OrderedDict()
        info = self.present.info
        share = float(info.ess[0]) / self.settings.num_walkers
        return OrderedDict(
            [
                ("β", f"{self.present.beta:.3g}"),
                ("ESS", f"{share:.0%}"),
                ("log Z", f"{float(info.log_normalizer[0]):.2f}"),
            ]
        )

    def diagnostics(self) -> dict[str, Any]:
        """Return evidence and other numbers in plain types."""
        if self.present is None or self.annealed is None:
            return {"divergences": []}
        walkers = self.annealed.walkers
        given = torch.stack(self.given) if self.given else self.position[:0]
        return {
            "divergences": [],
            "acceptance rate": float(self.present.info.acceptance_rate[0]),
            "log evidence": float(walkers.log_normalizer[0]),
            "log evidence error": float(walkers.log_normalizer_error[0]),
            "betas": self.betas,
            "ess": self.ess,
            "unique draws": len(given.unique(dim=0)),
            "unique ancestors": int(walkers.num_ancestors.sum()),
        }

    def _move(self, num_moves: int) -> None:
        """Move the walkers at the posterior."""
        assert self.present is not None
        stage = self.present.stage
        walkers, info = smc.step(
            self.present.walkers,
            stage.energy,
            stage.kernel,
            num_moves=num_moves,
            tools=self.tools,
        )
        self.present = self.present._replace(walkers=walkers, info=info)

    def _refill(self) -> None:
        """Draw walkers by their weights, after moves if they were given out before."""
        assert self.present is not None
        if self.given:
            before = self.position
            for _ in range(self.settings.max_moves):
                self._move(self.present.stage.num_moves)
                moved = (self.position != before).any(1)
                if float(moved.double().mean()) >= MOVED:
                    break
        walkers = self.present.walkers
        size, generator = walkers.num_walkers, self.tools.generator
        if float(walkers.log_weight.max() - walkers.log_weight.min()) > 0:
            log_weight = walkers.by_island(walkers.log_weight)
            walkers = resample(walkers, systematic(log_weight, size, generator))
            self.present = self.present._replace(walkers=walkers)
        device = walkers.log_weight.device
        order = torch.randperm(size, generator=generator, device=device)
        self.pending = self.position[order]
