"""Statistics of weighted draws, against closed forms and brute force."""

import math
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from scipy.stats import norm

from pyro_jarzynski import (
    weighted_hdi,
    weighted_mean,
    weighted_quantile,
    weighted_sd,
    weighted_summary,
)
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, WeightCollapseError

FLOAT = torch.float64
COUNTS = torch.tensor([3, 1, 0, 4, 2, 5])
LEVELS = [0.0, 0.05, 0.2, 0.5, 0.8, 1.0]
STATISTICS = {
    "mean": weighted_mean,
    "sd": weighted_sd,
    "quantile": lambda x, a: weighted_quantile(x, a, 0.3),
    "hdi": lambda x, a: torch.stack(weighted_hdi(x, a, 0.6)),
    "summary": lambda x, a: torch.tensor(weighted_summary({"x": x}, a).to_numpy()),
}
every_statistic = pytest.mark.parametrize(
    "statistic", STATISTICS.values(), ids=STATISTICS.keys()
)


def uneven(num=40, *shape, seed=0):
    generator = stream(seed, "test of weighted draws")
    values = torch.randn(num, *shape, dtype=FLOAT, generator=generator)
    return values, 2 * torch.randn(num, dtype=FLOAT, generator=generator)


def with_dead(values, log_weight, dead):
    """Add draws without weight."""
    more = torch.full((5,), dead, dtype=FLOAT)
    return torch.cat([values, more]), torch.cat(
        [log_weight, torch.full_like(more, -math.inf)]
    )


@every_statistic
def test_integer_weights_are_repeated_draws(statistic):
    values, _ = uneven(len(COUNTS), 2)
    repeated = values.repeat_interleave(COUNTS, 0)
    equal = torch.zeros(len(repeated), dtype=FLOAT)
    found = statistic(values, COUNTS.to(FLOAT).log())
    torch.testing.assert_close(found, statistic(repeated, equal))


@every_statistic
def test_a_constant_in_the_log_weights_changes_nothing(statistic):
    values, log_weight = uneven(40, 3)
    for shift in (-2000.0, 700.0):
        torch.testing.assert_close(
            statistic(values, log_weight + shift), statistic(values, log_weight)
        )


@every_statistic
@pytest.mark.parametrize("dead", [-1e3, 0.0, 1e3])
def test_draws_of_weight_zero_do_not_count(statistic, dead):
    cloud = uneven(40)
    found = statistic(*with_dead(*cloud, dead))
    torch.testing.assert_close(found, statistic(*cloud))


@pytest.mark.parametrize("dead", [-1e3, 1e3])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_extreme_quantiles_are_of_draws_that_have_weight(level, dead):
    values, log_weight = uneven(40)
    more, none = with_dead(values, log_weight, dead)
    extreme = values.min() if level == 0 else values.max()
    assert float(weighted_quantile(more, none, level)) == float(extreme)


@every_statistic
def test_infinite_draws_of_weight_zero_do_not_count(statistic):
    """A log-likelihood, say, of walkers that the data have ruled out."""
    cloud = uneven(40)
    found = statistic(*with_dead(*cloud, math.inf))
    torch.testing.assert_close(found, statistic(*cloud))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_shapes_are_those_of_a_draw_and_numbers_double(shape, dtype):
    values, log_weight = uneven(20, *shape)
    values = (values * 5).to(dtype)
    found = [
        weighted_mean(values, log_weight),
        weighted_sd(values, log_weight),
        weighted_quantile(values, log_weight, 0.5),
        *weighted_hdi(values, log_weight),
    ]
    assert {x.shape for x in found} == {torch.Size(shape)}
    assert {x.dtype for x in found} == {FLOAT}


def test_moments_are_those_of_the_definition():
    values, log_weight = uneven(40, 2)
    weight = np.exp(log_weight.numpy())
    mean = np.average(values.numpy(), axis=0, weights=weight)
    variance = np.average((values.numpy() - mean) ** 2, axis=0, weights=weight)
    np.testing.assert_allclose(weighted_mean(values, log_weight), mean, rtol=1e-12)
    found = weighted_sd(values, log_weight)
    np.testing.assert_allclose(found, np.sqrt(variance), rtol=1e-12)


def test_spread_survives_a_large_mean():
    values, log_weight = uneven(40)
    found = weighted_sd(values + 1e8, log_weight)
    torch.testing.assert_close(found, weighted_sd(values, log_weight), rtol=1e-6, atol=0)


@pytest.mark.parametrize("level", [*LEVELS, 0.1, 0.3, 0.7])
def test_quantile_of_equal_weights_is_the_inverted_distribution(level):
    """At `level = k / n` as well, where a sum of weights misses by rounding."""
    for num in (1, 7, 10):
        values = uneven(num)[0]
        expected = np.quantile(values.numpy(), level, method="inverted_cdf")
        found = weighted_quantile(values, torch.zeros(num, dtype=FLOAT), level)
        assert float(found) == expected


@pytest.mark.parametrize("level", LEVELS)
def test_quantile_is_the_first_draw_that_reaches_the_level(level):
    values, log_weight = uneven(40, 2)
    weight = log_weight.softmax(0)
    found = weighted_quantile(values, log_weight, level)
    for column, quantile in zip(values.T, found, strict=True):
        reaching = [x for x in column if weight[column <= x].sum() >= level - 1e-12]
        assert quantile == min(reaching)


