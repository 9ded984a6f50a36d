"""The curves of the mixture experiment: masses, exact and estimated divergence."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes

from pyro_jarzynski.errors import ArgumentError
from pyro_jarzynski.report import drawing
from pyro_jarzynski.report.drawing import GREY, AxesArray, curve, finish

DIVERGENCES = ("step", "exact_kl", "estimated_kl", "log_z_error")
STYLES = ("-", "-.", ":")

Columns = Mapping[str, Sequence[float]]


def plot_mixture(
    runs: Mapping[str, Columns],
    *,
    true_mass: float | Sequence[float],
    axes: Iterable[Axes] | None = None,
) -> AxesArray:
    """Plot the curves of the mixture experiment in three panels against the updates.

    The panels: learned mass of the first mode, or of all modes if there are more than two,
    exact KL divergence in nats, and the absolute value of the estimated one beside it, with
    ±2 standard errors if it is of one run only.

    Args:
        runs: Columns by name of each run, by its algorithm: `step`, `exact_kl`,
            `estimated_kl`, `log_z_error`, and `mass`, or `mass_0`, `mass_1`, ... if
            several true masses are given; further columns are ignored.
        true_mass: Share of the data in the first mode, or in each of them, in [0, 1].
        axes: Three axes; `None` makes a figure.

    Returns:
        The axes, `(3,)`, or as given.

    Raises:
        ArgumentError: There is no run, a run lacks a column, or `axes` are not three.

    Example:
        >>> run = {"step": [1, 2], "mass": [0.4, 0.3], "exact_kl": [1.0, 0.1]}
        >>> run |= {"estimated_kl": [1.1, 0.1], "log_z_error": [0.1, 0.1]}
        >>> pj.plot_mixture({"jarzynski": run}, true_mass=0.25).shape
        (3,)
    """
    truths = [true_mass] if isinstance(true_mass, int | float) else list(true_mass)
    masses = [f"mass_{mode}" for mode in range(len(truths))]
    if len(truths) == 1:
        masses = ["mass"]
    _check(runs, (*DIVERGENCES[:1], *masses, *DIVERGENCES[1:]))
    drawn = drawing.panels(axes, 1, 3, (12.0, 3.9))
    mass, exact, estimated = drawn.flat
    estimated.plot([], [], "--", color="black", label="exact")
    alone = len(runs) == 1
    for (name, run), colour in zip(runs.items(), cycle(drawing.CYCLE), strict=False):
        step, kl, estimate, error = (np.asarray(run[c]) for c in DIVERGENCES)
        curve(exact, step, kl, name, colour)
        curve(estimated, step, kl, "_exact", "black" if alone else colour, style="--")
        label, band = (f"{name} ± 2 s.e.", 2 * error) if alone else (name, None)
        curve(estimated, step, np.abs(estimate), label, colour, band=band)
    if len(truths) == 1:
        _draw_first(mass, runs, truths[0])
    else:
        _draw_all(mass, runs, truths)
    for ax, label in ((exact, "exact KL (nats)"), (estimated, "|estimated KL| (nats)")):
        drawing.log_scale(ax)
        finish(ax, label)
    return drawn


def _check(runs: Mapping[str, Columns], columns: Sequence[str]) -> None:
    if not runs:
        raise ArgumentError("`runs` must hold at least one run; it is empty.")
    for name, run in runs.items():
        if missing := [column for column in columns if column not in run]:
            raise ArgumentError(f"`runs[{name!r}]` lacks the columns {', '.join(missing)}.")


def _draw_first(ax: Axes, runs: Mapping[str, Columns], truth: float) -> None:
    ax.axhline(truth, color=GREY, linestyle="--", label="truth")
    for (name, run), colour in zip(runs.items(), cycle(drawing.CYCLE), strict=False):
        curve(ax, np.asarray(run["step"]), np.asarray(run["mass"]), name, colour)
    ax.set_ylim(-0.03, 1.03)
    finish(ax, "mass of the first mode")


def _draw_all(ax: Axes, runs: Mapping[str, Columns], truths: Sequence[float]) -> None:
    """Draw each mode in a colour, the same for its truth, and each run in a style."""
    ax.plot([], [], "--", color=GREY, linewidth=0.9, label="truth")
    for (name, run), style in zip(runs.items(), cycle(STYLES), strict=False):
        ax.plot([], [], style, color=GREY, label=name)
        for mode, colour in zip(range(len(truths)), cycle(drawing.CYCLE), strict=False):
            values = np.asarray(run[f"mass_{mode}"])
            curve(ax, np.asarray(run["step"]), values, f"_{mode}", colour, style=style)
    for truth, colour in zip(truths, cycle(drawing.CYCLE), strict=False):
        ax.axhline(truth, color=colour, linestyle="--", linewidth=0.9)
    highest = max(truths)
    drawn = [
        max(run[f"mass_{mode}"]) for run in runs.values() for mode in range(len(truths))
    ]
    ax.set_ylim(-0.03 * highest, 1.05 * min(max(highest, *drawn), 2 * highest))
    finish(ax, "mass of each mode")
