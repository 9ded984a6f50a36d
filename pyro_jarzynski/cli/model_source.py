"""A model as the command line names it: `FILE.py:MODEL`. The file is executed."""

import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pyro_jarzynski
from pyro_jarzynski.errors import JarzynskiError, ModelSourceError

# Lines of its message, and frames of the user's program, that are shown of an error.
MOST_LINES, MOST_FRAMES = 3, 3
# Folders of programs that are not the user's.
INSTALLED = [
    *(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib")),
    Path(pyro_jarzynski.__file__).parent,
]


def load_source(source: str) -> Callable[..., Any]:
    """Execute `FILE.py` and return its `MODEL`.

    As for a program that is run by `python FILE.py`, modules beside the file can be
    imported.

    Args:
        source: `FILE.py:MODEL`.

    Raises:
        ModelSourceError: There is no such file, it fails, or it has no such model.
    """
    path, _, name = source.rpartition(":")
    if not path or not name.isidentifier():
        raise ModelSourceError(f"The model must be given as FILE.py:MODEL, got {source!r}.")
    file = Path(path)
    if not file.is_file():
        raise ModelSourceError(
            f"There is no file {file}: FILE of FILE.py:MODEL must be the path of a program."
        )
    module = _execute(file)
    found = getattr(module, name, None)
    if inspect.isclass(found):
        raise ModelSourceError(
            f"{name} in {file} is a class, and a model is a function or an object that can "
            f"be called. Make one in the file, such as `model = {name}(…)`, and name that: "
            f"{file}:model."
        )
    if not callable(found):
        known = sorted(n for n, value in vars(module).items() if _is_model(n, value))
        raise ModelSourceError(
            f"{file} has no model {name!r}; it has {', '.join(known) or 'nothing to call'}."
        )
    return found


def check_arguments(model: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Raise if a model cannot be called with some keyword arguments."""
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):
        # Handlers of Pyro around a model do not say what it takes.
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelSourceError(
            f"The model does not take the arguments of `--data` "
            f"({', '.join(arguments) or 'none'}): {error}. It takes {signature}."
        ) from error


@contextmanager
def errors_of_program(source: str) -> Iterator[None]:
    """Show where in the user's program an error was raised, in place of a traceback.

    Errors of this package get the place as a note; all others become a `ModelSourceError`.

    Args:
        source: `FILE.py:MODEL`.
    """
    folder = Path(source.rpartition(":")[0]).resolve().parent
    try:
        yield
    except JarzynskiError as error:
        if place := _place(error, folder) or _place(error.__cause__, folder):
            error.add_note(place)
        raise
    except Exception as error:
        raise ModelSourceError(
            f"The model raised {_described(error)}\n{_place(error, folder)}".rstrip()
        ) from error


def _execute(file: Path) -> ModuleType:
    """Execute a program as a module that can be found by its name."""
    name = _module_name(file)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ModelSourceError(f"{file} is not a Python file; its name must end in .py.")
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up the module of a class there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        place = _place(error, Path(folder))
        raise ModelSourceError(
            f"{file} cannot be executed: {_described(error)}\n{place}".rstrip()
        ) from error
    return module


def _module_name(file: Path) -> str:
    """Return the name under which a program is imported: its own, unless that is taken."""
    taken = file.stem in sys.stdlib_module_names or file.stem in sys.modules
    return f"_model_{file.stem}" if taken else file.stem


def _is_model(name: str, value: Any) -> bool:
    return callable(value) and not inspect.isclass(value) and not name.startswith("_")


def _described(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = "\n".join(lines[:MOST_LINES])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(error: BaseException | None, folder: Path) -> str:
    """Return where in the programs of a folder an error was raised; "" if nowhere."""
    if error is None:
        return ""
    frames = []
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename).resolve()
        # Code that is in no file has a name such as <frozen importlib._bootstrap>.
        foreign = not path.is_file() or any(map(path.is_relative_to, INSTALLED))
        if path.is_relative_to(folder) and not foreign:
            frames.append(frame)
    return "\n".join(
        f"  {Path(frame.filename).name}, line {frame.lineno}, in {frame.name}\n"
        f"    {frame.line}"
        for frame in frames[-MOST_FRAMES:]
    )
