"""Data that cannot be used are named; a run that diverges stops where it was sound."""

import math

import numpy
import pandas
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

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
    message = r"2.5 is too large .*infinite variance"
    with pytest.warns(StepSizeWarning, match=message):
        learner = mixture_learner(model=Shifted(), kernel=ULA(2.5), learning_rate=1e-3)
    with pytest.warns(StepSizeWarning, match=message):
        learner.fit(GOOD, 1)


def test_a_step_within_the_curvature_is_none():
    mixture_learner(model=Shifted(), kernel=ULA(1.9)).fit(GOOD, 1)


class Pixels(Shifted):
    """A density on the unit cube: zero on its far edges, as that of a uniform base is."""

    def __init__(self):
        super().__init__(dimension=2)

    def forward(self, x):
        inside = ((x >= 0) & (x < 1)).all(1)
        return torch.where(inside, (x @ self.mean), math.inf)

    def draw(self, num, generator):
        return torch.rand(num, 2, dtype=FLOAT, generator=generator)

    def start_log_normalizer(self):
        return 0.0


def pixels(*white):
    data = torch.rand(20, 2, dtype=FLOAT, generator=torch.Generator().manual_seed(0))
    data[list(white), 1] = 1.0
    return data


class TestDataWithoutDensity:
    @staticmethod
    def learner():
        return mixture_learner(model=Pixels(), kernel=MALA(0.01))

    def test_of_training_are_named_before_anything_changes(self):
        learner = self.learner()
        told = r"in update 1 at 2 of 20 rows: 3, 11 .* at row 3 of `data`, \[0\.\d+, 1\]"
        with pytest.raises(DataError, match=told):
            learner.fit(pixels(3, 11), 5, batch_size=None)
        assert learner.num_steps == 0
        assert not learner.model.mean.any()

    def test_of_a_batch_are_found_in_the_data(self):
        with pytest.raises(DataError, match=r"1 of 4 rows: . of the batch, .* row 11 of"):
            self.learner().fit(pixels(11), 5, batch_size=4)

    def test_of_a_loader_are_shown(self):
        with pytest.raises(DataError, match=r"in update 2 .*, first at \[0\.\d+, 1\]\."):
            self.learner().fit([pixels(), pixels(7)], 5)

    def test_of_validation_are_named_before_training(self):
        learner = self.learner()
        with pytest.raises(DataError, match=r"`validation` is plus infinity at 1 of 20 r"):
            learner.fit(pixels(), 5, validation=pixels(7))
        assert learner.num_steps == 0

    def test_give_an_infinite_likelihood_with_a_warning(self):
        tracker = LikelihoodTracker(Pixels(), num_walkers=20, kernel=MALA(0.01))
        with pytest.warns(
            NonFiniteEnergyWarning, match=r"density zero at `x` in 1 of 20 r"
        ):
            found = tracker.nll(pixels(7))
        assert found.nll == found.data_error == math.inf
        assert tracker.log_prob(pixels(7))[7] == -math.inf

    def test_that_come_about_in_training_are_never_the_best(self):
        """The score of a model that has lost a row is no score; training goes on."""
        model = Pixels()
        model.edge = math.inf
        forward = model.forward
        model.forward = lambda x: forward(x).masked_fill(
            (x[:, 0] > model.edge) & (len(x) == 20), math.inf
        )
        learner = mixture_learner(model=model, kernel=MALA(0.01))

        def lose(learner, row):
            model.edge = {2: 0.5, 4: 0.5}.get(row["step"], math.inf)

        with pytest.warns(
            NonFiniteEnergyWarning, match="update 4 the model has density ze"
        ):
            history = learner.fit(
                pixels()[:10] / 2,
                8,
                validation=pixels(),
                eval_every=2,
                batch_size=None,
                callbacks=[lose],
            )
        scores = history["validation_nll"]
        assert scores[1] == scores[2] == math.inf
        assert learner.best.step in (2, 8)
        assert math.isfinite(learner.best.validation_nll)

    @pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.NonFiniteEnergyWarning")
    def test_of_a_model_without_a_finite_score_restore_nothing(self):
        """Patience counts from the first score, as of scores that do not fall."""
        model = Pixels()
        forward = model.forward
        learner = mixture_learner(model=model, kernel=MALA(0.01))
        learner.fit(pixels()[:10] / 2, 1, batch_size=None)
        model.forward = lambda x: forward(x).masked_fill(
            (x[:, 0] > 0.5) & (len(x) == 20) & bool(learner.num_steps > 1), math.inf
        )
        seen = []
        history = learner.fit(
            pixels()[:10] / 2,
            40,
            validation=pixels(),
            eval_every=2,
            batch_size=None,
            patience=6,
            callbacks=[lambda learner, _: seen.append(learner.model.mean.clone())],
        )
        assert history["step"] == [1, 2, 4, 6, 8]
        assert set(history["validation_nll"][1:]) == {math.inf}
        assert learner.best is None
        assert torch.equal(learner.model.mean, seen[-1])


