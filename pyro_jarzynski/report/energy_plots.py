"""Pictures of energy-based models in one or two dimensions, with walkers and data."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.ebm.startable import in_checked_mode
from pyro_jarzynski.errors import ArgumentError, EnergyError
from pyro_jarzynski.report.drawing import BLACK, BLUE, GREY, ORANGE, VERMILLION, curve
from pyro_jarzynski.report.inference_drawing import array, bins, density, finish, single

POINTS = {1: 801, 2: 201}
CHUNK = 8192
# Contours of a log-density go down so far from its maximum, in nats.
DEPTH = 12
# Share of walkers and data that may lie beyond either end of the picture.
OUTLYING = 0.001


def plot_energy(
    model: Callable[[Tensor], Tensor],
    walkers: Walkers | Tensor | None = None,
    *,
    log_normalizer: float = 0.0,
    limits: Sequence[tuple[float, float]] | None = None,
    data: Tensor | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Plot the density `e^{-U - log Z}` of a model in one or two dimensions.

    In one dimension a curve, with histograms of the weighted walkers and of the data; in
    two, filled contours of the log-density, with walkers as dots whose area is their
    weight, and data as faint dots.

    Args:
        model: Energy from `(n, D)` to `(n,)`, in nats.
        walkers: Weighted walkers, or positions of equal weight, `(N, D)`.
        log_normalizer: `log Z`, in nats.
        limits: Lowest and highest value of each dimension; `None` covers walkers and data.
        data: Data, `(n, D)`.
        axes: Where to draw; `None` makes a figure.

    Returns:
        The axes.

    Raises:
        ArgumentError: There is nothing to take limits from or no point to draw, there are
            more than two dimensions, or arguments differ in them.
        EnergyError: The model does not return one energy per point, or none is finite.

    Example:
        >>> energy = pj.QuadraticEnergy(torch.zeros(2))
        >>> ax = pj.plot_energy(energy, log_normalizer=1.8379, limits=[(-3, 3), (-3, 3)])
        >>> ax.get_xlabel()
        'x₀'
    """
    position, weight = _positions(walkers)
    if not all(len(values) for values in (position, data) if values is not None):
        raise ArgumentError(
            "`walkers` and `data` must hold at least one point each; pass `None` to leave "
            "one out."
        )
    known = [values for values in (position, data) if values is not None]
    ends = _ends(known, limits)
    log_density = _Landscape(model, known, float(log_normalizer))
    if len(ends) == 1:
        ax = single(axes, (6.4, 4.0))
        _draw_line(ax, log_density, ends[0], position, weight, data)
    else:
        ax = single(axes, (6.4, 5.2))
        _draw_plane(ax, log_density, ends)
        _draw_dots(ax, position, weight, data)
        ax.set(xlim=ends[0], ylim=ends[1])
    return ax


class _Landscape:
    """The log-density at points of a grid.

    Args:
        model: The energy.
        known: Walkers and data, whose dtype and device the grid has.
        log_normalizer: `log Z`.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        known: Sequence[Tensor],
        log_normalizer: float,
    ) -> None:
        self.model, self.log_normalizer = model, log_normalizer
        tensors = [*known, *getattr(model, "parameters", list)()]
        self.like = (
            tensors[0] if tensors else torch.empty(0, device=torch.get_default_device())
        )

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the log-density at points `(n, D)`, `(n,)`."""
        grid = torch.as_tensor(points, dtype=self.like.dtype, device=self.like.device)
        with standard_modes(), in_checked_mode(self.model), torch.no_grad():
            energies = [self._energy(part) for part in grid.split(CHUNK)]
        values = -array(torch.cat(energies)) - self.log_normalizer
        if not np.isfinite(values).any():
            raise EnergyError(
                "`model` has no finite energy within `limits`; choose others, or look for "
                "NaN in the model."
            )
        return values

    def _energy(self, part: Tensor) -> Tensor:
        energy = self.model(part)
        if energy.shape != (len(part),):
            raise EnergyError(
                f"`model` must return one energy per point, shape ({len(part)},); got "
                f"{tuple(energy.shape)}."
            )
        return energy


