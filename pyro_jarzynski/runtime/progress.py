"""A progress bar for training."""

import math
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.ebm.learner import Learner


class _TwoLines(Progress):
    """The bar above its figures, so that neither is cut in a narrow terminal."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Return the bar, and the description of its task below it."""
        yield self.make_tasks_table(self.tasks)
        yield from (Text(task.description) for task in self.tasks if task.description)


class ProgressBar:
    """Shows step, ESS, log Z with its error, and the NLLs: a callback of `Learner.fit`.

        with ProgressBar(num_steps) as bar:
            learner.fit(data, num_steps, callbacks=[bar])

    Of several ranks the first alone shows it.

    Args:
        num_steps: Updates until the bar is full.
        console: Where to draw; `None` is standard error, so that output can be piped.

    Example:
        >>> with pj.ProgressBar(100) as bar:
        ...     callable(bar)  # learner.fit(data, 100, callbacks=[bar])
        True
    """

    def __init__(self, num_steps: int, *, console: Console | None = None) -> None:
        """Make the bar; it shows from `with` on."""
        self.progress = _TwoLines(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            expand=True,
            disable=ranks_now().rank > 0,
        )
        self.task = self.progress.add_task("", total=num_steps)
        self._first: int | None = None

    def __enter__(self) -> "ProgressBar":
        """Show the bar."""
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bar as it stands."""
        self.progress.stop()

    def __call__(self, learner: Learner, row: dict[str, float]) -> None:
        """Show one row of the history; updates count from the first call of `fit`."""
        if self._first is None:
            self._first = 0 if learner.course is None else learner.course.first
        done = int(row["step"]) - self._first
        self.progress.update(self.task, completed=done, description=describe(row))


def describe(row: dict[str, float]) -> str:
    """Return one row of the history as a line of text."""
    ess = "" if math.isnan(row["ess"]) else f"ESS {row['ess']:.0%} · "
    parts = [
        f"{ess}log Z {row['log_z']:.2f} ± {row['log_z_error']:.2f}",
        f"NLL train {row['train_nll']:.2f}",
    ]
    if not math.isnan(row["validation_nll"]):
        parts.append(f"validation {row['validation_nll']:.2f}")
    return " · ".join(parts)
