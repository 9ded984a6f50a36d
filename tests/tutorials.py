"""Execute the notebooks of `tutorials/`.

    python -m tests.tutorials [NAME ...] [--smoke]

Run it from the checkout. Each notebook whose file name contains a NAME, or all of them, is
executed in full, and its outputs are written into it: text, and pictures of a modest size.
Times, versions and paths are left out of what is written, so that an execution that shows
the same changes no line. With `--smoke`, a small size of each is executed, and nothing is
written. Notebooks see the difference as Pyro's own tutorials do, by `"CI" in os.environ`.
"""

import argparse
import base64
import io
import os
import re
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent.parent / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PICTURES = "--InlineBackend.print_figure_kwargs={'bbox_inches': 'tight', 'dpi': 75}"
# What libraries say when they are imported.
IGNORED = ("IProgress not found", "\nArviZ is undergoing")
# As Python prints it: file and line, message, line of source.
WARNING = re.compile(r"^\S+\.py:\d+: (\w+Warning: (?:.*\n)+?)  \S.*\n", flags=re.M)
WIDTH = 92


def execute(notebook: NotebookNode, folder: Path, *, smoke: bool) -> None:
    """Execute a notebook in a folder, and put the outputs into it.

    Raises:
        CellExecutionError: A cell failed; the message has the cell and its traceback.
    """
    environment = {**os.environ, "IPYTHONDIR": str(folder), "PYTHONHASHSEED": "0"}
    # A kernel in another folder finds the package of this checkout.
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    environment["PYTHONWARNINGS"] = ",".join(f"ignore:{text}" for text in IGNORED)
    environment.pop("CI", None)
    if smoke:
        environment |= {"CI": "true", "OMP_NUM_THREADS": "1"}
    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=1800,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=[PICTURES, "--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    ).execute(env=environment)


def tidy(notebook: NotebookNode) -> None:
    """Leave only what is the same each time: no times, versions and places of files."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                output.text = WARNING.sub(in_lines, output.text)
            if "image/png" in output.get("data", ()):
                output.data["image/png"] = in_few_colours(output.data["image/png"])


def in_lines(warning: re.Match[str]) -> str:
    """Return the message of a warning, broken into lines."""
    return "\n".join(textwrap.fill(line, WIDTH) for line in warning[1].splitlines()) + "\n"


def in_few_colours(picture: str) -> str:
    """Return a picture in 256 colours, which takes a third of the space."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    small = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def run_file(file: Path, *, smoke: bool) -> None:
    """Execute a notebook's file; in full, its outputs are written into it."""
    notebook = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder), smoke=smoke)
    if not smoke:
        tidy(notebook)
        nbformat.write(notebook, file)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--smoke", action="store_true", help="small sizes, nothing written")
    options = parser.parse_args(arguments)
    chosen = [f for f in NOTEBOOKS if any(n in f.name for n in options.names or [""])]
    if not chosen:
        parser.error(f"no notebook is called {' or '.join(options.names)}")
    failed = False
    for file in chosen:
        start = time.monotonic()
        try:
            run_file(file, smoke=options.smoke)
        except CellExecutionError as error:
            failed = True
            print(error, file=sys.stderr)
        print(f"{file.name}: {time.monotonic() - start:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
