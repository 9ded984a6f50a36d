"""The command line: its commands, and how errors and interruptions end it."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from pyro_jarzynski.errors import JarzynskiError
from pyro_jarzynski.runtime.distributed import distributed, is_launched

INTERRUPTED = 130
console = Console(stderr=True, highlight=False)

Out = Annotated[
    Path, typer.Option(help="Directory of the results; made if it is not there.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write into a directory that holds files.")
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
