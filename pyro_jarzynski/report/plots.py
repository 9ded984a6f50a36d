"""Pictures of runs: training history, draws beside data.

Every function draws on the axes that it is given, or on a figure of its own, and returns
the axes. A notebook shows the figure below its cell; elsewhere pyplot knows nothing of it:

    save_figure(plot_training(learner.history), "training.png")
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_jarzynski.ebm.history import History
from pyro_jarzynski.errors import ArgumentError, OutputError, count
from pyro_jarzynski.report import drawing
from pyro_jarzynski.report.drawing import BLUE, GREY, VERMILLION, AxesArray, curve, finish


def plot_training(
    history: History,
    *,
    ess_threshold: float | None = None,
    axes: Iterable[Axes] | None = None,
) -> AxesArray:
    """Plot the history of a training run in six panels against the updates.

    The panels: NLL in nats with the best validation row, log Z in nats, effective sample
    size as a fraction of the walkers, resamplings, step size with acceptance rate, and
    learning rate with gradient norm. A column without numbers is left out. The limits of
    the NLL follow the bulk of the rows, so that an outlying start does not squash it.

    Args:
        history: At least one row.
        ess_threshold: Fraction of the walkers below which they are resampled; `None`
            draws no line.
        axes: Six axes; `None` makes a figure.

    Returns:
        The axes, `(2, 3)`, or as given. The last two have twins on their right.

    Raises:
        ArgumentError: `history` has no rows, or `axes` are not six.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> learner = pj.JarzynskiLearner(model, torch.optim.Adam(model.parameters(), 1e-3))
        >>> history = learner.fit(pj.toy("moons", 100), 4, eval_every=2)
        >>> pj.plot_training(history, ess_threshold=0.5).shape
        (2, 3)
    """
    if not len(history):
        raise ArgumentError("`history` must have at least one row; it has none.")
    drawn = drawing.panels(axes, 2, 3, (12.0, 7.0))
    nll, log_z, ess, resamplings, moves, updates = drawn.flat
    _draw_nll(nll, history)
    _draw_both(log_z, history, "log_z", "training_log_z")
    finish(log_z, "log Z (nats)")
    _draw_both(ess, history, "audit_ess", "ess")
    if ess_threshold is not None:
        ess.axhline(ess_threshold, color=GREY, linestyle=":", label="threshold")
    ess.set_ylim(0, 1.03)
    finish(ess, "ESS (fraction of N)")
    _draw_both(resamplings, history, "audit_resamplings", "resamplings")
    most = max(1.0, resamplings.dataLim.ymax)
    resamplings.set_ylim(-0.03 * most, 1.05 * most)
    resamplings.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    finish(resamplings, "resamplings so far")
    rate = _draw_pair(moves, history, "step_size", "acceptance_rate", "acceptance rate")
    rate.set_ylim(0, 1.03)
    drawing.log_scale(
        _draw_pair(updates, history, "learning_rate", "grad_norm", "gradient norm")
    )
    return drawn


def plot_samples(
    samples: Tensor,
    data: Tensor,
    *,
    columns: int = 10,
    levels: int | None = None,
    titles: tuple[str, str] = ("weighted draws of the model", "real digits"),
    axes: Iterable[Axes] | None = None,
) -> AxesArray:
    """Plot images of a model beside real ones, as two grids of equally many.

    Args:
        samples: Images of the model, `(n, rows, cols)`, in grey levels.
        data: Real images, `(m, rows, cols)`, in grey levels. The first `min(n, m)` of
            both are shown, at most `columns²`.
        columns: Images side by side in a grid.
        levels: Number of grey levels, 0 to `levels - 1`; levels in between are rounded
            down, the inverse of dequantisation. `None` scales both by the range of `data`.
        titles: Titles of the two grids.
        axes: Two axes; `None` makes a figure.

    Returns:
        The axes, `(2,)`, or as given.

    Raises:
        ArgumentError: Images are missing or of different sizes, or `axes` are not two.

    Example:
        >>> axes = pj.plot_samples(torch.rand(9, 8, 8), torch.rand(9, 8, 8), columns=3)
        >>> axes.shape
        (2,)
    """
    count("columns", columns)
    for name, images in (("samples", samples), ("data", data)):
        if images.ndim != 3 or not len(images) or images.shape[1:] != data.shape[1:]:
            raise ArgumentError(
                f"`{name}` must hold images (n, rows, cols) of one size, got "
                f"{tuple(images.shape)} with `data` {tuple(data.shape)}."
            )
    shown = min(len(samples), len(data), columns**2)
    drawn = drawing.panels(axes, 1, 2, (8.0, 4.15))
    low, high = (
        (float(data.min()), float(data.max())) if levels is None else (0, levels - 1)
    )
    for ax, images, title in zip(drawn.flat, (samples, data), titles, strict=True):
        grey = images[:shown].detach().cpu().double()
        if levels is not None:
            grey = grey.floor().clamp(0, levels - 1)
        grid = drawing.sheet(grey.numpy(), columns)
        ax.imshow(grid, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        ax.set(title=title, xticks=[], yticks=[])
        ax.set_frame_on(False)
    return drawn


def save_figure(
    axes_or_figure: Axes | Figure | AxesArray, path: Path | str, *, dpi: int = 100
) -> Path:
    """Write a figure to disk, in the format that the name ends with.

    Args:
        axes_or_figure: A figure, or any of its axes.
        path: File to write, in a directory that exists; without an ending it gets that of
            matplotlib's default format, `.png`.
        dpi: Pixels per inch.

    Returns:
        The path of the file.

    Raises:
        ArgumentError: There is no such format.
        OutputError: The file cannot be written.

    Example:
        >>> axes = pj.plot_samples(torch.rand(9, 8, 8), torch.rand(9, 8, 8), columns=3)
        >>> pj.save_figure(axes, "draws.png").name
        'draws.png'
    """
    drawn = axes_or_figure
    owner = drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn
    # The second `figure` leads from a subfigure to the figure that holds it.
    figure: Figure = owner.figure.figure
    file = Path(path)
    formats = figure.canvas.get_supported_filetypes()
    if not file.suffix:
        file = file.with_suffix(f".{figure.canvas.get_default_filetype()}")
    if file.suffix[1:].lower() not in formats:
        raise ArgumentError(
            f"`path` must end with one of {', '.join(sorted(formats))}, got {str(path)!r}."
        )
    try:
        figure.savefig(file, dpi=dpi)
    except OSError as error:
        raise OutputError(
            f"`path` must be a file that can be written, got {path}: {error.strerror}."
        ) from error
    return file


def _column(history: History, name: str) -> np.ndarray:
    return np.asarray(history[name], dtype=float)


def _draw_nll(ax: Axes, history: History) -> None:
    step, train = _column(history, "step"), _column(history, "train_nll")
    validation = _column(history, "validation_nll")
    band = 2 * _column(history, "log_z_error")
    curve(ax, step, train, "training", VERMILLION, style="--")
    curve(ax, step, validation, "validation ± 2 s.e.", BLUE, band=band)
    shown = []
    if best := history.best():
        shown = [best["validation_nll"]]
        ax.plot(best["step"], shown, "k*", markersize=10, label=f"best: {shown[0]:.2f}")
    drawing.limit_to_bulk(ax, np.concatenate([train, validation]), shown)
    finish(ax, "NLL (nats)")


def _draw_both(ax: Axes, history: History, audit: str, training: str) -> None:
    """Draw a column of the audit walkers and one of those that train the model."""
    step, band, names = (
        _column(history, "step"),
        None,
        ["audit walkers", "training walkers"],
    )
    if audit == "log_z":
        band = 2 * _column(history, "log_z_error")
        names = [f"{names[0]} ± 2 s.e.", f"{names[1]} (biased)"]
    curve(ax, step, _column(history, audit), names[0], BLUE, band=band)
    curve(ax, step, _column(history, training), names[1], VERMILLION, style="--")


def _draw_pair(ax: Axes, history: History, left: str, right: str, name: str) -> Axes:
    """Draw one column on a logarithmic axis, and one on a new axis to the right."""
    step, twin = _column(history, "step"), ax.twinx()
    label = left.replace("_", " ")
    curve(ax, step, _column(history, left), label, BLUE)
    curve(twin, step, _column(history, right), name, VERMILLION, style="--")
    drawing.log_scale(ax)
    finish(ax, label, beside=twin)
    ax.yaxis.label.set_color(BLUE)
    twin.set_ylabel(name, color=VERMILLION)
    return twin
