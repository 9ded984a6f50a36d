"""Posteriors whose density is not finite somewhere have the evidence of the rest.

The errors are those of 16 islands: beyond 5.5 of them with probability 6e-5 (Student's law
of 15 degrees of freedom).
"""

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC

from pyro_jarzynski import HMC, MALA, ULA, AnnealedSMC, JarzynskiKernel, self_test
from pyro_jarzynski.errors import (
    NonFiniteEnergyError,
    NonFiniteEnergyWarning,
    WeightCollapseError,
)
from tests.infer.batches import observe
from tests.infer.test_zoo_evidence import grid, log_integral
from tests.infer.zoo import Y

ISLANDS = {"num_walkers": 128, "num_chains": 16, "progress": False}


def run(model, *args, **settings):
    return AnnealedSMC(model, **{**ISLANDS, **settings}).run(*args)


def check(result, truth):
    assert math.isfinite(result.log_evidence_error)
    assert abs(result.log_evidence - truth) < 5.5 * result.log_evidence_error


def counted(doubt):
    """Return the counts of a text, as pairs of a part and the whole."""
    found = re.findall(r"(\d+) of (\d+)", doubt)
    return [(int(part), int(whole)) for part, whole in found]


def with_a_hole(low, high, value=math.nan):
    """Return a model with a likelihood of no number between two values of its latent."""

    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.factor("hole", torch.where((m > low) & (m < high), value, 0 * m))
        observe(m, y)

    return model


def evidence_outside(low, high):
    m = grid(-8, 8, 16001)
    prior = dist.Normal(0.0, 1.0).log_prob(m)
    data = dist.Normal(m[:, None], 1.0).log_prob(Y.double()).sum(1)
    inside = (m > low) & (m < high)
    return log_integral((prior + data).masked_fill(inside, -math.inf), m)


@pytest.mark.parametrize("adapt", ["pilot", "online", "off"])
def test_nan_at_many_draws_and_proposals_is_counted_and_told_once(adapt):
    """Two fifths of the draws of the prior, and some of the posterior."""
    schedule = {"schedule": [0, 0.1, 0.3, 1], "num_moves": 5} if adapt == "off" else {}
    with pytest.warns(NonFiniteEnergyWarning, match="site 'hole'") as told:
        result = run(with_a_hole(-3.0, -0.2), Y, adapt=adapt, **schedule)
    check(result, evidence_outside(-3.0, -0.2))
    m = result.get_samples()["m"]
    assert not ((m > -3) & (m < -0.2)).any()
    (doubt,) = [doubt for doubt in result.doubts if "not finite" in doubt]
    assert [str(w.message) for w in told if w.category is NonFiniteEnergyWarning] == [doubt]
    assert result.status == "doubtful"
    (lost, drawn), (refused, moved) = counted(doubt)
    assert drawn == 16 * 128
    share = 0.4194
    assert abs(lost / drawn - share) < 4 * math.sqrt(share * (1 - share) / drawn)
    assert moved == drawn * int(result.history["num_moves"].sum())
    assert 0 < refused < 0.5 * moved


@pytest.mark.parametrize("kernel", [MALA(), HMC()], ids=["MALA", "HMC"])
def test_an_infinite_density_at_few_points_is_refused(kernel):
    """What is at fault there may be rounding, as of a scale that underflows to zero."""
    with pytest.warns(NonFiniteEnergyWarning, match=r"site 'hole'.* double precision"):
        result = run(with_a_hole(2.4, 99.0, math.inf), Y + 1.3, kernel=kernel)
    assert bool((result.get_samples()["m"] < 2.4).all())


def test_an_infinite_density_at_many_draws_of_the_base_is_an_error():
    with pytest.raises(NonFiniteEnergyError, match=r"infinite at \d+ of 128 draws.*'hole'"):
        run(with_a_hole(0.0, 1.0, math.inf), Y)


def test_unadjusted_moves_to_nan_are_an_error_where_they_are_many():
    """Their walkers are lost, more in each step."""
    model = with_a_hole(-0.5, 0.0)
    with pytest.raises(NonFiniteEnergyError, match=r"site 'hole'.*What can help"):
        run(model, Y, kernel=ULA(), learn_base=False)


