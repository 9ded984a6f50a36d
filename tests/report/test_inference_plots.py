"""Pictures of an annealing show the numbers of its result."""

from copy import copy

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_jarzynski.core.weights import ess, log_mean_exp
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError
from pyro_jarzynski.report.inference_plots import (
    plot_annealing,
    plot_genealogy,
    plot_weights,
)
from pyro_jarzynski.report.plots import save_figure
from tests.report.histories import labels, line
from tests.report.layout import assert_legible
from tests.report.runs import (
    ISLANDS,
    SIZE,
    exact_run,
    mixture_run,
    partial_run,
    stream_run,
)

PLOTS = {plot_annealing: (2, 2), plot_weights: (2,), plot_genealogy: (2,)}
RUNS = {
    "mixture": mixture_run,
    "data": stream_run,
    "partial": partial_run,
    "one island": lambda: mixture_run(num_chains=1),
    "many islands": lambda: mixture_run(num_chains=40, num_walkers=8),
    "never resampled": lambda: mixture_run(ess_threshold=0.0),
    "waste-free": lambda: mixture_run(waste_free=True, num_moves=3),
    "one stage": lambda: mixture_run(schedule=(0, 1)),
}


@pytest.fixture
def result():
    return mixture_run()


@pytest.mark.parametrize("plot", PLOTS)
class TestAll:
    @pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
    def test_every_run_is_legible(self, plot, run):
        axes = plot(run())
        assert axes.shape == PLOTS[plot]
        assert all(ax.has_data() for ax in axes.flat)
        assert_legible(axes.flat[0].figure)

    def test_writes_a_small_png(self, plot, result, tmp_path):
        path = save_figure(plot(result), tmp_path / "figure.png")
        assert path.stat().st_size < 150_000

    def test_draws_on_given_axes(self, plot, result):
        given = Figure().subplots(*np.atleast_2d(np.empty(PLOTS[plot])).shape)
        assert plot(result, axes=given) is given

    def test_wrong_number_of_axes_is_an_error(self, plot, result):
        with pytest.raises(ArgumentError, match=r"`axes` must be \d axes, got 1"):
            plot(result, axes=[Figure().subplots()])

    def test_run_without_stages_is_an_error(self, plot):
        with pytest.raises(ArgumentError, match="`result` has no stages"):
            plot(exact_run())


def drawn(ax, label):
    curve = line(ax, label)
    assert list(curve.get_xdata()) == list(range(len(curve.get_xdata())))
    return torch.as_tensor(np.asarray(curve.get_ydata()))


def twin_of(ax):
    (beside,) = (
        other
        for other in ax.figure.axes
        if other is not ax and other.get_position().bounds == ax.get_position().bounds
    )
    return beside


class TestAnnealing:
    def test_axes_are_labelled_with_units(self, result):
        axes = plot_annealing(result)
        assert {ax.get_xlabel() for ax in axes.flat} == {"stage"}
        assert [ax.get_ylabel() for ax in axes.flat] == [
            "inverse temperature β",
            "fraction of N",
            "acceptance rate",
            "log evidence so far (nats)",
        ]
        assert twin_of(axes[1, 0]).get_ylabel() == "step size"

    def test_curves_are_means_over_the_islands(self, result):
        history, axes = result.history, plot_annealing(result)
        shown = {
            "β": (axes[0, 0], history["beta"]),
            "ESS": (axes[0, 1], history["ess"].mean(1) / SIZE),
            "conditional ESS": (axes[0, 1], history["conditional_ess"].mean(1) / SIZE),
            "acceptance rate": (axes[1, 0], history["acceptance_rate"].mean(1)),
            "step size": (twin_of(axes[1, 0]), history["step_size"]),
            "pooled": (axes[1, 1], log_mean_exp(history["log_evidence"])),
        }
        for label, (ax, values) in shown.items():
            torch.testing.assert_close(drawn(ax, label), values.double())

    def test_band_is_the_range_of_the_islands(self, result):
        band, _ = plot_annealing(result)[0, 1].collections
        heights = band.get_paths()[0].vertices[:, 1]
        ess = result.history["ess"] / SIZE
        assert heights.min() == pytest.approx(float(ess.min()))
        assert heights.max() == pytest.approx(float(ess.max()))

    def test_islands_that_resampled_are_marked(self, result):
        marks = line(plot_annealing(result)[0, 1], "island resampled")
        resampled = result.history["resampled"]
        assert marks.get_linestyle() == "None"
        assert len(marks.get_xdata()) == int(resampled.sum()) > 0
        wanted = (result.history["ess"] / SIZE)[resampled]
        assert list(marks.get_ydata()) == pytest.approx(wanted.tolist())

    def test_threshold_is_that_of_the_settings(self):
        ax = plot_annealing(mixture_run(ess_threshold=0.7))[0, 1]
        assert set(line(ax, "threshold 0.7").get_ydata()) == {0.7}

    def test_every_island_has_its_evidence(self, result):
        lines = plot_annealing(result)[1, 1].get_lines()
        islands = result.history["log_evidence"].T.tolist()
        assert [list(each.get_ydata()) for each in lines[:ISLANDS]] == islands

    def test_temperature_is_logarithmic_only_if_it_spans_a_decade(self, result):
        assert result.history["beta"].min() < 0.1
        assert plot_annealing(result)[0, 0].get_yscale() == "log"
        coarse = plot_annealing(mixture_run(schedule=(0, 0.3, 1)))[0, 0]
        assert coarse.get_yscale() == "linear"
        assert coarse.get_ylim() == (0, 1.03)

    def test_data_that_arrive_are_counted(self):
        run = stream_run()
        ax = plot_annealing(run)[0, 0]
        observations = drawn(twin_of(ax), "observations")
        assert torch.equal(observations, run.history["num_observations"])
        assert set(observations.tolist()) == {2, 4, 8}
        assert labels(ax) == ["β", "observations"]

    def test_single_stage_is_drawn_as_points_between_integers(self):
        axes = plot_annealing(mixture_run(schedule=(0, 1)))
        assert {ax.get_xlim() for ax in axes.flat} == {(-0.5, 0.5)}
        assert all(each.get_marker() == "o" for each in axes[1, 1].get_lines())
        assert all(float(tick).is_integer() for tick in axes[0, 0].get_xticks())


