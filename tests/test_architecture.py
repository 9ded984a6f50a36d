"""The layers: no module imports from a layer above its own."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pyro_jarzynski"
MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts): file
    for file in PACKAGE.rglob("*.py")
    if file.name != "__init__.py"
}

PARTS = {
    f"{PACKAGE.name}.{folder.name}"
    for folder in PACKAGE.iterdir()
    if (folder / "__init__.py").exists()
}

# What each part of the package may import beside itself.
ALLOWED = {
    "errors": set(),
    "data": {"errors"},
    "core": {"errors"},
    "diagnostics": {"errors", "core"},
    "distributions": {"errors", "core"},
    "infer": {"errors", "core", "diagnostics", "distributions"},
    "ebm": {"errors", "core", "diagnostics", "distributions"},
    "report": {"errors", "core", "diagnostics", "infer", "ebm"},
    "runtime": {"errors", "core", "infer", "ebm"},
    "experiments": {"errors", "core", "infer", "ebm", "report", "runtime", "data"},
    "__main__": {"cli"},
    "cli": {
        "errors",
        "core",
        "diagnostics",
        "infer",
        "ebm",
        "report",
        "runtime",
        "experiments",
        "data",
    },
}

# The engine is mathematics on tensors: no probabilistic programs, no files, no pictures.
FORBIDDEN_IN_CORE = {"pyro", "arviz", "numpy", "pathlib", "os", "matplotlib", "rich"}


def imports_of(module: str) -> set[str]:
    """Return all modules that a module imports, at its top or inside functions."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def internal(module: str) -> set[str]:
    return imports_of(module) & (MODULES.keys() | PARTS)


def part_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downwards(module):
    own = part_of(module)
    others = {part_of(other) for other in internal(module)} - {own}
    assert others <= ALLOWED[own], f"{own} must not import {others - ALLOWED[own]}"


def test_imports_have_no_cycle():
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module in done:
            return
        for other in internal(module) - PARTS:
            visit(other, (*trail, module))
        done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", sorted(m for m in MODULES if part_of(m) == "core"))
def test_core_is_pure(module):
    roots = {name.split(".")[0] for name in imports_of(module)}
    assert not roots & FORBIDDEN_IN_CORE
    assert "open" not in called_names(module)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_weights_normalise_log_weights(module):
    """Softmax of weights stands in one file, which guards against NaN and underflow."""
    if module == "pyro_jarzynski.core.weights":
        return
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    wrong = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"softmax", "logsumexp", "exp", "logcumsumexp"}
        and "log_weight" in ast.unparse(node)
    ]
    assert not wrong


# What makes a tensor on torch's default device if none is named.
FACTORIES = {
    *("arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "logspace"),
    *("ones", "rand", "randint", "randn", "randperm", "range", "tensor", "tril_indices"),
    *("triu_indices", "zeros"),
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_new_tensors_are_on_a_named_device(module):
    """Without a name they are on torch's default device, and walkers may be elsewhere."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    wrong = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func) in {f"torch.{name}" for name in FACTORIES}
        and "device" not in {keyword.arg for keyword in node.keywords}
    ]
    assert not wrong


def called_names(module: str) -> set[str]:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {func.id for func in calls if isinstance(func, ast.Name)}
