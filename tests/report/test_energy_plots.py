"""Landscapes of energy-based models show densities, weights and data."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_jarzynski import GaussianMixtureEnergy, Walkers, init
from pyro_jarzynski.errors import ArgumentError, EnergyError
from pyro_jarzynski.report.energy_plots import CHUNK, POINTS, plot_energy
from pyro_jarzynski.report.plots import save_figure
from tests.report.histories import labels, line
from tests.report.layout import assert_legible
from tests.report.test_evidence_plots import steps
from tests.scenarios import FLOAT

LIMITS = [(-6.0, 6.0), (-5.0, 5.0)]


def mixture(dimension):
    means = torch.zeros(2, dimension, dtype=FLOAT)
    means[:, 0] = torch.tensor([-2.0, 2.0])
    return GaussianMixtureEnergy(means, torch.tensor([0.0, -math.log(3)], dtype=FLOAT))


def weighted(dimension, num=400):
    """Walkers of the mixture: equal numbers in both modes, weighted to ¼ and ¾."""
    model, noise = mixture(dimension), torch.Generator().manual_seed(0)
    mode = torch.arange(num) % 2
    position = torch.randn(num, dimension, dtype=FLOAT, generator=noise)
    position[:, 0] += torch.where(mode == 0, -2.0, 2.0)
    log_weight = torch.where(mode == 0, 0.0, math.log(3))
    return init(position, model, log_weight=log_weight)


class TestLine:
    def test_curve_is_the_normalised_density(self):
        model = mixture(1)
        log_z = float(model.log_normalizer())
        ax = plot_energy(model, log_normalizer=log_z, limits=LIMITS[:1])
        curve = line(ax, "model")
        grid = torch.as_tensor(curve.get_xdata())[:, None]
        wanted = (-model(grid) - log_z).exp().tolist()
        assert list(curve.get_ydata()) == pytest.approx(wanted)
        total = torch.trapezoid(torch.tensor(wanted), grid[:, 0])
        assert float(total) == pytest.approx(1, abs=1e-3)
        assert ax.get_xlim() == LIMITS[0]

    def test_histogram_is_weighted(self):
        walkers = weighted(1)
        heights, edges = steps(plot_energy(mixture(1), walkers), "walkers")
        mass = heights * np.diff(edges)
        assert mass.sum() == pytest.approx(1, abs=0.01)
        assert mass[edges[1:] <= 0].sum() == pytest.approx(0.25, abs=0.06)

    def test_data_are_an_outline(self):
        data = mixture(1).draw(500, torch.Generator().manual_seed(1))
        ax = plot_energy(mixture(1), weighted(1), data=data)
        heights, edges = steps(ax, "data")
        wanted = np.histogram(data[:, 0].numpy(), edges)[0] / 500 / np.diff(edges)
        np.testing.assert_allclose(heights, wanted)
        assert labels(ax) == ["data", "walkers", "model"]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "density")


class TestPlane:
    def test_levels_are_those_of_the_log_density(self):
        model = mixture(2)
        log_z = float(model.log_normalizer())
        ax = plot_energy(model, log_normalizer=log_z, limits=LIMITS)
        contours = ax.collections[0]
        top = math.log(0.75 / (2 * math.pi))
        assert contours.levels[-1] == math.ceil(top)
        assert contours.levels[0] == math.ceil(top) - 12
        assert (ax.get_xlim(), ax.get_ylim()) == tuple(LIMITS)
        assert ax.figure.axes[1].get_ylabel() == "log density (nats)"

    def test_area_of_a_dot_is_its_weight(self):
        walkers = weighted(2)
        ax = plot_energy(mixture(2), walkers)
        (dots,) = (c for c in ax.collections if c.get_label() == "walkers")
        np.testing.assert_array_equal(dots.get_offsets(), walkers.position.numpy())
        area = dots.get_sizes()
        np.testing.assert_allclose(area / area.sum(), walkers.weight.numpy())
        assert area.mean() > 3

    def test_data_are_dots(self):
        data = mixture(2).draw(50, torch.Generator().manual_seed(1))
        ax = plot_energy(mixture(2), weighted(2), data=data)
        (dots,) = (c for c in ax.collections if c.get_label() == "data")
        np.testing.assert_array_equal(dots.get_offsets(), data.numpy())
        assert labels(ax) == ["data", "walkers"]

    def test_grid_comes_in_chunks_without_gradients(self):
        sizes = []

        def energy(x):
            sizes.append(len(x))
            assert not torch.is_grad_enabled()
            return x.square().sum(1) / 2

        plot_energy(energy, limits=LIMITS)
        assert max(sizes) <= CHUNK
        assert sum(sizes) == POINTS[2] ** 2

    def test_walls_are_left_white(self, tmp_path):
        def energy(x):
            return torch.where(x[:, 0] > 0, x.square().sum(1) / 2, torch.inf)

        ax = plot_energy(energy, limits=LIMITS)
        paths = np.concatenate([p.vertices for p in ax.collections[0].get_paths()])
        assert paths[:, 0].min() > -0.1
        save_figure(ax, tmp_path / "figure.png", dpi=30)


@pytest.mark.parametrize("dimension", [1, 2])
class TestBoth:
    def test_is_legible(self, dimension):
        data = mixture(dimension).draw(50, torch.Generator().manual_seed(1))
        ax = plot_energy(mixture(dimension), weighted(dimension), data=data)
        assert_legible(ax.figure)

    def test_limits_cover_walkers_and_data(self, dimension):
        data = torch.full((20, dimension), 9.0, dtype=FLOAT)
        ax = plot_energy(mixture(dimension), weighted(dimension), data=data)
        assert ax.get_xlim()[0] < -4
        assert ax.get_xlim()[1] > 9

    def test_positions_weigh_alike(self, dimension):
        walkers = weighted(dimension)
        ax = plot_energy(mixture(dimension), walkers.position)
        assert "walkers" in labels(ax)

    def test_draws_on_given_axes(self, dimension):
        given = Figure().subplots()
        ends = LIMITS[:dimension]
        assert plot_energy(mixture(dimension), limits=ends, axes=given) is given

    def test_single_precision_model(self, dimension):
        plot_energy(mixture(dimension).float(), limits=LIMITS[:dimension])


class TestErrors:
    def test_limits_are_needed_without_walkers_and_data(self):
        with pytest.raises(ArgumentError, match="needs `limits`"):
            plot_energy(mixture(1))

    @pytest.mark.parametrize(
        "arguments",
        [
            {"walkers": torch.zeros(5, 3)},
            {"walkers": torch.zeros(5)},
            {"limits": [(0, 1)] * 3},
            {"walkers": torch.zeros(5, 2), "limits": LIMITS[:1]},
            {"walkers": torch.zeros(5, 2), "data": torch.zeros(5, 1)},
        ],
        ids=["three", "none", "limits", "differ", "data"],
    )
    def test_other_dimensions(self, arguments):
        with pytest.raises(ArgumentError, match=r"1 or 2, got \(.*`plot_samples`"):
            plot_energy(mixture(2), **arguments)

    @pytest.mark.parametrize("name", ["walkers", "data"])
    def test_nothing_to_draw(self, name):
        with pytest.raises(ArgumentError, match="must hold at least one point each"):
            plot_energy(mixture(1), **{name: torch.empty(0, 1)})

    @pytest.mark.parametrize("ends", [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf)])
    def test_limits_must_increase(self, ends):
        with pytest.raises(ArgumentError, match="`limits` must be pairs"):
            plot_energy(mixture(1), limits=[ends])

    def test_model_that_returns_no_energies(self):
        with pytest.raises(EnergyError, match=r"shape \(801,\); got \(801, 1\)"):
            plot_energy(lambda x: x, limits=LIMITS[:1])

    def test_energy_that_is_nowhere_finite(self):
        with pytest.raises(EnergyError, match="no finite energy within `limits`"):
            plot_energy(lambda x: torch.full((len(x),), torch.inf), limits=LIMITS)

    def test_positions_in_a_dictionary(self):
        walkers = weighted(1)
        both: Walkers = walkers._replace(position={"x": walkers.position})
        with pytest.raises(ArgumentError, match="got a dictionary"):
            plot_energy(mixture(1), both)
