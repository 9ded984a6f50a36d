"""How fast the package is on a GPU, beside the processor of the same machine: a table."""

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

import pyro_jarzynski as pj
from pyro_jarzynski.errors import ArgumentError
from pyro_jarzynski.experiments.digits import digits_run
from pyro_jarzynski.experiments.images import images_run
from tests.gpu.models import schools, schools_data
from tests.test_readme import PROGRAMS

ROOT = Path(__file__).parents[2]
# Where the files of MNIST may be, in torchvision's layout.
MNIST = [folder / "shared" / "data" / "mnist" for folder in (ROOT, ROOT.parent)]
# Of the eight schools, by quadrature.
LOG_EVIDENCE = -31.311
# Seconds that a processor may need for a row, by that before it, and for MNIST.
PATIENCE = 60.0
WALKERS = (1_000, 10_000, 100_000, 1_000_000)


class Row(NamedTuple):
    """Seconds of one measurement on a processor, if it was made there, and on a GPU."""

    what: str
    cpu: float | None
    gpu: float | None
    note: str = ""


def measure(device: torch.device) -> Iterator[Row]:
    """Yield the rows of the table as they are measured; `device` takes the GPU's place."""
    warnings.simplefilter("ignore")
    timed(device, lambda: torch.ones(1, device=device).sum().item())
    yield from readme(device)
    yield from training(device)
    yield from annealing(device)
    yield from images(device)


def timed(device: torch.device, act: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that something takes on a device, and what it returns."""
    _wait(device)
    start = time.perf_counter()
    with device:
        found = act()
    _wait(device)
    return time.perf_counter() - start, found


def readme(device: torch.device) -> Iterator[Row]:
    """The examples of the README, to the letter, with another default device."""
    for name, code in zip(("posterior", "training"), PROGRAMS, strict=True):
        program = compile(code, f"README: {name}", "exec")

        def run(program: Any = program) -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(program, {})

        cpu, gpu = (timed(place, run)[0] for place in (torch.device("cpu"), device))
        yield Row(f"README, {name}", cpu, gpu)


def training(device: torch.device, num_steps: int = 200) -> Iterator[Row]:
    """Updates of `train digits` at its settings."""

    def run() -> None:
        made = digits_run(pj.data.load_digits(), num_steps=num_steps)
        made.learner.fit(made.train, num_steps, eval_every=num_steps)

    cpu, gpu = (timed(place, run)[0] for place in (torch.device("cpu"), device))
    yield Row(f"`train digits`, {num_steps} updates", cpu, gpu)


def annealing(device: torch.device) -> Iterator[Row]:
    """The eight schools, by more and more walkers."""
    last = 0.0
    for number in WALKERS:
        found: dict[torch.device, tuple[float, Any]] = {}
        for place in (torch.device("cpu"), device):
            if place.type == "cpu" and place != device and 10 * last > PATIENCE:
                continue
            sampler = pj.AnnealedSMC(schools, num_walkers=number // 4, progress=False)
            data = schools_data(place)
            found[place] = timed(place, lambda s=sampler, d=data: s.run(*d))
        known = found.get(torch.device("cpu"))
        last = known[0] if known else float("inf")
        seconds, result = found[device]
        off = abs(result.log_evidence - LOG_EVIDENCE)
        note = f"log Z {result.log_evidence:.3f} ± {result.log_evidence_error:.3f}"
        assert off < 6 * result.log_evidence_error + 0.05, note
        note += f", {result.num_gradients / seconds / 1e6:.2f} M gradients/s"
        note += _memory(device)
        what = f"`AnnealedSMC`, {number:,} walkers"
        yield Row(what, known and known[0], seconds, note)


# The paper's walkers, moves and images per update; the audit has a quarter of the walkers.
PAPER: dict[str, Any] = {
    "start": "equal",
    "num_walkers": 1024,
    "audit_walkers": 256,
    "moves_per_update": 45,
    "leapfrog_steps": 1,
    "batch_size": 128,
}


def images(device: torch.device, **changes: Any) -> Iterator[Row]:
    """MNIST's 2, 3 and 6 at the settings of the paper, with changes."""
    root = next((folder for folder in MNIST if folder.is_dir()), None)
    if root is None:
        yield Row("MNIST 2, 3, 6", None, None, f"no files in {MNIST[0]}")
        return
    with device:
        data = _digits(root)
        run = images_run(data, **PAPER | changes)
        learner = run.learner
        learner.fit(run.train, 1)
    start, updates = time.perf_counter(), 0
    while time.perf_counter() - start < PATIENCE:
        with device:
            learner.fit(run.train, 5)
        updates += 5
    _wait(device)
    seconds = time.perf_counter() - start
    masses = pj.class_masses(learner.audit.cloud.walkers, run.classifier.classify)
    shares = ", ".join(f"{mass:.2f}" for mass in masses.mass.tolist())
    note = f"masses after {learner.num_steps} updates {shares}; data 0.57, 0.29, 0.14"
    yield Row("MNIST 2, 3, 6, one update", None, seconds / updates, note + _memory(device))


def _digits(root: Path) -> pj.LabelledImages:
    """Return 2, 3 and 6 in the numbers of the paper, or in its proportions."""
    for counts in ([5600, 2800, 1400], [2200, 1100, 550]):
        with contextlib.suppress(ArgumentError):
            return pj.load_images("mnist", root, classes=[2, 3, 6], counts=counts)
    return pj.load_images("mnist", root, classes=[2, 3, 6])


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown."""
    lines = ["| | CPU, s | GPU, s | |", "|---|---:|---:|---|"]
    for what, cpu, gpu, note in rows:
        shown = ("–" if x is None else f"{x:.3g}" for x in (cpu, gpu))
        lines.append(f"| {what} | {' | '.join(shown)} | {note} |")
    return "\n".join(lines)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _memory(device: torch.device) -> str:
    """Return the most memory that was taken since the last row."""
    if device.type != "cuda":
        return ""
    most = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return f", {most:.1f} GiB"
