"""The progress bar shows what a run knows."""

import io
import math

import pytest
from rich.console import Console

from pyro_jarzynski import ProgressBar
from pyro_jarzynski.ebm.history import COLUMNS
from pyro_jarzynski.runtime.progress import describe
from tests.ebm.models import mixture_data, mixture_learner


def console_to(file):
    return Console(file=file, force_terminal=True, width=160, color_system=None)


def row_of(**known):
    return dict.fromkeys(COLUMNS, 0.0) | known


def test_a_run_is_shown():
    file, learner = io.StringIO(), mixture_learner()
    with ProgressBar(6, console=console_to(file)) as bar:
        history = learner.fit(
            mixture_data(),
            6,
            validation=mixture_data(seed=1),
            eval_every=3,
            callbacks=[bar],
        )
    text, last = file.getvalue(), history.rows[-1]
    for part in (
        "step",
        "6/6",
        f"ESS {last['ess']:.0%}",
        f"log Z {last['log_z']:.2f} ± {last['log_z_error']:.2f}",
        f"NLL train {last['train_nll']:.2f}",
        f"validation {last['validation_nll']:.2f}",
    ):
        assert part in text


def test_a_bar_counts_the_updates_of_its_own_calls():
    """That of a second call begins at none; one around several calls goes on."""
    learner = mixture_learner()
    learner.fit(mixture_data(), 4)
    for calls, shown in ((1, "3/3"), (2, "6/6")):
        file = io.StringIO()
        with ProgressBar(3 * calls, console=console_to(file)) as bar:
            for _ in range(calls):
                learner.fit(mixture_data(), 3, callbacks=[bar])
        assert shown in file.getvalue()
        assert "7/" not in file.getvalue()


def test_a_row_is_a_line():
    row = row_of(ess=0.5, log_z=1.234, log_z_error=0.05, train_nll=-3, validation_nll=2)
    expected = "ESS 50% · log Z 1.23 ± 0.05 · NLL train -3.00 · validation 2.00"
    assert describe(row) == expected
    without = describe(row | {"validation_nll": math.nan, "ess": math.nan})
    assert without == "log Z 1.23 ± 0.05 · NLL train -3.00"


def test_an_error_leaves_the_terminal_as_it_was():
    file = io.StringIO()
    hide, show = "\x1b[?25l", "\x1b[?25h"
    with (
        pytest.raises(RuntimeError, match="stop"),
        ProgressBar(3, console=console_to(file)),
    ):
        raise RuntimeError("stop")
    assert file.getvalue().count(hide) == file.getvalue().count(show) == 1


def test_without_a_console_it_writes_to_standard_error(capsys):
    with ProgressBar(2) as bar:
        bar(mixture_learner(), row_of(step=2, ess=1.0))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "2/2" in shown.err
