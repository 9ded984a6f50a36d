"""Training on images: `pyro-jarzynski train mnist --data-root data --out runs/mnist`."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pyro_jarzynski.cli.app import Device, Out, Overwrite
from pyro_jarzynski.cli.resuming import Resume, prepare_run
from pyro_jarzynski.cli.training import (
    Algorithm,
    AuditWalkers,
    CheckpointEvery,
    EssThreshold,
    EvalEvery,
    Patience,
    Resampler,
    Seed,
    TheAlgorithm,
    TheResampler,
    Walkers,
    check_course,
    progress_of,
    run_training,
    settings_of,
    train,
)
from pyro_jarzynski.data.images import load_images
from pyro_jarzynski.ebm.learner import Callback
from pyro_jarzynski.errors import ArgumentError
from pyro_jarzynski.experiments.image_output import image_extras, image_results
from pyro_jarzynski.experiments.images import images_run
from pyro_jarzynski.experiments.output import save_run

# Names of the commands, and of the data sets in `load_images`.
COMMANDS = {"mnist": "mnist", "fashion-mnist": "fashion-mnist", "cifar10": "cifar-10"}


class Start(StrEnum):
    """Names of the bases, as `experiments.images.STARTS` has them."""

    gaussian = "gaussian"
    classes = "classes"
    equal = "equal"


def _command(name: str) -> Callable[..., None]:
    """Return the command that trains on one of the data sets."""

    def command(
        out: Out,
        data_root: Annotated[
            Path, typer.Option(help="Directory of the data in torchvision's layout.")
        ],
        download: Annotated[
            bool, typer.Option("--download", help="Fetch files that are missing.")
        ] = False,
        classes: Annotated[
            str | None,
            typer.Option(help="Classes to keep, such as 2,3,6; all if left out."),
        ] = None,
        counts: Annotated[
            str | None,
            typer.Option(help="Images of each, such as 5600,2800,1400; all if left out."),
        ] = None,
        algorithm: TheAlgorithm = Algorithm.jarzynski,
        start: Annotated[
            Start,
            typer.Option(
                help="Begin at one Gaussian, at one per class, or at these with equal "
                "masses, whatever those of the data."
            ),
        ] = Start.classes,
        steps: Annotated[int, typer.Option(help="Updates of the parameters.")] = 500,
        walkers: Walkers = 512,
        audit_walkers: AuditWalkers = 512,
        walker_batch_size: Annotated[
            int | None, typer.Option(help="Walkers that move per update; all if left out.")
        ] = None,
        moves: Annotated[int, typer.Option(help="Hamiltonian moves per update.")] = 1,
        leapfrog: Annotated[
            int, typer.Option(help="Leapfrog steps per move; 1 is a move of MALA.")
        ] = 2,
        noise: Annotated[
            float, typer.Option(help="Noise put on the images, in units of their range.")
        ] = 0.4,
        rank: Annotated[int, typer.Option(help="Principal axes of the base.")] = 100,
        features: Annotated[
            int | None,
            typer.Option(help="Channels of the network; the paper's if left out."),
        ] = None,
        learning_rate: Annotated[
            float, typer.Option(help="First learning rate of Adam.")
        ] = 5e-4,
        hold: Annotated[
            int, typer.Option(help="Updates after which the learning rate falls.")
        ] = 100,
        batch_size: Annotated[int, typer.Option(help="Images per update.")] = 512,
        ess_threshold: EssThreshold = 0.5,
        resampler: TheResampler = Resampler.systematic,
        eval_every: EvalEvery = 20,
        patience: Patience = None,
        seed: Seed = 0,
        device: Device = None,
        checkpoint_every: CheckpointEvery = None,
        resume: Resume = False,
        overwrite: Overwrite = False,
    ) -> None:
        settings = settings_of(locals())
        settings = {k: v for k, v in settings.items() if k not in ("name", "data_root")}
        check_course(steps, eval_every, patience, seed=seed)
        data = load_images(
            COMMANDS[name],
            data_root,
            download=download,
            classes=_numbers("classes", classes),
            counts=_numbers("counts", counts),
        )
        run = images_run(
            data,
            algorithm.value,
            start=start.value,
            noise=noise,
            rank=rank,
            features=features,
            num_walkers=walkers,
            audit_walkers=audit_walkers,
            walker_batch_size=walker_batch_size,
            moves_per_update=moves,
            leapfrog_steps=leapfrog,
            learning_rate=learning_rate,
            hold=hold,
            batch_size=batch_size,
            ess_threshold=ess_threshold,
            resampler=resampler.value,
            seed=seed,
        )
        checkpoints = prepare_run(
            out,
            every=checkpoint_every,
            resume=resume,
            overwrite=overwrite,
            settings=settings,
        )

        def save() -> None:
            save_run(
                out,
                run.learner,
                experiment=name,
                settings=settings,
                results=progress_of(run.learner) | image_results(run, data),
                extras=image_extras(run, data),
            )

        def fit(callbacks: list[Callback]) -> None:
            run.learner.fit(
                run.train,
                steps,
                validation=run.validation,
                eval_every=eval_every,
                patience=patience,
                callbacks=callbacks,
                checkpoints=checkpoints,
            )

        run_training(out, run.learner, steps, checkpoints, fit, save)

    return command


for _name, _title in (
    ("mnist", "the handwritten digits of MNIST"),
    ("fashion-mnist", "the clothes of Fashion-MNIST"),
    ("cifar10", "the colour photographs of CIFAR-10"),
):
    train.command(
        _name,
        help=f"Train on {_title}, whole or a few classes in given numbers.\n\n"
        "The model is one of noisy images, and takes the noise off its draws itself. "
        "Leaves the model (model.safetensors, model.json), history.csv, samples.png, "
        "training.png and report.html, with the masses of the classes beside the data's.",
    )(_command(_name))


def _numbers(name: str, text: str | None) -> list[int] | None:
    """Return the whole numbers of an option that lists them with commas."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(
            f"`{name}` must be whole numbers with commas, such as 2,3,6; got {text!r}."
        ) from None
