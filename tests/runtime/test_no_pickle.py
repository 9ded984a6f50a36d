"""No module of the package can run code that a file brings along."""

import ast
from pathlib import Path

import pytest

import pyro_jarzynski

ROOT = Path(pyro_jarzynski.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "torch.load", "torch.hub.load", "np.load", "numpy.load"}


def imported(node):
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").split(".")[0]}
    return set()


def called(node):
    if not isinstance(node, ast.Call):
        return set()
    plain = any(
        word.arg == "allow_pickle" and ast.unparse(word.value) == "False"
        for word in node.keywords
    )
    return set() if plain else {ast.unparse(node.func)}


def found(source):
    nodes = list(ast.walk(ast.parse(source)))
    modules = set().union(*map(imported, nodes)) & MODULES
    return modules | set().union(*map(called, nodes)) & CALLS


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unpickles(path):
    assert not found(path.read_text(encoding="utf-8"))


def test_the_search_finds_what_it_looks_for():
    assert len(SOURCES) > 20
    assert found("import pickle") == {"pickle"}
    assert found("from joblib import load") == {"joblib"}
    assert found("x = torch.load(path)") == {"torch.load"}
    assert found("x = np.load(path, allow_pickle=True)") == {"np.load"}
    assert not found("x = np.load(path, allow_pickle=False)")
