"""Masses of modes: those of a mixture that is known, and what cannot be assigned."""

import math

import pytest
import torch

from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError
from pyro_jarzynski.infer.modes import mode_masses
from tests.report.runs import (
    MASSES,
    annealed,
    exact_run,
    mixture_run,
    partial_run,
    two_modes,
)
from tests.scenarios import FLOAT

TRUTH = torch.tensor(MASSES, dtype=FLOAT)


def right(draws):
    return (draws["x"][:, 0] > 0).long()


@pytest.mark.parametrize("num_chains", [1, 16])
def test_masses_of_a_known_mixture(num_chains):
    """Modes are 11 standard deviations apart. False alarms: 2e-4, by Student's law."""
    settings = {"num_walkers": 1024, "num_chains": num_chains, "learn_base": False}
    masses, errors = mode_masses(annealed(two_modes(), **settings), right)
    assert masses.dtype == errors.dtype == FLOAT
    assert float(masses.sum()) == pytest.approx(1)
    assert ((masses - TRUTH).abs() < 5 * errors).all()
    assert (errors < 0.1).all()


@pytest.mark.parametrize("run", [mixture_run, partial_run], ids=["equal", "uneven"])
def test_islands_count_alike(run):
    result = run()
    masses, errors = mode_masses(result, right)
    shares = (result.walkers.weight * right(result.weighted_samples()[0]).view(2, -1)).sum(
        1
    )
    assert float(masses[1]) == pytest.approx(float(shares.mean()))
    assert float(errors[1]) == pytest.approx(float(shares.std()) / 2**0.5)


def test_error_of_one_island_is_that_between_families():
    result = mixture_run(num_chains=1)
    masses, errors = mode_masses(result, right)
    inside = right(result.weighted_samples()[0])
    walkers = result.walkers
    variance = 0.0
    for first in walkers.ancestor.unique():
        family = walkers.ancestor == first
        centred = walkers.weight[0] * (inside - masses[1])
        variance += float(centred[family].sum()) ** 2
    assert float(errors[1]) == pytest.approx(variance**0.5)


def test_two_modes_may_be_told_by_booleans():
    result = mixture_run()
    masses, errors = mode_masses(result, lambda draws: draws["x"][:, 0] > 0)
    again = mode_masses(result, right)
    assert torch.equal(masses, again[0])
    assert torch.equal(errors, again[1])


def test_booleans_are_two_modes_though_one_was_not_found():
    masses, _ = mode_masses(mixture_run(), lambda draws: draws["x"][:, 0] > math.inf)
    assert masses.tolist() == [1, 0]


def test_mode_that_no_walker_found_has_no_mass():
    masses, errors = mode_masses(mixture_run(), right, num_modes=3)
    assert masses.shape == errors.shape == (3,)
    assert (float(masses[2]), float(errors[2])) == (0, 0)


@pytest.mark.parametrize(
    ("assign", "kind", "message"),
    [
        (lambda draws: draws["x"][:, 0], ArgumentTypeError, "integers, .* got torch.float"),
        (lambda draws: [0, 1], ArgumentTypeError, "got list. Call `.long"),
        (lambda draws: right(draws)[:-1], ArgumentError, r"shape \(128,\); got \(127,\)"),
        (lambda draws: (draws["x"] > 0).long(), ArgumentError, r"got \(128, 2\)"),
        (lambda draws: right(draws) - 1, ArgumentError, "modes from 0, got -1"),
    ],
    ids=["float", "list", "too few", "matrix", "negative"],
)
def test_what_cannot_be_assigned_is_an_error(assign, kind, message):
    with pytest.raises(kind, match=f"`assign` must return .*{message}"):
        mode_masses(mixture_run(), assign)


def test_label_beyond_the_number_of_modes_is_an_error():
    with pytest.raises(ArgumentError, match="modes below `num_modes` 1, got 1"):
        mode_masses(mixture_run(), right, num_modes=1)


def test_model_without_latents_has_no_modes():
    with pytest.raises(ArgumentError, match="`result` has no walkers to assign"):
        mode_masses(exact_run(), right)
