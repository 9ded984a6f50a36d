"""Commands that are interrupted, and gone on with by `--resume`."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pyro_jarzynski.cli.app import INTERRUPTED, console
from pyro_jarzynski.core.interrupt import TERMINATED
from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.errors import count
from pyro_jarzynski.experiments.output import prepare_directory
from pyro_jarzynski.runtime.checkpoints import Checkpoints

Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on where the same command was interrupted."),
]


def prepare_run(
    out: Path, *, every: int | None, resume: bool, overwrite: bool
) -> Checkpoints:
    """Make the directory of a run, and return where in it checkpoints are kept.

    Of several ranks the first makes it.
    """
    if every is not None:
        count("checkpoint_every", every)
    kept = Checkpoints(out / "checkpoints", every=every, resume=resume)
    if ranks_now().rank > 0:
        return kept
    goes_on = resume and bool(kept.steps)
    prepare_directory(out, overwrite=overwrite or goes_on)
    if not goes_on:
        kept.clear()
    return kept


def end(told: str, checkpoints: Checkpoints, stop: BaseException | None = None) -> NoReturn:
    """Say how a command ended before its time, and how to go on; then exit."""
    goes_on = " The same command with --resume goes on from here."
    if ranks_now().rank == 0:
        told += goes_on if checkpoints.steps else ""
        console.print(told, markup=False, soft_wrap=True)
    code = TERMINATED if isinstance(stop, SystemExit) else INTERRUPTED
    raise typer.Exit(code) from None