def test_nan_energies_of_data_are_an_error_with_their_rows():
    tracker = LikelihoodTracker(Cliff(), num_walkers=20)
    data = GOOD.clone()
    data[5, 0] = 60.0
    for read in (tracker.nll, tracker.log_prob):
        with pytest.raises(NonFiniteEnergyError, match="`x` is NaN at 1 of 20 rows: 5"):
            read(data)


def batches_of(data, size):
    yield from data.split(size)


class TestOtherSources:
    @pytest.mark.parametrize("make", [batches_of, lambda d, n: iter(list(d.split(n)))])
    def test_iterators_that_end(self, make):
        learner = mixture_learner()
        with pytest.raises(DataError, match=r"ended after 4 batches, .*begun again"):
            learner.fit(make(GOOD, 5), 10)
        assert learner.num_steps == 4
        learner.fit(make(GOOD, 5), 4)

    def test_batches_that_are_dictionaries(self):
        with pytest.raises(ArgumentTypeError, match=r"A batch of `data` .*keys 'x', 'y'"):
            mixture_learner().fit([{"x": GOOD, "y": 0}], 5)

    @pytest.mark.parametrize("where", ["data", "validation"])
    def test_frames_and_arrays_are_told_how_to_become_tensors(self, where):
        for other in (pandas.DataFrame(GOOD.numpy()), GOOD.numpy()):
            given = {"data": GOOD, "num_steps": 3} | {where: other}
            told = rf"`{where}` must be a tensor .*`torch.tensor\(numpy.asarray"
            with pytest.raises(ArgumentTypeError, match=told):
                mixture_learner().fit(**given)
            again = torch.tensor(numpy.asarray(other), dtype=torch.float64)
            mixture_learner().fit(**(given | {where: again}))

    @pytest.mark.parametrize("other", ["data.csv", {"x": GOOD}, TensorDataset(GOOD)])
    def test_what_is_no_loader(self, other):
        with pytest.raises(ArgumentTypeError, match="`data` must be a tensor"):
            mixture_learner().fit(other, 5)

    def test_a_loader_where_a_tensor_is_needed(self):
        tracker = LikelihoodTracker(start_mixture(), num_walkers=10)
        with pytest.raises(ArgumentTypeError, match=r"join its batches by `torch\.cat`"):
            tracker.nll(DataLoader(GOOD, 5))

    @pytest.mark.parametrize(
        "make",
        [
            lambda: DataLoader(TensorDataset(GOOD * 0.9), 6, generator=torch.Generator()),
            lambda: [(GOOD[:7] * 0.9, "label"), (GOOD[7:] * 0.9, "label")],
            lambda: batches_of(GOOD * 0.9, 6),
        ],
    )
    def test_validation_may_be_a_loader(self, make):
        found = []
        for validation in (make(), GOOD * 0.9):
            learner = mixture_learner()
            history = learner.fit(GOOD, 4, validation=validation, eval_every=2)
            found.append(history["validation_nll"])
        assert found[0] == found[1]

    def test_validation_of_no_batches(self):
        with pytest.raises(DataError, match="`validation` is empty: the loader yields no"):
            mixture_learner().fit(GOOD, 4, validation=[])
