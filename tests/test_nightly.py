"""The nightly checks: fresh seeds, binomial bounds, and tests that are always valid."""

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom

from tests.checks import CHECKS
from tests.identities import FALSE_ALARM
from tests.mutants import MUTANTS
from tests.nightly import eprocess, posteriors
from tests.nightly.__main__ import main, run, seeds_within
from tests.nightly.eprocess import CAPACITY, LIFETIME_ALPHA, Record, StateError
from tests.nightly.suite import law_of, p_value, suite
from tests.nightly.table import Outcomes, allowed, beyond, summary
from tests.seeds import VARIABLE, seed_of

ALARM = math.log(CAPACITY / LIFETIME_ALPHA)
EXACT = {"golden", "densities", "diagonal", "dense", "proposal", "infinite", "carried"}


def highest(p_values):
    """Logarithm of the highest wealth of each row of p-values, at any time."""
    active = np.full(len(p_values), -np.inf)
    peak = np.zeros(len(p_values))
    for index, p in enumerate(p_values.T):
        active = eprocess.advance(active, index, p)
        peak = np.maximum(peak, eprocess.log_wealth(active, index + 1))
    return peak


def null_alarms(factor=1.0, alpha=0.05, size=4000, runs=500):
    """Processes that ever alarm at a level, where p-values are uniform up to a factor."""
    p = np.random.default_rng(0).random((size, runs)) * factor
    return int((highest(p) >= math.log(1 / alpha)).sum()), binom.isf(1e-4, size, alpha)


def test_e_value_has_a_mean_of_at_most_one():
    def e_value(p):
        return float(np.exp(eprocess.log_e_value(p)))

    whole = sum(quad(e_value, a, b)[0] for a, b in ((0, 1e-4), (1e-4, 0.5), (0.5, 1)))
    assert 0.75 < whole < 0.9
    with patch.object(eprocess, "MARGIN", 1.0), patch.object(eprocess, "FLOOR", 1e-300):
        parts = [10.0**-k for k in range(12, -1, -1)]
        whole = sum(quad(e_value, a, b)[0] for a, b in pairwise(parts))
    # What is left out below ε is 1 / |log ε|, to leading order.
    assert whole == pytest.approx(1 - 1 / math.log(1e12), abs=1e-3)


@pytest.mark.parametrize("factor", [1.0, 1 / 1.2])
def test_false_alarms_at_any_time_are_within_the_budget(factor):
    """False alarms of this test: 1e-4, of the binomial law of 4,000 processes."""
    alarms, most = null_alarms(factor)
    assert alarms <= most


def test_betting_too_much_is_seen():
    """The test above has power: p-values that are halved break the budget."""
    with patch.object(eprocess, "MARGIN", 0.5):
        alarms, most = null_alarms()
    assert alarms > most


@pytest.mark.parametrize("before", [0, 300])
def test_a_shifted_law_is_found_also_after_good_nights(before):
    """All of 50 processes, at the real threshold, within 120 runs of p-values `U³`."""
    p = np.random.default_rng(1).random((50, before + 120))
    p[:, before:] **= 3
    assert (highest(p[:, :before]) < ALARM).all()
    assert (highest(p) >= ALARM).all()


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        ("no half before the displacement", "coin: ULA"),
        ("half of h before the squared gradient", "crooks: ULA"),
        ("MALA that always accepts", "moments: MALA"),
        ("residual without its remainder", "offspring: residual"),
    ],
)
def test_a_mutant_is_found_within_a_few_runs(mutant, check):
    """Of the right engine, an alarm has a probability of 5e-7."""
    chosen = {check: suite()[check]}
    _, records = run(chosen, iter(range(4)))
    assert not records[check].alarmed
    with MUTANTS[mutant].apply():
        found, records = run(chosen, iter(range(4)))
    assert records[check].alarmed
    assert beyond(check, found[check], len(CHECKS))


def test_laws_give_the_declared_rate_at_the_limit():
    for name in CHECKS:
        first = name.replace(":", "").split()[0]
        if first in EXACT or first == "extremes":
            assert (law_of(name)(0.99), law_of(name)(1.0)) == (1.0, 0.0)
        else:
            assert 0.5e-4 < law_of(name)(1.0) < 1.01 * FALSE_ALARM
            assert law_of(name)(0.0) == 1


def test_nan_is_a_failure():
    assert p_value("coin: ULA", lambda: math.nan) == 0


def test_fresh_seeds_are_others_and_repeat():
    check = suite()["moments: ULA"]
    values = []
    for seed in ("3", "3", "4"):
        with patch.dict("os.environ", {VARIABLE: seed}):
            values.append((seed_of(5), check()))
    assert values[0] == values[1]
    assert len({*values, (seed_of(5), check())}) == 3
    assert seed_of(5) == 5


def test_bounds_are_exact():
    most = allowed(20, 0.1, 1e-5)
    assert binom.sf(most, 20, 0.1) <= 1e-5 < binom.sf(most - 1, 20, 0.1)
    assert allowed(20, 0, 1e-5) == 0


