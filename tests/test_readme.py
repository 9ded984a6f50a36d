"""The README tells the truth: its examples run, its table has every public name."""

import re
from pathlib import Path

import pytest
import torch

import pyro_jarzynski as pj

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)


def public_names() -> set[str]:
    """Names that the package exports: those imported under their own name."""
    source = Path(pj.__file__).read_text(encoding="utf-8")
    return set(re.findall(r"^(?:from .* import| {4}).*? as (\w+),?$", source, flags=re.M))


# Some go on where the one before them ends.
PROGRAMS = [
    EXAMPLES[0] + EXAMPLES[1],
    EXAMPLES[2] + EXAMPLES[3] + EXAMPLES[4],
    EXAMPLES[5],
]


@pytest.mark.parametrize("code", PROGRAMS, ids=["posterior", "train", "evidence"])
@pytest.mark.filterwarnings("ignore:.*ArviZ is undergoing:FutureWarning")
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto:UserWarning")
def test_examples_run(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Fewer updates: the point is that the lines work.
        exec(compile(code.replace("500", "60"), "README.md", "exec"), {})
    assert capsys.readouterr().out


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
