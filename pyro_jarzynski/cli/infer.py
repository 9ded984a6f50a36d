"""Inference on the command line: `pyro-jarzynski infer model.py:model --data data.json`."""

from contextlib import suppress
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_jarzynski.cli.app import Device, Out, Overwrite, app, console
from pyro_jarzynski.cli.arguments import Arguments, choose_integers, load_arguments
from pyro_jarzynski.cli.model_source import (
    check_arguments,
    errors_of_program,
    load_source,
)
from pyro_jarzynski.cli.resuming import Resume, end, prepare_run
from pyro_jarzynski.core.hamiltonian import HMC, UnderdampedLangevin
from pyro_jarzynski.core.kernels import MALA, ULA
from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.errors import CheckpointError, JarzynskiError
from pyro_jarzynski.infer.annealed_smc import AnnealedSMC
from pyro_jarzynski.infer.result import SMCResult
from pyro_jarzynski.infer.schedules import AdaptiveTempering
from pyro_jarzynski.report.inference_report import write_inference_report
from pyro_jarzynski.runtime.draw_files import left_out_if_it_fails, save_draws

KERNELS = {"mala": MALA, "hmc": HMC, "ula": ULA, "underdamped": UnderdampedLangevin}


class KernelName(StrEnum):
    """Names of the kernels, as `KERNELS` has them."""

    mala = "mala"
    hmc = "hmc"
    ula = "ula"
    underdamped = "underdamped"


class BaseName(StrEnum):
    """Where walkers can start."""

    prior = "prior"
    normal = "normal"


@app.command()
def infer(
    model: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:MODEL",
            help="A Pyro model in a file. The file is executed: name only what you trust.",
        ),
    ],
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Arguments of the model: a JSON object, or a table .csv with an argument "
            "per column. Lists of numbers become tensors of floats, written as 1 or 1.0; "
            "where the model fails with floats, as for indices, tensors of integers. Lists "
            "of true and false become tensors of booleans. All else is passed as it is."
        ),
    ] = None,
    walkers: Annotated[int, typer.Option(help="Walkers per chain.")] = 1024,
    chains: Annotated[
        int, typer.Option(help="Independent islands, whose spread is the error.")
    ] = 4,
    kernel: Annotated[KernelName, typer.Option(help="How walkers move.")] = KernelName.mala,
    ess: Annotated[
        float,
        typer.Option(help="Share of the walkers that a temperature step may leave."),
    ] = 0.8,
    base: Annotated[
        BaseName,
        typer.Option(help="Where walkers start; `normal` allows improper priors."),
    ] = BaseName.prior,
    max_seconds: Annotated[
        float | None, typer.Option(help="Stop after this time with what was reached.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    jit_compile: Annotated[
        bool,
        typer.Option(
            "--jit-compile",
            help="Compile the model: up to a minute at first, and faster from there.",
        ),
    ] = False,
    device: Device = None,
    log_likelihood: Annotated[
        bool | None,
        typer.Option(
            help="Whether arviz.nc has the log-likelihood of each datum; if it fits into "
            "memory where neither is given."
        ),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(help="Stages between two checkpoints; one a minute if left out."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw from the posterior of a Pyro model and estimate its evidence.

    Prints evidence and summary, and leaves draws.safetensors, summary.csv,
    history.csv, result.json, arviz.nc, pictures and report.html.
    """
    program = load_source(model)
    arguments = Arguments({}, ()) if data is None else load_arguments(data)
    check_arguments(program, arguments.content)
    sampler = AnnealedSMC(
        program,
        num_walkers=walkers,
        num_chains=chains,
        kernel=KERNELS[kernel.value](),
        schedule=AdaptiveTempering(ess),
        base=base.value,
        max_seconds=max_seconds,
        seed=seed,
        jit_compile=jit_compile,
    )
    integers = choose_integers(program, arguments)
    # Only now, when all settings are known to be right, a directory is made.
    checkpoints = prepare_run(
        out, every=checkpoint_every, resume=resume, overwrite=overwrite
    )
    sampler.checkpoints = checkpoints
    notes: dict[str, Any] = {
        "model": model,
        "data": str(data),
        "seed": seed,
        "device": device,
        "integers": list(integers),
    }
    try:
        with errors_of_program(model):
            result = sampler.run(**arguments.values(integers))
    except (KeyboardInterrupt, SystemExit) as stop:
        told = "Interrupted before the walkers set out: there are no draws yet."
        if sampler.result is not None and ranks_now().rank == 0:
            told = f"Interrupted: what was reached so far is in {out}."
            console.print("Interrupted: what was reached is written. Ctrl-C stops that.")
            # A run that is not interrupted has warned of them.
            for doubt in sampler.result.new_doubts:
                typer.echo(f"Warning: {doubt}", err=True)
            try:
                _finish(out, sampler.result, notes, log_likelihood=log_likelihood)
            except KeyboardInterrupt:
                told = f"Interrupted: the files in {out} are not complete."
        end(told, checkpoints, stop)
    except JarzynskiError:
        # An empty folder would be in the way of the next try.
        if not checkpoints.steps and ranks_now().rank == 0:
            with suppress(CheckpointError):
                checkpoints.clear()
        raise
    if ranks_now().rank > 0:
        return
    _finish(out, result, notes, log_likelihood=log_likelihood)
    if result.complete:
        # They are of use only to a run that is not over.
        checkpoints.clear()


def _finish(
    out: Path, result: SMCResult, notes: dict[str, Any], *, log_likelihood: bool | None
) -> None:
    """Print evidence and summary, then write the draws, then all that is made of them."""
    typer.echo(str(result.summary()))
    save_draws(out, result, notes=notes, log_likelihood=log_likelihood)
    typer.echo(f"Draws: {out / 'draws.safetensors'}")
    used = {f.name: getattr(result.settings, f.name) for f in fields(result.settings)}
    with left_out_if_it_fails(out / "report.html"):
        page = write_inference_report(
            out,
            result,
            title=f"pyro-jarzynski: {notes['model']}",
            settings={name: str(value) for name, value in (notes | used).items()},
        )
        typer.echo(f"Report: {page}")
