"""What a run leaves behind: one row per stage, and the result at its end."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.core.trees import Position, map_tree
from pyro_jarzynski.core.watching import Abandoned, Watcher, watched
from pyro_jarzynski.core.weights import log_mean_exp, log_sum_exp
from pyro_jarzynski.infer.annealing import Reached
from pyro_jarzynski.infer.legs import EvaluationCount
from pyro_jarzynski.infer.result import SMCResult
from pyro_jarzynski.infer.run_warnings import RunWarnings
from pyro_jarzynski.infer.settings import Settings
from pyro_jarzynski.infer.time_limit import TimeLimit


class Row(NamedTuple):
    """One stage, in the columns of `SMCResult.history`."""

    beta: float
    num_observations: int
    ess: Tensor
    conditional_ess: Tensor
    acceptance_rate: Tensor
    log_evidence: Tensor
    resampled: Tensor
    num_ancestors: Tensor
    step_size: float
    num_moves: int
    num_leapfrog: int
    repeated: float
    seconds: float


class Recorder:
    """Collects the stages of a run.

    Args:
        settings: Settings of the run.
        limit: Its time.
        count: Walkers that have been evaluated.
        warnings: Records the warnings of the run.
    """

    def __init__(
        self,
        settings: Settings,
        limit: TimeLimit,
        count: EvaluationCount,
        warnings: RunWarnings,
    ) -> None:
        """Start without stages."""
        self.settings, self.limit, self.warnings = settings, limit, warnings
        self.count = count
        self.rows: list[Row] = []
        self.log_weights: list[Tensor] = []
        self.ranks = ranks_now()
        self.seconds = 0.0
        self.num_stages = self.num_undecorrelated = 0
        self.num_known = self.num_recorded = 0
        self.last: Reached | None = None
        self.abandoned = False

    @property
    def progress(self) -> float:
        """Legs of the path that are behind, the present one in parts."""
        if not self.rows:
            return 0.0
        done = sum(row.beta == 1 for row in self.rows)
        beta = self.rows[-1].beta
        return done + (beta if beta < 1 else 0.0)

    def advance(self, stages: Iterator[Reached], *watchers: Watcher) -> Reached | None:
        """Record the next stage; return nothing if there is none, or it was given up.

        Args:
            stages: The stages of the run.
            watchers: Who may give a stage up, beside the time.

        """
        try:
            with ExitStack() as stack:
                for watcher in (self.limit.watch, *watchers):
                    stack.enter_context(watched(watcher))
                reached = next(stages, None)
        except Abandoned:
            self.abandoned = True
            return None
        if reached is not None:
            self.add(reached)
        return reached

    def add(self, reached: Reached) -> None:
        """Record a stage; of the scout only how much it evaluated."""
        self.last, info = reached, reached.info
        # All ranks have one time, by which they stop together.
        (elapsed,) = self.ranks.largest(int(1e9 * self.limit.elapsed))
        self.seconds = elapsed / 1e9
        self.num_stages += 1
        self.num_recorded = self.num_gradients
        if not reached.counts:
            return
        log_weight = _normalised(reached.walkers.by_island(info.log_weight))
        self.log_weights.append(log_weight.cpu())
        self.num_undecorrelated += not reached.decorrelated
        row = Row(
            beta=reached.beta,
            num_observations=reached.leg.num_observations or 0,
            ess=info.ess,
            conditional_ess=info.conditional_ess,
            acceptance_rate=info.acceptance_rate,
            log_evidence=info.log_normalizer,
            resampled=info.resampled,
            num_ancestors=reached.walkers.num_ancestors,
            step_size=reached.stage.kernel.step_size,
            num_moves=reached.stage.num_moves,
            num_leapfrog=getattr(reached.stage.kernel, "steps_per_move", 1),
            repeated=_repeated(reached),
            seconds=self.seconds,
        )
        # A history must not fill the memory of a GPU.
        self.rows.append(map_tree(Tensor.cpu, row))

    @property
    def num_gradients(self) -> int:
        """Walkers at which the model was evaluated so far, those of the scout as well."""
        return self.num_known + self.count.num

    def state_dict(self) -> dict[str, Any]:
        """Return what has been recorded."""
        return {
            "rows": [row._asdict() for row in self.rows],
            "log_weights": list(self.log_weights),
            "num_stages": self.num_stages,
            "num_undecorrelated": self.num_undecorrelated,
            "num_gradients": self.num_recorded,
            "seconds": self.seconds,
            "warnings": self.warnings.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what an earlier process has recorded."""
        self.rows = [Row(**row) for row in state["rows"]]
        self.log_weights = list(state["log_weights"])
        self.num_stages = int(state["num_stages"])
        self.num_undecorrelated = int(state["num_undecorrelated"])
        self.num_known = self.num_recorded = int(state["num_gradients"])
        self.seconds = float(state["seconds"])
        self.limit.start = self.limit.now() - self.seconds
        self.warnings.load_state_dict(state["warnings"])

    def line(self) -> str:
        """Return the last stage in short."""
        if not self.rows:
            return f"scout at β {self.last.beta:.3g}" if self.last else ""
        row = self.rows[-1]
        share = float(row.ess.mean()) / self.settings.num_walkers
        evidence = float(log_mean_exp(row.log_evidence))
        return f"β {row.beta:.3g}, ESS {share:.0%}, log Z {evidence:.2f}"

    def is_late(self) -> bool:
        """Tell whether the time is up, and there is a result."""
        return bool(self.rows) and self.rows[-1].seconds > self.limit.seconds

    def check(self) -> None:
        """Raise if there is no result.

        Raises:
            TimeLimitError: The time was up before the walkers had finished a stage.
        """
        if not self.rows:
            raise self.limit.error("the first stage of the walkers")

    def gather(self) -> None:
        """Bring the walkers together, for a result; all ranks must ask."""
        if self.last is not None:
            self.last = self.last.whole

    def result(self, num_legs: int) -> SMCResult | None:
        """Return the result of what was reached, if its walkers are together."""
        if not self.rows or self.last is None or self.last.team.num_shards is not None:
            return None
        columns = {
            name: torch.stack(values)
            if isinstance(values[0], Tensor)
            else torch.tensor(values, dtype=torch.float64, device="cpu")
            for name, values in zip(Row._fields, zip(*self.rows, strict=True), strict=True)
        }
        if self.last.leg.num_observations is None:
            del columns["num_observations"]
        return SMCResult(
            posterior=self.last.leg.posterior,
            walkers=self.last.walkers,
            history=columns,
            settings=self.settings,
            complete=self.progress == num_legs,
            num_gradients=self.num_recorded,
            seconds=self.seconds,
            stage_log_weights=self.log_weights,
            num_undecorrelated=self.num_undecorrelated,
            run_warnings=self.warnings.texts,
            kernel=self.last.stage.kernel,
        )


def _normalised(log_weight: Tensor) -> Tensor:
    """Return log-weights `(C, N)` of which each island has as much, `(C N,)`."""
    return (log_weight - log_sum_exp(log_weight)[:, None]).flatten()


def _repeated(reached: Reached) -> float:
    """Return the share of walkers that are where another is, by a number of each place."""
    walkers, team = reached.walkers, reached.team
    here = torch.cat([_sums(part.position) for part in team.parts(walkers)])
    num = walkers.num_walkers
    places = team.gathered(here, num, walkers.log_banked.numel()).unique()
    return 1 - len(places) / num


def _sums(position: Position) -> Tensor:
    assert isinstance(position, Tensor)
    return position.to(torch.float64).sum(1)