def _positions(walkers: Walkers | Tensor | None) -> tuple[Tensor | None, np.ndarray]:
    """Return positions, and weights that sum to one."""
    if walkers is None:
        return None, np.empty(0)
    if isinstance(walkers, Tensor):
        return walkers, np.ones(len(walkers)) / max(1, len(walkers))
    if not isinstance(walkers.position, Tensor):
        raise ArgumentError(
            "`walkers` must have positions in one tensor (N, D), got a dictionary; pass "
            "the part to be drawn as a tensor."
        )
    weight = array(walkers.weight.flatten())
    return walkers.position, weight / weight.sum()


def _ends(
    known: Sequence[Tensor], limits: Sequence[tuple[float, float]] | None
) -> list[tuple[float, float]]:
    """Return the ends of each dimension, after a look at all shapes."""
    if not known and limits is None:
        raise ArgumentError("`plot_energy` needs `limits` if it has no walkers or data.")
    shapes = [values.shape[1:] for values in known]
    if limits is not None:
        shapes.append(torch.Size([len(limits)]))
    if any(shape != shapes[0] for shape in shapes) or shapes[0] not in ((1,), (2,)):
        raise ArgumentError(
            "`walkers`, `data` and `limits` must be of one number of dimensions, 1 or 2, "
            f"got {', '.join(str(tuple(shape)) for shape in shapes)}. Of a larger model "
            "draw projections with matplotlib, or images with `plot_samples`."
        )
    if limits is None:
        return [_bulk([array(values)[:, i] for values in known]) for i in range(*shapes[0])]
    for low, high in limits:
        if not (np.isfinite([low, high]).all() and low < high):
            raise ArgumentError(
                f"`limits` must be pairs (low, high) that increase, got {(low, high)}."
            )
    return [(float(low), float(high)) for low, high in limits]


def _bulk(columns: Sequence[np.ndarray]) -> tuple[float, float]:
    edges = bins(*columns, outside=OUTLYING)
    margin = 0.12 * (edges[-1] - edges[0])
    return float(edges[0] - margin), float(edges[-1] + margin)


def _draw_line(
    ax: Axes,
    log_density: _Landscape,
    ends: tuple[float, float],
    position: Tensor | None,
    weight: np.ndarray,
    data: Tensor | None,
) -> None:
    grid = np.linspace(*ends, POINTS[1])
    columns = [array(v)[:, 0] for v in (position, data) if v is not None]
    edges = bins(*columns, outside=OUTLYING) if columns else np.empty(0)
    if data is not None:
        density(ax, columns[-1], edges, "data", GREY, style="--", filled=False)
    if position is not None:
        density(ax, columns[0], edges, "walkers", ORANGE, weight=weight)
    curve(ax, grid, np.exp(log_density(grid[:, None])), "model", BLUE)
    ax.set_xlim(*ends)
    ax.set_ylim(0, None)
    finish(ax, "x", "density")


def _draw_plane(
    ax: Axes, log_density: _Landscape, ends: Sequence[tuple[float, float]]
) -> None:
    x, y = (np.linspace(*end, POINTS[2]) for end in ends)
    mesh = np.stack(np.meshgrid(x, y), -1)
    values = log_density(mesh.reshape(-1, 2)).reshape(mesh.shape[:2])
    finite = np.isfinite(values)
    top = math.ceil(values[finite].max())
    levels = np.arange(top - DEPTH, top + 1)
    # Walls are as white as all that is deeper than the levels.
    shown = np.where(finite, values, top - 1e6)
    # Half of the colours stay unused, so that dots stand out from the darkest.
    style = {"cmap": "Blues", "vmin": top - DEPTH, "vmax": top + DEPTH}
    drawn = ax.contourf(x, y, shown, levels, **style)
    bar = ax.figure.colorbar(drawn, ax=ax)
    bar.set_label("log density (nats)")
    bar.set_ticks(levels[::2].tolist())


def _draw_dots(
    ax: Axes, position: Tensor | None, weight: np.ndarray, data: Tensor | None
) -> None:
    if data is not None:
        x, y = array(data).T
        ax.scatter(x, y, 5, color=BLACK, alpha=0.35, linewidths=0, label="data")
    if position is not None:
        x, y = array(position).T
        # The same ink for few walkers and for many.
        area = np.clip(8000 / len(weight), 4, 40) * len(weight) * weight
        ax.scatter(x, y, area, color=VERMILLION, alpha=0.7, linewidths=0, label="walkers")
    finish(ax, "x₀", "x₁")