def shortest(values, weight, probability):
    """The shortest of all intervals between two draws that hold enough weight."""
    pairs = combinations_with_replacement(sorted(values.tolist()), 2)
    enough = (
        (upper - lower, lower, upper)
        for lower, upper in pairs
        if weight[(lower <= values) & (values <= upper)].sum() >= probability - 1e-12
    )
    return min(enough)[1:]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("probability", [0.01, 0.5, 0.9, 1.0])
def test_hdi_is_the_shortest_of_all_intervals(probability, seed):
    values, log_weight = uneven(30, 2, seed=seed)
    lower, upper = weighted_hdi(values, log_weight, probability)
    for i in range(2):
        expected = shortest(values[:, i], log_weight.softmax(0), probability)
        assert (float(lower[i]), float(upper[i])) == expected


def test_ends_of_an_interval_of_nothing_are_in_order():
    lower, upper = weighted_hdi(*uneven(30), 0.0)
    assert lower <= upper


def test_weights_make_draws_of_another_law_those_of_the_target():
    """From N(0, 2²) to N(1, 1): false alarms below 1e-8, at six standard errors.

    Without weights mean and spread are off by sixty and more.
    """
    num = 20_000
    noise = torch.randn(num, dtype=FLOAT, generator=stream(1, "proposal"))
    values = 2 * noise
    log_weight = torch.tensor(norm.logpdf(values, 1, 1) - norm.logpdf(values, 0, 2))
    weight = log_weight.softmax(0)
    error = float((weight * (values - 1)).square().sum().sqrt())
    assert abs(float(weighted_mean(values, log_weight)) - 1) < 6 * error < 0.1
    assert abs(float(values.mean()) - 1) > 60 * 2 / math.sqrt(num)
    squares = float((weight * ((values - 1) ** 2 - 1)).square().sum().sqrt())
    assert abs(float(weighted_sd(values, log_weight)) - 1) < 6 * squares / 2 < 0.1
    assert abs(float(values.std()) - 1) > 60 * 2 / math.sqrt(2 * num)
    for level in (0.1, 0.5, 0.9):
        quantile = norm.ppf(level, 1, 1)
        share = (values <= quantile).double() - level
        spread = float((weight * share).square().sum().sqrt()) / norm.pdf(quantile, 1, 1)
        found = float(weighted_quantile(values, log_weight, level))
        assert abs(found - quantile) < 6 * spread < 0.2


def test_summary_has_one_row_per_scalar_and_the_same_numbers():
    draws = {"a": uneven(30)[0], "b": uneven(30, 2, 2, seed=1)[0]}
    log_weight = uneven(30)[1]
    table = weighted_summary(draws, log_weight, 0.5)
    assert list(table.columns) == ["mean", "sd", "hdi_lower", "hdi_upper", "median"]
    assert list(table.index) == ["a", "b[0, 0]", "b[0, 1]", "b[1, 0]", "b[1, 1]"]
    one = draws["b"][:, 1, 0]
    expected = [
        weighted_mean(one, log_weight),
        weighted_sd(one, log_weight),
        *weighted_hdi(one, log_weight, 0.5),
        weighted_quantile(one, log_weight, 0.5),
    ]
    np.testing.assert_allclose(table.loc["b[1, 0]"], torch.stack(expected), rtol=1e-12)


TWO = torch.zeros(2)
WRONG = {
    "no draws": (torch.empty(0, 3), torch.empty(0), "at least one draw"),
    "a number": (torch.tensor(1.0), torch.tensor(0.0), "at least one draw"),
    "too few weights": (torch.zeros(3), TWO, r"shape \(3,\).*got \(2,\)"),
    "weights of chains": (torch.zeros(4), torch.zeros(2, 2), r"shape \(4,\).*\(2, 2\)"),
    "NaN": (torch.tensor([0.0, math.nan]), TWO, "NaN"),
}


@every_statistic
@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_cannot_be_weighted_is_refused(statistic, case):
    values, log_weight, message = case
    with pytest.raises(ArgumentError, match=message):
        statistic(values, log_weight)


@every_statistic
def test_only_tensors_are_taken(statistic):
    with pytest.raises(ArgumentTypeError, match="`log_weight` must be a tensor, got list"):
        statistic(TWO, [0.0, 0.0])
    if statistic is not STATISTICS["summary"]:
        with pytest.raises(ArgumentTypeError, match=r"`values` must be .* got ndarray"):
            statistic(np.zeros(2), TWO)


@every_statistic
@pytest.mark.parametrize("log_weight", [TWO - math.inf, TWO + math.nan])
def test_weights_that_are_no_law_are_refused(statistic, log_weight):
    with pytest.raises(WeightCollapseError):
        statistic(TWO, log_weight)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_shares_lie_between_zero_and_one(share):
    with pytest.raises(ArgumentError, match=r"`level` must lie in \[0, 1\]"):
        weighted_quantile(TWO, TWO, share)
    with pytest.raises(ArgumentError, match=r"`probability` must lie in \[0, 1\]"):
        weighted_hdi(TWO, TWO, share)
