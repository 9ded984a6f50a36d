"""The mixture experiment: its data, its start, and masses of more than two modes."""

import math

import pytest
import torch

from pyro_jarzynski.errors import ArgumentError
from pyro_jarzynski.experiments.mixture import Mixture, MixtureCurves, mixture_learner


def test_the_paper_has_two_modes():
    mixture = Mixture.draw(1000)
    assert mixture.truth.means[:, 0].tolist() == [-10.0, 6.0]
    assert not mixture.truth.means[:, 1:].any()
    assert mixture.truth.masses().tolist() == pytest.approx([0.25, 0.75])
    assert mixture.masses == [0.25, 0.75]
    assert mixture.data.shape == (1000, 50)


@pytest.mark.parametrize("given", [True, False], ids=["mixture", "dimension"])
def test_the_settings_of_two_modes_are_the_published_ones(given):
    options = {"mixture": Mixture.draw(60, dimension=3)} if given else {"dimension": 3}
    learner = mixture_learner(num_walkers=20, audit_walkers=20, **options)
    assert [group["lr"] for group in learner.optimizer.param_groups] == pytest.approx(
        [0.0025, 0.0125]
    )
    assert learner.model.means[:, 0].tolist() == pytest.approx([-0.1, 0.1])
    assert float(learner.model.means.detach()[:, 1:].abs().max()) < 0.05
    assert learner.model.masses().tolist() == [0.5, 0.5]
    assert learner.cloud.kernel.step_size == 0.1


@pytest.mark.parametrize("num_modes", [4, 8])
def test_more_modes_are_apart_and_of_unequal_mass(num_modes):
    mixture = Mixture.draw(10_000, num_modes=num_modes)
    assert float(torch.pdist(mixture.truth.means.detach()).min()) > 8
    expected = [(2 * mode + 1) / num_modes**2 for mode in range(num_modes)]
    assert mixture.truth.masses().tolist() == pytest.approx(expected)
    assert mixture.masses == pytest.approx(expected, abs=2e-3)


def test_means_of_more_modes_lean_towards_one_each():
    mixture = Mixture.draw(2000, num_modes=4)
    learner = mixture_learner(mixture=mixture, num_walkers=20, audit_walkers=20)
    assert float(learner.model.means.detach().norm(dim=1).max()) < 0.3
    near = mixture_learner(mixture=mixture, lean=1.0, num_walkers=20, audit_walkers=20)
    assert mixture.learned_masses(near.model) == pytest.approx([0.25] * 4)


def test_a_mode_without_a_mean_has_no_mass():
    mixture = Mixture.draw(100, num_modes=4, dimension=3)
    model = Mixture.draw(4, num_modes=4, dimension=3).truth
    with torch.no_grad():
        model.means[0] = model.means[1]
    expected = [0.0, 4 / 16, 5 / 16, 7 / 16]
    assert mixture.learned_masses(model) == pytest.approx(expected)


def test_divergence_of_the_truth_is_zero():
    mixture = Mixture.draw(500, num_modes=4)
    found = mixture.divergence(mixture.truth, float(mixture.truth.log_normalizer()))
    assert found == pytest.approx(0, abs=1e-12)


def test_masses_of_four_modes_are_learned_by_weights_alone():
    """From equal masses, at the centres; the truth is 1, 3, 5 and 7 sixteenths.

    Contrastive divergence with the same walkers leaves the worst of them wrong by 0.22.
    Over six seeds the worst error by weights was 0.015 with a standard deviation of 0.005,
    at most 0.019, and that of the other 0.220 and 0.002: both bounds are more than eight
    standard deviations away, so that a false alarm has a chance far below 1e-4.
    """
    mixture = Mixture.draw(1000, num_modes=4, dimension=4)

    def worst(algorithm):
        learner = mixture_learner(
            algorithm, mixture=mixture, lean=1.0, num_walkers=2000, audit_walkers=10
        )
        learner.fit(mixture.data, 700, batch_size=None, eval_every=700)
        learned = mixture.learned_masses(learner.model)
        return max(abs(a - b) for a, b in zip(learned, mixture.masses, strict=True))

    assert worst("jarzynski") < 0.06
    assert worst("pcd") > 0.15


def test_curves_have_a_column_for_each_mode():
    mixture = Mixture.draw(60, num_modes=4, dimension=3)
    learner = mixture_learner(mixture=mixture, num_walkers=30, audit_walkers=30)
    curves = MixtureCurves(mixture)
    learner.fit(mixture.data, 4, batch_size=None, eval_every=2, callbacks=[curves])
    columns = curves.columns()
    assert {"mass", "mass_0", "mass_3"} < columns.keys()
    assert columns["mass"] == columns["mass_0"]
    assert not math.isnan(columns["exact_kl"][-1])


@pytest.mark.parametrize("num_modes", [0, 3])
def test_number_of_modes_is_checked(num_modes):
    with pytest.raises(ArgumentError, match="`num_modes` must be"):
        Mixture.draw(10, num_modes=num_modes)
