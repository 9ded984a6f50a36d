"""What the plots of inference have in common: numbers of islands, labels, histograms."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_jarzynski.errors import ArgumentError
from pyro_jarzynski.infer.result import SMCResult
from pyro_jarzynski.report import drawing
from pyro_jarzynski.report.drawing import BLUE, VERMILLION, curve

FEWEST_BINS, MOST_BINS = 10, 60
# What lies further from the quartiles, in distances between them, does not set limits.
FENCE = 3.0


def array(values: Tensor) -> np.ndarray:
    """Return numbers as an array of float64."""
    return values.detach().cpu().double().numpy()


def single(axes: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the axes given, or those of a new figure of `size` inches."""
    given = None if axes is None else [axes]
    return np.asarray(drawing.panels(given, 1, 1, size), dtype=object).flat[0]


def check_stages(result: SMCResult) -> None:
    """Raise unless there are stages to draw."""
    if not result.history:
        raise ArgumentError(
            "`result` has no stages: its model has no latents, so that its evidence is "
            "exact and nothing was annealed. Print `result.log_evidence` instead."
        )


def finish(
    ax: Axes, x: str, y: str, *, beside: Axes | None = None, integer: bool = False
) -> None:
    """Label the axes, with the legend above them; `integer` is about the ticks below."""
    drawing.finish(ax, y, x=x, beside=beside)
    fewest = 1 if integer else 2
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=integer, min_n_ticks=fewest))
    if integer and np.ptp(ax.get_xlim()) < 1:
        # A single stage: limits around it that have an integer inside.
        ax.set_xlim(-0.5, 0.5)


def spread(ax: Axes, values: Tensor, label: str, colour: str, *, style: str = "-") -> None:
    """Draw the mean over the islands of `(stages, C)` values, and their range as a band."""
    table = array(values)
    stage = np.arange(len(table))
    curve(ax, stage, table.mean(1), label, colour, style=style)
    if table.shape[1] > 1:
        low, high = table.min(1), table.max(1)
        ax.fill_between(stage, low, high, color=colour, alpha=0.2, linewidth=0)


def threads(ax: Axes, values: Tensor, together: Tensor, label: str) -> None:
    """Draw each island of `(stages, C)` values, and one curve of what they are together."""
    table = array(values)
    stage = np.arange(len(table))
    style: dict[str, Any] = {"alpha": 0.6, "linewidth": 0.9, "markersize": 3}
    # A single stage has no line to be seen by.
    style["marker"] = "o" if len(table) == 1 else ""
    for index, island in enumerate(table.T):
        name = "each island" if index == 0 else f"_island {index}"
        ax.plot(stage, island, color=BLUE, label=name, **style)
    curve(ax, stage, array(together), label, VERMILLION, style="--")


def twin(ax: Axes, values: Tensor, label: str) -> Axes:
    """Draw one number per stage on a new axis to the right, and colour both labels."""
    beside = ax.twinx()
    drawn = array(values)
    curve(beside, np.arange(len(drawn)), drawn, label, VERMILLION, style="--")
    beside.set_ylabel(label, color=VERMILLION)
    ax.yaxis.label.set_color(BLUE)
    return beside


def bins(*values: np.ndarray, outside: float = 0.0, fence: float = np.inf) -> np.ndarray:
    """Return edges of bins that all of some values share.

    Args:
        *values: Values that are drawn over each other; what is not finite is ignored.
        outside: Share of each that may lie beyond either end.
        fence: How far the ends may lie from the quartiles, in distances between them.
    """
    ends = [_bulk(each[np.isfinite(each)], outside, fence) for each in values]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if not low <= high:
        low, high = 0.0, 0.0
    # Equal values get one bin in the middle.
    if high - low < 1e-9 * max(1.0, abs(low)):
        return low + np.linspace(-0.5, 0.5, FEWEST_BINS)
    most = max(len(each) for each in values)
    return np.linspace(low, high, int(np.clip(most**0.5, FEWEST_BINS, MOST_BINS)) + 1)


def _bulk(values: np.ndarray, outside: float, fence: float) -> tuple[float, float]:
    if not len(values):
        return np.inf, -np.inf
    levels = [outside, 0.25, 0.75, 1 - outside]
    low, first, third, high = np.quantile(values, levels)
    # Where half of the values are equal, their quartiles say nothing of the others.
    reach = fence * (third - first) if third > first else np.inf
    return max(low, first - reach), min(high, third + reach)


def density(
    ax: Axes,
    values: np.ndarray,
    edges: np.ndarray,
    label: str,
    colour: str,
    *,
    style: str = "-",
    weight: np.ndarray | None = None,
    filled: bool = True,
) -> None:
    """Draw a histogram as a density, of which the part outside the bins is missing."""
    share = np.full(len(values), 1 / len(values)) if weight is None else weight
    heights = np.histogram(values, edges, weights=share)[0] / np.diff(edges)
    outline: dict[str, Any] = {"color": colour, "linestyle": style, "linewidth": 1.3}
    if filled:
        ax.stairs(heights, edges, fill=True, color=colour, alpha=0.25)
    ax.stairs(heights, edges, label=label, **outline)
