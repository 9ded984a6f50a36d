"""Leave-one-out predictive densities of weighted draws, against exact ones."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from pyro_jarzynski import weighted_loo, weighted_mean
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.diagnostics.arviz_library import import_arviz
from pyro_jarzynski.diagnostics.inference_data import Group, build
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError

FLOAT = torch.float64
DATA = np.array([0.3, 1.9, -0.4, 1.1, 2.2, 0.8, 3.1, 1.4])
PRIOR_VARIANCE = 4.0
NUM = 8000


def posterior(data):
    """Mean and variance of `m ~ N(0, 4)` after unit normal data."""
    precision = 1 / PRIOR_VARIANCE + len(data)
    return data.sum() / precision, 1 / precision


def exact():
    """`log p(y_i | y_{-i})`, in closed form."""
    found = []
    for i in range(len(DATA)):
        mean, variance = posterior(np.delete(DATA, i))
        found.append(norm.logpdf(DATA[i], mean, math.sqrt(1 + variance)))
    return np.array(found)


@pytest.fixture(scope="module")
def wide():
    """Exact weighted draws, from a law three times as wide and beside the posterior."""
    centre, scale = posterior(DATA)[0] - 1.0, 3 * math.sqrt(posterior(DATA)[1])
    noise = torch.randn(NUM, dtype=FLOAT, generator=stream(0, "wide")).numpy()
    m = centre + scale * noise
    rows = norm.logpdf(DATA, m[:, None], 1)
    log_prior = norm.logpdf(m, 0, math.sqrt(PRIOR_VARIANCE))
    log_weight = log_prior + rows.sum(1) - norm.logpdf(m, centre, scale)
    return tuple(torch.tensor(x) for x in (m, rows, log_weight))


def standard_errors(rows, log_weight):
    """Of each log predictive density, by the delta method for a ratio of sums."""
    left_out = (log_weight[:, None] - rows).softmax(0)
    density = rows.exp()
    centred = density / (left_out * density).sum(0) - 1
    return (left_out * centred).square().sum(0).sqrt()


def test_weighted_draws_have_the_exact_predictive_density(wide):
    """False alarms: below 1e-7 for the largest of eight, at six standard errors."""
    _, rows, log_weight = wide
    loo, error = weighted_loo(rows, log_weight), standard_errors(rows, log_weight)
    gap = (loo.pointwise - torch.tensor(exact())).abs()
    assert error.max() < 0.02
    assert (gap < 6 * error).all()
    assert loo.elpd == pytest.approx(exact().sum(), abs=6 * float(error.sum()))
    assert (loo.pareto_k < 0.7).all()
    assert loo.pointwise.dtype == FLOAT


def test_without_their_weights_the_same_draws_are_far_off(wide):
    """What `az.loo` and a plain mean make of a raw cloud."""
    m, rows, log_weight = wide
    none = torch.zeros_like(log_weight)
    error = float(standard_errors(rows, none).square().sum().sqrt())
    assert abs(weighted_loo(rows, none).elpd - exact().sum()) > 30 * error
    truth = posterior(DATA)[0]
    assert abs(float(m.mean()) - truth) > 50 * float(m.std()) / math.sqrt(NUM)
    weight = log_weight.softmax(0)
    error = float((weight * (m - truth)).square().sum().sqrt())
    assert abs(float(weighted_mean(m, log_weight)) - truth) < 6 * error


def test_sums_and_errors_are_those_of_the_data(wide):
    _, rows, log_weight = wide
    loo = weighted_loo(rows, log_weight)
    assert loo.elpd == pytest.approx(float(loo.pointwise.sum()))
    spread = float(loo.pointwise.numpy().std())
    assert loo.se == pytest.approx(math.sqrt(len(DATA)) * spread)
    lppd = (log_weight.log_softmax(0)[:, None] + rows).logsumexp(0)
    assert loo.p_loo == pytest.approx(float(lppd.sum()) - loo.elpd)
    assert 0.5 < loo.p_loo < 1.5
    assert str(loo).startswith(f"elpd_loo {loo.elpd:.2f} ± {loo.se:.2f}")
    assert "0 of 8 data have a Pareto k above 0.7" in str(loo)


def test_data_of_any_shape_and_precision(wide):
    _, rows, log_weight = wide
    flat = weighted_loo(rows, log_weight)
    table = weighted_loo(rows.reshape(NUM, 2, 4), log_weight - 500)
    torch.testing.assert_close(table.pointwise, flat.pointwise)
    single = weighted_loo(rows.float(), log_weight.float())
    assert single.pointwise.dtype == FLOAT
    torch.testing.assert_close(single.pointwise, flat.pointwise, rtol=0, atol=1e-4)


def test_draws_of_weight_zero_do_not_count(wide):
    _, rows, log_weight = wide
    more = torch.cat([rows, torch.full((9, len(DATA)), -math.inf, dtype=FLOAT)])
    none = torch.cat([log_weight, torch.full((9,), -math.inf, dtype=FLOAT)])
    expected = weighted_loo(rows, log_weight)
    found = weighted_loo(more, none)
    torch.testing.assert_close(found.pointwise, expected.pointwise)
    torch.testing.assert_close(found.pareto_k, expected.pareto_k)


def test_one_datum_that_no_other_tells_of_has_the_prior_predictive():
    """Left out, nothing is left: weights times likelihood are those of the prior."""
    generator = stream(0, "prior")
    m = 2 * torch.randn(100_000, dtype=FLOAT, generator=generator)
    row = torch.tensor(norm.logpdf(1.0, m.numpy(), 1))
    found = weighted_loo(row[:, None], row)
    expected = norm.logpdf(1.0, 0, math.sqrt(1 + PRIOR_VARIANCE))
    # Six standard errors of a mean of densities of which the spread is below their size.
    assert found.elpd == pytest.approx(expected, abs=6 / math.sqrt(100_000))


def test_equal_weights_are_those_of_arviz(wide):
    """To the digit: the same tails are smoothed, as those of independent draws."""
    arviz = import_arviz()
    _, rows, log_weight = wide
    chosen = torch.multinomial(log_weight.softmax(0), 2000, True, generator=stream(0, "m"))
    drawn = rows[chosen]
    groups = {
        "posterior": Group({"m": np.zeros((2, 1000))}),
        "log_likelihood": Group({"y": drawn.reshape(2, 1000, -1).numpy()}),
    }
    theirs = arviz.loo(build(groups), pointwise=True, reff=1.0)
    ours = weighted_loo(drawn, torch.zeros(2000, dtype=FLOAT))
    elpd = theirs.elpd_loo if hasattr(theirs, "elpd_loo") else theirs.elpd
    pointwise = theirs.loo_i if hasattr(theirs, "loo_i") else theirs.elpd_i
    p_loo = theirs.p_loo if hasattr(theirs, "p_loo") else theirs.p
    assert ours.elpd == pytest.approx(float(elpd), abs=1e-9)
    # From its version 1 on ArviZ divides by one datum less.
    freedom = 0 if hasattr(theirs, "elpd_loo") else 1
    se = math.sqrt(len(DATA)) * float(ours.pointwise.numpy().std(ddof=freedom))
    assert se == pytest.approx(float(theirs.se), abs=1e-9)
    assert ours.p_loo == pytest.approx(float(p_loo), abs=1e-9)
    np.testing.assert_allclose(ours.pointwise, pointwise, atol=1e-9)
    np.testing.assert_allclose(ours.pareto_k, theirs.pareto_k, atol=1e-9)


def test_few_draws_are_not_smoothed():
    rows = torch.randn(5, 3, dtype=FLOAT, generator=stream(0, "few"))
    found = weighted_loo(rows, torch.zeros(5, dtype=FLOAT))
    harmonic = -torch.logsumexp(-rows, 0) + math.log(5)
    torch.testing.assert_close(found.pointwise, harmonic)
    assert (found.pareto_k == 0).all()


def test_data_that_few_draws_fail_to_explain_are_told_of():
    rows = torch.zeros(NUM, 8, dtype=FLOAT)
    tail = torch.rand(NUM, dtype=FLOAT, generator=stream(0, "tail"))
    rows[:, 0] = 2 * tail.log()  # Weights 1 / L are of Pareto's law with k = 2.
    found = weighted_loo(rows, torch.zeros(NUM, dtype=FLOAT))
    assert found.pareto_k[0] > 1
    assert "1 of 8 data" in str(found)


def test_what_is_no_table_of_likelihoods_is_refused():
    rows, log_weight = torch.zeros(4, 3), torch.zeros(4)
    with pytest.raises(ArgumentError, match="at least one draw"):
        weighted_loo(rows[:0], log_weight[:0])
    with pytest.raises(ArgumentError, match=r"`log_weight` must have shape \(4,\)"):
        weighted_loo(rows, log_weight[:2])
    with pytest.raises(ArgumentTypeError, match="must be a tensor, got ndarray"):
        weighted_loo(rows.numpy(), log_weight)
    with pytest.raises(ArgumentError, match="NaN"):
        weighted_loo(rows * math.nan, log_weight)


def test_no_data():
    with pytest.raises(ArgumentError, match="must hold at least one datum, got none"):
        weighted_loo(torch.zeros(5, 0, dtype=FLOAT), torch.zeros(5, dtype=FLOAT))


def test_a_datum_that_draws_with_weight_exclude():
    likelihood = torch.zeros(5, 3, dtype=FLOAT)
    likelihood[2, 1] = -torch.inf
    with pytest.raises(ArgumentError, match="is not finite for datum 1 at a draw that has"):
        weighted_loo(likelihood, torch.zeros(5, dtype=FLOAT))
