"""The table of a training run."""

import math

import pytest

from pyro_jarzynski import History
from pyro_jarzynski.ebm.history import COLUMNS
from pyro_jarzynski.errors import ArgumentError


def filled(*validation):
    history = History()
    for step, nll in enumerate(validation, 1):
        row = dict.fromkeys(COLUMNS, step / 3)
        history.append(**(row | {"step": step, "validation_nll": nll}))
    return history


def test_columns_and_rows_are_one_table():
    history = filled(3.0, 2.0)
    assert len(history) == 2
    assert [list(row) for row in history] == [list(COLUMNS)] * 2
    assert history["step"] == [1, 2]
    assert history["validation_nll"] == [3.0, 2.0]


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_row_has_every_column_and_no_other(change):
    row = dict.fromkeys(COLUMNS, 0.0)
    if change == "missing":
        del row["ess"]
    else:
        row["colour"] = 1.0
    with pytest.raises(ArgumentError, match="must have exactly the columns step, seconds"):
        History().append(**row)


def test_an_unknown_column_is_answered_with_the_known_ones():
    with pytest.raises(ArgumentError, match=r"must be one of step, .*, got 'loss'"):
        filled(1.0)["loss"]


@pytest.mark.parametrize("rows", [(), (3.0, math.nan, 0.1 + 0.2, math.inf)])
def test_csv_keeps_every_bit(tmp_path, rows):
    history = filled(*rows)
    history.to_csv(tmp_path / "history.csv")
    again = History.from_csv(tmp_path / "history.csv")
    assert all(type(step) is int for step in again["step"])
    assert len(again) == len(history)
    for name in COLUMNS:
        known, found = map(float, history[name]), map(float, again[name])
        assert list(map(repr, known)) == list(map(repr, found))


HEADER = ",".join(COLUMNS)
NUMBERS, WORDS = (",".join(x * len(COLUMNS)) for x in "1x")


@pytest.mark.parametrize(
    "text",
    ["a,b\n1,2\n", f"{HEADER}\n1,2,3\n", f"{HEADER}\n{NUMBERS},1\n", f"{HEADER}\n{WORDS}"],
    ids=["other table", "short row", "long row", "words"],
)
def test_a_damaged_csv_is_a_value_error(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        History.from_csv(tmp_path / "history.csv")


def test_best_is_the_row_of_the_lowest_validation_nll():
    assert filled(3.0, math.nan, 1.0, 2.0).best()["step"] == 3
    assert filled(math.nan, math.nan).best() is None
    assert filled(math.inf, math.nan).best() is None
    assert filled(math.inf, 2.0).best()["step"] == 2
    assert History().best() is None