def test_a_likelihood_that_is_no_number_with_its_gradient():
    """The root of a negative number does not spoil the prior."""

    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.factor("root", (m + 1).sqrt())
        observe(m, y)

    with pytest.warns(NonFiniteEnergyWarning, match="site 'root'"):
        result = run(model, Y)
    m = grid(-1, 8, 16001)
    data = dist.Normal(m[:, None], 1.0).log_prob(Y.double()).sum(1)
    prior = dist.Normal(0.0, 1.0).log_prob(m)
    check(result, log_integral(prior + data + (m + 1).sqrt(), m))


def abilities(y, difficulty, *, logits=False):
    """Abilities of a wide prior, under which likelihoods underflow to zero."""
    with pyro.plate("children", len(y)):
        ability = pyro.sample("ability", dist.Normal(0.0, 36.0))
    gap = 4 * (ability[:, None] - difficulty)
    if logits:
        right = torch.nn.functional.logsigmoid(gap)
        wrong = torch.nn.functional.logsigmoid(-gap)
    else:
        right, wrong = torch.sigmoid(gap).log(), (1 - torch.sigmoid(gap)).log()
    pyro.factor("answers", torch.where(y > 0, right, wrong).sum())


ANSWERS = (torch.arange(24) < torch.tensor([6, 12, 15, 9, 18, 11])[:, None]).float()
DIFFICULTY = torch.linspace(0.0, 8.0, 24)


def evidence_of_abilities():
    ability = grid(-200, 200, 200_001)[:, None]
    log_sigmoid, total = torch.nn.functional.logsigmoid, 0.0
    prior = dist.Normal(0.0, 36.0).log_prob(ability[:, 0])
    for row in ANSWERS.double():
        gap = 4 * (ability - DIFFICULTY.double())
        data = torch.where(row > 0, log_sigmoid(gap), log_sigmoid(-gap)).sum(1)
        total += log_integral(prior + data, ability[:, 0])
    return total


@pytest.mark.global_state
def test_likelihoods_that_underflow_name_remedies_that_work():
    """Each that is named gives the evidence; without them no walker is left."""
    with pytest.raises(WeightCollapseError, match="site 'answers'") as raised:
        run(abilities, ANSWERS, DIFFICULTY, learn_base=False)
    told, truth = str(raised.value), evidence_of_abilities()
    # The scout looks at more draws, and those that count start where it ends.
    assert "`learn_base=True`" in told
    check(run(abilities, ANSWERS, DIFFICULTY), truth)
    assert "smaller" not in told
    assert 'base="normal"' in told
    # Half of the posterior has a gradient that is NaN, by a branch that is not taken.
    check(run(abilities, ANSWERS, DIFFICULTY, base="normal"), truth)
    assert "`logits`" in told
    check(AnnealedSMC(abilities, **ISLANDS).run(ANSWERS, DIFFICULTY, logits=True), truth)
    assert "torch.set_default_dtype(torch.float64)" in told
    torch.set_default_dtype(torch.float64)
    check(run(abilities, ANSWERS.double(), DIFFICULTY.double()), truth)


def test_a_chain_of_pyro_tells_and_keeps_the_warning():
    kernel = JarzynskiKernel(with_a_hole(-3.0, -0.2), num_walkers=256, seed=0)
    mcmc = MCMC(kernel, 50, warmup_steps=1, disable_progbar=True)
    with pytest.warns(NonFiniteEnergyWarning, match=r"site 'hole'") as told:
        mcmc.run(Y)
    (found,) = [w for w in told if w.category is NonFiniteEnergyWarning]
    assert str(found.message) in mcmc.diagnostics()["warnings"]["chain 0"]


def test_checks_of_a_model_whose_density_is_not_finite_somewhere():
    """Draws of weight zero are counted by both, and turn no coin."""

    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        scale = torch.where(m < -0.5, math.nan, 1.0 + 0 * m)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(m, scale), obs=y)

    few = {"num_walkers": 256, "num_chains": 2, "progress": False}
    with pytest.warns(NonFiniteEnergyWarning, match=r"site 'y'"):
        assert self_test(AnnealedSMC(model, **few), Y).verdict == "passed"
