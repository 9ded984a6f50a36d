"""Pictures of an annealing: its course, its weights, and the families of its walkers.

    save_figure(plot_annealing(result), "annealing.png")

Stage `k` is row `k` of `result.history`, from 0. Curves are means over the islands, and
bands range from the lowest island to the highest.
"""

from collections.abc import Iterable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_jarzynski.core.weights import log_mean_exp, normalise
from pyro_jarzynski.diagnostics.psis import MAX_PARETO_K
from pyro_jarzynski.errors import ArgumentError, count
from pyro_jarzynski.infer.result import SMCResult
from pyro_jarzynski.report import drawing
from pyro_jarzynski.report.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    VERMILLION,
    AxesArray,
    curve,
)
from pyro_jarzynski.report.inference_drawing import (
    FENCE,
    array,
    bins,
    check_stages,
    finish,
    spread,
    threads,
    twin,
)


def plot_annealing(result: SMCResult, *, axes: Iterable[Axes] | None = None) -> AxesArray:
    """Plot the course of an annealing in four panels against its stages.

    The panels: inverse temperature β, with the number of observations if data arrive;
    effective sample size and that of each step alone as fractions of the walkers, with the
    islands that resampled; acceptance rate with step size; log evidence so far in nats.

    Args:
        result: A run with at least one stage.
        axes: Four axes; `None` makes a figure.

    Returns:
        The axes, `(2, 2)`, or as given. The third has a twin on its right, and the first
        if data arrive.

    Raises:
        ArgumentError: The model has no latents, or `axes` are not four.

    Example:
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> smc = pj.AnnealedSMC(model, num_walkers=256, progress=False)
        >>> result = smc.run(torch.tensor(0.5))
        >>> pj.plot_annealing(result).shape
        (2, 2)
    """
    check_stages(result)
    drawn = drawing.panels(axes, 2, 2, (9.6, 6.8))
    beta, ess, moves, evidence = drawn.flat
    _draw_beta(beta, result)
    _draw_ess(ess, result)
    spread(moves, result.history["acceptance_rate"], "acceptance rate", BLUE)
    moves.set_ylim(0, 1.03)
    steps = twin(moves, result.history["step_size"], "step size")
    drawing.log_scale(steps)
    finish(moves, "stage", "acceptance rate", beside=steps, integer=True)
    log_evidence = result.history["log_evidence"]
    threads(evidence, log_evidence, log_mean_exp(log_evidence), "pooled")
    finish(evidence, "stage", "log evidence so far (nats)", integer=True)
    return drawn


def plot_weights(
    result: SMCResult, *, stage: int | None = None, axes: Iterable[Axes] | None = None
) -> AxesArray:
    """Plot how even the weights are before a stage resamples.

    The panels: a histogram of the log-weights of all walkers, relative to `1/N` of their
    island, with ESS and Pareto shape; and the Pareto shape of every stage, which should be
    below 0.7.

    Args:
        result: A run with at least one stage.
        stage: The stage of the histogram, from 0; `None` is the last.
        axes: Two axes; `None` makes a figure.

    Returns:
        The axes, `(2,)`, or as given.

    Raises:
        ArgumentError: The model has no latents, there is no such stage, or `axes` are not
            two.

    Source:
        Vehtari, Simpson, Gelman, Yao, Gabry (2024), J. Mach. Learn. Res. 25(72).

    Example:
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> smc = pj.AnnealedSMC(model, num_walkers=256, progress=False)
        >>> result = smc.run(torch.tensor(0.5))
        >>> pj.plot_weights(result).shape
        (2,)
    """
    check_stages(result)
    stages = len(result.history["beta"])
    if stage is not None and count("stage", stage, 0) >= stages:
        raise ArgumentError(f"`stage` must be below {stages}, their number, got {stage}.")
    drawn = drawing.panels(axes, 1, 2, (9.6, 3.8))
    histogram, shapes = drawn.flat
    _draw_weights(histogram, result, stages - 1 if stage is None else stage)
    curve(shapes, *_by_stage(result.pareto_k), "Pareto shape k", BLUE)
    shapes.axhline(
        MAX_PARETO_K, color=VERMILLION, linestyle="--", label=f"limit {MAX_PARETO_K:g}"
    )
    low, high = shapes.get_ylim()
    shapes.set_ylim(min(low, -0.05), max(high, 0.8))
    finish(shapes, "stage", "Pareto shape k of the weights", integer=True)
    return drawn


