"""Evidence and moments of posteriors in closed form, by every way to anneal."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import t

from pyro_jarzynski import HMC, MALA, ULA, AnnealedSMC, DataTempering, Target
from pyro_jarzynski.core import memory
from pyro_jarzynski.core.hamiltonian import UnderdampedLangevin
from pyro_jarzynski.core.resampling import RESAMPLERS
from tests.identities import z_score
from tests.scenarios import FLOAT

PRIOR = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 0.5]], dtype=FLOAT)
NOISE = torch.tensor([[0.3, 0.1, 0.0], [0.1, 0.5, 0.0], [0.0, 0.0, 0.1]], dtype=FLOAT)
DATA = torch.tensor([1.0, -1.0, 0.5], dtype=FLOAT)
ZERO = torch.zeros(3, dtype=FLOAT)
STREAM = torch.tensor([1.2, 0.3, 2.1, 0.8, 1.7, 1.1, 0.2, 1.9], dtype=FLOAT)
CHAINS = 64


def conjugate(data):
    """Normal prior and noise, both of full covariance."""
    x = pyro.sample("x", dist.MultivariateNormal(ZERO, PRIOR))
    pyro.sample("y", dist.MultivariateNormal(x, NOISE), obs=data)


def conjugate_truth():
    """Log evidence, and mean and covariance of the posterior."""
    total = PRIOR + NOISE
    gain = PRIOR @ torch.linalg.inv(total)
    log_z = dist.MultivariateNormal(ZERO, total).log_prob(DATA)
    return float(log_z), gain @ DATA, PRIOR - gain @ PRIOR


def arriving(data):
    """Unit normal data of a mean with a unit normal prior."""
    x = pyro.sample("x", dist.Normal(ZERO[0], 1.0))
    with pyro.plate("data", len(data)):
        pyro.sample("y", dist.Normal(x, 1.0), obs=data)


def log_evidence_of_stream(data, beta=1.0):
    """Log of `∫ prior likelihood^β`, in closed form."""
    size, total = beta * len(data), beta * data.sum()
    constant = -size * math.log(2 * math.pi) / 2 - beta * data.square().sum() / 2
    return float(constant + total**2 / (1 + size) / 2) - math.log(1 + size) / 2


def annealed(model, *args, seed=1, **settings):
    defaults = {"num_walkers": 64, "num_chains": CHAINS, "progress": False}
    return AnnealedSMC(model, seed=seed, **{**defaults, **settings}).run(*args)


def assert_exact(result, log_z, moments):
    """`E[Ẑ] = Z` and `E[Ẑ Σ W f] = Z E f`, over islands that share one plan.

    `moments` maps `x` to functions and their means. False alarms: 1e-4 for the largest of
    all, by Student's law.
    """
    ratio = (result.log_evidence_per_chain - log_z).exp()
    scores = [z_score(ratio, 1)]
    samples, log_weights = result.weighted_samples()
    (x,) = samples.values()
    weight = result.walkers.weight
    assert log_weights.shape == (len(x),)
    for values, mean in moments(x):
        gaps = (weight * (values.reshape(weight.shape) - mean)).sum(1)
        scores.append(z_score(ratio * gaps, 0))
    limit = t.ppf(1 - 1e-4 / 2 / len(scores), len(ratio) - 1)
    assert max(map(abs, scores)) < limit


def conjugate_moments(x):
    _, mean, covariance = conjugate_truth()
    centred = x - mean
    yield from zip(x.T, mean, strict=True)
    for i in range(3):
        for j in range(i + 1):
            yield centred[:, i] * centred[:, j], covariance[i, j]


WAYS = {
    "MALA": {"kernel": MALA()},
    "HMC": {"kernel": HMC()},
    "ULA": {"kernel": ULA()},
    "underdamped": {"kernel": UnderdampedLangevin()},
    "given betas": {"schedule": [0, 0.02, 0.1, 0.4, 1]},
    "as it is": {"schedule": [0, 0.05, 0.3, 1], "kernel": MALA(0.1), "adapt": "off"},
    "as it is, ULA": {"schedule": [0, 0.1, 0.4, 1], "kernel": ULA(0.02), "adapt": "off"},
    "from the prior": {"learn_base": False},
    "from a normal law": {"base": "normal", "learn_base": False},
    "online": {"adapt": "online", "num_walkers": 256},
    "diagonal": {"preconditioner": "diagonal"},
    "no preconditioner": {"preconditioner": "none"},
    "waste-free": {"waste_free": True, "num_moves": 3},
    "waste-free HMC": {"waste_free": True, "num_moves": 3, "kernel": HMC()},
    "no resampling": {"ess_threshold": 0.0},
    **{scheme: {"resampler": scheme} for scheme in RESAMPLERS},
}


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.EvidenceWarning")
@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_conjugate_normal(settings):
    result = annealed(conjugate, DATA, **settings)
    assert result.complete
    assert_exact(result, conjugate_truth()[0], conjugate_moments)


@pytest.mark.parametrize("chains", [1, 4])
def test_error_of_the_evidence_covers_the_truth(chains):
    """Five standard errors, of Student's law for four islands, and 0.3 nats."""
    result = annealed(conjugate, DATA, num_walkers=1024, num_chains=chains)
    gap = abs(result.log_evidence - conjugate_truth()[0])
    quantile = 5 if chains == 1 else t.ppf(1 - 5e-5, chains - 1)
    assert gap < min(0.3, quantile * result.log_evidence_error)


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.EvidenceWarning")
@pytest.mark.parametrize("kernel", [MALA(), ULA()], ids=["MALA", "ULA"])
def test_skewed_posterior_by_quadrature(kernel):
    """Counts of rate `e^x`: most draws of the prior see next to nothing."""
    counts = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=FLOAT)

    def model(data):
        x = pyro.sample("x", dist.Normal(ZERO[0], 2.0))
        with pyro.plate("data", len(data)):
            pyro.sample("y", dist.Poisson(x.exp()), obs=data)

    grid = torch.linspace(-16, 8, 200_001, dtype=FLOAT)
    log_joint = dist.Normal(ZERO[0], 2.0).log_prob(grid)
    log_joint = log_joint + dist.Poisson(grid.exp()[:, None]).log_prob(counts).sum(1)
    log_z = log_joint.logsumexp(0) + math.log(24 / 200_000)
    density = log_joint.softmax(0)
    mean = density @ grid
    third = density @ (grid - mean) ** 3

    assert third < -0.4
    result = annealed(model, counts, kernel=kernel)
    assert_exact(result, log_z, lambda x: [(x, mean), ((x - mean) ** 3, third)])


