"""The report of an inference run: its evidence, draws and course on one page."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_jarzynski.core.weights import log_mean_exp
from pyro_jarzynski.infer.result import SMCResult
from pyro_jarzynski.report.evidence_plots import plot_evidence
from pyro_jarzynski.report.html import Table, write_report
from pyro_jarzynski.report.inference_plots import (
    plot_annealing,
    plot_genealogy,
    plot_weights,
)
from pyro_jarzynski.report.plots import save_figure

MOST_LATENTS = 40
FIGURES: dict[str, tuple[str, Callable[[SMCResult], Any]]] = {
    "annealing.png": (
        "The course of the annealing; bands range over the islands",
        plot_annealing,
    ),
    "evidence.png": (
        "The log evidence: islands with the errors of their genealogies, and pooled",
        plot_evidence,
    ),
    "weights.png": (
        "The weights at the last stage, before it resampled, and the shape of the largest",
        plot_weights,
    ),
    "genealogy.png": (
        "Families of walkers with a common ancestor, and how they share the weight",
        plot_genealogy,
    ),
}
COLUMNS = {
    "stage": "row of the history, from 0",
    "beta": "inverse temperature; it rises from 0 to 1 for each part of the data",
    "num_observations": "data so far",
    "ess": "effective sample size before resampling, walkers of an island",
    "conditional_ess": "that of this step alone, walkers of an island",
    "pareto_k": "shape of the largest weights before resampling; good below 0.7",
    "acceptance_rate": "mean acceptance of the moves",
    "log_evidence": "log of the mean evidence of the islands so far, nats",
    "resampled": "share of the islands that resampled",
    "num_ancestors": "first walkers of an island that still have descendants",
    "step_size": "step size of the moves",
    "num_moves": "moves of every walker",
    "num_leapfrog": "leapfrog steps of a move; 1 for Langevin kernels",
    "repeated": "share of the walkers that are where another is",
    "seconds": "wall time since the start, s",
}
LATENT_COLUMNS = {
    "latent": "site of the model, with the place in its value",
    "mean": "posterior mean",
    "sd": "posterior standard deviation",
    "mcse": "Monte Carlo standard error of the mean",
    "r_hat": "disagreement of the islands; good below 1.1",
}


def write_inference_report(
    directory: Path | str,
    result: SMCResult,
    *,
    title: str,
    settings: Mapping[str, str],
) -> Path:
    """Write the report of an inference run, and the pictures that are in it.

    Args:
        directory: A directory that exists. It gets `report.html`, and if the model has
            latents `annealing.png`, `evidence.png`, `weights.png` and `genealogy.png`.
        result: The run; one that was interrupted tells how far it went.
        title: Title of the page.
        settings: Settings of the run, by name.

    Returns:
        The path of the page.

    Raises:
        OutputError: A file cannot be written.

    Example:
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> smc = pj.AnnealedSMC(model, num_walkers=256, progress=False)
        >>> result = smc.run(torch.tensor(0.5))
        >>> settings = {"seed": "0"}
        >>> pj.write_inference_report(".", result, title="A mean", settings=settings).name
        'report.html'
    """
    folder, figures, tables = Path(directory), {}, {}
    if result.history:
        for name, (caption, plot) in FIGURES.items():
            figures[caption] = save_figure(plot(result), folder / name)
    if result.has_draws:
        tables["Latents"] = _latents(result)
    return write_report(
        folder / "report.html",
        title=title,
        summary=_summary(result),
        settings=settings,
        figures=figures,
        history=_history(result),
        warnings=result.doubts,
        tables=tables,
    )


def _summary(result: SMCResult) -> dict[str, str]:
    low, high = result.log_evidence_interval()
    settings = result.settings
    return {
        "Log evidence": f"{result.log_evidence:.3f} ± {result.log_evidence_error:.3f} nats",
        "90 % interval": f"{low:.3f} to {high:.3f} nats",
        "Status": result.status,
        "Walkers": f"{settings.num_walkers} on each of {settings.num_chains} islands",
        "Evaluation of the model": result.posterior.method,
        "Gradients evaluated": f"{result.num_gradients:,}",
        "Time": f"{result.seconds:.1f} s",
    }


def _latents(result: SMCResult) -> Table:
    """Return the summary of the latents as a table."""
    summary = result.summary().table
    columns = {"latent": LATENT_COLUMNS["latent"]}
    for name in summary.columns:
        columns[name] = LATENT_COLUMNS.get(name, f"{name} of the draws lie below")
    rows: list[Mapping[str, float | str]] = [
        {"latent": str(name)} | row for name, row in summary.to_dict("index").items()
    ]
    return Table(columns, rows, first=MOST_LATENTS)


def _history(result: SMCResult) -> Table:
    """Return one row per stage, with means over the islands."""
    if not result.history:
        return Table(COLUMNS, [])
    columns = {name: _over_islands(name, v) for name, v in result.history.items()}
    columns["pareto_k"] = result.pareto_k.tolist()
    columns["stage"] = [float(k) for k in range(len(result.pareto_k))]
    known = {name: meaning for name, meaning in COLUMNS.items() if name in columns}
    rows: list[Mapping[str, float | str]] = [
        {name: columns[name][k] for name in known} for k in range(len(columns["stage"]))
    ]
    return Table(known, rows)


def _over_islands(name: str, values: Tensor) -> list[float]:
    if values.ndim == 1:
        return values.tolist()
    if name == "log_evidence":
        return log_mean_exp(values).tolist()
    return values.double().mean(1).tolist()
