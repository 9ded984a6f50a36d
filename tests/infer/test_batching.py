"""How many walkers are evaluated at once, and what becomes of those that cannot be."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_jarzynski import AnnealedSMC
from pyro_jarzynski.errors import ModelError, SlowModelWarning
from pyro_jarzynski.infer import batching
from pyro_jarzynski.infer.batching import Guarded
from pyro_jarzynski.infer.legs import prepare
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import draw_prior
from pyro_jarzynski.infer.settings import Settings
from tests.infer.batches import batched, conjugate
from tests.infer.zoo.programs import Cube

ROOT = Path(__file__).parent.parent.parent


def fails_above_zero(walkers):
    if (walkers > 0).any():
        raise torch.linalg.LinAlgError("not positive definite")
    return walkers[:, 0], 2 * walkers[:, 0]


@pytest.mark.parametrize("bad", [[], [0], [4], [1, 2, 6], list(range(7))])
def test_a_matrix_that_cannot_be_factorised_is_a_nan_of_its_walker(bad):
    walkers = -torch.arange(1.0, 8.0)[:, None]
    walkers[bad] *= -1
    prior, joint = Guarded(fails_above_zero)(walkers)
    expected = walkers[:, 0].clone()
    expected[bad] = torch.nan
    torch.testing.assert_close(prior, expected, equal_nan=True)
    torch.testing.assert_close(joint, 2 * expected, equal_nan=True)


def test_discrete_values_that_index_python_numbers_are_told():
    def model():
        z = pyro.sample("z", dist.Categorical(torch.ones(2)))
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m + [0.0, 1.0][int(z)], 1.0), obs=torch.tensor(0.3))

    with pytest.raises(Exception, match="all values of its discrete latents at once"):
        AnnealedSMC(model, num_walkers=8, progress=False).run()


def correlated(y, by="covariance"):
    """Two numbers of correlation `r`, which is none for a third of the prior's draws."""
    r = pyro.sample("r", dist.Normal(0.0, 1.0))
    one = torch.ones_like(r)
    matrix = torch.stack([torch.stack([one, r]), torch.stack([r, one])])
    if by == "one at a time":
        r.item()
    if by == "inverse":
        # A matrix without an inverse, where the other has no factor.
        matrix = torch.where(r.abs() < 1, matrix, torch.zeros_like(matrix))
        solved = matrix.inverse() @ y
    elif by == "solution":
        matrix = torch.where(r.abs() < 1, matrix, torch.zeros_like(matrix))
        solved = torch.linalg.solve(matrix, y)
    else:
        law = dist.MultivariateNormal(torch.zeros(2), covariance_matrix=matrix)
        pyro.sample("y", law, obs=y)
        return
    log_det = torch.log(1 - r * r)
    pyro.factor("y", -(y @ solved + log_det) / 2 - math.log(2 * math.pi))


METHODS = {"covariance": "vmap", "inverse": "vmap", "solution": "vmap"}


@pytest.mark.parametrize("by", [*METHODS, "one at a time"])
def test_walkers_without_a_factor_do_not_decide_how_others_are_evaluated(by):
    y = torch.tensor([0.5, -0.3])
    model = PyroModel(correlated, (y, by), {})
    walkers = torch.linspace(-2, 2, 16)[:, None]
    found = batched(model, walkers)
    assert found.method == METHODS.get(by, "loop")
    prior, joint = found.densities(walkers)
    inside = walkers[:, 0].abs() < 1
    assert torch.isfinite(joint).equal(inside)
    r = walkers[inside, 0]
    quadratic = (y.square().sum() - 2 * r * y.prod()) / (1 - r * r)
    expected = -(quadratic + (1 - r * r).log()) / 2 - math.log(2 * math.pi)
    torch.testing.assert_close((joint - prior)[inside], expected, rtol=1e-4, atol=1e-5)


def test_matrices_that_cannot_be_factorised_are_watched_only_where_there_are_some():
    calls = []

    def densities(walkers):
        calls.append(len(walkers))
        lower = torch.linalg.cholesky(walkers[:, :, None])
        return lower[:, 0, 0], lower[:, 0, 0]

    guarded, sound = Guarded(densities), torch.ones(8, 1)
    guarded(sound)
    assert not guarded.watches
    mixed = sound.clone()
    mixed[3] = -1
    for _ in range(2):
        prior, _ = guarded(mixed)
        assert prior.isnan().nonzero().tolist() == [[3]]
    # The first time again, and never one by one.
    assert calls == [8, 8, 8, 8]


