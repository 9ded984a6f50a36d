"""Islands: independent clouds that move as one batch; and clouds that waste nothing."""

import math

import pytest
import torch

from pyro_jarzynski.core import smc, weights
from pyro_jarzynski.core.hamiltonian import HMC, UnderdampedLangevin
from pyro_jarzynski.core.kernels import MALA, ULA
from pyro_jarzynski.core.resampling import RESAMPLERS
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.walkers import init, resample
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, WeightCollapseError
from tests.identities import Z_ONE, Z_SIX, z_score
from tests.scenarios import FLOAT, gaussian_path, mild_path
from tests.seeds import seeded

KERNELS = {
    "ULA": ULA(0.3),
    "MALA": MALA(0.5),
    "HMC": HMC(0.5, num_leapfrog=3),
    "underdamped": UnderdampedLangevin(0.5),
}
PATH = mild_path()


def table(*shape, seed=0):
    """Log-weights, some of them minus infinity."""
    generator = seeded(seed)
    values = 2 * torch.randn(shape, dtype=FLOAT, generator=generator)
    return values.masked_fill(values < -3, -math.inf)


def carried(path, kernel, islands, size, seed=0, **settings):
    """Carry exact draws along a path, as islands; return them and all that was told."""
    generator = seeded(seed)
    start = path.draw(islands * size, generator)
    walkers, infos = init(start, path[0], num_islands=islands), []
    for index in range(1, len(path)):
        walkers, info = smc.step(
            walkers, path[index], kernel, tools=Tools(generator), **settings
        )
        infos.append(info)
    return walkers, infos


@pytest.mark.parametrize(
    "function", [weights.normalise, weights.ess, weights.log_mean_exp, weights.log_sum_exp]
)
def test_function_of_a_table_is_that_of_its_rows(function):
    log_weight = table(5, 30)
    rows = torch.stack([function(row) for row in log_weight])
    torch.testing.assert_close(function(log_weight), rows, rtol=1e-13, atol=0)


def test_conditional_ess_of_a_table_is_that_of_its_rows():
    before = table(5, 30)
    after = weights.add(before, table(5, 30, seed=1))
    found = weights.conditional_ess(before, after)
    rows = [weights.conditional_ess(b, a) for b, a in zip(before, after, strict=True)]
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-13, atol=0)


def test_relative_variance_of_islands_is_that_of_each():
    """Ancestors are counted through all islands."""
    generator = seeded(2)
    log_weight = table(4, 20)
    local = torch.randint(20, (4, 20), generator=generator)
    through = local + 20 * torch.arange(4)[:, None]
    found = weights.relative_variance(log_weight, through.flatten())
    pairs = zip(log_weight, local, strict=True)
    rows = torch.stack([weights.relative_variance(w, a) for w, a in pairs])
    torch.testing.assert_close(found, rows, rtol=1e-12, atol=1e-14)
    assert (rows > 0).all()


@pytest.mark.parametrize("scheme", RESAMPLERS)
def test_offspring_of_each_island_follow_its_own_weights(scheme):
    """False alarms: 1e-4 for the largest of six z of bounded counts."""
    weight = torch.tensor([[0.1, 0.2, 0.7], [0.45, 0.0, 0.55]], dtype=FLOAT)
    generator = seeded(3)
    draw, counts = RESAMPLERS[scheme], []
    for _ in range(2000):
        ancestors = draw(weight.log(), 4, generator)
        assert ancestors.shape == (2, 4)
        counts.append(torch.stack([row.bincount(minlength=3) for row in ancestors]))
    children = torch.stack(counts).to(FLOAT)
    error = children.std(0) / math.sqrt(2000) + 1e-12
    assert ((children.mean(0) - 4 * weight) / error).abs().max() < Z_SIX


def test_systematic_counts_are_within_one_on_every_island():
    log_weight = table(50, 40)
    ancestors = RESAMPLERS["systematic"](log_weight, 40, seeded(4))
    counts = torch.stack([row.bincount(minlength=40) for row in ancestors])
    assert ((counts - 40 * weights.normalise(log_weight)).abs() < 1).all()


@pytest.mark.parametrize("scheme", RESAMPLERS)
def test_islands_are_not_resampled_with_the_same_uniforms(scheme):
    log_weight = table(1, 40).expand(20, 40)
    ancestors = RESAMPLERS[scheme](log_weight, 40, seeded(5))
    assert len(ancestors.unique(dim=0)) > 10


@pytest.mark.parametrize("number", [0, -1, 3])
def test_islands_that_cannot_share_the_walkers_are_refused(number, generator):
    with pytest.raises(ArgumentError, match="island"):
        init(PATH.draw(10, generator), PATH[0], num_islands=number)


@pytest.mark.parametrize("number", [2.0, True, "2"])
def test_number_of_islands_is_an_integer(number, generator):
    with pytest.raises(ArgumentTypeError, match="num_islands"):
        init(PATH.draw(10, generator), PATH[0], num_islands=number)


