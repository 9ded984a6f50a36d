import math
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, OutputError
from pyro_jarzynski.report import drawing
from pyro_jarzynski.report.mixture_plot import plot_mixture
from pyro_jarzynski.report.plots import plot_samples, plot_training, save_figure
from tests.report.histories import labels, line, made_up
from tests.report.layout import assert_legible

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def mixture_run(num_rows=20, **columns):
    step = np.arange(1, num_rows + 1) * 100.0
    run = {
        "step": step,
        "mass": 0.25 + 0.2 * np.exp(-step / 500),
        "exact_kl": 10 * np.exp(-step / 300),
        "estimated_kl": 10 * np.exp(-step / 300) - 0.02,
        "log_z_error": np.full(num_rows, 0.01),
    }
    return {name: list(values) for name, values in (run | columns).items()}


def images(num, rows=8, cols=8):
    return torch.arange(num * rows * cols).reshape(num, rows, cols) % 17


DRAWERS = {
    "training": lambda axes: plot_training(made_up(), axes=axes),
    "samples": lambda axes: plot_samples(images(4), images(4), axes=axes),
    "mixture": lambda axes: plot_mixture({"j": mixture_run()}, true_mass=0.2, axes=axes),
}
SHAPES = {"training": (2, 3), "samples": (2,), "mixture": (3,)}


