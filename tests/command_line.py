"""The command line, called in this process."""

import io
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from pyro_jarzynski.cli import main

TINY = {
    "digits": "--steps 6 --walkers 32 --audit-walkers 16 --moves 1 --hidden 16 "
    "--eval-every 2",
    "gmm": "--steps 4 --walkers 50 --audit-walkers 50 --data-size 60 --dimension 3 "
    "--eval-every 2",
}
MODEL = {"model.json", "model.safetensors", "history.csv"}
LEFT = {
    "digits": MODEL | {"samples.png", "training.png", "report.html"},
    "gmm": MODEL | {"curves.csv", "mixture.png", "training.png", "report.html"},
}


class Answer(NamedTuple):
    """Exit code, and standard output and error without the terminal's line breaks."""

    code: int
    shown: str
    error: str


def call(*arguments: object) -> Answer:
    command = ["pyro-jarzynski", *map(str, arguments)]
    code, out, error = 0, io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", command), redirect_stdout(out), redirect_stderr(error):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    return Answer(code, flat(out.getvalue()), flat(error.getvalue()))


def flat(text: str) -> str:
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def train(kind: str, out: Path, *options: str) -> list[str]:
    """Return the arguments of a run that takes less than a second."""
    return ["train", kind, "--out", str(out), *TINY[kind].split(), *options]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