class TestWeights:
    def test_histogram_counts_every_walker(self, result):
        bars = plot_weights(result)[0].containers[0]
        assert sum(bar.get_height() for bar in bars) == ISLANDS * SIZE

    def test_weights_are_those_before_resampling(self, result):
        ax = plot_weights(result)[0]
        share = float(result.history["ess"][-1].mean()) / SIZE
        label = f"ESS {share:.1%} of N, Pareto shape k {float(result.pareto_k[-1]):.2f}"
        assert labels(ax) == [label, "equal weight 1/N"]
        assert share < 0.999
        assert set(line(ax, "equal weight 1/N").get_xdata()) == {0}

    def test_a_stage_can_be_chosen(self, result):
        first = plot_weights(result, stage=0)[0]
        assert first.get_xlabel() == "log (N × weight) at stage 0 (nats)"
        log_weight = result.walkers.by_island(result.stage_log_weights[0])
        assert labels(first)[0].startswith(
            f"ESS {float(ess(log_weight).mean()) / SIZE:.1%}"
        )

    def test_tiny_weights_are_told_and_not_shown(self, result):
        spoiled = copy(result)
        last = result.stage_log_weights[-1].clone()
        last[:3] = torch.tensor([-torch.inf, -1e6, -1e5])
        spoiled.stage_log_weights = [*result.stage_log_weights[:-1], last]
        ax = plot_weights(spoiled)[0]
        assert "; lighter, not shown: 3" in labels(ax)[1]
        assert sum(bar.get_height() for bar in ax.containers[0]) == ISLANDS * SIZE - 3
        assert ax.get_xlim()[0] > -100
        assert_legible(ax.figure)

    def test_pareto_shapes_and_their_limit(self, result):
        ax = plot_weights(result)[1]
        shapes = drawn(ax, "Pareto shape k")
        torch.testing.assert_close(shapes, result.pareto_k.double())
        assert set(line(ax, "limit 0.7").get_ydata()) == {0.7}
        assert ax.get_ylim()[1] > 0.7

    def test_stage_that_is_not_there_is_an_error(self, result):
        stages = len(result.pareto_k)
        with pytest.raises(ArgumentError, match=f"`stage` must be below {stages}"):
            plot_weights(result, stage=stages)
        with pytest.raises(ArgumentError, match="`stage` must be at least 0"):
            plot_weights(result, stage=-1)
        with pytest.raises(ArgumentTypeError, match="`stage` must be an integer"):
            plot_weights(result, stage=1.0)


class TestGenealogy:
    def test_families_of_every_island(self, result):
        ax = plot_genealogy(result)[0]
        numbers = result.history["num_ancestors"]
        islands = [list(each.get_ydata()) for each in ax.get_lines()[:ISLANDS]]
        assert islands == numbers.T.tolist()
        torch.testing.assert_close(drawn(ax, "mean"), numbers.double().mean(1))
        assert set(line(ax, f"N = {SIZE}").get_ydata()) == {SIZE}
        assert ax.get_yscale() == "log"

    def test_all_counts_are_inside_the_limits(self, result):
        low, high = plot_genealogy(result)[0].get_ylim()
        assert low < result.history["num_ancestors"].min()
        assert high > SIZE

    @pytest.mark.parametrize("run", [mixture_run, partial_run], ids=["equal", "uneven"])
    def test_shares_are_those_of_the_families(self, run):
        result = run()
        curve = plot_genealogy(result)[1].get_lines()[0]
        walkers = result.walkers
        weight = walkers.weight.flatten() / ISLANDS
        shares = [
            float(weight[walkers.ancestor == first].sum())
            for first in walkers.ancestor.unique()
        ]
        assert list(curve.get_xdata()) == list(range(len(shares) + 1))
        wanted = np.cumsum([0, *sorted(shares, reverse=True)])
        np.testing.assert_allclose(curve.get_ydata(), wanted, atol=1e-12)
        assert curve.get_ydata()[-1] == pytest.approx(1)
        effective = 1 / np.square(shares).sum()
        label = f"{len(shares)} families, effectively {effective:.0f}"
        assert curve.get_label() == label