def test_islands_that_are_not_chosen_stay_bitwise_as_they_are(generator):
    walkers = init(PATH.draw(30, generator), PATH[0], log_weight=table(30), num_islands=3)
    chosen = torch.tensor([True, False, True])
    ancestors = RESAMPLERS["systematic"](table(3, 10), 10, generator)
    found = resample(walkers, ancestors, chosen)
    middle = slice(10, 20)
    for name in ("position", "log_weight", "ancestor"):
        assert torch.equal(getattr(found, name)[middle], getattr(walkers, name)[middle])
    for name in ("energy", "grad", "grad_sq"):
        new, old = (getattr(w.evaluation, name)[middle] for w in (found, walkers))
        assert torch.equal(new, old)
    assert found.log_banked[1] == walkers.log_banked[1]
    # Resampling changes no island's estimate, and is done on its own walkers.
    torch.testing.assert_close(found.log_normalizer, walkers.log_normalizer)
    assert (found.by_island(found.log_weight)[chosen] == 0).all()
    assert torch.equal(found.ancestor // 10, torch.arange(30) // 10)


def test_single_island_is_the_plain_cloud_with_a_dimension():
    alone, infos = carried(PATH, MALA(0.5), 1, 64, ess_threshold=1.0)
    generator = seeded(0)
    walkers = init(PATH.draw(64, generator), PATH[0])
    plain, told = smc.run(walkers, PATH, MALA(0.5), ess_threshold=1.0, generator=generator)
    assert torch.equal(alone.position, plain.position)
    assert alone.log_normalizer.shape == (1,)
    assert alone.log_normalizer[0] == plain.log_normalizer
    assert infos[-1].ess.shape == (1,)
    assert infos[-1].ess[0] == told[-1].ess


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_evidence_of_islands_is_unbiased_and_independent(kernel):
    """`E[Ẑ] = Z`, also where the ESS decides which islands are resampled.

    False alarms: 1e-4 for each of two z.
    """
    walkers, infos = carried(PATH, kernel, 600, 16, ess_threshold=0.9)
    ratio = (walkers.log_normalizer - PATH.log_ratio).exp()
    share = torch.stack([info.resampled.to(FLOAT).mean() for info in infos])
    assert ((share > 0) & (share < 1)).any()
    assert abs(z_score(ratio, 1)) < Z_ONE
    neighbours = (ratio[::2] - ratio.mean()) * (ratio[1::2] - ratio.mean())
    assert abs(z_score(neighbours, 0)) < Z_ONE


def test_changing_one_island_changes_no_other():
    def run(shift):
        start = PATH.draw(48, seeded(1))
        start[:16] += shift
        walkers = init(start, PATH[0], num_islands=3)
        generator = seeded(2)
        settings = {"ess_threshold": 1.0, "generator": generator}
        return smc.run(walkers, PATH, MALA(0.5), **settings)[0]

    first, second = run(0.0), run(1.0)
    assert torch.equal(first.position[16:], second.position[16:])
    assert torch.equal(first.log_normalizer[1:], second.log_normalizer[1:])
    assert not torch.equal(first.log_normalizer[0], second.log_normalizer[0])


def test_collapsed_island_is_an_error():
    """The others cannot make up for it: each has an evidence of its own."""

    def wall(x):
        return torch.where(x[:, 0] > 0, x.square().sum(1), math.inf)

    start = torch.tensor([[1.0], [2.0], [-1.0], [-2.0]], dtype=FLOAT)
    walkers = init(start, lambda x: x.square().sum(1), num_islands=2)
    with pytest.raises(WeightCollapseError, match="2 weights are zero"):
        smc.step(walkers, wall, MALA(0.1))


@pytest.mark.parametrize(("size", "moves"), [(12, 1), (12, 2), (12, 5), (13, 3), (7, 1)])
def test_waste_free_keeps_the_number_of_walkers(size, moves):
    walkers, infos = carried(PATH, MALA(0.5), 3, size, num_moves=moves, waste_free=True)
    assert walkers.position.shape == (3 * size, 2)
    assert walkers.log_weight.shape == (3 * size,)
    assert torch.equal(walkers.ancestor // size, torch.arange(3 * size) // size)
    assert infos[-1].acceptance_rate.shape == (3,)
    # All that is kept comes from those that were resampled.
    assert len(walkers.ancestor.unique()) <= 3 * -(-size // (moves + 1))


@pytest.mark.parametrize("moves", [1, 2, 5])
def test_waste_free_evidence_is_unbiased(moves):
    """False alarms: 1e-4."""
    walkers, _ = carried(PATH, MALA(0.5), 2000, 12, num_moves=moves, waste_free=True)
    assert abs(z_score((walkers.log_normalizer - PATH.log_ratio).exp(), 1)) < Z_ONE


def test_waste_free_evidence_is_unbiased_if_moves_do_not_divide_the_walkers():
    """Points that are left over must be left out whatever their ancestors.

    Systematic ancestors come in order, so that to drop the last ones prefers some weights
    to others; walkers that hardly move show it. False alarms: 1e-4.
    """
    path = gaussian_path((30.0,), (0.0,), 3)
    kernel = MALA(1e-4)
    walkers, _ = carried(path, kernel, 200_000, 9, num_moves=1, waste_free=True)
    assert abs(z_score((walkers.log_normalizer - path.log_ratio).exp(), 1)) < Z_ONE


@pytest.mark.parametrize("kernel", [ULA(0.1), UnderdampedLangevin(0.1)])
def test_waste_free_refuses_kernels_that_change_weights(kernel, generator):
    walkers = init(PATH.draw(8, generator), PATH[0])
    with pytest.raises(ArgumentError, match="leaves the law invariant"):
        smc.step(walkers, PATH[1], kernel, waste_free=True, tools=Tools(generator))
