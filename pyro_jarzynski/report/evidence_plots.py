"""Pictures of what an annealing found: evidence, bounds of it, and masses of modes."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator
from torch import Tensor

from pyro_jarzynski.errors import ArgumentError, count
from pyro_jarzynski.infer.evidence_bounds import EvidenceBounds
from pyro_jarzynski.infer.result import SMCResult
from pyro_jarzynski.report.drawing import BLACK, BLUE, GREEN, GREY, VERMILLION
from pyro_jarzynski.report.inference_drawing import (
    FENCE,
    array,
    bins,
    density,
    finish,
    single,
)

# Share of the works that may lie beyond either end of the picture, whatever the fence.
OUTLYING = 0.005


def plot_evidence(
    result: SMCResult,
    *,
    truth: float | None = None,
    probability: float = 0.9,
    axes: Axes | None = None,
) -> Axes:
    """Plot the log evidence of each island, and the pooled one with its interval.

    The error bar of an island is one standard error from its genealogy; the band is
    `result.log_evidence_interval(probability)`, from the spread of the islands. Islands
    that scatter more than their bars have missed what others found.

    Args:
        result: A run.
        truth: The log evidence, if it is known, in nats.
        probability: Share of runs whose interval covers the truth, in (0, 1).
        axes: Where to draw; `None` makes a figure.

    Returns:
        The axes.

    Raises:
        ArgumentError: `probability` is out of its range.

    Example:
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> smc = pj.AnnealedSMC(model, num_walkers=256, progress=False)
        >>> result = smc.run(torch.tensor(0.5))
        >>> ax = pj.plot_evidence(result)
        >>> ax.get_xlabel()
        'island'
    """
    low, high = result.log_evidence_interval(probability)
    ax = single(axes, (6.4, 4.0))
    islands = array(result.log_evidence_per_chain)
    errors = array(result.walkers.log_normalizer_error)
    ax.axhspan(low, high, color=BLUE, alpha=0.15, linewidth=0, label=_percent(probability))
    pooled = result.log_evidence
    ax.axhline(pooled, color=BLUE, label=f"pooled: {pooled:.3f}", linewidth=1.3)
    if truth is not None:
        ax.axhline(truth, color=VERMILLION, linestyle="--", label=f"truth: {truth:.3f}")
    ax.errorbar(
        np.arange(len(islands)),
        islands,
        errors,
        fmt="o",
        color=BLACK,
        markersize=4,
        capsize=3,
        linewidth=1,
        label="islands ± 1 s.e.",
    )
    finish(ax, "island", _evidence_label(result), integer=True)
    ax.set_xlim(-0.6, len(islands) - 0.4)
    ax.ticklabel_format(axis="y", useOffset=False)
    return ax


def plot_work(
    bounds: EvidenceBounds,
    *,
    index: int = 0,
    log_evidence: float | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Plot the work of both ways between prior and posterior; they cross at log Z.

    Histograms of minus the work forward and of the work backward share their bins. The
    lines are the lower and upper bound and Bennett's combination of both ways. Outlying
    walkers lie beyond the ends of the picture; the legend tells how many.

    Args:
        bounds: What `evidence_bounds` returned.
        index: Which simulated data set, from 0.
        log_evidence: Its log evidence, if it is known, in nats.
        axes: Where to draw; `None` makes a figure.

    Returns:
        The axes.

    Raises:
        ArgumentError: There is no data set of that index.

    Source:
        Crooks (1999), Phys. Rev. E 60(3); Bennett (1976), J. Comput. Phys. 22(2).

    Example:
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> y = torch.tensor([0.5])
        >>> smc = pj.AnnealedSMC(model, num_walkers=256, progress=False)
        >>> bounds = pj.evidence_bounds(smc, y, num_simulations=2)
        >>> ax = pj.plot_work(bounds)
        >>> ax.get_ylabel()
        'density (1 / nat)'
    """
    if count("index", index, 0) >= len(bounds.bennett):
        raise ArgumentError(
            f"`index` must be below {len(bounds.bennett)}, the number of simulated data "
            f"sets, got {index}; pass a larger `num_simulations` to `evidence_bounds`."
        )
    forward, backward = array(bounds.forward[index]), array(bounds.backward[index])
    ax = single(axes, (6.4, 4.2))
    edges = bins(forward, backward, outside=OUTLYING, fence=FENCE)
    for works, name, colour, style in (
        (forward, "forward", BLUE, "-"),
        (backward, "backward", VERMILLION, "--"),
    ):
        density(ax, works, edges, name + _beyond(works, edges), colour, style=style)
    lines = [
        ("Bennett", float(bounds.bennett[index]), BLACK, "-"),
        ("lower", float(bounds.lower[index]), BLUE, "--"),
        ("upper", float(bounds.upper[index]), VERMILLION, "-."),
    ]
    if log_evidence is not None:
        lines.append(("truth", float(log_evidence), GREEN, ":"))
    for name, place, colour, style in lines:
        label = f"{name}: {place:.2f}"
        ax.axvline(place, color=colour, linestyle=style, label=label, linewidth=1.5)
    finish(ax, "minus work forward, work backward (nats)", "density (1 / nat)")
    return ax


