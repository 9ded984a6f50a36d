"""What the plots have in common: panels, curves with bands, labels and limits.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers; two curves
of one panel differ in their line as well.
"""

import sys
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine, LayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pyro_jarzynski.errors import ArgumentError

AxesArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#666666"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
FEW_ROWS = 40
LONG_LABEL = 20


def panels(
    axes: Iterable[Axes] | None, rows: int, columns: int, size: tuple[float, float]
) -> AxesArray:
    """Return the axes given, or those of a new figure of `size` inches."""
    if axes is None:
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
        return _new_figure(size, layout).subplots(rows, columns)
    given = np.asarray(axes, dtype=object)
    if given.size != rows * columns:
        raise ArgumentError(f"`axes` must be {rows * columns} axes, got {given.size}.")
    return given


def _new_figure(size: tuple[float, float], layout: LayoutEngine) -> Figure:
    if not _in_notebook():
        # No pyplot: it would keep the figure alive and might open a window.
        return Figure(figsize=size, layout=layout)
    # Below a cell of a notebook are the figures that pyplot knows, which are closed then.
    from matplotlib import pyplot as plt

    return plt.figure(figsize=size, layout=layout)


def _in_notebook() -> bool:
    """Tell whether this runs in the kernel of a notebook, and not in a terminal."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def curve(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    label: str,
    colour: str,
    *,
    style: str = "-",
    band: np.ndarray | None = None,
) -> None:
    """Draw `y` with a band of half-width `band`, or nothing if `y` has no number."""
    if not np.isfinite(y).any():
        return
    # A row between two NaNs has no line to be seen by.
    marker = "o" if len(x) <= FEW_ROWS else ""
    ax.plot(
        x, y, style, color=colour, label=label, marker=marker, markersize=3, linewidth=1.3
    )
    if band is not None:
        ax.fill_between(x, y - band, y + band, color=colour, alpha=0.2, linewidth=0)


def finish(
    ax: Axes, y: str, *, x: str = "step (updates)", beside: Axes | None = None
) -> None:
    """Label the axes, with the legend above them, where no curve can run into it."""
    ax.set(xlabel=x, ylabel=y)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.grid(alpha=0.25)
    owners = [ax] if beside is None else [ax, beside]
    handles = [h for owner in owners for h in owner.get_legend_handles_labels()[0]]
    if not handles:
        return
    longest = max(len(str(handle.get_label())) for handle in handles)
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=1 if longest > LONG_LABEL else 2,
        fontsize=8.5,
        handlelength=1.8,
        columnspacing=1.2,
        borderaxespad=0.2,
        frameon=False,
    )


def log_scale(ax: Axes) -> None:
    """Make the vertical axis logarithmic, of a decade at least, if its curves allow it."""
    values = np.concatenate([[], *(line.get_ydata() for line in ax.get_lines())])
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return
    ax.set_yscale("log", nonpositive="clip")
    ends = np.log10([positive.min(), positive.max()])
    half = max(np.ptp(ends) * 1.1, 1) / 2
    ax.set_ylim(*10 ** (ends.mean() + np.array([-half, half])))
    ax.yaxis.set_major_locator(LogLocator(subs=(1,) if half > 1.5 else (1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def limit_to_bulk(ax: Axes, values: np.ndarray, shown: list[float]) -> None:
    """Set limits that leave out values far from the middle 80 %, but never `shown`."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return
    low, high = np.quantile(finite, [0.1, 0.9])
    reach = high - low
    kept = [max(finite.min(), low - reach), min(finite.max(), high + reach), *shown]
    margin = 0.06 * (max(kept) - min(kept))
    if margin > 0 and (finite.min() < min(kept) or finite.max() > max(kept)):
        ax.set_ylim(min(kept) - margin, max(kept) + margin)


def sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Return images `(n, rows, cols)` as one image, with a pixel of NaN around each."""
    framed = np.pad(images, ((0, 0), (1, 0), (1, 0)), constant_values=np.nan)
    rows = -(-len(framed) // columns)
    height, width = framed.shape[1:]
    blank = np.full((rows * columns - len(framed), height, width), np.nan)
    grid = np.concatenate([framed, blank]).reshape(rows, columns, height, width)
    joined = grid.swapaxes(1, 2).reshape(rows * height, columns * width)
    return np.pad(joined, ((0, 1), (0, 1)), constant_values=np.nan)
