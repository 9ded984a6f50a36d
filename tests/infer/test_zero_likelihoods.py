"""Likelihoods that are zero at most draws of the prior are no error of a model.

Errors of evidences are those of 16 islands: beyond 5.5 of them with probability 6e-5
(Student's law of 15 degrees of freedom).
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski import AnnealedSMC, evidence_bounds
from pyro_jarzynski.errors import EvidenceWarning, ModelError, WeightCollapseError
from pyro_jarzynski.infer.model import PyroModel
from tests.infer.test_zoo_evidence import grid, log_integral

ISLANDS = {"num_walkers": 128, "num_chains": 16, "progress": False}
# Half of a normal law is left slowly where a wall cuts it off, which is not the point.
pytestmark = pytest.mark.filterwarnings("ignore:.*`max_moves` ended the moves")


def run(model, *args, **settings):
    return AnnealedSMC(model, **{**ISLANDS, **settings}).run(*args)


def check(result, truth):
    assert math.isfinite(result.log_evidence_error)
    assert result.log_evidence_error < 0.1
    assert abs(result.log_evidence - truth) < 5.5 * result.log_evidence_error


def maximum(y, most):
    top = pyro.sample("top", dist.Uniform(0.0, most))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Uniform(0.0, top), obs=y)


MAXIMA = torch.tensor([90.0, 95.0, 20.0])


def evidence_of_maximum(most):
    return math.log((95**-2 - most**-2) / 2 / most)


@pytest.mark.parametrize("most", [100.0, 95.2])
def test_data_that_few_draws_of_the_prior_allow(most):
    """Five per cent of them, and two of a thousand, as few as no walker was."""
    check(run(maximum, MAXIMA, most), evidence_of_maximum(most))


@pytest.mark.parametrize("seed", range(4))
def test_runs_that_look_at_a_model_need_no_likelihood(seed):
    model = PyroModel(maximum, (MAXIMA, 100.0), {}, seed=seed)
    assert len(model.traces) == 3
    assert model.num_failed == 0


def beyond(cut):
    """Return a model of zero density below a cut."""

    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.factor("cut", torch.where(m > cut, 0.0, -math.inf))

    return model


def log_share(cut):
    return float(torch.special.log_ndtr(torch.tensor(-cut, dtype=torch.float64)))


@pytest.mark.parametrize("cut", [1.5, 3.1])
def test_factors_of_zero_on_most_of_the_prior(cut):
    """On 93 % and on 99.9 % of it."""
    check(run(beyond(cut)), log_share(cut))


def test_a_prior_without_any_likelihood_is_told_with_advice_that_helps():
    """Three walkers of a million would have one; the advice is taken."""
    cut = 4.5
    found = r"all 6400 draws of the base.*'cut' is zero"
    with pytest.raises(WeightCollapseError, match=found) as told:
        run(beyond(cut), num_walkers=64)
    text = str(told.value)
    assert "a `base` of draws by site from where the density is positive" in text
    draws = {"m": cut + torch.rand(500, generator=torch.Generator().manual_seed(0)) / 2}
    check(run(beyond(cut), base=draws), log_share(cut))
    assert "more walkers" in text
    check(run(beyond(4.0), num_walkers=4096), log_share(4.0))


def test_walkers_that_start_from_a_prior_of_little_density_say_so():
    told_of = r"zero at \d+ of 2048 draws .*more walkers"
    with pytest.warns(EvidenceWarning, match=told_of) as told:
        result = run(beyond(1.5), learn_base=False)
    (text,) = [str(w.message) for w in told if "is zero" in str(w.message)]
    found, drawn = (int(word) for word in text.split("zero at ")[1].split()[0:3:2])
    share = -math.expm1(log_share(1.5))
    assert abs(found / drawn - share) < 5 * math.sqrt(share * (1 - share) / drawn)
    # No temperatures would keep them.
    assert not any("A step left" in doubt for doubt in result.doubts)
    assert text in result.doubts


def test_a_parameter_that_few_draws_allow():
    """A scale is positive at 2 % of the draws; at the others there is no density."""

    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(0.0, m - 2), obs=torch.tensor(0.3))

    assert PyroModel(model, (), {}).num_failed > 3
    m = grid(2, 9, 70_001)[1:]
    data = dist.Normal(0.0, m - 2).log_prob(torch.tensor(0.3))
    truth = log_integral(dist.Normal(0.0, 1.0).log_prob(m) + data, m)
    with pytest.warns(UserWarning, match="not finite"):
        check(run(model), truth)


def test_a_model_that_always_fails_says_how_to_see_it():
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, x), obs=torch.zeros(()))

    x = torch.tensor(-1.0)
    with pytest.raises(ModelError, match=r"(?s)any of 50 draws .* `pyro.poutine.trace"):
        run(model, x)
    with torch.random.fork_rng(), pytest.raises(ValueError, match="parameter scale"):
        pyro.poutine.trace(model).get_trace(x).compute_log_prob()


def test_bounds_of_a_model_of_bounded_data():
    """Its data have likelihood zero at latents other than those that made them."""
    sampler = AnnealedSMC(maximum, num_walkers=64, num_chains=2, progress=False)
    bounds = evidence_bounds(sampler, MAXIMA, 100.0, num_simulations=1)
    assert (bounds.gap < 1) & (bounds.gap > -0.2)