def figures_of_pyplot():
    """Return the figures that pyplot knows; other tests may have made some."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    return [] if pyplot is None else pyplot.get_fignums()


@pytest.mark.parametrize("name", DRAWERS)
class TestAllPlots:
    def test_makes_a_figure_and_writes_a_png(self, name, tmp_path):
        axes = DRAWERS[name](None)
        assert axes.shape == SHAPES[name]
        path = save_figure(axes, tmp_path / "figure.png", dpi=50)
        content = path.read_bytes()
        assert content.startswith(PNG_SIGNATURE)
        assert 1_000 < len(content) < 300_000

    def test_draws_on_given_axes(self, name):
        given = Figure().subplots(*np.atleast_2d(np.empty(SHAPES[name])).shape)
        drawn = DRAWERS[name](given)
        assert drawn is given
        assert all(ax.has_data() for ax in given.flat)

    def test_wrong_number_of_axes_is_an_error(self, name):
        num = math.prod(SHAPES[name])
        with pytest.raises(ArgumentError, match=f"`axes` must be {num} axes, got 1"):
            DRAWERS[name]([Figure().subplots()])

    def test_pyplot_knows_nothing_of_it(self, name):
        before = figures_of_pyplot()
        DRAWERS[name](None)
        assert figures_of_pyplot() == before

    def test_a_notebook_shows_it(self, name, monkeypatch):
        """Below a cell are the figures of pyplot; the tutorials run in real notebooks."""
        monkeypatch.setattr(drawing, "_in_notebook", lambda: True)
        before = figures_of_pyplot()
        figure = DRAWERS[name](None).flat[0].figure
        assert figures_of_pyplot() == [*before, figure.number]
        sys.modules["matplotlib.pyplot"].close(figure)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot_training(made_up(), ess_threshold=0.5),
        lambda: plot_training(made_up(step_size=[1e-5] * 30, log_z=[-12345.6] * 30)),
        lambda: plot_mixture(
            dict.fromkeys(["jarzynski", "pcd", "cd"], mixture_run()), true_mass=0
        ),
    ],
    ids=["training", "long numbers", "mixture"],
)
def test_no_text_overlaps_or_leaves_the_page(draw):
    assert_legible(draw().flat[0].figure)


class TestSamples:
    def test_images_stand_in_reading_order(self):
        sheet = plot_samples(images(5), images(5), columns=3)[0].images[0].get_array()
        assert sheet.shape == (2 * 9 + 1, 3 * 9 + 1)
        assert (sheet[10:18, 1:9] == images(5)[3].numpy()).all()
        assert np.ma.getmaskarray(sheet)[10:18, 19:27].all()

    def test_equally_many_are_shown_of_both(self):
        one, other = plot_samples(images(30), images(7), columns=4)
        assert one.images[0].get_array().shape == other.images[0].get_array().shape

    def test_at_most_a_square_is_shown(self):
        sheet = plot_samples(images(30), images(30), columns=3)[0].images[0].get_array()
        assert sheet.shape == (28, 28)

    def test_levels_round_down_and_bound(self):
        grey = torch.tensor([[[0.2, 3.99], [17.0, -1.0]]])
        image = plot_samples(grey, torch.zeros(1, 2, 2), levels=17)[0].images[0]
        assert image.get_array()[1:3, 1:3].tolist() == [[0, 3], [16, 0]]
        assert image.get_clim() == (0, 16)

    def test_scale_of_both_is_that_of_the_data(self):
        axes = plot_samples(10.0 * images(4), images(4))
        assert {ax.images[0].get_clim() for ax in axes} == {(0.0, 16.0)}

    def test_titles_and_no_ticks(self):
        axes = plot_samples(images(4), images(4), titles=("model", "MNIST"))
        assert [ax.get_title() for ax in axes] == ["model", "MNIST"]
        assert not any(len(ax.get_xticks()) + len(ax.get_yticks()) for ax in axes)

    def test_default_titles(self):
        titles = [ax.get_title() for ax in plot_samples(images(4), images(4))]
        assert titles == ["weighted draws of the model", "real digits"]

    @pytest.mark.parametrize(
        "samples",
        [images(0), images(4, cols=7), images(4).reshape(4, 64)],
        ids=["none", "size", "flat"],
    )
    def test_wrong_shape_is_an_error(self, samples):
        with pytest.raises(ArgumentError, match=r"`samples` must hold images .* got \("):
            plot_samples(samples, images(4))

    def test_columns_are_checked(self):
        with pytest.raises(ArgumentTypeError, match="`columns` must be an integer"):
            plot_samples(images(4), images(4), columns=2.5)


class TestMixture:
    def test_each_algorithm_has_one_colour(self):
        runs = {"jarzynski": mixture_run(), "pcd": mixture_run(), "cd": mixture_run()}
        mass, exact, estimated = plot_mixture(runs, true_mass=0.25)
        colours = [
            [line(ax, name).get_color() for name in runs] for ax in (mass, exact, estimated)
        ]
        assert colours[0] == colours[1] == colours[2]
        assert len(set(colours[0])) == 3

    def test_axes_are_labelled_with_units(self):
        axes = plot_mixture({"jarzynski": mixture_run()}, true_mass=0.25)
        assert {ax.get_xlabel() for ax in axes} == {"step (updates)"}
        assert [ax.get_ylabel() for ax in axes] == [
            "mass of the first mode",
            "exact KL (nats)",
            "|estimated KL| (nats)",
        ]
        assert [ax.get_yscale() for ax in axes] == ["linear", "log", "log"]

    def test_true_mass_is_a_dashed_line(self):
        mass = plot_mixture({"jarzynski": mixture_run()}, true_mass=0.31)[0]
        truth = line(mass, "truth")
        assert set(truth.get_ydata()) == {0.31}
        assert truth.get_linestyle() == "--"

    def test_estimate_is_beside_the_exact_divergence(self):
        run = mixture_run()
        estimated = plot_mixture({"jarzynski": run}, true_mass=0.25)[2]
        assert labels(estimated) == ["exact", "jarzynski ± 2 s.e."]
        drawn = line(estimated, "jarzynski ± 2 s.e.").get_ydata()
        assert list(drawn) == [abs(value) for value in run["estimated_kl"]]
        assert any(list(each.get_ydata()) == run["exact_kl"] for each in estimated.lines)

    def test_masses_of_more_modes_are_beside_their_truths(self):
        truths = [0.1, 0.2, 0.3, 0.4]
        learned = {f"mass_{mode}": np.full(20, t + 0.01) for mode, t in enumerate(truths)}
        mass = plot_mixture({"pcd": mixture_run(**learned)}, true_mass=truths)[0]
        assert mass.get_ylabel() == "mass of each mode"
        assert labels(mass) == ["truth", "pcd"]
        for mode, truth in enumerate(truths):
            curve = line(mass, f"_{mode}")
            assert set(curve.get_ydata()) == {truth + 0.01}
            theirs = [each for each in mass.lines if set(each.get_ydata()) == {truth}]
            assert [each.get_color() for each in theirs] == [curve.get_color()]
        assert_legible(mass.figure)

    def test_missing_mass_of_a_mode_is_named(self):
        with pytest.raises(ArgumentError, match=r"lacks the columns mass_0, mass_1\."):
            plot_mixture({"cd": mixture_run()}, true_mass=[0.25, 0.75])

    def test_missing_column_is_named(self):
        run = mixture_run()
        del run["mass"]
        with pytest.raises(ArgumentError, match=r"`runs\['cd'\]` lacks the columns mass\."):
            plot_mixture({"cd": run}, true_mass=0.25)

    def test_no_run_is_an_error(self):
        with pytest.raises(ArgumentError, match="at least one run"):
            plot_mixture({}, true_mass=0.25)

    def test_divergence_of_zero_can_be_drawn(self, tmp_path):
        zero = mixture_run(exact_kl=np.zeros(20), estimated_kl=np.zeros(20))
        save_figure(plot_mixture({"cd": zero}, true_mass=0.2), tmp_path / "f.png", dpi=30)


class TestSaveFigure:
    @pytest.mark.parametrize("kind", ["figure", "axes", "array"])
    def test_takes_a_figure_or_its_axes(self, kind, tmp_path):
        figure = Figure(figsize=(1, 1))
        axes = figure.subplots(1, 2)
        given = {"figure": figure, "axes": axes[0], "array": axes}[kind]
        assert save_figure(given, tmp_path / "f.png").read_bytes().startswith(PNG_SIGNATURE)

    def test_subfigure_writes_the_whole_figure(self, tmp_path):
        figure = Figure(figsize=(2, 1))
        left, _ = figure.subfigures(1, 2)
        content = save_figure(left.subplots(), tmp_path / "f.png", dpi=50).read_bytes()
        assert int.from_bytes(content[16:20], "big") == 100

    def test_directory_that_is_not_there_is_an_error(self, tmp_path):
        with pytest.raises(OutputError, match="`path` must be a file that can be written"):
            save_figure(Figure(), tmp_path / "nowhere" / "f.png")

    def test_without_an_ending_it_gets_one_and_says_so(self, tmp_path):
        path = save_figure(Figure(figsize=(1, 1)), tmp_path / "figure")
        assert path == tmp_path / "figure.png"
        assert path.read_bytes().startswith(PNG_SIGNATURE)

    def test_an_ending_that_is_no_format_is_named(self, tmp_path):
        with pytest.raises(ArgumentError, match=r"`path` must end with one of .*png, .*v1"):
            save_figure(Figure(figsize=(1, 1)), tmp_path / "figure.v1")
