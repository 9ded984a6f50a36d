"""Data that cannot be used are named; a run that diverges stops where it was sound."""

import math

import pytest
import torch

from pyro_jarzynski import MALA, ULA, LikelihoodTracker
from pyro_jarzynski.errors import (
    ArgumentTypeError,
    DataError,
    NonFiniteEnergyError,
    NonFiniteEnergyWarning,
    StepSizeWarning,
    WeightCollapseError,
)
from tests.ebm.models import (
    FLOAT,
    Shifted,
    mixture_data,
    mixture_learner,
    network_model,
    start_mixture,
)

GOOD = mixture_data(20)


def with_bad_rows(*rows, value=math.nan):
    data = GOOD.clone()
    data[list(rows), 1] = value
    return data


CASES = [
    (GOOD[:0], DataError, r"is empty: got shape \(0, 3\)"),
    (torch.zeros((), dtype=FLOAT), DataError, "is empty"),
    (with_bad_rows(3, 17), DataError, "NaN or infinity in 2 of 20 rows: 3, 17"),
    (with_bad_rows(4, value=-math.inf), DataError, "in 1 of 20 rows: 4"),
    (with_bad_rows(*range(9)), DataError, "in 9 of 20 rows: 0, 1, 2, 3, 4, …"),
    (GOOD[:, :2], DataError, r"must have shape \(n, 3\), .*got \(20, 2\)"),
    (GOOD[0], DataError, r"must have shape \(n, 3\)"),
    (
        GOOD.long(),
        ArgumentTypeError,
        "dtype of the walkers, .*got torch.int64",
    ),
]


@pytest.mark.parametrize(("data", "error", "match"), CASES)
def test_data(data, error, match):
    learner = mixture_learner()
    with pytest.raises(error, match=match) as caught:
        learner.fit(data, 5)
    assert "`data`" in str(caught.value)
    assert learner.num_steps == 0


@pytest.mark.parametrize(("data", "error", "match"), CASES)
def test_batches_of_a_loader(data, error, match):
    with pytest.raises(error, match=match):
        mixture_learner().fit([GOOD, data], 5)


@pytest.mark.parametrize(("data", "error", "match"), CASES)
def test_validation_data(data, error, match):
    learner = mixture_learner()
    with pytest.raises(error, match=match) as caught:
        learner.fit(GOOD, 5, validation=data)
    assert "`validation`" in str(caught.value)
    assert learner.num_steps == 0


@pytest.mark.parametrize(("data", "error", "match"), CASES)
def test_data_of_a_tracker(data, error, match):
    tracker = LikelihoodTracker(start_mixture(), num_walkers=10)
    for read in (tracker.nll, tracker.log_prob):
        with pytest.raises(error, match=match):
            read(data)


def test_data_that_are_no_tensors():
    learner = mixture_learner()
    with pytest.raises(ArgumentTypeError, match=r"got list; use `torch.as_tensor`"):
        learner.fit(GOOD, 5, validation=GOOD.tolist())
    with pytest.raises(ArgumentTypeError, match=r"`data` must be a tensor"):
        learner.fit(GOOD.tolist(), 5)
    with pytest.raises(ArgumentTypeError, match=r"or an iterable of batches .*, got int"):
        learner.fit(5, 5)


def test_a_loader_without_batches():
    with pytest.raises(DataError, match="is empty: the loader yields no batch"):
        mixture_learner().fit([], 5)


def test_data_of_another_precision_are_named():
    with pytest.raises(ArgumentTypeError, match=r"`data`.*float64"):
        mixture_learner(model=network_model()).fit(GOOD, 5)


class Cliff(Shifted):
    """Is NaN where the data are and the walkers are not."""

    def forward(self, x):
        return super().forward(x) * torch.where(x[:, 0] > 50, math.nan, 1.0)


def test_a_gradient_that_is_nan_stops_before_the_parameters_change():
    learner = mixture_learner(model=Cliff())
    learner.fit(GOOD, 3)
    before = learner.model.mean.detach().clone()
    with pytest.raises(NonFiniteEnergyError, match=r"in update 4: .*those before"):
        learner.fit(GOOD + 100, 5)
    assert torch.equal(learner.model.mean, before)
    assert learner.num_steps == 3


@pytest.mark.parametrize("kernel", [ULA(0.1), MALA(0.1)], ids=["ULA", "MALA"])
@pytest.mark.parametrize("learning_rate", [1e5, 1e20, 1e38])
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SupportWarning")
def test_a_huge_learning_rate_diverges_and_leaves_a_sound_model(learning_rate, kernel):
    """Parameters are those of the last update that ended, and the walkers fit them."""
    model = network_model()
    learner = mixture_learner(model=model, kernel=kernel, learning_rate=learning_rate)
    with pytest.raises((NonFiniteEnergyError, WeightCollapseError)):
        learner.fit(GOOD.float(), 50, eval_every=100)
    for parameter in model.parameters():
        assert torch.isfinite(parameter).all()
    for cloud in (learner.cloud, learner.audit.cloud):
        known = cloud.walkers.evaluation.energy
        torch.testing.assert_close(known, model(cloud.position).detach())


class Edge(Shifted):
    """Is NaN, or infinite, beyond three deviations on one side: at 1.3 walkers of 1000."""

    def __init__(self, value):
        super().__init__(dimension=1)
        self.value, self.there = value, False

    def forward(self, x):
        outside = (x[:, 0] > 3) if self.there else torch.zeros(len(x), dtype=torch.bool)
        return super().forward(x).masked_fill(outside, self.value)


@pytest.mark.parametrize("kernel", [ULA(0.1), MALA(0.1)], ids=["ULA", "MALA"])
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SupportWarning")
def test_a_few_nan_energies_are_a_warning(kernel):
    model = Edge(math.nan)
    learner = mixture_learner(
        model=model, kernel=kernel, num_walkers=2000, audit_walkers=2000, seed=1
    )
    model.there = True
    with pytest.warns(NonFiniteEnergyWarning, match="given density zero"):
        learner.fit(torch.zeros(10, 1, dtype=FLOAT), 5, eval_every=100)
    assert learner.num_steps == 5
    assert torch.isfinite(model.mean).all()


@pytest.mark.parametrize("kernel", [ULA(0.1), MALA(0.1)], ids=["ULA", "MALA"])
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SupportWarning")
def test_walls_are_no_fault(kernel):
    model = Edge(math.inf)
    learner = mixture_learner(model=model, kernel=kernel, num_walkers=2000, seed=1)
    model.there = True
    learner.fit(torch.zeros(10, 1, dtype=FLOAT), 5, eval_every=100)
    assert torch.isfinite(model.mean).all()


def test_a_step_beyond_the_curvature_is_a_warning():
    learner = mixture_learner(model=Shifted(), kernel=ULA(2.5), learning_rate=1e-3)
    with pytest.warns(StepSizeWarning, match=r"2.5 is too large .*infinite variance"):
        learner.fit(GOOD, 1)


def test_a_step_within_the_curvature_is_none():
    mixture_learner(model=Shifted(), kernel=ULA(1.9)).fit(GOOD, 1)