def normal_of_unknown_scale():
    """`v ~ Gamma(3, 2)⁻¹`, `m | v ~ N(0, v)`, data `N(m, v)`; at `x = (m, log v)`."""
    y = STREAM

    def log_prior(x):
        mean, log_v = x.T
        gamma = 3 * math.log(2) - math.lgamma(3) - 3 * log_v - 2 * (-log_v).exp()
        return gamma + dist.Normal(0.0, (log_v / 2).exp()).log_prob(mean)

    def log_likelihood(x):
        normal = dist.Normal(x[:, :1], (x[:, 1:] / 2).exp())
        return normal.log_prob(y).sum(1)

    def prior_sample(num, generator):
        uniform = torch.rand(num, 3, dtype=FLOAT, generator=generator)
        log_v = -(-uniform.log().sum(1) / 2).log()
        unit = torch.randn(num, dtype=FLOAT, generator=generator)
        return torch.stack([unit * (log_v / 2).exp(), log_v], 1)

    size = len(y)
    rate = 2 + (y.square().sum() - y.sum() ** 2 / (1 + size)) / 2
    shape = 3 + size / 2
    log_z = math.lgamma(shape) - math.lgamma(3) + 3 * math.log(2) - shape * rate.log()
    log_z = log_z - math.log(1 + size) / 2 - size / 2 * math.log(2 * math.pi)
    mean, v = y.sum() / (1 + size), rate / (shape - 1)
    moments = lambda x: [(x[:, 0], mean), (x[:, 1].exp(), v)]  # noqa: E731
    return Target(log_prior, log_likelihood, prior_sample), log_z, moments


