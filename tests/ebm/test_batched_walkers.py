"""Walkers of which a batch moves per update: exact weights at the cost of the batch."""

import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.core import smc
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.transitions import Tools, reweight
from pyro_jarzynski.core.walkers import init
from pyro_jarzynski.ebm.batched_cloud import BatchedCloud, place, take
from pyro_jarzynski.errors import ArgumentError, NonFiniteEnergyError

NUM, BATCH = 24, 7
MEANS = torch.tensor([[-1.0, 0.5], [1.5, 0.0], [0.0, -1.0]], dtype=torch.float64)
Z = torch.tensor([0.0, -0.5, 0.3], dtype=torch.float64)
KERNELS = {
    "mala": pj.MALA(0.3),
    "ula": pj.ULA(0.05),
    "hmc": pj.HMC(0.3, num_leapfrog=3),
}


def mixture():
    return pj.GaussianMixtureEnergy(MEANS.clone(), Z.clone())


def cloud_of(model, kernel=KERNELS["mala"], *, batch_size=BATCH, **settings):
    known = {"num_moves": 2, "ess_threshold": 0.0, "resampler": "systematic", "seed": 3}
    known |= {"purpose": "test", "chunk_size": None, "num_walkers": NUM}
    return BatchedCloud(model, batch_size=batch_size, kernel=kernel, **known | settings)


def change(model, number):
    """Change the parameters by a fixed amount, as an optimiser would."""
    generator = stream(number, "parameters")
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)


class Eager:
    """The same cloud with all weights evaluated at every update."""

    def __init__(self, model, kernel, generator, first):
        self.model, self.kernel = model, kernel
        self.tools = Tools(generator)
        log_z = float(model.log_normalizer())
        self.walkers = init(first, model, log_normalizer=log_z)

    def follow(self, rows):
        before = take(self.walkers, rows)
        self.walkers = reweight(self.walkers, self.model, Tools(), None)
        moved, _ = smc.step(
            before,
            self.model,
            self.kernel,
            num_moves=2,
            ess_threshold=0.0,
            tools=self.tools,
        )
        place(self.walkers, rows, moved)


def in_order(order):
    """Batches in passes; or any rows, some never and some again and again."""
    if order == "passes":
        return [torch.arange(NUM).roll(5)[i : i + BATCH] for i in (0, 7, 14, 21)] * 3
    generator = stream(8, "rows")
    return [torch.randperm(NUM - 4, generator=generator)[:BATCH] for _ in range(12)]


