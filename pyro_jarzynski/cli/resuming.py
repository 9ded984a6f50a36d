"""Commands that are interrupted, and gone on with by `--resume`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pyro_jarzynski.cli.app import INTERRUPTED, console
from pyro_jarzynski.core.interrupt import TERMINATED
from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.errors import count
from pyro_jarzynski.experiments.output import prepare_directory
from pyro_jarzynski.runtime.checkpoints import Checkpoints

# Options that may change: where a run computes, and whether its data were there already.
FREE = ("device", "download")

Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on where the same command was interrupted."),
]


def prepare_run(
    out: Path,
    *,
    every: int | None,
    resume: bool,
    overwrite: bool,
    settings: Mapping[str, Any] | None = None,
) -> Checkpoints:
    """Make the directory of a run, and return where in it checkpoints are kept.

    Of several ranks the first makes it.

    Args:
        out: The directory.
        every: Steps between two checkpoints.
        resume: Whether to resume the run whose checkpoints are there.
        overwrite: Whether the directory may hold files.
        settings: Options of the command; with others than those of the run it is not
            resumed. `None` compares none.
    """
    if every is not None:
        count("checkpoint_every", every)
    kept = Checkpoints(
        out / "checkpoints", every=every, resume=resume, settings=compared(settings)
    )
    if ranks_now().rank > 0:
        return kept
    goes_on = resume and bool(kept.steps)
    prepare_directory(out, overwrite=overwrite or goes_on)
    if not goes_on:
        kept.clear()
    return kept


def compared(settings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the options that must not change when a run is resumed."""
    if settings is None:
        return None
    return {name: value for name, value in settings.items() if name not in FREE}


def end(told: str, checkpoints: Checkpoints, stop: BaseException | None = None) -> NoReturn:
    """Say how a command ended before its time, and how to go on; then exit."""
    goes_on = " The same command with --resume goes on from here."
    if ranks_now().rank == 0:
        told += goes_on if checkpoints.steps else ""
        console.print(told, markup=False, soft_wrap=True)
    code = TERMINATED if isinstance(stop, SystemExit) else INTERRUPTED
    raise typer.Exit(code) from None
