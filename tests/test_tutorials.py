"""The tutorials run, and what they show is whole, light and nothing of the machine."""

import ast
import re

import nbformat
import pytest

from tests.tutorials import NOTEBOOKS, WIDTH, execute

# What a tutorial calls to show something.
SHOWS = re.compile(r"print|display|show|imshow|scatter|hist|savefig|plot\w*")
MACHINE = re.compile(r"/(?:tmp|home|root|usr|work|Users)/|site-packages|0x[0-9a-f]{6,}")
DEFINITION = ast.FunctionDef | ast.ClassDef
PICTURE_OR_TABLE = {"image/png", "text/html"}

every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)


def read(file):
    return nbformat.read(file, as_version=4)


def code_cells(file):
    return [cell for cell in read(file).cells if cell.cell_type == "code"]


def texts(file):
    """Yield all text that the outputs of a notebook show."""
    for cell in code_cells(file):
        for output in cell.outputs:
            if output.output_type == "stream":
                yield output.text
            elif not PICTURE_OR_TABLE & output.data.keys():
                yield output.data["text/plain"]


def shows_something(source):
    """Tell whether a cell shows something when it is executed, not when it is called."""
    done = [n for n in ast.parse(source).body if not isinstance(n, DEFINITION)]
    calls = [n.func for d in done for n in ast.walk(d) if isinstance(n, ast.Call)]
    names = (getattr(f, "attr", None) or getattr(f, "id", "") for f in calls)
    return any(SHOWS.fullmatch(name) for name in names)


@every_notebook
@pytest.mark.filterwarnings("default")  # those of the libraries that start a kernel
def test_runs_in_a_small_size(file, tmp_path):
    execute(read(file), tmp_path, smoke=True)


@every_notebook
def test_is_valid_and_light(file):
    nbformat.validate(read(file))
    assert file.stat().st_size < 400_000


@every_notebook
def test_opens_with_what_one_learns_and_how_long_it_takes(file):
    opening = read(file).cells[0]
    assert opening.cell_type == "markdown"
    assert opening.source.startswith("# ")
    assert "What you will learn" in opening.source
    assert re.search(r"(second|minute)s? on two cores", opening.source)


@every_notebook
def test_has_a_small_size(file):
    assert '"CI" in os.environ' in code_cells(file)[0].source


@every_notebook
def test_was_executed_from_top_to_bottom(file):
    cells = code_cells(file)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [c.source for c in cells if shows_something(c.source) and not c.outputs]


@every_notebook
def test_stores_no_error_and_nothing_of_the_machine(file):
    kinds = {output.output_type for cell in code_cells(file) for output in cell.outputs}
    assert "error" not in kinds
    assert not MACHINE.findall("\n".join(texts(file)))
    assert not MACHINE.findall("\n".join(cell.source for cell in read(file).cells))


@every_notebook
def test_lines_are_not_wide(file):
    lines = [line for text in texts(file) for line in text.splitlines()]
    lines += [line for cell in code_cells(file) for line in cell.source.splitlines()]
    assert not [line for line in lines if len(line) > WIDTH]
