"""How fast the package is on a GPU, beside the processor of the same machine: a table."""

import contextlib
import io
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
CPU = torch.device("cpu")
# Of the eight schools, by quadrature.
LOG_EVIDENCE = -31.311
# The paper's walkers, moves and images per update; the audit has a quarter of the walkers.
PAPER = {
    "start": "equal",
    "num_walkers": 1024,
    "audit_walkers": 256,
    "moves_per_update": 45,
    "leapfrog_steps": 1,
    "batch_size": 128,
}


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        programs: Python programs.
        num_updates: Updates of a training on the digits.
        num_walkers: Walkers of `AnnealedSMC`, ascending.
        patience: Seconds of the training on images, and the most that a run may take, by
            the time of a tenth of its walkers, to be measured.
        image_settings: Arguments of `images_run`.
    """

    programs: Mapping[str, str] = field(
        default_factory=lambda: dict(zip(("posterior", "training"), PROGRAMS, strict=True))
    )
    num_updates: int = 200
    num_walkers: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000)
    patience: float = 60.0
    image_settings: Mapping[str, Any] = field(default_factory=lambda: PAPER)


class Row(NamedTuple):
    """Seconds of one measurement on a processor, if it was made there, and on a GPU."""

    what: str
    cpu: float | None
    gpu: float | None
    note: str = ""


def measure(
    device: torch.device, images: pj.LabelledImages | None, sizes: Sizes
) -> Iterator[Row]:
    """Yield the rows of the table as they are measured.

    Args:
        device: The GPU, or what takes its place.
        images: Images to train on, on any device, if there are any.
        sizes: What is measured.
    """
    timed(device, lambda: torch.ones(1, device=device).sum().item())
    yield from of_programs(device, sizes.programs)
    yield from of_training(device, sizes.num_updates)
    yield from of_annealing(device, sizes.num_walkers, sizes.patience)
    if images is not None:
        yield of_images(device, images, sizes.image_settings, sizes.patience)


def timed(device: torch.device, act: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that something takes on a device, and what it returns."""
    _wait(device)
    start = time.perf_counter()
    with device, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = act()
        _wait(device)
    return time.perf_counter() - start, found


def of_programs(device: torch.device, programs: Mapping[str, str]) -> Iterator[Row]:
    """Programs, to the letter, with another default device: the README's examples."""
    for name, code in programs.items():
        program = compile(code, name, "exec")

        def run(program: Any = program) -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(program, {})

        cpu, gpu = (timed(place, run)[0] for place in (CPU, device))
        yield Row(f"README, {name}", cpu, gpu)


def of_training(device: torch.device, num_updates: int) -> Iterator[Row]:
    """Updates of `train digits` at its settings."""

    def run() -> None:
        made = digits_run(pj.data.load_digits(), num_steps=num_updates)
        made.learner.fit(made.train, num_updates, eval_every=num_updates)

    cpu, gpu = (timed(place, run)[0] for place in (CPU, device))
    yield Row(f"`train digits`, {num_updates} updates", cpu, gpu)


def of_annealing(
    device: torch.device, num_walkers: Sequence[int], patience: float
) -> Iterator[Row]:
    """The eight schools, by more and more walkers."""

    def run(place: torch.device, number: int) -> tuple[float, Any]:
        sampler = pj.AnnealedSMC(schools, num_walkers=number // 4, progress=False)
        data = schools_data(place)
        return timed(place, lambda: sampler.run(*data))

    cpu, gpu = 0.0, 0.0
    for number in num_walkers:
        if 10 * gpu > patience:
            return
        cpu = run(CPU, number)[0] if 10 * cpu <= patience else math.inf
        gpu, result = run(device, number)
        off = abs(result.log_evidence - LOG_EVIDENCE)
        note = f"log Z {result.log_evidence:.3f} ± {result.log_evidence_error:.3f}"
        assert off < 6 * result.log_evidence_error + 0.05, note
        note += f", {result.num_gradients / gpu / 1e6:.2f} M gradients/s"
        known = cpu if math.isfinite(cpu) else None
        what = f"`AnnealedSMC`, {number:,} walkers"
        yield Row(what, known, gpu, note + _memory(device))


def of_images(
    device: torch.device,
    images: pj.LabelledImages,
    settings: Mapping[str, Any],
    patience: float,
) -> Row:
    """Updates of a training on images, one of them at least, and what it has found."""
    with device:
        here = pj.LabelledImages(
            *(x.to(device) for x in (images.images, images.labels)),
            *(x.to(device) for x in (images.test_images, images.test_labels)),
            images.class_names,
        )
        run = images_run(here, **settings)
    learner = run.learner
    timed(device, lambda: learner.fit(run.train, 1))
    seconds, updates = 0.0, 0
    while not updates or seconds < patience:
        seconds += timed(device, lambda: learner.fit(run.train, 5))[0]
        updates += 5
    masses = pj.class_masses(learner.audit.cloud.walkers, run.classifier.classify)
    found, wanted = masses.mass.cpu(), images.labels.bincount() / len(images.labels)
    shown = [", ".join(f"{x:.2f}" for x in shares.tolist()) for shares in (found, wanted)]
    note = f"masses after {learner.num_steps} updates {shown[0]}; data {shown[1]}"
    what = f"digits {', '.join(images.class_names)}, {len(images.labels):,} images"
    return Row(f"{what}, one update", None, seconds / updates, note + _memory(device))


def digits_of_the_paper() -> pj.LabelledImages | None:
    """Return MNIST 2, 3 and 6, as many of each as in the paper or in its proportions."""
    root = next((folder for folder in MNIST if folder.is_dir()), None)
    if root is None:
        return None
    with contextlib.suppress(ArgumentError):
        return pj.load_images("mnist", root, classes=[2, 3, 6], counts=[5600, 2800, 1400])
    return pj.load_images("mnist", root, classes=[2, 3, 6], counts=[2200, 1100, 550])


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
