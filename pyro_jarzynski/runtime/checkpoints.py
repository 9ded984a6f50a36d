"""Checkpoints of a run: states on disk, from which it goes on bit by bit.

    kept = pj.Checkpoints("runs/arc/checkpoints", every=500, resume=True)
    learner.fit(data, 10_000, checkpoints=kept)

Whatever ends the process, the directory holds the last whole checkpoint; the same program
started again continues from there.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.core.states import Keep, Resumable, check_settings
from pyro_jarzynski.errors import (
    CheckpointError,
    CheckpointWarning,
    JarzynskiError,
    count,
    positive,
)
from pyro_jarzynski.runtime import disk
from pyro_jarzynski.runtime.checkpoint_files import (
    PASSING,
    clean,
    read_checkpoint,
    steps_in,
)
from pyro_jarzynski.runtime.checkpoint_writer import Writer
from pyro_jarzynski.runtime.lock import NAME, locked
from pyro_jarzynski.runtime.state_files import encode

# Seconds between two checkpoints, unless one asks for something else.
SECONDS = 60.0
# Where the settings of a program are in a state.
PROGRAM = "program"


class Checkpoints:
    """Keeps the state of a run in a directory, for `learner.fit` and `AnnealedSMC`.

    To save does not disturb a run. One that goes on from a checkpoint gives the same bits
    as one that was never interrupted, with the same torch on the same kind of device. On
    another kind it goes on with other random numbers: from the CPU to a GPU, say. If a
    checkpoint cannot be written, the run goes on with a warning, and the next is tried.

    Args:
        directory: Made if it is not there. One process at a time writes into it.
        every: Steps between two checkpoints: updates of a training, or temperatures.
        seconds: Seconds between two; if neither is given, 60.
        keep: Whole checkpoints to keep, at least 2.
        resume: Whether to go on from the newest whole checkpoint, if there is one. If
            false, the directory must hold none.
        settings: Plain values by name, such as the options of a program, which are kept
            with every checkpoint. A run with others is not resumed. `None` compares none.

    Raises:
        ArgumentError: A number is out of its range.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> learner = pj.JarzynskiLearner(model, torch.optim.Adam(model.parameters(), 1e-3))
        >>> kept = pj.Checkpoints("checkpoints", every=2, resume=True)
        >>> history = learner.fit(pj.toy("moons", 100), 4, checkpoints=kept)
        >>> learner.num_steps
        4
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        every: int | None = None,
        seconds: float | None = None,
        keep: int = 2,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the arguments; nothing is read or written yet."""
        self.directory = Path(directory)
        self.every = None if every is None else count("every", every)
        self.seconds = None if seconds is None else positive("seconds", seconds)
        if every is None and seconds is None:
            self.seconds = SECONDS
        self.keep = count("keep", keep, 2)
        self.resume, self.settings = resume, settings

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, whole or not, the newest first."""
        return list(steps_in(self.directory))

    @contextmanager
    def opened(self, run: Resumable) -> Iterator[Keep]:
        """Put back the state to go on from into a run, and keep those to come.

        Raises:
            CheckpointError: None of the checkpoints is whole; they do not fit the run, or
                `resume` is false and there are some; another process writes here; or the
                state of the run cannot be kept.
        """
        ranks = ranks_now()
        with _locked(self.directory, ranks):
            if self.steps and not self.resume:
                raise CheckpointError(
                    f"{self.directory} holds checkpoints of another run, the last of step "
                    f"{self.steps[0]}. Go on from there with "
                    "`resume=True`, or use another directory."
                )
            found, refused = _newest(self.directory)
            ranks.agree({"step of the checkpoint": found and found[0]})
            if found is not None:
                self._put_back(run, found[1])
            encode(ranks.attempt(lambda: self._state(run)))
            yield Writer(
                lambda: self._state(run),
                self.directory,
                every=self.every,
                seconds=self.seconds,
                num_kept=self.keep,
                last=found[0] if found else None,
                refused=refused,
                ranks=ranks,
            )

    def load(self) -> Any:
        """Return the state of the newest whole checkpoint, or `None` if there are none.

        Raises:
            CheckpointError: There are some, and none is whole; says why.

        Warns:
            CheckpointWarning: Newer ones were refused; says why.
        """
        found, _ = _newest(self.directory)
        return None if found is None else _of_run(found[1])

    def _state(self, run: Resumable) -> dict[str, Any]:
        return run.state_dict() | {PROGRAM: dict(self.settings or {})}

    def _put_back(self, run: Resumable, state: Mapping[str, Any]) -> None:
        wrong = f"The checkpoint in {self.directory} does not fit this run"
        try:
            if self.settings is not None:
                check_settings(self.settings, state[PROGRAM])
            run.load_state_dict(_of_run(state))
        except JarzynskiError as error:
            raise CheckpointError(f"{wrong}. {error}") from error
        except (ArithmeticError, AttributeError, LookupError) as error:
            raise CheckpointError(f"{wrong}: {error!r}.") from error
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{wrong}: {error}") from error

    def clear(self) -> None:
        """Remove all checkpoints, and the directory if nothing else is in it."""
        if not self.directory.is_dir():
            return
        with locked(self.directory):
            for path in steps_in(self.directory).values():
                disk.remove(disk.rename(path, f"{PASSING}{uuid4().hex}"))
            clean(self.directory)
            with suppress(OSError):
                (self.directory / NAME).unlink()
                self.directory.rmdir()


@contextmanager
def _locked(directory: Path, ranks: Ranks) -> Iterator[None]:
    """Let rank 0 hold the lock of a directory, before the others look into it."""
    if ranks.rank > 0:
        ranks.attempt(lambda: None)
        yield
        return
    with locked(directory):
        ranks.attempt(lambda: None)
        yield


def _newest(directory: Path) -> tuple[tuple[int, Any] | None, list[Path]]:
    """Return step and state of the newest whole checkpoint, and those refused before."""
    refused: list[Path] = []
    reasons: list[str] = []
    for step, path in steps_in(directory).items():
        try:
            state, version = read_checkpoint(path)
        except CheckpointError as error:
            refused.append(path)
            reasons.append(f"{path.name}: {error}")
            continue
        if reasons:
            told = "; ".join(reasons)
            warnings.warn(
                f"The run goes on from step {step}, because of what is newer in "
                f"{directory} nothing can be used. {told}.",
                CheckpointWarning,
                stacklevel=5,
            )
        if version != torch.__version__:
            warnings.warn(
                f"{path} is of torch {version}, and this is {torch.__version__}: the run "
                "goes on, but perhaps not with the same bits.",
                CheckpointWarning,
                stacklevel=5,
            )
        return (step, state), refused
    if reasons:
        raise CheckpointError(
            f"No checkpoint in {directory} can be used. {'; '.join(reasons)}. To start "
            "anew, use another directory."
        )
    return None, refused


def _of_run(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state without the settings of the program."""
    return {key: value for key, value in state.items() if key != PROGRAM}