def plot_mode_masses(
    masses: Tensor,
    errors: Tensor | None = None,
    *,
    truth: Tensor | Sequence[float] | None = None,
    labels: Sequence[str] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Plot the masses of modes with intervals of ±2 standard errors.

    Args:
        masses: Mass of each mode, `(modes,)`, as `mode_masses` gives it.
        errors: Their standard errors, `(modes,)`; `None` draws no intervals.
        truth: The masses, if they are known, `(modes,)`.
        labels: Names of the modes; `None` numbers them from 0.
        axes: Where to draw; `None` makes a figure.

    Returns:
        The axes.

    Raises:
        ArgumentError: `masses` is not a vector, or another argument has not one entry
            per mode.

    Example:
        >>> masses, errors = torch.tensor([0.3, 0.7]), torch.tensor([0.02, 0.02])
        >>> ax = pj.plot_mode_masses(masses, errors, truth=[0.25, 0.75])
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('mode', 'mass')
    """
    shown = torch.as_tensor(masses, device="cpu")
    if shown.ndim != 1 or not len(shown):
        raise ArgumentError(
            f"`masses` must have shape (modes,), got {tuple(shown.shape)}; take it from "
            "`mode_masses`."
        )
    for name, values in (("errors", errors), ("truth", truth), ("labels", labels)):
        if values is not None and len(values) != len(shown):
            raise ArgumentError(
                f"`{name}` must have {len(shown)} entries, one per mode, got {len(values)}."
            )
    ax = single(axes, (6.4, 3.8))
    place = np.arange(len(shown))
    if truth is not None:
        ax.plot(
            place,
            array(torch.as_tensor(truth, device="cpu")),
            "_",
            color=VERMILLION,
            markersize=15,
            markeredgewidth=2.5,
            label="truth",
        )
    bars = None if errors is None else 2 * array(torch.as_tensor(errors, device="cpu"))
    label = "estimate" if errors is None else "estimate ± 2 s.e."
    ax.errorbar(
        place, array(shown), bars, fmt="o", color=BLUE, ms=5, capsize=4, label=label
    )
    ax.axhline(0, color=GREY, linewidth=0.8)
    finish(ax, "mode", "mass", integer=True)
    ax.set_xlim(-0.6, len(shown) - 0.4)
    if labels is not None:
        ax.xaxis.set_major_locator(FixedLocator(place.tolist()))
        ax.set_xticklabels(labels)
    ax.yaxis.set_major_locator(MaxNLocator(6))
    return ax


def _beyond(works: np.ndarray, edges: np.ndarray) -> str:
    share = float(np.mean((works < edges[0]) | (works > edges[-1])))
    return f", {share:.0%} outside" if share >= 2 * OUTLYING else ""


def _percent(probability: float) -> str:
    return f"{100 * probability:g} % interval"


def _evidence_label(result: SMCResult) -> str:
    if result.complete:
        return "log evidence (nats)"
    return f"log Z at β {float(result.history['beta'][-1]):.3g} (nats)"