@pytest.mark.parametrize("kernel", [MALA(), HMC(), ULA()], ids=["MALA", "HMC", "ULA"])
def test_normal_of_unknown_scale(kernel):
    target, log_z, moments = normal_of_unknown_scale()
    assert_exact(annealed(target, kernel=kernel), log_z, moments)


@pytest.mark.parametrize("kernel", [MALA(), ULA()], ids=["MALA", "ULA"])
def test_evidence_after_every_arrival_of_data(kernel):
    """False alarms: 1e-4 for each of four sizes."""
    sizes = (1, 3, 5, 8)
    result = annealed(arriving, STREAM, schedule=DataTempering(sizes), kernel=kernel)
    history = result.history
    done = history["beta"] == 1
    assert history["num_observations"][done].tolist() == list(sizes)
    for size, row in zip(sizes, history["log_evidence"][done], strict=True):
        truth = log_evidence_of_stream(STREAM[:size])
        assert abs(z_score((row - truth).exp(), 1)) < t.ppf(1 - 5e-5, CHAINS - 1)
    mean, variance = STREAM.sum() / 9, 1 / 9
    log_z = log_evidence_of_stream(STREAM)
    assert_exact(result, log_z, lambda x: [(x, mean), ((x - mean) ** 2, variance)])


# Moves within modes do not count as decorrelation.
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.EvidenceWarning")
def test_masses_of_two_far_modes():
    """Of 0.3 and 0.7, each of a hundredth of the prior's width."""
    prior = dist.Normal(torch.zeros((), dtype=FLOAT), 5.0)
    modes = dist.Normal(torch.tensor([-4.0, 4.0], dtype=FLOAT), 0.5)
    # Against a wide prior, the masses are those of the product of both Gaussians.
    log_mass = dist.Normal(0.0, (25 + 0.25) ** 0.5).log_prob(modes.loc)
    share = torch.tensor([0.3, 0.7], dtype=FLOAT).log()
    target = Target(
        lambda x: prior.log_prob(x[:, 0]),
        lambda x: (modes.log_prob(x) + share).logsumexp(1),
        lambda n, g: 5 * torch.randn(n, 1, dtype=FLOAT, generator=g),
    )
    result = annealed(target)
    log_z = (log_mass + share).logsumexp(0)
    assert_exact(result, log_z, lambda x: [((x[:, 0] > 0).to(FLOAT), 0.7)])


def assert_same(first, second, tolerance=0.0):
    for name in ("position", "log_weight", "log_normalizer"):
        one, other = getattr(first.walkers, name), getattr(second.walkers, name)
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernel", [MALA(), HMC(), ULA()], ids=["MALA", "HMC", "ULA"])
def test_chunks_change_nothing_but_rounding(kernel):
    whole = annealed(conjugate, DATA, num_chains=2, kernel=kernel)
    parts = annealed(conjugate, DATA, num_chains=2, kernel=kernel, chunk_size=29)
    assert_same(whole, parts, 1e-10)


def test_chunks_are_chosen_by_memory(monkeypatch):
    whole = annealed(conjugate, DATA, num_chains=2, chunk_size=None)
    monkeypatch.setattr(memory, "CACHE", 2000)
    parts = annealed(conjugate, DATA, num_chains=2)
    assert whole.settings.chunk_size is None
    assert parts.settings.chunk_size in (2, 4, 8, 16, 32)
    assert_same(whole, parts, 1e-10)


def test_seed_fixes_the_result():
    runs = (annealed(conjugate, DATA, num_chains=2, seed=s) for s in (3, 3, 4))
    first, again, other = runs
    assert_same(first, again)
    draws = [run.get_samples()["x"] for run in (first, again, other)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_a_mode_without_gradients(mode):
    expected = annealed(conjugate, DATA, num_chains=2)
    with mode():
        result = annealed(conjugate, DATA, num_chains=2)
        assert result.get_samples()["x"].shape == (128, 3)
    assert_same(result, expected)


def test_arguments_may_be_named():
    smc = AnnealedSMC(conjugate, num_walkers=64, num_chains=2, seed=1, progress=False)
    assert_same(smc.run(data=DATA), annealed(conjugate, DATA, num_chains=2))
