"""What the commands that train share: options, and how a training runs and ends."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_jarzynski.cli.app import INTERRUPTED, KnownCommands, app, console
from pyro_jarzynski.core.interrupt import TERMINATED
from pyro_jarzynski.ebm.learner import Callback, Learner
from pyro_jarzynski.errors import CheckpointError, JarzynskiError, count
from pyro_jarzynski.experiments.output import prepare_directory, render
from pyro_jarzynski.runtime.checkpoints import Checkpoints
from pyro_jarzynski.runtime.progress import ProgressBar

# Arguments of a command that do not change what it comes to.
NO_SETTINGS = ("out", "overwrite", "resume", "checkpoint_every")


class Algorithm(StrEnum):
    """Names of the learners, as `experiments.mixture.LEARNERS` has them."""

    jarzynski = "jarzynski"
    pcd = "pcd"
    cd = "cd"


class Resampler(StrEnum):
    """Names of the resampling schemes, as `core.resampling.RESAMPLERS` has them."""

    systematic = "systematic"
    stratified = "stratified"
    residual = "residual"
    multinomial = "multinomial"


train = typer.Typer(
    cls=KnownCommands,
    no_args_is_help=True,
    help="Train an energy-based model on a data set.",
)
app.add_typer(train, name="train")

TheAlgorithm = Annotated[
    Algorithm,
    typer.Option(help="Weighted walkers, or (persistent) contrastive divergence."),
]
TheResampler = Annotated[Resampler, typer.Option(help="Resampling scheme.")]
EssThreshold = Annotated[
    float,
    typer.Option(
        help="Resample when the effective sample size is below this share, in [0, 1]."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of network, walkers, noise and data order.")]
Walkers = Annotated[int, typer.Option(help="Walkers that train the model.")]
AuditWalkers = Annotated[
    int, typer.Option(help="Walkers that only follow the model, and report its likelihood.")
]
Patience = Annotated[
    int | None,
    typer.Option(help="Stop when the validation NLL has not fallen for so many updates."),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on where the same command was interrupted."),
]
CheckpointEvery = Annotated[
    int | None,
    typer.Option(help="Updates between two checkpoints; one a minute if left out."),
]
EvalEvery = Annotated[int, typer.Option(help="Updates per row of the history.")]


def check_course(steps: int, eval_every: int, patience: int | None = None) -> None:
    """Raise before anything is read or drawn if a training cannot go like that."""
    count("steps", steps)
    count("eval_every", eval_every)
    if patience is not None:
        count("patience", patience)


def prepare_run(
    out: Path, *, every: int | None, resume: bool, overwrite: bool
) -> Checkpoints:
    """Make the directory of a run, and return where in it checkpoints are kept."""
    if every is not None:
        count("checkpoint_every", every)
    kept = Checkpoints(out / "checkpoints", every=every, resume=resume)
    goes_on = resume and bool(kept.steps)
    prepare_directory(out, overwrite=overwrite or goes_on)
    if not goes_on:
        kept.clear()
    return kept


def run_training(
    out: Path,
    learner: Learner,
    steps: int,
    checkpoints: Checkpoints,
    fit: Callable[[list[Callback]], None],
    save: Callable[[], None],
) -> None:
    """Fit with a progress bar; save the best model also after Ctrl-C or a failure."""
    try:
        with ProgressBar(steps, console=console) as bar:
            fit([bar])
    except (KeyboardInterrupt, SystemExit) as stop:
        learner.restore_best()
        save()
        known = bool(checkpoints.steps)
        console.print(
            f"Interrupted: the best model and the history so far are in {out}."
            + (" The same command with --resume goes on from here." if known else ""),
            markup=False,
            soft_wrap=True,
        )
        code = TERMINATED if isinstance(stop, SystemExit) else INTERRUPTED
        raise typer.Exit(code) from None
    except CheckpointError:
        # Nothing was trained: what an earlier process left stays.
        raise
    except JarzynskiError:
        learner.restore_best()
        save()
        raise
    save()
    # They are of use only to a run that is not over.
    checkpoints.clear()
    show(render(out), out)


def show(summary: dict[str, str], out: Path) -> None:
    """Print what a run came to."""
    for name, value in summary.items():
        typer.echo(f"{name}: {value}")
    typer.echo(f"Report: {out / 'report.html'}")


def settings_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the settings among the arguments of a command."""
    return {k: v for k, v in arguments.items() if k not in NO_SETTINGS}


def progress_of(learner: Learner) -> dict[str, Any]:
    """Return how far a training came."""
    seconds = learner.history["seconds"]
    return {
        "updates": learner.num_steps,
        "best_update": learner.best.step if learner.best else learner.num_steps,
        "seconds": seconds[-1] if seconds else 0.0,
    }
