"""Pictures of evidence, of work both ways, and of the masses of modes."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure

from pyro_jarzynski import AnnealedSMC, EvidenceBounds, evidence_bounds
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError
from pyro_jarzynski.report.evidence_plots import (
    plot_evidence,
    plot_mode_masses,
    plot_work,
)
from tests.report.histories import labels, line
from tests.report.layout import assert_legible
from tests.report.runs import DATA, ISLANDS, exact_run, mixture_run, partial_run
from tests.scenarios import FLOAT


def regression(x, y):
    slope = pyro.sample("slope", dist.Normal(torch.zeros((), dtype=FLOAT), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def gaussian_works(num=4000, log_z=-3.0, variance=1.0):
    """Works of Gaussian laws, of means `log Z - v/2` forward and `log Z + v/2` back."""
    level = torch.special.ndtri((torch.arange(num, dtype=FLOAT) + 0.5) / num)
    noise = level * math.sqrt(variance)
    here = torch.tensor([log_z], dtype=FLOAT)
    forward, backward = (log_z + sign * variance / 2 + noise for sign in (-1, 1))
    return EvidenceBounds(
        here - 0.1, here + 0.2, here, 0.3, math.nan, forward[None], backward[None]
    )


def steps(ax, name):
    """Heights and edges of the outlined histogram whose label starts so."""
    (patch,) = (p for p in ax.patches if str(p.get_label()).startswith(name))
    values, edges, _ = patch.get_data()
    return values, edges


class TestEvidence:
    def test_points_and_bars_are_those_of_the_islands(self):
        result = mixture_run()
        (bars,) = plot_evidence(result).containers
        points, _, (segments,) = bars
        islands = result.log_evidence_per_chain
        assert list(points.get_xdata()) == list(range(ISLANDS))
        assert list(points.get_ydata()) == islands.tolist()
        for segment, island, error in zip(
            segments.get_segments(),
            islands,
            result.walkers.log_normalizer_error,
            strict=True,
        ):
            ends = [float(island - error), float(island + error)]
            assert list(segment[:, 1]) == pytest.approx(ends)

    @pytest.mark.parametrize("probability", [0.5, 0.9])
    def test_band_is_the_interval(self, probability):
        result = mixture_run()
        ax = plot_evidence(result, probability=probability)
        (band,) = ax.patches
        box = band.get_extents().transformed(ax.transData.inverted())
        assert (box.y0, box.y1) == pytest.approx(result.log_evidence_interval(probability))
        assert f"{100 * probability:g} % interval" in labels(ax)

    def test_pooled_and_truth_are_lines(self):
        result = mixture_run()
        ax = plot_evidence(result, truth=0.0)
        pooled = line(ax, f"pooled: {result.log_evidence:.3f}")
        assert set(pooled.get_ydata()) == {result.log_evidence}
        assert set(line(ax, "truth: 0.000").get_ydata()) == {0.0}
        assert "truth: 0.000" not in labels(plot_evidence(result))

    def test_partial_run_says_of_which_law_it_is(self):
        result = partial_run()
        beta = float(result.history["beta"][-1])
        assert plot_evidence(result).get_ylabel() == f"log Z at β {beta:.3g} (nats)"
        assert plot_evidence(mixture_run()).get_ylabel() == "log evidence (nats)"

    @pytest.mark.parametrize(
        "run",
        [mixture_run, exact_run, lambda: mixture_run(num_chains=40, num_walkers=8)],
        ids=["usual", "without latents", "many islands"],
    )
    def test_every_run_is_legible(self, run):
        ax = plot_evidence(run(), truth=-1.0)
        assert_legible(ax.figure)

    def test_wrong_probability_is_an_error(self):
        with pytest.raises(ArgumentError, match="`probability` must lie in"):
            plot_evidence(mixture_run(), probability=1.5)


class TestWork:
    def test_densities_are_those_of_the_works(self):
        bounds = gaussian_works()
        ax = plot_work(bounds)
        for name, works in (("forward", bounds.forward), ("backward", bounds.backward)):
            heights, edges = steps(ax, name)
            inside = (works[0] >= edges[0]) & (works[0] <= edges[-1])
            total = (heights * np.diff(edges)).sum()
            assert total == pytest.approx(float(inside.double().mean()))
            assert total > 0.98

    def test_histograms_share_bins_and_cross_at_the_evidence(self):
        ax = plot_work(gaussian_works(num=100_000))
        forward, edges = steps(ax, "forward")
        backward, same = steps(ax, "backward")
        assert np.array_equal(edges, same)
        middle = (edges[1:] + edges[:-1]) / 2
        above = forward > backward
        assert above[middle < -3.1].all()
        assert not above[middle > -2.9].any()

    def test_lines_are_bennett_bounds_and_truth(self):
        ax = plot_work(gaussian_works(), log_evidence=-2.5)
        shown = {"Bennett": -3.0, "lower": -3.1, "upper": -2.8, "truth": -2.5}
        for name, place in shown.items():
            assert set(line(ax, f"{name}: {place:.2f}").get_xdata()) == {place}
        assert not any("truth" in label for label in labels(plot_work(gaussian_works())))

    def test_outlying_works_do_not_squash_the_picture_and_are_told(self):
        bounds = gaussian_works(num=1000)
        bounds.forward[0, :60] = -1e6
        bounds.forward[0, 0] = -torch.inf
        ax = plot_work(bounds)
        _, edges = steps(ax, "forward")
        assert edges[0] > -10
        assert "forward, 6% outside" in labels(ax)
        assert "backward" in labels(ax)

    def test_each_data_set_can_be_drawn(self):
        sampler = AnnealedSMC(regression, num_walkers=64, num_chains=2, progress=False)
        bounds = evidence_bounds(sampler, DATA - 1, DATA, num_simulations=2)
        ax = plot_work(bounds, index=1)
        assert f"Bennett: {float(bounds.bennett[1]):.2f}" in labels(ax)
        assert ax.get_xlabel() == "minus work forward, work backward (nats)"
        assert ax.get_ylabel() == "density (1 / nat)"
        assert_legible(ax.figure)

    def test_equal_works_can_be_drawn(self):
        bounds = gaussian_works(variance=0.0)
        heights, edges = steps(plot_work(bounds), "forward")
        assert (heights * np.diff(edges)).sum() == pytest.approx(1)

    def test_works_of_which_most_are_equal_are_all_shown(self):
        bounds = gaussian_works(num=100, variance=0.0)
        bounds.forward[0, :10] = -8.0
        heights, edges = steps(plot_work(bounds), "forward")
        assert edges[0] == -8
        assert (heights * np.diff(edges)).sum() == pytest.approx(1)

    def test_data_set_that_is_not_there_is_an_error(self):
        with pytest.raises(ArgumentError, match=r"`index` must be below 1, .* got 1"):
            plot_work(gaussian_works(), index=1)
        with pytest.raises(ArgumentTypeError, match="`index` must be an integer"):
            plot_work(gaussian_works(), index=0.5)


class TestModeMasses:
    MASSES = torch.tensor([0.2, 0.3, 0.5], dtype=FLOAT)
    ERRORS = torch.tensor([0.01, 0.02, 0.03], dtype=FLOAT)

    def test_points_and_intervals(self):
        ax = plot_mode_masses(self.MASSES, self.ERRORS, truth=[0.25, 0.25, 0.5])
        ((points, _, (segments,)),) = ax.containers
        assert list(points.get_ydata()) == self.MASSES.tolist()
        for segment, mass, error in zip(
            segments.get_segments(), self.MASSES, self.ERRORS, strict=True
        ):
            ends = [float(mass - 2 * error), float(mass + 2 * error)]
            assert list(segment[:, 1]) == pytest.approx(ends)
        assert list(line(ax, "truth").get_ydata()) == [0.25, 0.25, 0.5]
        assert labels(ax) == ["truth", "estimate ± 2 s.e."]
        assert_legible(ax.figure)

    def test_without_errors_there_are_no_bars(self):
        ax = plot_mode_masses(self.MASSES)
        ((_, _, bars),) = ax.containers
        assert not bars
        assert labels(ax) == ["estimate"]

    def test_names_stand_below(self):
        ax = plot_mode_masses(self.MASSES, labels=["left", "middle", "right"])
        assert [text.get_text() for text in ax.get_xticklabels()] == [
            "left",
            "middle",
            "right",
        ]
        assert_legible(ax.figure)

    @pytest.mark.parametrize("name", ["errors", "truth", "labels"])
    def test_one_entry_per_mode_is_needed(self, name):
        with pytest.raises(ArgumentError, match=f"`{name}` must have 3 entries.* got 2"):
            plot_mode_masses(self.MASSES, **{name: [0.5, 0.5]})

    @pytest.mark.parametrize("masses", [torch.ones(2, 2), torch.ones(0)])
    def test_masses_must_be_a_vector(self, masses):
        with pytest.raises(ArgumentError, match=r"`masses` must have shape \(modes,\)"):
            plot_mode_masses(masses)


@pytest.mark.parametrize(
    "draw",
    [
        lambda axes: plot_evidence(mixture_run(), axes=axes),
        lambda axes: plot_work(gaussian_works(), axes=axes),
        lambda axes: plot_mode_masses(torch.ones(2) / 2, axes=axes),
    ],
    ids=["evidence", "work", "masses"],
)
def test_draws_on_given_axes(draw):
    ax = Figure().subplots()
    assert draw(ax) is ax
    assert ax.has_data()
