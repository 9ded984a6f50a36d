"""What a training run leaves on disk, and the pictures and the report made from it.

`save_run` writes numbers; `render` makes every picture and the report from those files
alone, so that it can be run again at any time.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core.resampling import systematic
from pyro_jarzynski.data import DIGITS_LEVELS, Whitening, load_digits
from pyro_jarzynski.ebm.history import History
from pyro_jarzynski.ebm.learner import Learner
from pyro_jarzynski.errors import ModelFileError, OutputError
from pyro_jarzynski.experiments.image_output import draw_images
from pyro_jarzynski.report.html import write_report
from pyro_jarzynski.report.mixture_plot import plot_mixture
from pyro_jarzynski.report.plots import plot_samples, plot_training, save_figure
from pyro_jarzynski.runtime.model_files import SavedModel, load_model, save_model

AUDIT_NOTE = (
    "Every likelihood here is that of the audit walkers, which follow the model and feed "
    "nothing. The log Z of the walkers that train the model is drawn beside theirs: the "
    "optimiser exploits those walkers, so it is biased."
)
NUM_SHOWN = 100
IMAGE_EXPERIMENTS = ("mnist", "fashion-mnist", "cifar10")


def prepare_directory(out: Path, *, overwrite: bool = False) -> None:
    """Make the output directory, or raise before anything is computed.

    Raises:
        OutputError: It cannot be written, or holds files and `overwrite` is false.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".pyro-jarzynski-probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"`--out` must be a directory that can be written, got {out}: {error.strerror}."
        ) from error
    if any(out.iterdir()) and not overwrite:
        raise OutputError(
            f"`--out` must be a new or an empty directory, but {out} holds files. Choose "
            "another, or pass `--overwrite`."
        )


def save_run(
    out: Path,
    learner: Learner,
    *,
    experiment: str,
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    extras: Mapping[str, Tensor] | None = None,
    curves: Mapping[str, list[float]] | None = None,
) -> None:
    """Write the model with its audit walkers, the history, and further curves.

    Args:
        out: Directory, already prepared.
        learner: The learner, at the parameters to keep.
        experiment: Name of the experiment, by which `render` knows what to draw.
        settings: Settings of the run.
        results: Figures of the run.
        extras: Tensors to keep with the model.
        curves: Columns of one more table.
    """
    learner.history.to_csv(out / "history.csv")
    if curves is not None:
        _write_columns(out / "curves.csv", curves)
    walkers = learner.audit.cloud.walkers
    notes = {
        "experiment": experiment,
        "settings": dict(settings),
        "results": dict(results),
    }
    save_model(out, learner.model, walkers, extras=extras, notes=notes)


def render(out: Path) -> dict[str, str]:
    """Draw the pictures of a run and write its report; return the summary that it shows.

    Raises:
        ModelFileError: The directory holds no whole run of a training.
    """
    if (out / "result.json").exists() and not (out / "model.json").exists():
        raise ModelFileError(
            f"{out} holds an inference run, of which the report cannot be drawn again from "
            "its files. Open its report.html, or call `pyro-jarzynski infer` again."
        )
    saved = load_model(out, device="cpu")
    drawers = {"digits": _draw_digits, "gmm": _draw_mixture}
    drawers |= dict.fromkeys(IMAGE_EXPERIMENTS, draw_images)
    experiment = saved.notes.get("experiment")
    if experiment not in drawers:
        raise ModelFileError(
            f"{out} holds no run of {', '.join(drawers)}, but of {experiment!r}. Name the "
            "`--out` of a `pyro-jarzynski train`."
        )
    try:
        history = History.from_csv(out / "history.csv")
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{out / 'history.csv'} cannot be read: {error}") from error
    try:
        figures, summary = drawers[experiment](out, saved)
        settings = {k: str(v) for k, v in saved.notes["settings"].items()}
        threshold = saved.notes["settings"]["ess_threshold"]
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        what = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise ModelFileError(
            f"{out / 'model.json'} is not that of a `pyro-jarzynski train`: {what}. Train "
            "again, or restore the file."
        ) from error
    if len(history):
        training = plot_training(history, ess_threshold=threshold)
        save_figure(training, out / "training.png")
        figures["The course of the training"] = out / "training.png"
    write_report(
        out / "report.html",
        title=f"pyro-jarzynski: {experiment}",
        summary=summary,
        settings=settings,
        figures=figures,
        history=history if len(history) else None,
        notes=[AUDIT_NOTE],
    )
    return summary


def _draw_digits(out: Path, saved: SavedModel) -> tuple[dict[str, Path], dict[str, str]]:
    maps = saved.extras
    whitening = Whitening(
        maps["mean"], maps["whiten"], maps["color"], DIGITS_LEVELS, (8, 8)
    )
    generator = torch.Generator().manual_seed(0)
    chosen = systematic(saved.log_weight, NUM_SHOWN, generator)
    draws = whitening.to_grey(saved.position[chosen])
    real = load_digits().test[:NUM_SHOWN].reshape(-1, 8, 8)
    axes = plot_samples(draws, real, levels=DIGITS_LEVELS)
    save_figure(axes, out / "samples.png")
    results = saved.notes["results"]
    error = saved.log_normalizer_error
    summary = {
        "Test NLL": f"{results['test_nll']:.2f} nats ± {error:.2f} (log Z)"
        f" ± {results['test_nll_data_error']:.2f} ({results['num_test']} test digits)",
        "Gaussian, same test": f"{results['gaussian_test_nll']:.2f} nats",
        "log Z": f"{saved.log_normalizer:.2f} ± {error:.2f}",
        "Best update": f"{results['best_update']} of {results['updates']}",
        "Training time": f"{results['seconds']:.0f} s",
    }
    caption = "Weighted draws of the model, back in pixel space, beside real digits"
    return {caption: out / "samples.png"}, summary


def _draw_mixture(out: Path, saved: SavedModel) -> tuple[dict[str, Path], dict[str, str]]:
    results, settings = saved.notes["results"], saved.notes["settings"]
    columns = _read_columns(out / "curves.csv")
    # One number with two modes, or one for each of more.
    truth = results.get("data_masses", results["data_mass"])
    axes = plot_mixture({settings["algorithm"]: columns}, true_mass=truth)
    save_figure(axes, out / "mixture.png")
    summary = {
        "Mass of the first mode": f"{results['mass']:.4f}"
        f" (data: {results['data_mass']:.4f})",
    }
    if "data_masses" in results:
        learned = [results[f"mass_{mode}"] for mode in range(len(truth))]
        summary = {"Masses": f"{_joined(learned)} (data: {_joined(truth)})"}
    summary |= {
        "Exact KL divergence": f"{results['exact_kl']:.4f} nats",
        "Estimated KL divergence": f"{results['estimated_kl']:.4f} nats",
        "log Z, audit": f"{saved.log_normalizer:.4f} ± {saved.log_normalizer_error:.4f}",
        "log Z, exact": f"{results['log_z_exact']:.4f}",
        "Updates": f"{results['updates']} in {results['seconds']:.0f} s",
    }
    caption = "Mass, exact and estimated divergence, as the paper plots them"
    return {caption: out / "mixture.png"}, summary


def _joined(masses: list[float]) -> str:
    return ", ".join(f"{mass:.4f}" for mass in masses)


def _write_columns(path: Path, columns: Mapping[str, list[float]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _read_columns(path: Path) -> dict[str, list[float]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
            return {name: [float(row[name]) for row in rows] for name in rows[0]}
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
