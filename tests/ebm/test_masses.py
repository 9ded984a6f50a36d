"""Masses of classes: of draws, of walkers with weights, and of relatives."""

import pytest
import torch
from scipy.stats import binomtest

from pyro_jarzynski import class_masses
from pyro_jarzynski.core.walkers import init, resample
from pyro_jarzynski.ebm.masses import ClassMasses
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError
from tests.seeds import seeded

FLOAT = torch.float64


def sign(x):
    return x[:, 0] > 0


def flat(x):
    return 0 * x.sum(1)


def walkers_at(x, log_weight=None):
    return init(x, flat, log_weight=log_weight)


def draws(num=1000, seed=0):
    """Normal draws about ½: the right half has mass 0.6915."""
    generator = seeded(seed)
    return torch.randn(num, 1, dtype=FLOAT, generator=generator) + 0.5


TRUTH = 0.6914624612740131


@pytest.mark.parametrize("seed", range(5))
def test_plain_draws(seed):
    """Error and interval are those of a binomial law. False alarms: 6e-5 for each."""
    found = class_masses(draws(seed=seed), sign)
    assert float(found.mass.sum()) == pytest.approx(1)
    assert abs(float(found.mass[1]) - TRUTH) < 4 * float(found.error[1])
    p = float(found.mass[1])
    assert float(found.error[1]) == pytest.approx((p * (1 - p) / 999) ** 0.5)
    wilson = binomtest(round(1000 * p), 1000).proportion_ci(0.95, "wilson")
    assert found.interval()[1].tolist() == pytest.approx(
        [wilson.low, wilson.high], abs=1e-4
    )


def test_weights_move_the_masses():
    """From draws about -½ to those about ½; 6e-5, and without weights 0.31."""
    x = draws() - 1
    found = class_masses(walkers_at(x, x[:, 0]), sign)
    assert abs(float(found.mass[1]) - TRUTH) < 4 * float(found.error[1])
    assert float(class_masses(walkers_at(x), sign).mass[1]) < 0.4


def test_relatives_count_as_one():
    x = draws(200)
    families = walkers_at(x)
    copies = resample(families, torch.arange(50).repeat_interleave(4))
    found, once = class_masses(copies, sign), class_masses(x[:50], sign)
    torch.testing.assert_close(found, once)
    naive = class_masses(copies.position, sign)
    assert float(naive.error[0]) < 0.6 * float(found.error[0])


def test_errors_cover():
    """95 % intervals of 200 clouds with families of four cover 173 to 200 times: 1e-5."""
    hits = 0
    for seed in range(200):
        cloud = resample(
            walkers_at(draws(400, seed)), torch.arange(100).repeat(4).sort()[0]
        )
        low, high = class_masses(cloud, sign).interval()[1].tolist()
        hits += low < TRUTH < high
    assert hits >= 173


def test_one_ancestor_knows_nothing():
    cloud = resample(walkers_at(draws(50)), torch.zeros(50, dtype=torch.long))
    found = class_masses(cloud, sign, num_classes=3)
    assert found.error.tolist() == [0.5] * 3
    # What one draw tells, by Wilson: no mass above 0.79, nor one below 0.21.
    assert found.interval()[2].tolist() == pytest.approx([0, 0.7935], abs=1e-3)


def test_a_class_that_was_not_found():
    found = class_masses(draws(100), lambda x: sign(x).long(), num_classes=3)
    assert float(found.mass[2]) == float(found.error[2]) == 0
    low, high = found.interval()[2].tolist()
    assert low == 0
    assert 0.02 < high < 0.06


@pytest.mark.parametrize(
    ("classify", "kind", "message"),
    [
        (lambda x: x[:, 0], ArgumentTypeError, "`classify` must return .* torch.float64"),
        (lambda x: sign(x)[:-1], ArgumentError, r"`classify` must return .* \(1000,\)"),
        (lambda x: sign(x).long() - 1, ArgumentError, "modes from 0, got -1"),
        (lambda x: sign(x).long() + 1, ArgumentError, "below `num_classes` 2, got 2"),
    ],
)
def test_what_is_no_class(classify, kind, message):
    with pytest.raises(kind, match=message):
        class_masses(draws(), classify, num_classes=2)


def test_levels_lie_between_0_and_1():
    masses = ClassMasses(torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.1]))
    with pytest.raises(ArgumentError, match="`level` must be a float between 0 and 1"):
        masses.interval(95)


@pytest.mark.parametrize("given", [torch.tensor(1.0), torch.zeros(0, 2)])
def test_no_draws(given):
    with pytest.raises(ArgumentError, match="`draws` must hold draws, got shape"):
        class_masses(given, sign)


def test_walkers_of_several_tensors():
    x = {"a": draws(8)}
    with pytest.raises(ArgumentError, match="one tensor of positions each"):
        class_masses(init(x, lambda x: flat(x["a"])), lambda x: sign(x["a"]))
