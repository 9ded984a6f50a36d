"""Training on the command line: `pyro-jarzynski train digits --out runs/digits`."""

from pathlib import Path
from typing import Annotated

import typer

from pyro_jarzynski.cli.app import Device, Out, Overwrite, app
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
    show,
    train,
)
from pyro_jarzynski.data import load_digits
from pyro_jarzynski.ebm.learner import Callback
from pyro_jarzynski.errors import count
from pyro_jarzynski.experiments.digits import digits_run
from pyro_jarzynski.experiments.mixture import Mixture, MixtureCurves, mixture_learner
from pyro_jarzynski.experiments.output import render, save_run


@train.command()
def digits(
    out: Out,
    algorithm: TheAlgorithm = Algorithm.jarzynski,
    steps: Annotated[int, typer.Option(help="Updates of the parameters.")] = 1600,
    walkers: Walkers = 4096,
    walker_batch_size: Annotated[
        int, typer.Option(help="Walkers that move per update, in blocks that take turns.")
    ] = 512,
    audit_walkers: AuditWalkers = 1536,
    moves: Annotated[int, typer.Option(help="MALA moves per update.")] = 5,
    matrix_learning_rate: Annotated[
        float, typer.Option(help="First learning rate of Muon, for matrices.")
    ] = 0.02,
    learning_rate: Annotated[
        float, typer.Option(help="First learning rate of Adam, for all else.")
    ] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Decay of the matrices.")] = 0.3,
    batch_size: Annotated[int, typer.Option(help="Digits per update.")] = 256,
    hidden: Annotated[int, typer.Option(help="Width of the two hidden layers.")] = 256,
    ess_threshold: EssThreshold = 0.5,
    resampler: TheResampler = Resampler.systematic,
    eval_every: EvalEvery = 20,
    patience: Patience = None,
    seed: Seed = 0,
    jit_compile: Annotated[
        bool,
        typer.Option("--jit-compile", help="Compile the moves of the walkers."),
    ] = False,
    device: Device = None,
    checkpoint_every: CheckpointEvery = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train on the 1,797 real handwritten digits that ship with scikit-learn.

    Needs no network, and about a minute on two cores. Leaves the model
    (model.safetensors, model.json), history.csv, samples.png, training.png and
    report.html.
    """
    settings = settings_of(locals())
    check_course(steps, eval_every, patience, seed=seed)
    data = load_digits()
    run = digits_run(
        data,
        algorithm.value,
        num_steps=steps,
        num_walkers=walkers,
        walker_batch_size=walker_batch_size,
        audit_walkers=audit_walkers,
        moves_per_update=moves,
        matrix_learning_rate=matrix_learning_rate,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        batch_size=batch_size,
        hidden=hidden,
        ess_threshold=ess_threshold,
        resampler=resampler.value,
        seed=seed,
        jit_compile=jit_compile,
    )
    checkpoints = prepare_run(
        out,
        every=checkpoint_every,
        resume=resume,
        overwrite=overwrite,
        settings=settings,
    )

    def save() -> None:
        learner = run.learner
        test = learner.nll(run.test)
        results = progress_of(learner) | {
            "test_nll": test.nll,
            "test_nll_data_error": test.data_error,
            "num_test": len(run.test),
            "gaussian_test_nll": run.gaussian_nll,
        }
        save_run(
            out,
            learner,
            experiment="digits",
            settings=settings,
            results=results,
            extras=data.whitening.state(),
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
        # The last word on the likelihood owes nothing to the way of the walkers.
        run.learner.audit.renew(num_temperatures=200, num_moves=4)

    run_training(out, run.learner, steps, checkpoints, fit, save)


@train.command()
def gmm(
    out: Out,
    algorithm: TheAlgorithm = Algorithm.jarzynski,
    steps: Annotated[int, typer.Option(help="Updates of the parameters.")] = 8000,
    walkers: Walkers = 10_000,
    audit_walkers: AuditWalkers = 10_000,
    data_size: Annotated[int, typer.Option(help="Number of data.")] = 10_000,
    dimension: Annotated[int, typer.Option(help="Dimension of the data.")] = 50,
    modes: Annotated[
        int, typer.Option(help="Number of modes, even; the paper has two.")
    ] = 2,
    ess_threshold: EssThreshold = 0.5,
    resampler: TheResampler = Resampler.systematic,
    eval_every: EvalEvery = 20,
    seed: Seed = 0,
    device: Device = None,
    checkpoint_every: CheckpointEvery = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Run the paper's mixture experiment: two distant modes, masses ¼ and ¾, or more.

    Leaves the model, history.csv, the curves of mass and divergence (curves.csv,
    mixture.png), training.png and report.html.
    """
    settings = settings_of(locals())
    check_course(steps, eval_every, seed=seed)
    count("data_size", data_size, 2)
    mixture = Mixture.draw(data_size, num_modes=modes, dimension=dimension, seed=seed)
    learner = mixture_learner(
        algorithm.value,
        mixture=mixture,
        num_walkers=walkers,
        audit_walkers=audit_walkers,
        ess_threshold=ess_threshold,
        resampler=resampler.value,
        seed=seed,
    )
    curves = MixtureCurves(mixture)
    checkpoints = prepare_run(
        out,
        every=checkpoint_every,
        resume=resume,
        overwrite=overwrite,
        settings=settings,
    )

    def save() -> None:
        if not curves.rows:
            curves(learner, {"step": learner.num_steps})
        results = progress_of(learner) | curves.now(learner)
        results["data_mass"] = mixture.mass
        if modes > 2:
            results["data_masses"] = mixture.masses
        save_run(
            out,
            learner,
            experiment="gmm",
            settings=settings,
            results=results,
            curves=curves.columns(),
        )

    def fit(callbacks: list[Callback]) -> None:
        learner.fit(
            mixture.data,
            steps,
            batch_size=None,
            eval_every=eval_every,
            callbacks=[curves, *callbacks],
            checkpoints=checkpoints,
        )

    run_training(out, learner, steps, checkpoints, fit, save)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="Directory of a training run.")],
) -> None:
    """Draw the pictures of a run again and write its report anew."""
    show(render(directory), directory)
