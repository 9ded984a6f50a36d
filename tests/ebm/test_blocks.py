"""Blocks of walkers that follow in turn: exact weights at the cost of one block."""

import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.core import smc
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.transitions import reweight
from pyro_jarzynski.ebm.cloud import Cloud
from pyro_jarzynski.errors import ArgumentError, WeightCollapseError

NUM, BLOCK = 24, 7
MEANS = torch.tensor([[-1.0, 0.5], [1.5, 0.0], [0.0, -1.0]], dtype=torch.float64)
Z = torch.tensor([0.0, -0.5, 0.3], dtype=torch.float64)
KERNELS = {
    "mala": pj.MALA(0.3),
    "ula": pj.ULA(0.05),
    "hmc": pj.HMC(0.3, num_leapfrog=3),
}


def mixture():
    return pj.GaussianMixtureEnergy(MEANS.clone(), Z.clone())


def cloud_of(model, kernel=KERNELS["mala"], *, block_size=BLOCK, **settings):
    known = {"num_moves": 2, "ess_threshold": 0.0, "resampler": "systematic", "seed": 3}
    known |= {"purpose": "test", "num_walkers": NUM}
    return Cloud(model, block_size=block_size, kernel=kernel, **known | settings)


def change(model, number):
    """Change the parameters by a fixed amount, as an optimiser would."""
    generator = stream(number, "parameters")
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)


class Eager:
    """The same blocks, all of them weighted anew at every update."""

    def __init__(self, cloud, generator):
        self.model, self.kernel = cloud.model, cloud.kernel
        self.tools = Tools(generator)
        self.blocks = list(cloud.place.blocks)

    def follow(self, turn):
        moved, _ = smc.step(
            self.blocks[turn],
            self.model,
            self.kernel,
            num_moves=2,
            ess_threshold=0.99,
            tools=self.tools,
        )
        others = [reweight(block, self.model, Tools(), None) for block in self.blocks]
        self.blocks = [*others[:turn], moved, *others[turn + 1 :]]

    @property
    def log_weight(self):
        return torch.cat([block.log_weight + block.log_banked for block in self.blocks])


def in_order(order):
    """Blocks in turn; or in any order, one never and some again and again."""
    if order == "turns":
        return [(number + 1) % 4 for number in range(11)]
    return torch.randint(3, (11,), generator=stream(8, "blocks")).tolist()


@pytest.mark.parametrize("order", ["turns", "any"])
@pytest.mark.parametrize("kernel", ["mala", "hmc"])
def test_weights_are_those_of_evaluating_all_at_every_update(kernel, order):
    model = mixture()
    cloud = cloud_of(model, KERNELS[kernel], ess_threshold=0.99)
    eager = Eager(cloud, stream(1, "noise"))
    cloud.tools = Tools(stream(1, "noise"))
    for number, turn in enumerate(in_order(order)):
        change(model, number)
        cloud.place = cloud.place._replace(turn=(turn - 1) % 4)
        cloud.follow()
        eager.follow(turn)
    assert cloud.num_resamplings > 0
    lazy = cloud.walkers
    exact = {"rtol": 0, "atol": 1e-12}
    positions = torch.cat([block.position for block in eager.blocks])
    torch.testing.assert_close(lazy.position, positions, **exact)
    found = lazy.log_weight + lazy.log_banked
    torch.testing.assert_close(found, eager.log_weight, **exact)
    torch.testing.assert_close(lazy.evaluation.energy, model(positions).detach(), **exact)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_to_look_changes_nothing(kernel):
    found = []
    for looked in (False, True):
        model = mixture()
        cloud = cloud_of(model, kernel)
        for number in range(6):
            change(model, number)
            cloud.follow()
            if looked:
                float(cloud.walkers.ess)
                cloud.state_dict()
        found.append(cloud.walkers)
    assert torch.equal(found[0].position, found[1].position)
    assert torch.equal(found[0].log_weight, found[1].log_weight)


