"""The command line: its commands, and how errors and interruptions end it."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from typer.core import TyperGroup

from pyro_jarzynski.errors import ArgumentError, JarzynskiError
from pyro_jarzynski.runtime.distributed import distributed, is_launched

INTERRUPTED = 130
console = Console(stderr=True, highlight=False)

Out = Annotated[
    Path, typer.Option(help="Directory of the results; made if it is not there.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write into a directory that holds files.")
]


def _set_device(context: typer.Context, name: str | None) -> str | None:
    """Make a device torch's default one until the command ends."""
    if name is None:
        return None
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


def main() -> None:
    """Run the command line; errors of this package become one line and exit code 1."""
    try:
        with distributed() if is_launched() else nullcontext():
            app()
    except JarzynskiError as error:
        console.print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
