"""Shapes that broadcast and plates that are subsampled are refused, and no others."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS

from pyro_jarzynski import (
    AnnealedSMC,
    JarzynskiKernel,
    evidence_bounds,
    self_test,
    to_arviz,
)
from pyro_jarzynski.errors import ModelError
from pyro_jarzynski.infer.model import PyroModel
from tests.infer.batches import conjugate

DATA = torch.tensor([0.5, 1.2, -0.3, 0.8])
DESIGN = torch.tensor([[1.0, 0.2], [0.3, -1.0], [0.5, 0.5], [-1.0, 2.0]])
FEW = {"num_walkers": 16, "num_chains": 2, "progress": False}


def mean():
    return pyro.sample("m", dist.Normal(0.0, 1.0))


# Shapes.


def column_in_a_plate():
    conjugate(DATA[:, None])


def column_of_a_regression():
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0))
    pyro.sample("y", dist.Normal(DESIGN @ b, 1.0), obs=DATA[:, None])


def column_of_one_event():
    m = mean()
    pyro.sample("y", dist.Normal(m, 1.0).expand([4]).to_event(1), obs=DATA[:, None])


def column_of_an_event_for_each_place():
    m = mean()
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(m, 1.0).expand([4]).to_event(1), obs=DATA[:, None])


def rows_in_the_plate_of_columns():
    m = mean()
    with pyro.plate("data", 4, dim=-2):
        pyro.sample("y", dist.Normal(m, 1.0), obs=DATA)


def data_of_an_enumerated_model():
    z = pyro.sample("z", dist.Bernoulli(0.5))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(2 * z, 1.0), obs=DATA[:, None])


def more_data_than_places():
    m = mean()
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(m, 1.0), obs=DATA.expand(3, 4))


def mask_of_more_places():
    m = mean()
    with poutine.mask(mask=DATA > 0):
        pyro.sample("y", dist.Normal(m, 1.0), obs=DATA[0])


def scale_of_more_places():
    m = mean()
    with poutine.scale(scale=DATA.abs()):
        pyro.sample("y", dist.Normal(m, 1.0), obs=DATA[0])


def column_of_latents():
    with pyro.plate("p", 4):
        pyro.sample("y", dist.Normal(torch.zeros(4, 1), 1.0))


def mask_of_more_places_than_latents():
    with poutine.mask(mask=DATA > 0):
        pyro.sample("y", dist.Normal(0.0, 1.0))


def undeclared_latents_beside_discrete_ones():
    y = pyro.sample("y", dist.Normal(torch.zeros(3), 1.0))
    z = pyro.sample("z", dist.Categorical(torch.ones(3)))
    pyro.sample("data", dist.Normal(y.sum(-1) + z, 1.0), obs=DATA[0])


def one_datum_for_a_batch():
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0))
    pyro.sample("y", dist.Normal(DESIGN @ b, 1.0), obs=DATA[0])


def one_datum_under_a_mask_of_its_distribution():
    m = mean()
    pyro.sample("y", dist.Normal(m, 1.0).mask(DATA > 0), obs=DATA[0])


def factors_of_more_places():
    m = mean()
    with pyro.plate("data", 4):
        pyro.factor("y", -((DATA[:, None] - m) ** 2))


SQUARE = [(4, 1), (4, 4)]


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (column_in_a_plate, SQUARE),
        (column_of_a_regression, SQUARE),
        (column_of_one_event, SQUARE),
        (column_of_an_event_for_each_place, SQUARE),
        (rows_in_the_plate_of_columns, SQUARE),
        (data_of_an_enumerated_model, SQUARE),
        (more_data_than_places, [[4], [3, 4]]),
        (mask_of_more_places, [(), (4,)]),
        (scale_of_more_places, [(), (4,)]),
        (column_of_latents, [[4], [4, 4]]),
        (mask_of_more_places_than_latents, [(), (4,)]),
        (undeclared_latents_beside_discrete_ones, [[], [3]]),
        (one_datum_for_a_batch, [(4,), ()]),
        (one_datum_under_a_mask_of_its_distribution, [(4,), ()]),
        (factors_of_more_places, [[4], [4, 4]]),
    ],
)
def test_shapes_that_broadcast_are_refused(model, shapes):
    with pytest.raises(ModelError, match="'y'") as told:
        AnnealedSMC(model, **FEW).run()
    assert all(str(shape) in str(told.value) for shape in shapes)


def row_in_a_plate():
    m = mean()
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(m, 1.0), obs=DATA[None])


def data_without_a_plate():
    pyro.sample("y", dist.Normal(mean(), 1.0), obs=DATA)


def regression_without_plates():
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0))
    pyro.sample("y", dist.Normal(DESIGN @ b, 1.0), obs=DATA)


def one_datum_for_all_places():
    m = mean()
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(m, 1.0), obs=DATA[0])


def parameters_of_each_column():
    with pyro.plate("columns", 2, dim=-1):
        m = mean()
        with pyro.plate("rows", 4, dim=-2):
            pyro.sample("y", dist.Normal(m, 1.0), obs=DESIGN)


def series_of_unknown_length():
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    start = dist.Normal(0.0, 1.0).expand([1]).to_event(1)
    step = dist.Normal(0.0, scale).expand([1]).to_event(1)
    eye = torch.eye(1)
    pyro.sample("y", dist.GaussianHMM(start, eye, step, eye, start), obs=DATA[:, None])


def computed_values_of_any_shape():
    m = mean()
    with pyro.plate("data", 4):
        pyro.deterministic("column", m + DATA[:, None])
        pyro.sample("y", dist.Normal(m, 1.0), obs=DATA)


@pytest.mark.parametrize(
    "model",
    [
        row_in_a_plate,
        data_without_a_plate,
        regression_without_plates,
        one_datum_for_all_places,
        parameters_of_each_column,
        series_of_unknown_length,
        computed_values_of_any_shape,
    ],
)
def test_shapes_that_pyro_takes_are_taken(model):
    """With the log-density that Pyro's trace has at the same values."""
    analysed = PyroModel(model, (), {})
    trace = analysed.traces[0]
    prior, joint = analysed.log_densities(analysed.first_coordinates)
    observed = trace.log_prob_sum(lambda _, site: site["is_observed"])
    torch.testing.assert_close(joint - prior, torch.as_tensor(observed))