def test_an_update_evaluates_one_block_alone():
    model = mixture()
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    cloud = cloud_of(model, num_walkers=1000, block_size=10, num_moves=3)
    seen.clear()
    for number in range(5):
        change(model, number)
        cloud.follow()
    # The switch and three moves, of ten walkers each.
    assert seen == [10] * 20
    seen.clear()
    float(cloud.walkers.log_normalizer)
    float(cloud.walkers.ess)
    # The 990 of the other blocks once, and the ten that followed at each reading.
    assert sum(seen) == 990 + 2 * 10


def test_positions_of_one_block_are_not_copied():
    cloud = cloud_of(mixture(), block_size=None)
    assert cloud.position is cloud.active.position


def test_every_walker_moves_once_per_turn():
    model = mixture()
    cloud = cloud_of(model)
    rows = []
    for number in range(4):
        change(model, number)
        cloud.follow()
        rows.append(cloud.active.ancestor)
    assert sorted(torch.cat(rows).tolist()) == list(range(NUM))


def test_a_block_of_low_effective_size_is_resampled_by_itself():
    model = mixture()
    cloud = cloud_of(model, ess_threshold=1.0)
    change(model, 0)
    cloud.follow()
    assert cloud.num_resamplings == 1
    sizes = [float(block.log_weight.abs().max()) for block in cloud.place.blocks]
    assert sizes == [0.0] * 4
    assert float(cloud.active.log_banked) != float(cloud.place.blocks[0].log_banked)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_evidence_is_unbiased(kernel):
    """Mean of `Ẑ / Z` over 400 clouds on a fixed path: 4.5 standard errors, 1e-5 each."""
    ratios = []
    for seed in range(400):
        model = mixture()
        cloud = cloud_of(model, kernel, seed=seed, num_moves=1, ess_threshold=0.7)
        for number in range(5):
            change(model, number)
            cloud.follow()
        log_ratio = cloud.walkers.log_normalizer - model.log_normalizer()
        ratios.append(float(log_ratio.exp()))
    ratios = torch.tensor(ratios, dtype=torch.float64)
    assert abs(float(ratios.mean()) - 1) < 4.5 * float(ratios.std()) / 20


def test_a_cloud_that_waits_has_the_weights_of_one_that_follows():
    """Updates whose walkers wait are one step of the path, exactly."""
    found = []
    for waits in (True, False):
        model = mixture()
        cloud = cloud_of(model, block_size=None)
        for number in range(7):
            change(model, number)
            if number % 3 == 2:
                cloud.follow()
            elif waits:
                cloud.wait()
        if not waits:
            cloud.wait()
        found.append(cloud.walkers)
    assert torch.equal(found[0].position, found[1].position)
    assert torch.equal(found[0].log_weight, found[1].log_weight)
    torch.testing.assert_close(
        found[0].evaluation.energy, model(found[0].position).detach(), rtol=0, atol=1e-12
    )


def test_failure_is_undone():
    model = mixture()
    cloud = cloud_of(model, ess_threshold=1.0)
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
    assert torch.equal(before.log_weight, after.log_weight)
    assert torch.equal(before.steps, after.steps)
    assert cloud.num_resamplings == 3


def test_state_of_blocks_is_restored():
    model = mixture()
    cloud = cloud_of(model)
    for number in range(3):
        change(model, number)
        cloud.follow()
    other = cloud_of(mixture(), seed=9)
    other.model.load_state_dict(model.state_dict())
    other.load_state_dict(cloud.state_dict())
    change(model, 7)
    change(other.model, 7)
    cloud.follow()
    other.follow()
    assert torch.equal(cloud.walkers.position, other.walkers.position)
    torch.testing.assert_close(
        cloud.walkers.log_weight + cloud.walkers.log_banked,
        other.walkers.log_weight + other.walkers.log_banked,
    )


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
        learner.optimizer.param_groups[0]["lr"] = 1e30
        with pytest.raises(WeightCollapseError):
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
