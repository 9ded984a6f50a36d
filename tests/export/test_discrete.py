"""Draws of discrete latents, against their exact law given the continuous ones and data."""

from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2

from pyro_jarzynski.infer.discrete import draw_discrete
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.posterior import ModelPosterior
from pyro_jarzynski.infer.prior import draw_prior
from tests.export.assignments import MIXED, assignments, log_joints
from tests.export.known_mixtures import THREE, Y
from tests.export.test_pointwise import cast, prepared

NUM = 4000
FALSE_ALARM = 1e-6


@cache
def at_one_place(name, seed=2, dtype=torch.float64):
    """A model, one walker many times, and the exact law of all assignments there."""
    case = MIXED[name]
    args = cast(case.args, dtype)
    model = PyroModel(case.model, args, {})
    walker = draw_prior(model, 1, seed=seed, purpose="test")
    values = {n: v.double() for n, v in model.values(walker[0]).items()}
    log_density, data = log_joints(case, values, cast(case.args, torch.float64))
    flat = [values.reshape(len(values), -1).sum(1) for values in data.values()]
    return model, walker.repeat(NUM, 1), (log_density + sum(flat)).softmax(0)


def numbers(name, draws):
    """Return which assignment each draw is, `(N,)`."""
    known = [torch.cat([z[site].flatten() for site in z]) for z in assignments(MIXED[name])]
    sites = MIXED[name].supports
    drawn = torch.cat([draws[site].reshape(len(draws[site]), -1) for site in sites], 1)
    same = (drawn.double()[:, None] == torch.stack(known)).all(-1)
    assert (same.sum(1) == 1).all(), "a draw is no value of the latents"
    return same.long().argmax(1)


def chi_square(found, expected):
    """Return the statistic and its freedom; rare assignments are counted together."""
    common = expected >= 5
    cells = torch.stack([found[common], expected[common]])
    rest = torch.stack([found[~common].sum(), expected[~common].sum()])
    # A handful of rare draws is no cell of its own: a tenth of a draw has no chi-square.
    if rest[1] >= 5:
        cells = torch.cat([cells, rest[:, None]], 1)
    gaps = (cells[0] - cells[1]).square() / cells[1]
    return float(gaps.sum()), cells.shape[1] - 1


def assert_law(name, draws, law):
    """False alarms: 1e-6 for each call, and there are about twenty."""
    counts = torch.bincount(numbers(name, draws), minlength=len(law)).double()
    statistic, freedom = chi_square(counts, counts.sum() * law)
    assert freedom > 0, "the law is too narrow to test anything"
    assert statistic < chi2.isf(FALSE_ALARM, freedom)


@pytest.mark.parametrize("name", MIXED)
def test_draws_have_the_joint_law_of_all_latents(name):
    model, walkers, law = at_one_place(name)
    draws = draw_discrete(model, walkers, by_loop=False, seed=3)
    assert_law(name, draws, law)


@pytest.mark.parametrize("name", ["hidden_markov", "global_parent_of_local_children"])
def test_draws_without_data_fail(name):
    """The test above has power: the prior of the same latents is refused."""
    _, _, law = at_one_place(name)
    case = MIXED[name]
    values = {"m": torch.zeros(()).double(), "mean": torch.zeros(2).double()}
    log_prior, _ = log_joints(case, values, cast(case.args, torch.float64))
    statistic, freedom = chi_square(NUM * log_prior.softmax(0), NUM * law)
    assert statistic > 2 * chi2.isf(FALSE_ALARM, freedom)


@pytest.mark.parametrize("name", ["mixture_in_a_plate", "hidden_markov", "nested_plates"])
def test_single_precision_has_the_same_law(name):
    model, walkers, law = at_one_place(name, dtype=torch.float32)
    assert walkers.dtype == torch.float32
    assert_law(name, draw_discrete(model, walkers, by_loop=False, seed=4), law)


@pytest.mark.parametrize("name", ["mixture_in_a_plate", "hidden_markov"])
def test_one_walker_at_a_time_has_the_same_law(name):
    model, walkers, law = at_one_place(name)
    assert_law(name, draw_discrete(model, walkers[:300], by_loop=True, seed=5), law)


