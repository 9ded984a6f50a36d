"""What the commands that train share: options, and how a training runs and ends."""

from collections.abc import Callable
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_jarzynski.cli.app import KnownCommands, app, console
from pyro_jarzynski.cli.resuming import end
from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.ebm.learner import Callback, Learner
from pyro_jarzynski.errors import MOST, CheckpointError, JarzynskiError, count
from pyro_jarzynski.experiments.output import render
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
CheckpointEvery = Annotated[
    int | None,
    typer.Option(help="Updates between two checkpoints; one a minute if left out."),
]
EvalEvery = Annotated[int, typer.Option(help="Updates per row of the history.")]


def check_course(
    steps: int, eval_every: int, patience: int | None = None, *, seed: int = 0
) -> None:
    """Raise before anything is read or drawn if a training cannot go like that."""
    count("seed", seed, -MOST)
    count("steps", steps)
    count("eval_every", eval_every)
    if patience is not None:
        count("patience", patience)


def run_training(
    out: Path,
    learner: Learner,
    steps: int,
    checkpoints: Checkpoints,
    fit: Callable[[list[Callback]], None],
    save: Callable[[], None],
) -> None:
    """Fit with a progress bar; save the best model also after Ctrl-C or a failure.

    Of several ranks the first has all walkers in the end, and saves.
    """
    ranks = ranks_now()
    try:
        with ProgressBar(steps, console=console) as bar:
            fit([bar])
    except (KeyboardInterrupt, SystemExit) as stop:
        learner.restore_best()
        learner.gather()
        if ranks.rank == 0:
            save()
        told = f"Interrupted: the best model and the history so far are in {out}."
        end(told, checkpoints, stop)
    except CheckpointError:
        # Nothing was trained: what an earlier process left stays.
        raise
    except JarzynskiError:
        # Where one of several ranks has failed, the others cannot gather its walkers.
        if ranks.size == 1:
            learner.restore_best()
            save()
        raise
    learner.gather()
    if ranks.rank > 0:
        return
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
    plain = {k: v.value if isinstance(v, Enum) else v for k, v in arguments.items()}
    return {k: v for k, v in plain.items() if k not in NO_SETTINGS}


def progress_of(learner: Learner) -> dict[str, Any]:
    """Return how far a training came."""
    seconds = learner.history["seconds"]
    return {
        "updates": learner.num_steps,
        "best_update": learner.best.step if learner.best else learner.num_steps,
        "seconds": seconds[-1] if seconds else 0.0,
    }