def sizes_tried(monkeypatch, **settings):
    """Return the numbers of walkers of all calls by which a method is chosen."""
    sizes = []
    plain = batching._with_gradients

    def noted(densities, walkers):
        sizes.append(len(walkers))
        return plain(densities, walkers)

    monkeypatch.setattr(batching, "_with_gradients", noted)
    wanted = Settings(num_walkers=100, num_chains=3, **settings)
    legs, fitting = prepare(conjugate, (torch.zeros(5),), {}, wanted)
    assert legs[0].posterior.method == "vmap"
    return set(sizes[2:]) - {batching.NUM_FIRST}, fitting.walkers_per_call


@pytest.mark.parametrize(
    ("chunk_size", "expected"),
    [(None, {100, 300}), (64, {64, 36, 44}), (30, {30, 10}), (1000, {100, 300})],
)
def test_a_method_is_tried_with_the_walkers_of_the_calls_to_come(
    monkeypatch, chunk_size, expected
):
    """Those of pilot (100) and of all islands (300), and what is left of them."""
    found, per_call = sizes_tried(monkeypatch, chunk_size=chunk_size)
    assert found == expected
    assert per_call == chunk_size


def test_a_method_is_tried_with_no_more_walkers_than_fit_into_memory(monkeypatch):
    monkeypatch.setattr("pyro_jarzynski.core.memory.CACHE", 1000)
    found, per_call = sizes_tried(monkeypatch)
    assert found == {per_call, 100 % per_call, 300 % per_call} - {0}
    assert 1 < per_call < 64


@pytest.mark.parametrize("num_data", [100, 300, 64, 44, 36])
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SlowModelWarning")
def test_as_many_data_as_walkers_of_any_call_are_met(num_data):
    """A plate mixes walkers if there are as many, and is right with any other number."""

    def model(y):
        m = Cube.apply(pyro.sample("m", dist.Normal(0.0, 1.0)))
        mixed = m - m.mean() if m.numel() == len(y) else m
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mixed, 1.0), obs=y)

    def method(chunk_size):
        wanted = Settings(num_walkers=100, num_chains=3, chunk_size=chunk_size)
        return prepare(model, (torch.zeros(num_data),), {}, wanted)[0][0].posterior.method

    assert method(None) == ("loop" if num_data in {100, 300} else "plate")
    assert method(64) == ("loop" if num_data in {64, 44, 36} else "plate")


def test_models_of_one_walker_at_a_time_take_the_memory_of_one():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m * (1 if float(m.detach()) > 0 else 2), 1.0), obs=y)

    with pytest.warns(SlowModelWarning):
        _, fitting = prepare(model, (torch.tensor(1.0),), {}, Settings(num_walkers=8))
    assert fitting.walkers_per_call == 1


# 30,000 data of 4,096 walkers are half a gigabyte for each operation of the model.
MEMORY = """
import resource
import torch, pyro, pyro.distributions as dist
from pyro_jarzynski.core.evaluation import CombinedEnergy, evaluate
from pyro_jarzynski.infer.posterior import make_posterior

def model(x, y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    mean = a * x
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean + b, 1.0), obs=y)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

x = torch.ones(30_000)
before = peak()
for chunk_size in (16, "auto"):
    found = make_posterior(
        model, (x, x), {}, base="prior", num_walkers=4096, seed=0, chunk_size=chunk_size
    )
    walkers = found.draw(4096, seed=0, purpose="walkers")
    energy = CombinedEnergy(found.terms, (0.5, 0.5))
    evaluate(energy, walkers[:512], chunk_size=found.chunk_size)
found.constrain(walkers)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units")
def test_memory_follows_the_chunks():
    """In gigabytes; 2.5 for all walkers at once."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.6


# Plates of particles that mix walkers.

NUM_DATA = 1000