def test_a_state_that_outlives_its_window_is_told():
    def model():
        pyro.sample("m", dist.Normal(0.0, 1.0))
        a = b = torch.tensor(0)
        table = torch.ones(2, 2, 2)
        for t in pyro.markov(range(4), history=1):
            a, b = b, pyro.sample(f"z{t}", dist.Categorical(table[a, b]))

    with pytest.raises(ModelError, match=r"`pyro.markov`, let `history` be"):
        PyroModel(model, (), {})


# Plates.


def by_size(y):
    with pyro.plate("data", 4, subsample_size=2) as rows:
        return y[rows]


def by_indices(y):
    with pyro.plate("data", 4, subsample=torch.tensor([0, 2])) as rows:
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y[rows])
    return y[:1]


def one_after_the_other(y):
    for row in pyro.plate("data", 4, subsample=[0, 2]):
        pyro.sample(f"y_{row}", dist.Normal(0.0, 1.0), obs=y[row])
    return y[:1]


def latents_of_the_plate(y):
    with pyro.plate("data", 4, subsample=torch.tensor([0, 2])) as rows:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x, 1.0), obs=y[rows])
    return y[:1]


def within_another_plate(y):
    with pyro.plate("other", 2, dim=-2), pyro.plate("data", 4, subsample_size=2, dim=-1):
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y[:2].expand(2, 2))
    return y[:1]


def by_subsample_statement(y):
    with pyro.plate("data", 4, subsample_size=2):
        y = pyro.subsample(y, event_dim=0)
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)
    return y[:1]


ELSEWHERE = pyro.plate("data", 4, subsample=torch.tensor([0, 2]))


def made_outside_of_the_model(y):
    with ELSEWHERE as rows:
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y[rows])
    return y[:1]


def places_taken_twice(y):
    with pyro.plate("data", 4, subsample=torch.tensor([0, 0, 1, 2])) as rows:
        return y[rows]


FORMS = [
    by_size,
    by_indices,
    one_after_the_other,
    latents_of_the_plate,
    within_another_plate,
    by_subsample_statement,
    made_outside_of_the_model,
    places_taken_twice,
]


@pytest.mark.parametrize("form", FORMS)
def test_subsampled_plates_are_refused(form):
    def model(y):
        pyro.sample("z", dist.Normal(mean(), 1.0).expand([1]).to_event(1), obs=form(y)[:1])

    with pytest.raises(ModelError, match=r"plate 'data' .*Leave out `subsample"):
        AnnealedSMC(model, **FEW).run(DATA)


def test_indices_that_are_given_from_outside_are_refused():
    model = poutine.condition(conjugate, data={"data": torch.tensor([0, 2])})
    with pytest.raises(ModelError, match=r"'data' is subsampled \(2 of 4\)"):
        AnnealedSMC(model, **FEW).run(DATA)


def test_all_indices_in_any_order_are_taken():
    def model(y):
        m = mean()
        with pyro.plate("data", 4, subsample=torch.tensor([2, 0, 3, 1])) as rows:
            pyro.sample("y", dist.Normal(m, 1.0), obs=y[rows])

    def plain(y):
        m = mean()
        with pyro.plate("data", 4, subsample_size=4):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    point = torch.tensor([0.3])
    found, expected = (
        PyroModel(law, (DATA,), {}).log_densities(point) for law in (model, plain)
    )
    torch.testing.assert_close(found, expected)


# Entry points.


def part_of_the_data(y):
    m = mean()
    with pyro.plate("data", 4, subsample=torch.tensor([0, 2])) as rows:
        pyro.sample("y", dist.Normal(m, 1.0), obs=y[rows])


def by_mcmc(model):
    MCMC(JarzynskiKernel(model), 5, 5, disable_progbar=True).run(DATA)


def by_export(model):
    mcmc = MCMC(NUTS(model), 2, 2, disable_progbar=True)
    mcmc.run(DATA)
    to_arviz(mcmc)


@pytest.mark.parametrize(
    "use",
    [
        by_mcmc,
        by_export,
        lambda model: evidence_bounds(model, DATA),
        lambda model: self_test(model, DATA),
    ],
)
@pytest.mark.global_state
@pytest.mark.parametrize(
    "model",
    [
        part_of_the_data,
        lambda y: conjugate(y[:, None]),
        lambda y: one_datum_for_a_batch(),
        lambda y: column_of_a_regression(),
    ],
)
def test_all_entry_points_refuse(use, model):
    with pytest.raises(ModelError, match=r"subsampled \(2 of 4\)|shape of its distr"):
        use(model)