def test_failures_are_judged_by_check():
    once, twice = Outcomes(), Outcomes()
    for seed in range(20):
        once.add(0.0 if seed == 3 else 0.5, seed)
        twice.add(0.0 if seed < 2 else 0.5, seed)
    assert not beyond("coin: ULA", once, 60)
    assert beyond("coin: ULA", twice, 60)
    assert beyond("golden value", once, 60)
    text = summary({"coin: ULA": once, "golden value": twice})
    assert text.startswith("1 of 20 statistical checks failed")
    assert "in 1 of 20 runs" in text


@pytest.mark.parametrize("error", [IndexError, pytest.fail.Exception])
def test_an_error_is_a_failure_and_others_go_on(error):
    def broken():
        raise error("no such walker")

    found, records = run({"coin: ULA": broken, "coin: MALA": lambda: 0.5}, iter([8]))
    assert found["coin: ULA"].errors == [f"{error.__name__}: no such walker"]
    assert found["coin: ULA"].failed == [8]
    assert found["coin: MALA"].p_values == [0.5]
    assert records["coin: ULA"].log_wealth > records["coin: MALA"].log_wealth


def test_runs_stop_before_the_time_is_over():
    now = [0.0]

    def spend(seeds):
        for _ in seeds:
            now[0] += 60
            yield now[0]

    assert len(list(spend(seeds_within(9, 2.5, clock=lambda: now[0])))) == 2
    assert list(seeds_within(3, math.inf, first=5)) == [5, 6, 7]
    assert len(set(seeds_within(20, math.inf))) == 20


def test_state_is_kept_between_nights(tmp_path):
    state, check = tmp_path / "state.json", {"coin: ULA": lambda: 0.02}
    run(check, iter([1, 2]), state)
    _, records = run(check, iter([3]), state)
    other = Record()
    for _ in range(3):
        other.update(0.02)
    assert records == eprocess.load(state) == {"coin: ULA": other}
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_an_alarm_stays():
    record = Record()
    for p in [1e-9] * 3 + [1.0] * 50:
        record.update(p)
    assert record.log_wealth < ALARM
    assert record.alarmed


def test_a_write_that_fails_leaves_the_old_state(tmp_path):
    state, check = tmp_path / "state.json", {"coin: ULA": lambda: 0.02}
    run(check, iter([1]), state)
    before = state.read_bytes()
    full = patch.object(Path, "replace", side_effect=OSError("No space left on device"))
    with full, pytest.raises(OSError, match="No space"):
        run(check, iter([2]), state)
    assert state.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def change(**fields):
    def apply(text):
        data = json.loads(text)
        data["checks"]["coin: ULA"] |= fields
        return json.dumps(data)

    return apply


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text[:-20], "damaged"),
        (lambda _: "", "damaged"),
        (lambda _: "[1]", "damaged"),
        (lambda text: text.replace("checks", "cheques"), "damaged"),
        (lambda text: text.replace("0.0001", "0.05"), "expected"),
        (change(log_active=math.nan), "no run can leave"),
        (change(log_peak=-1.0), "no run can leave"),
        (change(num_runs=True), "no run can leave"),
        (change(num_runs=-2), "damaged"),
        (change(log_active="0"), "damaged"),
        (change(surprise=1), "damaged"),
    ],
)
def test_damaged_state_is_refused(tmp_path, damage, told):
    state = tmp_path / "state.json"
    run({"coin: ULA": lambda: 0.02}, iter([1]), state)
    state.write_text(damage(state.read_text()))
    with pytest.raises(StateError, match=rf"state\.json cannot be used: .*{told}.*Restore"):
        eprocess.load(state)


def test_more_checks_than_the_budget_is_split_over_are_refused(tmp_path):
    records = {f"{index}": Record(1, -1.0) for index in range(CAPACITY + 1)}
    with pytest.raises(StateError, match="split over 200"):
        eprocess.save(tmp_path / "state.json", records)


def status(*arguments):
    with patch.object(sys, "argv", ["nightly", "--only", "golden", *map(str, arguments)]):
        return main()


def test_status_to_exit_with(tmp_path, capsys):
    assert status("--runs", 2) == 0
    assert "| golden value | 2 | 0 | 0 |" in capsys.readouterr().out
    with MUTANTS["no squared gradient"].apply():
        assert status("--runs", 1, "--first-seed", 7) == 1
    assert "golden value failed with FRESH_SEED=7" in capsys.readouterr().out
    (tmp_path / "state.json").write_text("{")
    assert status("--state", tmp_path / "state.json") == 2
    assert "cannot be used" in capsys.readouterr().err


def test_evidence_of_posteriordb():
    """By Student's law of eight islands; false alarm 1e-4."""
    if not posteriors.TRUTH.exists():
        pytest.skip(f"there is no {posteriors.TRUTH}")
    assert posteriors.evidence() > FALSE_ALARM


def test_an_evidence_that_is_wrong_is_found(tmp_path, monkeypatch):
    """By half a nat, which is what a lost normaliser of a prior makes at least."""
    if not posteriors.TRUTH.exists():
        pytest.skip(f"there is no {posteriors.TRUTH}")
    known = json.loads(posteriors.TRUTH.read_text(encoding="utf-8"))
    for name in posteriors.MODELS:
        known[name]["exact"]["log_evidence"] += 0.5
    monkeypatch.setattr(posteriors, "TRUTH", tmp_path / "truth.json")
    posteriors.TRUTH.write_text(json.dumps(known))
    assert posteriors.evidence() < FALSE_ALARM
