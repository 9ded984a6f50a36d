import math

import pytest

from pyro_jarzynski.errors import ArgumentError
from pyro_jarzynski.report.plots import plot_training, save_figure
from tests.report.histories import labels, line, made_up


class TestTraining:
    def test_axes_are_labelled_with_units(self):
        axes = plot_training(made_up())
        assert {ax.get_xlabel() for ax in axes.flat} == {"step (updates)"}
        assert [ax.get_ylabel() for ax in axes.flat] == [
            "NLL (nats)",
            "log Z (nats)",
            "ESS (fraction of N)",
            "resamplings so far",
            "step size",
            "learning rate",
        ]
        twins = {ax.get_ylabel() for ax in axes.flat[0].figure.axes} - {
            ax.get_ylabel() for ax in axes.flat
        }
        assert twins == {"acceptance rate", "gradient norm"}

    @pytest.mark.parametrize(
        ("panel", "label", "column"),
        [
            ((0, 0), "training", "train_nll"),
            ((0, 0), "validation ± 2 s.e.", "validation_nll"),
            ((0, 1), "audit walkers ± 2 s.e.", "log_z"),
            ((0, 1), "training walkers (biased)", "training_log_z"),
            ((0, 2), "audit walkers", "audit_ess"),
            ((0, 2), "training walkers", "ess"),
            ((1, 0), "audit walkers", "audit_resamplings"),
            ((1, 0), "training walkers", "resamplings"),
            ((1, 1), "step size", "step_size"),
            ((1, 2), "learning rate", "learning_rate"),
        ],
    )
    def test_curves_are_the_columns(self, panel, label, column):
        history = made_up()
        drawn = line(plot_training(history)[panel], label)
        assert list(drawn.get_ydata()) == history[column]
        assert list(drawn.get_xdata()) == history["step"]

    def test_twins_are_the_other_columns(self):
        history = made_up()
        figure = plot_training(history)[0, 0].figure
        twins = {ax.get_ylabel(): list(ax.get_lines()[0].get_ydata()) for ax in figure.axes}
        assert twins["acceptance rate"] == history["acceptance_rate"]
        assert twins["gradient norm"] == history["grad_norm"]

    def test_legends_stand_clear_of_the_curves(self):
        axes = plot_training(made_up())
        axes[0, 0].figure.draw_without_rendering()
        for ax in axes.flat:
            assert ax.get_legend().get_window_extent().y0 >= ax.bbox.y1

    def test_band_is_two_standard_errors(self):
        history = made_up(num_rows=1, log_z=[3.0], log_z_error=[0.25])
        (band,) = plot_training(history)[0, 1].collections
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (2.5, 3.5)

    def test_best_row_is_marked(self):
        nll = [91.0, 80.0, 85.0]
        ax = plot_training(made_up(num_rows=3, validation_nll=nll))[0, 0]
        marker = line(ax, "best: 80.00")
        assert (marker.get_xdata()[0], marker.get_ydata()[0]) == (20, 80.0)

    def test_columns_without_numbers_are_left_out(self):
        without = ("validation_nll", "training_log_z")
        axes = plot_training(made_up(without=without))
        assert labels(axes[0, 0]) == ["training"]
        assert labels(axes[0, 1]) == ["audit walkers ± 2 s.e."]
        assert not axes[0, 0].collections

    def test_panel_without_any_number_has_no_legend(self, tmp_path):
        axes = plot_training(made_up(without=("ess", "audit_ess", "learning_rate")))
        assert axes[0, 2].get_legend() is None
        assert labels(axes[1, 2]) == ["gradient norm"]
        save_figure(axes, tmp_path / "figure.png", dpi=30)

    def test_single_nan_leaves_the_curve(self):
        nll = [math.nan, *range(29)]
        ax = plot_training(made_up(validation_nll=nll))[0, 0]
        assert "validation ± 2 s.e." in labels(ax)

    @pytest.mark.parametrize("start", [1e7, math.inf], ids=["large", "infinite"])
    def test_outlying_start_does_not_squash_the_nll(self, start, tmp_path):
        history = made_up()
        history.rows[0]["train_nll"] = start
        axes = plot_training(history)
        low, high = axes[0, 0].get_ylim()
        assert low < 75.5
        assert 91 < high < 130
        save_figure(axes, tmp_path / "figure.png", dpi=30)

    def test_ordinary_start_is_shown_whole(self):
        low, high = plot_training(made_up())[0, 0].get_ylim()
        assert low < 75.5
        assert high > 91

    def test_best_row_is_shown_even_if_it_is_outlying(self):
        nll = [91.0] * 29 + [-1000.0]
        assert plot_training(made_up(validation_nll=nll))[0, 0].get_ylim()[0] < -1000

    def test_ess_threshold_is_drawn_on_request(self):
        with_line = plot_training(made_up(), ess_threshold=0.4)[0, 2]
        assert set(line(with_line, "threshold").get_ydata()) == {0.4}
        assert "threshold" not in labels(plot_training(made_up())[0, 2])
        assert with_line.get_ylim() == (0, 1.03)

    @pytest.mark.parametrize("value", [0.0, 1e-3, 5.0], ids=str)
    def test_constant_step_size_can_be_drawn(self, value, tmp_path):
        axes = plot_training(made_up(step_size=[value] * 30))
        assert axes[1, 1].get_yscale() == ("log" if value else "linear")
        save_figure(axes, tmp_path / "figure.png", dpi=30)

    def test_log_axes_span_a_decade(self):
        low, high = plot_training(made_up())[1, 1].get_ylim()
        assert high / low >= 9.99

    def test_empty_history_is_an_error(self):
        with pytest.raises(ArgumentError, match="at least one row"):
            plot_training(made_up(num_rows=0))

    def test_one_row_shows_a_point(self, tmp_path):
        axes = plot_training(made_up(num_rows=1))
        assert line(axes[0, 0], "training").get_marker() == "o"
        save_figure(axes, tmp_path / "figure.png", dpi=30)
