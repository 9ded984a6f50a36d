"""How long a run is expected to take, by the time of its first evaluations."""

import sys

from tqdm.auto import tqdm

from pyro_jarzynski.infer.posterior import Posterior
from pyro_jarzynski.infer.recorder import Recorder
from pyro_jarzynski.infer.time_words import expected_seconds, gradients_per_walker, in_words

# Seconds from which on a run says how long it is expected to take.
LONG = 60.0
# Seconds of evaluations before the first look at how long they take.
FIRST_LOOK = 2.0


class DurationEstimate:
    """A watcher that prints once how long a run is expected to take, if it is long.

    It looks after 2, 4, 8, … seconds of evaluations. A run that has taken some time already
    is expected to take as long again. Models of which a warning has said that they are
    slow, and runs that go on from a checkpoint, have no estimate.

    Args:
        posterior: The posterior.
        recorder: Records the run.
    """

    def __init__(self, posterior: Posterior, recorder: Recorder) -> None:
        """Wait for the first evaluation."""
        self.size, self.recorder = posterior.size, recorder
        self.settings, self.limit = recorder.settings, recorder.limit
        self.is_over = posterior.method == "loop" or recorder.ranks.rank > 0
        self.next_look = FIRST_LOOK
        self.start: tuple[int, float] | None = None

    def __call__(self) -> None:
        """Look whether it is time, and print."""
        if self.is_over or self.recorder.num_known:
            return
        num, now = self.recorder.num_gradients, self.limit.now()
        if self.start is None:
            # The first evaluation may compile, or load libraries.
            self.start = (num, now) if num else None
            return
        elapsed, evaluated = now - self.start[1], num - self.start[0]
        if evaluated and elapsed >= self.next_look:
            self.next_look = 2 * elapsed
            self._look(elapsed / evaluated)

    def _look(self, seconds: float) -> None:
        """Print an estimate, by the seconds of a gradient of a walker, if it is long."""
        num, moves = self.settings.walkers_of_run, gradients_per_walker(self.size)
        steps = getattr(self.settings.kernel, "steps_per_move", 1)
        expected = expected_seconds(steps * seconds, num, self.size)
        expected = max(expected, 2 * self.limit.elapsed)
        if expected < LONG:
            return
        self.is_over = True
        most = self.settings.max_seconds
        ends = "Fewer walkers take less, and `max_seconds` ends it."
        if most is not None and most < expected:
            ends = f"`max_seconds` ends it after {in_words(most)}."
        tqdm.write(
            f"This run is expected to take about {in_words(expected)}, perhaps a third or "
            f"three times of that: {in_words(seconds)} for each gradient of a walker, and "
            f"some {moves} moves of {num:,} walkers in all clouds. {ends}",
            file=sys.stderr,
        )