@pytest.mark.parametrize("name", MIXED)
def test_shapes_and_types_are_those_of_the_model(name):
    case = MIXED[name]
    model, walkers, _ = prepared(case, torch.float64, 3)
    state = torch.get_rng_state()
    loop, mapped = (draw_discrete(model, walkers, by_loop=b, seed=0) for b in (True, False))
    assert torch.equal(torch.get_rng_state(), state)
    first = model.traces[0].nodes
    for site, shape in case.shapes.items():
        for draws in (loop, mapped):
            assert draws[site].shape == (3, *shape)
            assert draws[site].dtype == first[site]["value"].dtype


def test_every_walker_has_latents_of_its_own():
    """At 17 places, each with the law there: by the mean of one latent.

    False alarms: 1e-9 by a normal law, at six standard errors.
    """
    model, walkers, _ = prepared(MIXED["mixture_in_a_plate"], torch.float64, 17)
    many = walkers.repeat_interleave(1000, 0)
    draws = draw_discrete(model, many, by_loop=False, seed=1)["z"]
    found = torch.nn.functional.one_hot(draws, 3).double().reshape(17, 1000, 3, 3).mean(1)
    for row, walker in zip(found, walkers, strict=True):
        means = model.values(walker)["mean"]
        distance = (Y.double()[:, None] - means).square() / 2
        exact = (THREE.log() - distance).softmax(-1)
        error = (exact * (1 - exact) / 1000).sqrt()
        # And five draws more, where a normal law is none.
        assert ((row - exact).abs() <= 6 * error + 5e-3).all()


def test_the_seed_decides():
    model, walkers, _ = at_one_place("hidden_markov")
    one, same, other = (
        draw_discrete(model, walkers[:200], by_loop=False, seed=s) for s in (1, 1, 2)
    )
    assert all(torch.equal(one[site], same[site]) for site in one)
    assert any(not torch.equal(one[site], other[site]) for site in one)


def test_deterministic_sites_follow_the_draws():
    case = MIXED["mixture_in_a_plate"]
    model, walkers, _ = prepared(case, torch.float64, 40)
    posterior = ModelPosterior(model, None, 40, seed=5)
    values = posterior.constrain(walkers, deterministic=True)
    assert torch.equal(values["centre"], values["mean"].gather(1, values["z"]))
    again = posterior.constrain(walkers, deterministic=True)
    assert all(torch.equal(values[name], again[name]) for name in values)


def drawn_of(program, *args, num=50):
    model = PyroModel(program, args, {})
    walkers = draw_prior(model, num, seed=0, purpose="test")
    return draw_discrete(model, walkers, by_loop=False, seed=0)


def test_a_latent_of_one_value_has_it():
    def single(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.ones(1)))
            pyro.sample("y", dist.Normal(m + z, 1.0), obs=y)

    assert torch.equal(drawn_of(single, Y)["z"], torch.zeros(50, 3, dtype=torch.int64))


def test_impossible_values_are_never_drawn():
    def certain(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.0, 1.0, 0.0])))
            u = pyro.sample("u", dist.Categorical(torch.eye(3)[z]))
            pyro.sample("y", dist.Normal(m + u, 1.0), obs=y)

    draws = drawn_of(certain, Y, num=500)
    assert (draws["z"] == 1).all()
    assert (draws["u"] == 1).all()


def test_a_model_that_only_a_loop_can_run_draws_them_too():
    def branching(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        scale = 1e-3 if m > 0 else 0.5
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(z, scale), obs=y)

    model = PyroModel(branching, (torch.tensor([0.0, 1.0]),), {})
    walkers = torch.tensor([[-1.0], [1.0]]).repeat(200, 1)
    z = draw_discrete(model, walkers, by_loop=True, seed=0)["z"]
    certain, open_ = z[1::2], z[::2]
    assert torch.equal(certain, torch.tensor([[0.0, 1.0]]).expand(200, 2))
    # At scale 0.5 one in about eight is on the other side.
    assert 5 < int((open_[:, 0] == 1).sum()) < 60
