"""The models of Pyro's examples and tutorials, with the default call of `AnnealedSMC`.

    python tests/benchmarks/pyro_models.py [--only NAME ...] [--seed 0] [--nuts]

Prints one row per model; nothing is fetched, and data are simulated. The bars: at most 2
of the models need a hint, none raises an error that must run, and none takes over a minute
of a core where NUTS needs ten seconds. Errors are right for models without a density that
gradients can follow: for these the row says "refused". `exact` is the log evidence of the
models of which it has a form by quadrature. `--nuts` runs Pyro's NUTS beside,
300 steps for warming up and 300 for keeping. Seconds are of one core; `--limit` and
`--nuts-limit` stop a run after so many, and leave its settings as they are.
"""

import argparse
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from one_core import one_core

one_core()
import pyro  # noqa: E402
import torch  # noqa: E402
from pyro.infer import MCMC, NUTS  # noqa: E402
from pyro_example import Example  # noqa: E402
from pyro_examples import pyro_examples  # noqa: E402
from pyro_tutorials import pyro_tutorials  # noqa: E402

import pyro_jarzynski as pj  # noqa: E402

COLUMNS = (
    "model",
    "D",
    "method",
    "status",
    "log Z",
    "exact",
    "stages",
    "gradients, 10³",
    "CPU s",
    "NUTS, CPU s",
    "hint",
    "notes",
)


class OutOfTime(BaseException):
    """The processor time of a run is used up; no `Exception`, so that none handles it."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` when this process has used so much processor time."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def timed(run: Callable[[], Any], limit: float) -> tuple[Any, float]:
    """Return what a run gives, or its error, and its processor time in seconds."""
    start = time.process_time()
    try:
        with cpu_limit(limit):
            result = run()
    except (Exception, OutOfTime) as error:
        result = error
    return result, time.process_time() - start


def built(example: Example, seed: int) -> tuple[Any, tuple]:
    """Return model and arguments, and an empty store of parameters."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    return example.build()


def annealed(example: Example, seed: int, **hint: Any) -> pj.SMCResult:
    """Anneal with default settings, and those of a hint."""
    model, args = built(example, 0)
    return pj.AnnealedSMC(model, seed=seed, progress=False, **hint).run(*args)


def nuts(example: Example, seed: int) -> None:
    """Draw with NUTS."""
    model, args = built(example, 0)
    pyro.set_rng_seed(seed)
    MCMC(NUTS(model), num_samples=300, warmup_steps=300, disable_progbar=True).run(*args)


def first_line(error: BaseException) -> str:
    """Return kind and first line of an error, for a cell of a table."""
    line = (str(error).splitlines() or [""])[0].replace("|", "/")
    return f"{type(error).__name__}: {line}"


def row(example: Example, seed: int, limit: float, nuts_limit: float) -> list[str]:
    """Return the cells of a model; no NUTS if its limit is zero."""
    result, seconds = timed(lambda: annealed(example, seed), limit)
    hint, error = "none", ""
    if isinstance(result, Exception) and example.hint is not None:
        settings = example.hint()
        error, hint = first_line(result), ", ".join(settings)
        result, seconds = timed(lambda: annealed(example, seed, **settings), limit)
    beside = ""
    if nuts_limit:
        other, spent = timed(lambda: nuts(example, seed), nuts_limit)
        beside = f"{spent:.1f}"
        if isinstance(other, OutOfTime):
            beside = f"> {nuts_limit:.0f}"
        elif other is not None:
            beside = type(other).__name__
    if isinstance(result, BaseException):
        notes = first_line(result)
        refused = example.refusal is not None and example.refusal in str(result)
        status = "refused" if refused else "FAILED"
        if isinstance(result, OutOfTime):
            status, notes = "OUT OF TIME", ""
        cells = ["", "", status, "", "", "", "", f"{seconds:.1f}", beside, hint, notes]
        return [example.name, *cells]
    return [
        example.name,
        f"{result.posterior.size}",
        result.posterior.method,
        result.status,
        f"{result.log_evidence:.3f} ± {result.log_evidence_error:.3f}",
        "" if example.log_evidence is None else f"{example.log_evidence:.3f}",
        f"{len(result.history['beta'])}",
        f"{result.num_gradients / 1e3:.0f}",
        f"{seconds:.1f}",
        beside,
        hint,
        "; ".join([error, *result.doubts] if error else result.doubts).replace("|", "/"),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nuts", action="store_true", help="run Pyro's NUTS beside")
    parser.add_argument("--limit", type=float, default=300, help="CPU seconds of a model")
    parser.add_argument("--nuts-limit", type=float, default=60)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    examples = [*pyro_examples(), *pyro_tutorials()]
    if chosen.only:
        examples = [e for e in examples if any(part in e.name for part in chosen.only)]
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for example in examples:
        torch.set_default_dtype(example.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            limits = chosen.limit, chosen.nuts_limit if chosen.nuts else 0.0
            cells = row(example, chosen.seed, *limits)
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
