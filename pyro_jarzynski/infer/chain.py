"""A chain of `MCMC`: walkers that are annealed stage by stage, then given out as draws."""

import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.decorrelation import SquaredJumps
from pyro_jarzynski.core.faults import read
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import get_resampler, systematic
from pyro_jarzynski.core.smc import Stage
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.walkers import Walkers, resample
from pyro_jarzynski.errors import EvidenceWarning
from pyro_jarzynski.infer.annealed_smc import exact_result
from pyro_jarzynski.infer.annealing import anneal
from pyro_jarzynski.infer.doubts import disagreements
from pyro_jarzynski.infer.duration import DurationEstimate
from pyro_jarzynski.infer.legs import prepare
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.nonfinite import NonFiniteCounts
from pyro_jarzynski.infer.posterior import ModelPosterior
from pyro_jarzynski.infer.recorder import Recorder
from pyro_jarzynski.infer.result import SMCResult
from pyro_jarzynski.infer.run_warnings import RunWarnings
from pyro_jarzynski.infer.settings import Settings
from pyro_jarzynski.infer.time_limit import TimeLimit

# Share of the walkers that must have moved before they are given out again.
MOVED = 0.99


class Chain:
    """The walkers of a chain.

    Args:
        model: The model with its arguments, analysed.
        settings: How to anneal; one island.
        found: Records the warnings of the chain.
        finished: Results of the chains before it, to which that of this one is added.
    """

    def __init__(
        self,
        model: PyroModel,
        settings: Settings,
        found: RunWarnings,
        finished: list[SMCResult],
    ) -> None:
        """Prepare the path to the posterior."""
        limit = TimeLimit(settings.max_seconds)
        with limit.enforced("the analysis of the model"):
            self.legs, self.settings = prepare(
                model.model, model.args, model.kwargs, settings, analysed=model
            )
        self.found, self.finished = found, finished
        self.recorder = Recorder(self.settings, limit, self.legs[0].terms.count, found)
        self.stages = anneal(self.legs, self.settings, limit=limit)
        self.estimate = DurationEstimate(self.legs[-1].posterior, self.recorder)
        generator = stream(settings.seed, "draws", self.legs[0].posterior.device)
        self.counts = NonFiniteCounts(self.settings, self.legs[0].posterior)
        self.tools = Tools(generator, self.settings.walkers_per_call, faults=self.counts)
        self.result: SMCResult | None = None
        self.walkers: Walkers | None = None
        self.stage: Stage | None = None
        self.pending: Tensor | list[Tensor] = []
        self.given: list[Tensor] = []
        self.exact: Tensor | None = None
        if not self.legs[-1].posterior.size:
            exact = exact_result(self.legs[-1], self.settings, self.found.texts)
            self._finish(exact)
            self.exact = self._drawn()

    @property
    def rows(self) -> Tensor:
        """What is given out of each walker: where it is, or else its discrete latents."""
        return self.position if self.exact is None else self.exact

    @property
    def position(self) -> Tensor:
        """Where the walkers are, `(N, D)`."""
        assert self.walkers is not None
        assert isinstance(self.walkers.position, Tensor)
        return self.walkers.position

    def advance(self, *, to_the_end: bool = False) -> Tensor:
        """Anneal by one stage, or by all that are left; return a walker.

        Once the posterior is reached, walkers that have not decorrelated move.
        """
        if self.result is not None:
            if not self.decorrelated:
                self._move()
                self.counts.warn()
            return self.rows[0]
        recorder = self.recorder
        while True:
            reached = recorder.advance(self.stages, self.estimate)
            if reached is not None:
                self.walkers, self.stage = reached.walkers, reached.stage
            arrived = recorder.progress == len(self.legs)
            if reached is None or arrived or recorder.is_late():
                # Which tells what the walkers met.
                self.stages.close()
                recorder.check()
                recorder.gather()
                self._finish(recorder.result(len(self.legs)))
                break
            if not to_the_end:
                break
        return self.rows[0]

    def draw(self) -> Tensor:
        """Return the next walker."""
        if not len(self.pending):
            self._refill()
        first, self.pending = self.pending[0], self.pending[1:]
        self.given.append(first)
        return first

    def logging(self) -> OrderedDict[str, str]:
        """Return the state of the annealing in short."""
        if self.recorder.last is None:
            return OrderedDict()
        last = self.recorder.last
        share = float(last.info.ess[0]) / self.settings.num_walkers
        return OrderedDict(
            [
                ("β", f"{last.beta:.3g}"),
                ("ESS", f"{share:.0%}"),
                ("log Z", f"{float(last.info.log_normalizer[0]):.2f}"),
            ]
        )

    def diagnostics(self) -> dict[str, Any]:
        """Return evidence, warnings and other numbers in plain types."""
        result = self.result
        if result is None:
            return {"divergences": []}
        history = result.history
        last = {name: float(values[-1].double().mean()) for name, values in history.items()}
        given = torch.stack(self.given) if self.given else self.rows[:0]
        doubtful = "doubtful" if self.found.texts else "ok"
        return {
            "divergences": [],
            "acceptance rate": last.get("acceptance_rate", 1.0),
            "log evidence": result.log_evidence,
            "log evidence error": result.log_evidence_error,
            "betas": history["beta"].tolist() if history else [],
            "ess": history["ess"][:, 0].tolist() if history else [],
            "step size": last.get("step_size"),
            "moves": last.get("num_moves"),
            "leapfrog steps": last.get("num_leapfrog"),
            "unique draws": len(given.unique(dim=0)) if given.numel() else len(given[:1]),
            "unique ancestors": int(result.walkers.num_ancestors.sum()),
            "warnings": self.found.texts,
            "status": doubtful if result.complete else "partial",
        }

    def _finish(self, result: SMCResult | None) -> None:
        """Set the result of the annealing, and issue its warnings."""
        assert result is not None
        self.result, self.walkers = result, result.walkers
        self.finished.append(result)
        last = self.recorder.last
        self.decorrelated = last is None or last.decorrelated
        if not self.decorrelated:
            self._mark_start()
        for text in (*result.new_doubts, *self._differences()):
            warnings.warn(text, EvidenceWarning, stacklevel=2)

    def _differences(self) -> list[str]:
        """Return what this chain and those before it disagree about."""
        if len(self.finished) == 1:
            return []
        evidences = torch.cat([each.log_evidence_per_chain for each in self.finished])
        draws = [each.get_samples(group_by_chain=True) for each in self.finished]
        of_chains = {name: torch.cat([d[name] for d in draws]) for name in draws[0]}
        return disagreements(evidences, of_chains, "chains")

    def _mark_start(self) -> None:
        """Set the positions from which the walkers have to decorrelate."""
        assert self.stage is not None
        self.start = self.position
        self.jumps = SquaredJumps(self.start, self.stage.kernel.factor)

    def _move(self) -> None:
        """Move the walkers once, and update `decorrelated`."""
        assert self.walkers is not None
        assert self.stage is not None
        self.walkers, _ = smc.step(
            self.walkers,
            self.stage.energy,
            self.stage.kernel,
            ess_threshold=self.settings.ess_threshold,
            resampler=get_resampler(self.settings.resampler),
            tools=self.tools,
        )
        self.counts.moved += self.walkers.num_walkers
        how = self.settings.exploration
        found = self.jumps.record(self.position, how.max_correlation)
        share = (self.position != self.start).any(1).double().mean()
        jump, fast, moved = read(*found, share)
        self.decorrelated = bool(fast) and jump >= how.decorrelation and moved >= MOVED

    def _refill(self) -> None:
        """Draw walkers by their weights, after moves if they were given out before."""
        if self.given and self.exact is not None:
            self.exact = self._drawn()
        elif self.given:
            self._move_on()
        assert self.walkers is not None
        walkers = self.walkers
        size, generator = walkers.num_walkers, self.tools.generator
        if float(walkers.log_weight.max() - walkers.log_weight.min()) > 0:
            log_weight = walkers.by_island(walkers.log_weight)
            self.walkers = resample(walkers, systematic(log_weight, size, generator))
        device = walkers.log_weight.device
        order = torch.randperm(size, generator=generator, device=device)
        self.pending = self.rows[order]

    def _move_on(self) -> None:
        """Move the walkers until they have decorrelated from where they are."""
        self._mark_start()
        least = self.settings.num_moves or 1
        most = max(self.settings.max_moves, least)
        for number in range(1, most + 1):
            self._move()
            if self.decorrelated and number >= least:
                break
        self.counts.warn()
        if not self.decorrelated:
            warnings.warn(
                f"After {most} moves the walkers had not decorrelated from their starts: "
                "later draws resemble earlier ones. Raise `max_moves`, or take as many "
                "walkers as draws.",
                EvidenceWarning,
                stacklevel=2,
            )

    def _drawn(self) -> Tensor:
        """Draw the discrete latents of a model without others, `(N, K)`.

        As floating-point numbers: of others, `MCMC` makes no statistics.
        """
        posterior = self.legs[-1].posterior
        assert isinstance(posterior, ModelPosterior)
        if posterior.model.enumerated is None:
            return self.position
        purpose = f"discrete latents after {len(self.given)} draws"
        drawn = posterior.discrete(self.position, purpose)
        rows = [drawn[name].reshape(len(self.position), -1) for name in drawn]
        return torch.cat([row.to(torch.get_default_dtype()) for row in rows], 1)
