"""The command line: its commands, and how errors and interruptions end it."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from typer.core import TyperGroup

import pyro_jarzynski
from pyro_jarzynski.errors import ArgumentError, JarzynskiError
from pyro_jarzynski.runtime.distributed import distributed, is_launched

INTERRUPTED = 130
console = Console(stderr=True, highlight=False)
# Options of all commands.
_settings = {"traceback": False}

Out = Annotated[
    Path, typer.Option(help="Directory of the results; made if it is not there.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write into a directory that holds files.")
]


def _set_device(context: typer.Context, name: str | None) -> str:
    """Make a device torch's default one until the command ends, and return its name."""
    try:
        device = torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArgumentError(
            f"`--device` must be a device that torch can use here, such as 'cpu' or "
            f"'cuda', got {name!r}: {reason}"
        ) from error
    context.with_resource(device)
    return str(device)


Device = Annotated[
    str | None,
    typer.Option(
        help="Where to compute, such as `cuda`; the CPU if left out.", callback=_set_device
    ),
]


class KnownCommands(TyperGroup):
    """Lists the known commands when an unknown one is asked for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command, or say which there are."""
        known = self.list_commands(ctx)
        if args and args[0] not in known:
            ctx.fail(f"There is no {args[0]!r}; known are {', '.join(known)}.")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=KnownCommands,
    help="Jarzynski-weighted sequential Monte Carlo: draws and evidence of Pyro models, "
    "and energy-based models whose likelihood is known while they train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:  # noqa: FBT001
    if asked:
        typer.echo(f"pyro-jarzynski {pyro_jarzynski.__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version of this package, and exit.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where in the code an error arose.")
    ] = False,
) -> None:
    """Keep the options of all commands."""
    _settings["traceback"] = traceback


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Show the text of warnings alone, without the line of code that gave them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def main() -> None:
    """Run the command line; errors become a few lines and exit code 1."""
    try:
        with _short_warnings(), distributed() if is_launched() else nullcontext():
            app()
    except Exception as error:
        if _settings["traceback"]:
            raise
        told = str(error) if isinstance(error, JarzynskiError) else _unforeseen(error)
        lines = [f"Error: {told}", *getattr(error, "__notes__", [])]
        console.print("\n".join(lines), style="red", markup=False, soft_wrap=True)
        sys.exit(1)


def _unforeseen(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {error}. `pyro-jarzynski --traceback` before the command "
        "shows where it arose."
    )
