"""When a result says that it is not to be trusted."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski import MALA, AnnealedSMC, EvidenceWarning, Target
from pyro_jarzynski.errors import NonFiniteEnergyWarning
from tests.infer.test_annealed_smc import annealed, arriving
from tests.scenarios import FLOAT

ZERO = torch.zeros((), dtype=FLOAT)
FAR = 3 + torch.linspace(-1, 1, 40, dtype=FLOAT)


def two_narrow_modes():
    prior = dist.Normal(ZERO, 5.0)
    modes = dist.Normal(torch.tensor([-4.0, 4.0], dtype=FLOAT), 0.1)
    return Target(
        lambda x: prior.log_prob(x[:, 0]),
        lambda x: modes.log_prob(x).logsumexp(1),
        lambda n, g: 5 * torch.randn(n, 1, dtype=FLOAT, generator=g),
    )


FIXED = {"adapt": "off", "num_moves": 1}
LADDER = [k / 40 for k in range(41)]
DOUBTS = {
    "islands' log evidences differ": {"num_walkers": 4, "schedule": [0, 0.5, 1], **FIXED},
    "descend from a few": {"num_chains": 1, "num_walkers": 8, "schedule": LADDER, **FIXED},
    "moves were accepted": {"kernel": MALA(50.0), "schedule": LADDER, **FIXED},
    "weights of Pareto shape": {"num_walkers": 200, "schedule": [0, 1], **FIXED},
    "had decorrelated": {"max_moves": 1, "kernel": MALA(1e-6)},
}


@pytest.mark.parametrize(("words", "settings"), DOUBTS.items(), ids=DOUBTS)
def test_doubt_is_told(words, settings):
    defaults = {"num_walkers": 64, "num_chains": 4}
    with pytest.warns(EvidenceWarning, match=words):
        found = annealed(arriving, FAR, **{**defaults, **settings})
    assert sum(words in doubt for doubt in found.doubts) == 1
    assert found.status == "doubtful"


def test_each_of_several_doubts_has_a_line():
    with pytest.warns(EvidenceWarning) as told:
        found = annealed(
            arriving, FAR, num_walkers=4, kernel=MALA(50.0), schedule=[0, 0.5, 1], **FIXED
        )
    first, *others = str(told[0].message).split("\n")
    assert first == f"There are {len(found.doubts)} doubts."
    assert len(others) > 1
    assert others == [f"- {doubt}" for doubt in found.doubts]


def test_warnings_name_the_line_that_ran_the_sampler():
    """Both those of the doubts, and those that are held back in the course of a run."""
    sampler = AnnealedSMC(arriving, num_walkers=4, schedule=[0, 1], progress=False, **FIXED)
    with pytest.warns(EvidenceWarning) as told:
        sampler.run(FAR)
    assert told[0].filename == __file__
    prior = dist.Normal(ZERO, 1.0)
    broken = Target(
        lambda x: prior.log_prob(x[:, 0]),
        lambda x: torch.where(x[:, 0] > 2.8, math.nan, 0.0),
        lambda n, g: torch.randn(n, 1, dtype=FLOAT, generator=g),
    )
    with pytest.warns(NonFiniteEnergyWarning) as told:
        AnnealedSMC(broken, schedule=[0, 1], progress=False, **FIXED).run()
    assert told[0].filename == __file__


def test_missed_modes_are_doubted():
    with pytest.warns(EvidenceWarning, match="modes that some have missed"):
        annealed(two_narrow_modes(), num_walkers=4, num_chains=4, learn_base=False)


def funnel():
    """Neal's funnel in ten dimensions, from a Gaussian that does not know its neck."""
    scale = dist.Normal(ZERO, 3.0)
    wide = dist.Normal(ZERO, 10.0)

    def log_prior(x):
        return scale.log_prob(x[:, 0]) + wide.log_prob(x[:, 1:]).sum(1)

    def log_likelihood(x):
        spread = (x[:, :1] / 2).exp()
        inside = dist.Normal(ZERO, spread).log_prob(x[:, 1:]).sum(1)
        return inside - wide.log_prob(x[:, 1:]).sum(1)

    def draw(num, generator):
        noise = torch.randn(num, 10, dtype=FLOAT, generator=generator)
        return torch.cat([3 * noise[:, :1], 10 * noise[:, 1:]], 1)

    return Target(log_prior, log_likelihood, draw)


def test_a_narrow_part_where_walkers_are_stuck_is_doubted():
    sampler = AnnealedSMC(
        funnel(), num_walkers=512, learn_base=False, max_moves=4, progress=False
    )
    with pytest.warns(EvidenceWarning, match=r"% of the walkers had not moved"):
        result = sampler.run()
    # The truth is 0: what is doubted is wrong.
    assert not math.isclose(result.log_evidence, 0, abs_tol=0.5)
