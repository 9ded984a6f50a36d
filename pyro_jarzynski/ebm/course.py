"""The course of one call of `fit`: where it ends, and what it has gathered on the way."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pyro_jarzynski.core.digests import described
from pyro_jarzynski.ebm.data import Batches
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, count


class Course:
    """Counts the updates of a call of `fit` from its first to its last.

    Args:
        batches: The data.
        done: Updates before this call.
        num_steps: Updates of this call; those that an earlier process did of it count.
        eval_every: Updates per row of the history.
        patience: Updates without a better validation NLL after which to stop.
        seconds: Time that training has taken before this call.
        validation: Data of the validation NLL.
        callbacks: What is called with every row.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        done: int,
        num_steps: int,
        eval_every: int,
        patience: int | None,
        seconds: float,
        validation: Tensor | None,
        callbacks: Sequence[Any],
    ) -> None:
        """Begin at the first update."""
        self.batches, self.first, self.num_steps = batches, done, num_steps
        self.eval_every, self.patience, self.callbacks = eval_every, patience, callbacks
        self.validation = None if validation is None else described(validation)
        self.nlls: list[float] = []
        # Update from which patience counts: that of the lowest score, or of the first.
        self.patient_since: int | None = None
        self._began = time.perf_counter() - seconds

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of `fit` that must be the same when a run is resumed."""
        return {
            "data": self.batches.described,
            "validation": self.validation,
            "batch_size": self.batches.batch_size,
            "patience": self.patience,
            "eval_every": self.eval_every,
        }

    @property
    def last(self) -> int:
        """Number of the last update."""
        return self.first + self.num_steps

    @property
    def seconds(self) -> float:
        """Time that training has taken so far."""
        return time.perf_counter() - self._began

    def ends_row(self, number: int) -> bool:
        """Tell whether a row of the history ends with an update."""
        return number % self.eval_every == 0 or number == self.last

    def take_nll(self) -> float:
        """Return the mean training NLL since the last row, and begin a new one."""
        mean = sum(self.nlls) / len(self.nlls)
        self.nlls = []
        return mean

    def score(self, done: int, *, lowest: bool) -> None:
        """Count patience from this update if its score is the lowest, or the first."""
        if lowest or self.patient_since is None:
            self.patient_since = done

    def goes_on(self, done: int) -> bool:
        """Return whether there is another update after so many."""
        if self.patience is not None and self.patient_since is not None:
            return done < self.last and done - self.patient_since < self.patience
        return done < self.last

    def state_dict(self) -> dict[str, Any]:
        """Return all that a continuation needs beside the arguments of `fit`."""
        return {
            "first": self.first,
            "seconds": self.seconds,
            "nlls": list(self.nlls),
            "patient_since": self.patient_since,
            "batches": self.batches.state_dict(),
            "callbacks": [
                each.state_dict() if hasattr(each, "state_dict") else None
                for each in self.callbacks
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, with the callbacks that it is of."""
        self.first, self.nlls = int(state["first"]), [float(x) for x in state["nlls"]]
        self.patient_since = state["patient_since"]
        self._began = time.perf_counter() - float(state["seconds"])
        self.batches.load_state_dict(state["batches"])
        kept = [known for known in state["callbacks"] if known is not None]
        able = [each for each in self.callbacks if hasattr(each, "load_state_dict")]
        if len(kept) != len(able):
            raise ArgumentError(
                f"`callbacks` must have {len(kept)} with a state, as the run had that is "
                f"gone on with; got {len(able)}."
            )
        for each, known in zip(able, kept, strict=True):
            each.load_state_dict(known)


def check_course(
    num_steps: int,
    batch_size: int | None,
    eval_every: int,
    patience: int | None,
    validation: object,
    callbacks: object,
) -> None:
    """Raise if a call of `fit` cannot go like that."""
    count("num_steps", num_steps, 0)
    count("eval_every", eval_every)
    if batch_size is not None:
        count("batch_size", batch_size)
    if not isinstance(callbacks, list | tuple) or not all(map(callable, callbacks)):
        raise ArgumentTypeError(
            "`callbacks` must be a list of functions that take the learner and a row, got "
            f"{callbacks!r}; without any, pass `[]`."
        )
    if patience is None:
        return
    count("patience", patience)
    if validation is None:
        raise ArgumentError("`patience` needs `validation` data; got None.")
