"""Log-likelihood of each datum, against formulas by hand and sums over all assignments."""

import pytest
import torch

from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.pointwise import log_likelihood, log_prior
from pyro_jarzynski.infer.prior import draw_prior
from pyro_jarzynski.infer.sites import is_factor
from tests.export.assignments import MIXED, log_joints
from tests.export.known_likelihoods import KNOWN, NUM_DATA, X, Y, normal
from tests.export.known_mixtures import THREE
from tests.infer.batches import analysed, assert_close
from tests.infer.zoo import ZOO, discrete

# Sums of some dozen rounded terms of the order of ten.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
LOOP_ONLY = {"branch_on_a_latent"}


def cast(args, dtype):
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in args)


def prepared(case, dtype, num):
    """Return a model, walkers from its prior, and its data."""
    args = cast(case.args, dtype)
    model = PyroModel(case.model, args, {})
    walkers = draw_prior(model, num, seed=1, purpose="test")
    assert walkers.dtype == dtype
    return model, walkers, args


def assert_equal_to(found, expected, dtype, factor=1.0):
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values.dtype == dtype
        scale = 1 + float(expected[name].abs().max())
        torch.testing.assert_close(
            values, expected[name], rtol=0, atol=factor * TOLERANCE[dtype] * scale
        )


def by_hand(case, model, walkers, args):
    rows = [case.by_hand(model.values(walker), *args) for walker in walkers]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
# As many draws as data, and as many as a plate has places, pair up nowhere.
@pytest.mark.parametrize("num", [4, NUM_DATA, 3])
@pytest.mark.parametrize("name", KNOWN)
def test_likelihood_of_each_datum(name, num, dtype):
    case = KNOWN[name]
    model, walkers, args = prepared(case, dtype, num)
    found = log_likelihood(model, walkers, by_loop=name in LOOP_ONLY)
    assert_equal_to(found, by_hand(case, model, walkers, args), dtype)


@pytest.mark.parametrize("name", KNOWN)
def test_one_walker_at_a_time_and_in_parts_is_the_same(name):
    model, walkers, _ = prepared(KNOWN[name], torch.float64, 5)
    loop = log_likelihood(model, walkers, by_loop=True)
    for chunk_size in (None, 2):
        found = log_likelihood(model, walkers, chunk_size=chunk_size)
        assert_equal_to(found, loop, torch.float64)


def left_out(log_density, data):
    """What leaving out each datum takes from the sum over all assignments."""
    flat = torch.cat([values.reshape(len(values), -1) for values in data.values()], 1)
    whole = log_density + flat.sum(1)
    lost = whole.logsumexp(0) - (whole[:, None] - flat).logsumexp(0)
    parts = lost.split([values[0].numel() for values in data.values()])
    return {
        name: part.reshape(values.shape[1:])
        for (name, values), part in zip(data.items(), parts, strict=True)
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("num", [3, 5])
@pytest.mark.parametrize("name", MIXED)
def test_summed_out_latents_leave_what_a_datum_adds(name, num, dtype):
    """By sums over all paths of states, and all values in all plates."""
    case = MIXED[name]
    model, walkers, args = prepared(case, dtype, num)
    double = cast(args, torch.float64)
    rows = []
    for walker in walkers:
        values = {n: v.double() for n, v in model.values(walker).items()}
        rows.append(left_out(*log_joints(case, values, double)))
    expected = {n: torch.stack([r[n] for r in rows]).to(dtype) for n in rows[0]}
    # Differences of sums over all data, in the precision of the model.
    assert_equal_to(log_likelihood(model, walkers), expected, dtype, factor=10)


def test_independent_data_of_a_mixture_have_their_own_density():
    """In closed form, without the idea of leaving out."""
    case = MIXED["mixture_in_a_plate"]
    model, walkers, (y,) = prepared(case, torch.float64, 4)
    share = THREE.log()
    means = torch.stack([model.values(walker)["mean"] for walker in walkers])
    parts = normal(y[:, None], means[:, None], 1.0) + share
    assert_equal_to(log_likelihood(model, walkers), {"y": parts.logsumexp(-1)}, y.dtype)


def jacobian_and_factors(model, walker):
    trace, feed = model.run(walker)
    factors = [s["log_prob"].sum() for s in trace.nodes.values() if is_factor(s)]
    return sum(j.sum() for j in feed.log_jacobians) + sum(factors)


# Discrete latents, and imputed entries that were observed, are no terms of the sum.
UNLIKE = {"partly_observed"} | {
    name
    for name, case in ZOO.items()
    if case.model.__module__ == discrete.__name__ and name != "mixture_by_hand"
}


@pytest.mark.parametrize("name", sorted(ZOO.keys() - UNLIKE))
def test_likelihoods_and_priors_add_up_to_the_joint(name):
    model, cloud = analysed(name)
    by_loop, walkers = ZOO[name].method == "loop", cloud[:3]
    parts = log_likelihood(model, walkers, by_loop=by_loop) | log_prior(
        model, walkers, by_loop=by_loop
    )
    total = sum(values.reshape(3, -1).sum(1) for values in parts.values())
    rest = torch.stack([jacobian_and_factors(model, walker) for walker in walkers])
    joint = torch.stack([model.log_densities(walker)[1] for walker in walkers])
    assert_close((total + rest).detach(), joint.detach())


def test_prior_of_each_latent_by_its_plate():
    case = KNOWN["groups_by_index"]
    model, walkers, _ = prepared(case, torch.float64, 3)
    found = log_prior(model, walkers)
    assert found["a"].shape == (3, 3)
    for row, walker in enumerate(walkers):
        values = model.values(walker)
        expected = normal(values["a"], 0.0, values["s"])
        torch.testing.assert_close(found["a"][row], expected)
        log_s = values["s"].log()
        torch.testing.assert_close(found["s"][row], normal(log_s, 0.0, 0.5) - log_s)


def test_prior_given_discrete_latents():
    case = MIXED["continuous_below"]
    model, walkers, _ = prepared(case, torch.float64, 3)
    z = torch.tensor([0, 2, 1])
    found = log_prior(model, walkers, {"z": z})
    torch.testing.assert_close(found["m"], normal(walkers[:, 0], z.double(), 0.5))


def test_no_gradients_are_kept():
    case = KNOWN["matrix_product_in_a_plate"]
    model, walkers, _ = prepared(case, torch.float64, 3)
    found = log_likelihood(model, walkers.requires_grad_())
    assert not found["y"].requires_grad
    assert found["y"].shape == (3, len(Y)) == (3, len(X))
