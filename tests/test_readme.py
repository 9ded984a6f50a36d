"""The README tells the truth: its examples run, its table has every public name."""

import re
from pathlib import Path

import pytest
import torch

import pyro_jarzynski as pj
from tests.tutorials import NOTEBOOKS

CHECKOUT = Path(__file__).parent.parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)


def public_names() -> set[str]:
    """Names that the package exports: those imported under their own name."""
    source = Path(pj.__file__).read_text(encoding="utf-8")
    return set(re.findall(r"^(?:from .* import| {4}).*? as (\w+),?$", source, flags=re.M))


# Some go on where the one before them ends.
PROGRAMS = [
    EXAMPLES[0] + EXAMPLES[1] + EXAMPLES[5],
    EXAMPLES[2] + EXAMPLES[3] + EXAMPLES[4],
]
OUTPUTS = re.findall(r"^```text\n(.*?)^```", README, flags=re.M | re.S)


@pytest.mark.parametrize("code", PROGRAMS, ids=["posterior", "train"])
@pytest.mark.filterwarnings("ignore:.*ArviZ is undergoing:FutureWarning")
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto:UserWarning")
def test_examples_run(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Fewer updates: the point is that the lines work.
        exec(compile(code.replace("1500", "60"), "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_the_output_of_the_first_example_is_what_it_prints(capsys):
    """Its evidence, to 0.1 nat; the last digits differ from machine to machine."""
    exec(compile(EXAMPLES[0], "README.md", "exec"), {})
    shown = capsys.readouterr().out.split()
    printed = OUTPUTS[0].split()
    assert shown[:2] == printed[:2] == ["log", "evidence"]
    assert abs(float(shown[2]) - float(printed[2])) < 0.1


def test_tutorials_are_all_listed():
    """But for those that are listed before they are written."""
    table = README.split("## Tutorials")[1].split("##")[0]
    listed = re.findall(r"\(tutorials/(\w+\.ipynb)\)", table)
    assert listed == sorted(listed)
    assert {file.name for file in NOTEBOOKS} <= set(listed)


def test_files_that_are_named_are_there():
    named = set(
        re.findall(r"\b(?:tests|tutorials|core|ebm|infer|runtime)/[\w/]+\.py\b", README)
    )
    for name in named:
        root = CHECKOUT if name.startswith("t") else CHECKOUT / "pyro_jarzynski"
        assert (root / name).is_file(), name


def test_examples_are_of_fifteen_lines():
    for code in EXAMPLES:
        lines = [x for x in code.splitlines() if x and not x.startswith(("import", "#"))]
        assert len(lines) <= 15


def test_the_table_has_every_public_name_and_no_other():
    table = README.split("## Public names")[1].split("On the command line")[0]
    first_cells = "\n".join(re.findall(r"^\|([^|]*)\|", table, flags=re.M)[2:])
    listed = set(re.findall(r"`(\w+)", first_cells))
    assert listed == public_names()


def test_public_names_are_documented():
    for name in public_names():
        value = getattr(pj, name)
        assert value.__doc__, f"{name} has no docstring"