def behind_much_data(change):
    """Return a model whose data hide, by their numbers, what is done to a small latent."""

    def model(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        if (a.abs() > 1e6).any():  # vmap refuses it, and a plate does not
            raise ValueError("too large")
        pyro.factor("soft", -4.0 * change(a).square().sum(-1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    return PyroModel(model, (torch.ones(NUM_DATA),), {})


def cloud(size, num=64):
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(16, size, generator=generator)
    few[:, -1] *= 10
    return few.repeat(-(-num // 16), 1)[:num]


MIXING = {
    "mean": lambda a: a - a.mean(),
    "mean without gradient": lambda a: a - a.detach().mean(),
    "largest": lambda a: a / a.max(),
    "threshold": lambda a: torch.where(a > a.median(), a, 0.5 * a),
    "running sum": lambda a: a.cumsum(0),
    "norm": lambda a: a / a.norm(),
    "softmax": lambda a: a.softmax(0),
    "first walker": lambda a: a + a[0],
    "batch norm": lambda a: (
        nn.functional.batch_norm(a.reshape(-1, 5), None, None, training=True).reshape(
            a.shape
        )
        if a.ndim > 1
        else a
    ),
    "branch": lambda a: a if (a < 1.5).all() else 2 * a,
    "number of walkers": lambda a: a - a.sum(-1, keepdim=True) / len(a),
}
RIGHT = {
    "mean": lambda a: a - a.mean(-1, keepdim=True),
    "largest": lambda a: a / a.amax(-1, keepdim=True),
    "running sum": lambda a: a.cumsum(-1),
    "norm": lambda a: a / a.norm(dim=-1, keepdim=True),
    "sorted": lambda a: a.sort(-1).values,
    "product": lambda a: a @ torch.arange(25.0).reshape(5, 5),
    "factor": lambda a: torch.linalg.solve(
        torch.eye(5) + a.unsqueeze(-1) * a.unsqueeze(-2), a
    ),
    "no number": lambda a: (a + 0.3).sqrt(),
}


@pytest.mark.parametrize("change", MIXING.values(), ids=MIXING)
def test_a_plate_that_mixes_walkers_is_not_taken(change):
    found = batched(behind_much_data(change), cloud(6))
    assert found.method == "loop"


@pytest.mark.parametrize("change", RIGHT.values(), ids=RIGHT)
def test_a_plate_that_does_not_is_taken(change):
    found = batched(behind_much_data(change), cloud(6))
    assert found.method == "plate"


@pytest.mark.global_state
def test_numbers_without_effect_may_be_drawn():
    """The start of a parameter is drawn in each run, and used in the first."""

    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        scale = pyro.param("drawn_at_first", torch.rand(()) + 1).detach()
        pyro.sample("y", dist.Normal(m, scale), obs=y)

    before = torch.get_rng_state()
    sampler = AnnealedSMC(model, num_walkers=256, num_chains=16, progress=False)
    result = sampler.run(torch.tensor(0.5))
    assert torch.equal(torch.get_rng_state(), before)
    assert result.posterior.method == "vmap"
    scale = pyro.param("drawn_at_first").detach()
    truth = dist.Normal(0.0, (1 + scale**2).sqrt()).log_prob(torch.tensor(0.5))
    # 16 islands: Student's law of 15 degrees of freedom, false alarm 6e-5.
    assert abs(result.log_evidence - float(truth)) < 5.5 * result.log_evidence_error
    pyro.clear_param_store()


def test_a_plate_may_have_any_name():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        if (m.abs() > 1e6).any():
            raise ValueError("too large")
        with pyro.plate("_walkers", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    found = batched(PyroModel(model, (torch.zeros(3),), {}), cloud(1))
    assert found.method == "plate"


def test_a_plate_that_mixes_walkers_near_the_posterior_alone_is_told():
    """Draws of the prior are nowhere all above 3, and those of the posterior are."""

    def model():
        m = pyro.sample("m", dist.Normal(0.0, 2.0))
        if (m > 3).all():
            m = m - 0.5 * (m - m.mean())
        pyro.sample("y", dist.Normal(m, 0.1), obs=torch.tensor(5.0))

    with pytest.raises(
        ModelError, match=r"other densities in a plate .* than for each alone"
    ):
        AnnealedSMC(model, num_walkers=32, progress=False).run()


def covariance_with_hardly_any_noise():
    x = torch.linspace(-10, 10, 11)
    length = pyro.sample("length", dist.Gamma(25.0, 4.0))
    size = pyro.sample("size", dist.HalfNormal(2.0))
    noise = pyro.sample("noise", dist.HalfNormal(1e-5))
    smooth = torch.exp(-(((x[:, None] - x) / length) ** 2) / 2)
    cov = size**2 * smooth + (noise + 1e-6) * torch.eye(11)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(11), cov), obs=3 * x.sin())


@pytest.mark.parametrize("seed", [1, 2, 5, 8, 9, 14])
def test_rounding_of_nearly_singular_matrices_is_no_difference(seed):
    model = PyroModel(covariance_with_hardly_any_noise, (), {})
    walkers = draw_prior(model, 16, seed=seed, purpose="test").repeat(4, 1)
    assert batched(model, walkers).method == "vmap"


def test_draws_of_the_prior_are_not_mixed_beside_large_sites():
    """The sum of `b` has variance 5, and 10 if the mean is that of all walkers.

    By 300 draws to 6 standard errors of a variance: false alarm 2e-9.
    """

    def model():
        pyro.sample("many", dist.Normal(0.0, 1.0).expand([60_000]).to_event(1))
        a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
        pyro.sample("b", dist.Normal(a - a.mean(), 1.0).to_event(1))

    num = 300
    drawn = draw_prior(PyroModel(model, (), {}), num, seed=0, purpose="test")
    variance = float(drawn[:, -5:].sum(1).var())
    assert abs(variance - 5) < 6 * 5 * math.sqrt(2 / num)