@pytest.mark.parametrize("order", ["passes", "any"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_weights_are_those_of_evaluating_all_at_every_update(kernel, order, monkeypatch):
    model = mixture()
    cloud = cloud_of(model, kernel)
    eager = Eager(model, kernel, stream(1, "noise"), cloud.position.clone())
    cloud.tools = Tools(stream(1, "noise"))
    batches = iter(in_order(order))
    present = [next(batches)]
    monkeypatch.setattr(cloud, "_next", lambda: present[0])
    for number in range(11):
        cloud.prepare()
        change(model, number)
        cloud.follow()
        eager.follow(present[0])
        present[0] = next(batches)
    lazy = cloud.walkers
    assert torch.equal(lazy.position, eager.walkers.position)
    exact = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(lazy.log_weight, eager.walkers.log_weight, **exact)
    torch.testing.assert_close(
        lazy.evaluation.energy, eager.walkers.evaluation.energy, **exact
    )


def test_asking_in_between_changes_nothing():
    found = []
    for asked in (False, True):
        model = mixture()
        cloud = cloud_of(model)
        for number in range(6):
            cloud.prepare()
            change(model, number)
            cloud.follow()
            if asked:
                float(cloud.walkers.ess)
        found.append(cloud.walkers)
    assert torch.equal(found[0].position, found[1].position)
    torch.testing.assert_close(found[0].log_weight, found[1].log_weight, rtol=0, atol=1e-12)


def test_an_update_evaluates_the_batch_alone():
    model = mixture()
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    cloud = cloud_of(model, num_walkers=1000, batch_size=10, num_moves=3)
    seen.clear()
    for number in range(5):
        change(model, number)
        cloud.follow()
    # The switch and three moves, of ten walkers each.
    assert seen == [10] * 20
    seen.clear()
    float(cloud.walkers.log_normalizer)
    assert seen == [990]


def test_every_walker_moves_once_per_pass():
    model = mixture()
    cloud = cloud_of(model)
    rows = []
    for number in range(4):
        change(model, number)
        cloud.follow()
        rows.append(cloud.active.ancestor)
    assert sorted(torch.cat(rows).tolist()) == list(range(NUM))


def test_low_effective_size_resamples_at_the_end_of_a_pass():
    model = mixture()
    cloud = cloud_of(model, ess_threshold=1.0)
    before = None
    for number in range(4):
        assert cloud.num_resamplings == 0
        change(model, number)
        before = cloud.walkers.log_normalizer if number == 3 else before
        cloud.follow()
    assert cloud.num_resamplings == 1
    assert float(cloud.walkers.log_weight.abs().max()) == 0
    assert float(cloud.walkers.log_banked) != 0


def test_evidence_is_unbiased():
    """Mean of `Ẑ / Z` over 400 clouds on a fixed path: 4.5 standard errors, 1e-5 a run."""
    ratios = []
    for seed in range(400):
        model = mixture()
        cloud = cloud_of(model, seed=seed, num_moves=1)
        for number in range(5):
            change(model, number)
            cloud.follow()
        log_ratio = cloud.walkers.log_normalizer - model.log_normalizer()
        ratios.append(float(log_ratio.exp()))
    ratios = torch.tensor(ratios, dtype=torch.float64)
    assert abs(float(ratios.mean()) - 1) < 4.5 * float(ratios.std()) / 20


def test_failure_is_undone():
    model = mixture()
    cloud = cloud_of(model)
    for number in range(3):
        change(model, number)
        cloud.follow()
    before, mark = cloud.walkers, cloud.mark()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    change(model, 9)
    cloud.follow()
    cloud.undo(mark)
    model.load_state_dict(kept)
    after = cloud.walkers
    assert torch.equal(before.position, after.position)
    torch.testing.assert_close(before.log_weight, after.log_weight, rtol=0, atol=1e-12)
    assert torch.equal(before.steps, after.steps)


class TestTraining:
    noise = torch.randn(400, 1, generator=stream(0, "data"))
    data = noise + torch.tensor([-3.0] * 300 + [3.0] * 100)[:, None]

    def learner(self, **settings):
        model = pj.GaussianMixtureEnergy(torch.tensor([[-2.0], [2.0]]), torch.zeros(2))
        optimizer = torch.optim.Adam(model.parameters(), 0.03)
        return pj.JarzynskiLearner(model, optimizer, kernel=pj.MALA(0.5), **settings)

    def test_the_mass_of_a_mode_is_learned(self):
        """The maximum of the likelihood has the data's masses, ¾ and ¼, to a little."""
        learner = self.learner(num_walkers=600, audit_walkers=600, walker_batch_size=100)
        learner.fit(self.data, 400, batch_size=None)
        assert float(learner.model.masses()[0]) == pytest.approx(0.75, abs=0.05)
        exact = float(learner.model.log_normalizer())
        error = learner.log_normalizer_error
        assert learner.log_normalizer == pytest.approx(exact, abs=5 * error)

    def test_history_and_export_know_all_walkers(self):
        learner = self.learner(num_walkers=90, audit_walkers=60, walker_batch_size=20)
        learner.fit(self.data, 10, eval_every=5, validation=self.data[:50])
        row = learner.history.rows[-1]
        assert row["training_log_z"] == pytest.approx(learner.log_normalizer, abs=0.5)
        assert learner.sample(40).shape == (40, 1)
        assert learner.to_arviz()["posterior"]["x"].shape == (2, 60, 1)

    def test_divergence_leaves_everything_as_it_was(self):
        learner = self.learner(num_walkers=90, audit_walkers=60, walker_batch_size=20)
        learner.fit(self.data, 3)
        before = learner.followers.walkers
        learner.optimizer.param_groups[0]["lr"] = float("inf")
        with pytest.raises(NonFiniteEnergyError):
            learner.fit(self.data, 1)
        for a, b in zip(before, learner.followers.walkers, strict=True):
            assert torch.equal(a.position, b.position)
            torch.testing.assert_close(a.log_weight, b.log_weight)

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"walker_batch_size": 2000}, "at most 1024, the number of walkers, got 2000"),
            ({"walker_batch_size": 0}, "`walker_batch_size` must be at least 1"),
        ],
    )
    def test_batches_that_cannot_be(self, settings, told):
        with pytest.raises(ArgumentError, match=told):
            self.learner(**settings)

    def test_contrastive_divergence_has_no_weights_to_evaluate_later(self):
        model = mixture()
        optimizer = torch.optim.Adam(model.parameters())
        with pytest.raises(ArgumentError, match="needs walkers with weights"):
            pj.PersistentContrastiveDivergence(model, optimizer, walker_batch_size=10)

    def test_kernels_that_keep_momenta_are_refused(self):
        cloud = cloud_of(mixture(), pj.UnderdampedLangevin(0.1))
        with pytest.raises(ArgumentError, match="ULA, MALA or HMC, got Underdamped"):
            cloud.follow()