def plot_genealogy(result: SMCResult, *, axes: Iterable[Axes] | None = None) -> AxesArray:
    """Plot how many first walkers have descendants, and how the weight is shared by them.

    Walkers with a common ancestor are a family. The panels: number of families of an
    island at each stage; and cumulative share of the final weight of all islands, largest
    families first, beside that of equal ones.

    Args:
        result: A run with at least one stage.
        axes: Two axes; `None` makes a figure.

    Returns:
        The axes, `(2,)`, or as given.

    Raises:
        ArgumentError: The model has no latents, or `axes` are not two.

    Example:
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> smc = pj.AnnealedSMC(model, num_walkers=256, progress=False)
        >>> result = smc.run(torch.tensor(0.5))
        >>> pj.plot_genealogy(result).shape
        (2,)
    """
    check_stages(result)
    drawn = drawing.panels(axes, 1, 2, (9.6, 3.8))
    numbers, shares = drawn.flat
    alive = result.history["num_ancestors"].double()
    threads(numbers, alive, alive.mean(1), "mean")
    size = result.settings.num_walkers
    numbers.axhline(size, color=GREY, linestyle=":", label=f"N = {size}")
    drawing.log_scale(numbers)
    numbers.set_ylim(top=1.2 * size)
    finish(numbers, "stage", "families of an island", integer=True)
    family = _family_weights(result)
    number = np.arange(len(family) + 1)
    effective = 1 / np.square(family).sum()
    label = f"{len(family)} families, effectively {effective:.0f}"
    shares.plot(number, np.cumsum([0, *family]), color=BLUE, label=label, linewidth=1.5)
    shares.plot(number[[0, -1]], [0, 1], ":", color=GREY, label="equal families")
    shares.set(xlim=(0, len(family)), ylim=(0, 1.03))
    label = "cumulative share of the weight"
    finish(shares, "families, largest first", label, integer=True)
    return drawn


def _family_weights(result: SMCResult) -> np.ndarray:
    """Return the share of each family in the final weight, largest first."""
    weight = result.walkers.weight
    shares = torch.zeros(weight.numel(), dtype=weight.dtype, device=weight.device)
    shares.index_add_(0, result.walkers.ancestor, weight.flatten() / len(weight))
    alive = shares[result.walkers.ancestor.unique()]
    return array(alive.sort(descending=True).values)


def _by_stage(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(len(values)), array(values)


def _draw_beta(ax: Axes, result: SMCResult) -> None:
    stage, beta = _by_stage(result.history["beta"])
    curve(ax, stage, beta, "β", BLUE)
    # A logarithmic axis needs a decade; within one, the plain axis says more.
    if beta.min() < 0.1:
        drawing.log_scale(ax)
    else:
        ax.set_ylim(0, 1.03)
    beside = None
    if "num_observations" in result.history:
        beside = twin(ax, result.history["num_observations"], "observations")
        beside.set_ylim(0, None)
        beside.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    finish(ax, "stage", "inverse temperature β", beside=beside, integer=True)


def _draw_ess(ax: Axes, result: SMCResult) -> None:
    history, size = result.history, result.settings.num_walkers
    spread(ax, history["ess"] / size, "ESS", BLUE)
    spread(ax, history["conditional_ess"] / size, "conditional ESS", GREEN, style="--")
    stage, island = np.nonzero(array(history["resampled"]))
    if len(stage):
        ess = array(history["ess"])[stage, island] / size
        ax.plot(stage, ess, "v", color=BLACK, markersize=4, label="island resampled")
    threshold = result.settings.ess_threshold
    ax.axhline(threshold, color=GREY, linestyle=":", label=f"threshold {threshold:g}")
    ax.set_ylim(0, 1.03)
    finish(ax, "stage", "fraction of N", integer=True)


def _draw_weights(ax: Axes, result: SMCResult, stage: int) -> None:
    weight = normalise(result.walkers.by_island(result.stage_log_weights[stage]))
    size = result.settings.num_walkers
    relative = array((size * weight[weight > 0]).log())
    share = float(result.history["ess"][stage].mean()) / size
    # Small weights may be very small, and do not matter; large ones must all be seen.
    edges = bins(relative, fence=FENCE)
    shown = relative[relative >= edges[0]]
    label = f"ESS {share:.1%} of N, Pareto shape k {float(result.pareto_k[stage]):.2f}"
    ax.hist(shown, bins(shown).tolist(), color=BLUE, alpha=0.6, label=label)
    few = weight.numel() - len(shown)
    told = f"; lighter, not shown: {few}" if few else ""
    ax.axvline(0, color=BLACK, linestyle="--", label=f"equal weight 1/N{told}")
    finish(ax, f"log (N × weight) at stage {stage} (nats)", "walkers")
