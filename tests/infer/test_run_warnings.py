"""Warnings of a run are told once each, whatever ends it, and are in its result."""

import math
import os
import re
import signal
import warnings
from copy import copy

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski import AnnealedSMC, EvidenceWarning, Target, evidence_bounds, self_test
from pyro_jarzynski.errors import NonFiniteEnergyWarning
from pyro_jarzynski.infer.run_warnings import RunWarnings, kind_of
from tests.infer.batches import conjugate, run
from tests.scenarios import FLOAT

FEW = {"num_walkers": 256, "num_chains": 2, "progress": False}
MORE = {**FEW, "num_walkers": 1000, "max_moves": 3}


def coins(y):
    """Two chances, of which many prior draws are rounded to one, and data of the second."""
    pyro.sample("p1", dist.Beta(5.0, 0.05))
    p2 = pyro.sample("p2", dist.Beta(5.0, 0.05))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(p2), obs=y)


Y = torch.tensor([1.0, 0.0, 1.0])


def broken_in_part(*, after=math.inf, action=None):
    """A target that is NaN at few draws of its prior, and acts after some evaluations."""
    prior, calls = dist.Normal(torch.zeros((), dtype=FLOAT), 1.0), []

    def log_likelihood(x):
        calls.append(len(x))
        if len(calls) > after:
            return action(x)
        return torch.where(x[:, 0] > 2.8, math.nan, -10 * x[:, 0].square())

    return Target(
        lambda x: prior.log_prob(x[:, 0]),
        log_likelihood,
        lambda n, g: torch.randn(n, 1, dtype=FLOAT, generator=g),
    )


def caught(act):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        outcome = act()
    return outcome, [(w.category, str(w.message)) for w in told]


def test_draws_at_an_edge_are_told_once_for_each_latent_and_doubted():
    result, told = caught(lambda: run(coins, Y, **FEW))
    of_edges = [text for _, text in told if "rounded to the edge" in text]
    assert len(of_edges) == 2
    assert ("'p1'" in of_edges[0]) + ("'p1'" in of_edges[1]) == 1
    assert result.status == "doubtful"
    assert of_edges == [doubt for doubt in result.doubts if "rounded" in doubt]


@pytest.mark.parametrize("check", [evidence_bounds, self_test])
def test_checks_of_a_model_tell_each_warning_once(check):
    sampler = AnnealedSMC(coins, **FEW)
    _, told = caught(lambda: check(sampler, Y))
    kinds = [kind_of(text) for _, text in told]
    assert len(kinds) == len(set(kinds))
    assert sum("rounded to the edge" in kind for kind in kinds) == 2


def test_all_that_is_on_the_screen_is_in_the_result():
    result, told = caught(lambda: run(broken_in_part(), **MORE))
    assert told
    shown = [line for _, text in told for line in text.split("\n")]
    assert all(any(doubt in line for line in shown) for doubt in result.doubts)
    assert {category for category, _ in told} >= {NonFiniteEnergyWarning}
    assert result.status == "doubtful"


def fail(x):
    raise ZeroDivisionError("in the model")


def interrupt(x):
    os.kill(os.getpid(), signal.SIGINT)
    return -10 * x[:, 0].square()


ENDS = {"error": (fail, ZeroDivisionError), "Ctrl-C": (interrupt, KeyboardInterrupt)}


@pytest.mark.parametrize(("action", "error"), ENDS.values(), ids=ENDS)
def test_warnings_are_told_whatever_ends_a_run(action, error):
    sampler = AnnealedSMC(broken_in_part(after=10, action=action), **MORE)
    with (
        pytest.warns(NonFiniteEnergyWarning, match="get weight zero"),
        pytest.raises(error),
    ):
        sampler.run()


def test_a_warning_that_is_an_error_does_not_hide_another():
    sampler = AnnealedSMC(broken_in_part(after=10, action=fail), **MORE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ZeroDivisionError) as raised:
            sampler.run()
    assert "get weight zero" in " ".join(raised.value.__notes__)


def test_other_warnings_are_passed_on_at_once():
    found = RunWarnings()

    def act():
        with found.deduplicated():
            with pytest.warns(UserWarning, match="of the model"):
                warnings.warn("of the model", UserWarning, stacklevel=1)
            warnings.warn("3 of 16", EvidenceWarning, stacklevel=1)
            warnings.warn("of the model, again", UserWarning, stacklevel=1)
            warnings.warn("4 of 24", EvidenceWarning, stacklevel=1)

    _, seen = caught(act)
    assert [text for _, text in seen] == [
        "of the model, again",
        "4 of 24 (2 warnings like this.)",
    ]
    assert found.texts == ["4 of 24 (2 warnings like this.)"]


def test_state_has_the_warnings():
    first, second = RunWarnings(), RunWarnings()
    for recorder, text in ((first, "1 of 5"), (first, "2 of 5"), (second, "none")):
        with recorder.recorded():
            warnings.warn(text, EvidenceWarning, stacklevel=1)
    second.load_state_dict(first.state_dict())
    assert second.texts == first.texts == ["2 of 5 (2 warnings like this.)"]


def test_kinds_differ_in_names_and_not_in_numbers():
    assert kind_of("5 of 1,024 draws of 'x1', 1.5e-3") == kind_of("7 of 9 draws of 'x1', 2")
    assert kind_of("5 draws of 'x1'") != kind_of("5 draws of 'x2'")


@pytest.fixture(scope="module")
def result():
    y = torch.linspace(-1, 1, 5)
    return run(conjugate, y, num_chains=2, num_walkers=128)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.inf, "draws of the latent 'm' are not finite"),
        (math.nan, "draws of the latent 'm' are not finite"),
        (1e200, r"disagree about the latent 'm' \(r_hat nan\)"),
    ],
)
def test_r_hat_that_is_no_number_is_doubted(result, value, words):
    """It is NaN also where the draws are finite, and their squares are not."""
    assert result.doubts == []
    broken = copy(result)
    for name in ("new_doubts", "nonfinite_latents"):
        broken.__dict__.pop(name, None)
    draws = result.weighted_samples()[0]["m"].double()
    draws[::2] *= value
    broken.__dict__["_latent_values"] = {"m": draws}
    (doubt,) = broken.doubts
    assert re.search(words, doubt)
    assert broken.status == "doubtful"


def test_draws_at_an_edge_in_double_precision_have_a_remedy():
    """With `Beta(5, 0.01)` a share of 70 % is nearer to one than float64 can tell."""

    def model(y):
        p = pyro.sample("p", dist.Beta(torch.tensor(5.0, dtype=FLOAT), 0.01))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    y = Y.double()
    result, told = caught(lambda: run(model, y, **FEW))
    (advice,) = [text for _, text in told if "rounded to the edge" in text]
    assert 'Use `base="normal"`' in advice
    result, told = caught(lambda: run(model, y, **FEW, base="normal"))
    assert not any("rounded to the edge" in text for _, text in told)
    # A ratio of beta functions; the estimate has a standard deviation of 0.06.
    truth = math.lgamma(7) + math.lgamma(1.01) + math.lgamma(5.01)
    truth -= math.lgamma(8.01) + math.lgamma(5) + math.lgamma(0.01)
    assert abs(result.log_evidence - truth) < 0.3
