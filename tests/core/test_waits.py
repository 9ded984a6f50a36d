"""Moves never wait for a GPU, and what they do without waiting is what they do anyway."""

import math
import warnings

import pytest
import torch

from pyro_jarzynski import HMC, MALA, ULA, UnderdampedLangevin, init
from pyro_jarzynski.core import compiled, faults, smc
from pyro_jarzynski.core.compiled import CompiledTerms
from pyro_jarzynski.core.faults import Faults
from pyro_jarzynski.core.memory import CACHE
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.ebm.data import Batches
from pyro_jarzynski.errors import NonFiniteEnergyError
from pyro_jarzynski.infer.annealing import anneal
from pyro_jarzynski.infer.legs import prepare
from pyro_jarzynski.infer.settings import Settings
from tests.ebm.models import mixture_data, mixture_learner
from tests.infer.test_annealed_smc import STREAM, arriving
from tests.waits import as_on_a_gpu, counted

KERNELS = [ULA(0.1), MALA(0.1), HMC(0.2, 3), UnderdampedLangevin(0.3)]
# Of a step: both effective sample sizes, whether to resample, what is wrong, `log Z`.
PER_STEP = 5
# Of a resampling: the weights once more, and the evidence that is banked.
PER_RESAMPLING = 2


def smooth(x):
    return x.square().sum(1) / 2


def walled(x):
    return torch.where(x[:, 0] > 0.5, math.inf, smooth(x))


def faulty(x):
    """Not a number at some half a percent of the walkers."""
    return torch.where(x[:, 0] > 2.6, math.nan, smooth(x))


def broken(x):
    return torch.where(x[:, 0] > 1, math.nan, smooth(x))


def bottomless(x):
    return torch.where(x[:, 0] > 1, -math.inf, smooth(x))


def cloud(device="cpu"):
    position = torch.randn(2000, 3, generator=stream(0, "cloud"), dtype=torch.float64)
    return init(position.to(device), smooth)


def stepped(kernel, energy, *, num_moves=3):
    """Return what a step leaves, with what it warns of; or how it ends."""
    walkers, told = cloud(), []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tools = Tools(stream(1, "moves"))
            found = smc.step(walkers, energy, kernel, num_moves=num_moves, tools=tools)
    except NonFiniteEnergyError as error:
        return str(error), told
    told = [str(warning.message) for warning in caught]
    tensors = []
    map_tree(tensors.append, found)
    return tensors, told


@pytest.mark.parametrize("num_moves", [1, 2, 9])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_number_of_waits_does_not_depend_on_that_of_moves(kernel, num_moves):
    walkers, tools = cloud(), Tools(stream(1, "moves"))
    with counted() as places:
        smc.step(walkers, smooth, kernel, num_moves=num_moves, tools=tools)
    assert len(places) == PER_STEP, places


def test_a_move_that_looks_is_seen(monkeypatch):
    """The mutant of a move that asks whether a mask holds."""
    for module in ("walkers", "hamiltonian"):
        name = f"pyro_jarzynski.core.{module}.may_hold"
        monkeypatch.setattr(name, lambda mask: bool(mask.any()))
    walkers, tools = cloud(), Tools(stream(1, "moves"))
    with counted() as places:
        smc.step(walkers, smooth, MALA(0.1), num_moves=9, tools=tools)
    assert len(places) >= PER_STEP + 9


@pytest.mark.parametrize("energy", [smooth, walled, faulty, broken, bottomless])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_what_is_not_waited_for_changes_nothing(kernel, energy):
    """Bit by bit, and with the same words."""
    plain, told = stepped(kernel, energy)
    with as_on_a_gpu():
        found, told_later = stepped(kernel, energy)
    assert told_later == told
    assert len(told) > 1 or energy is not faulty
    if isinstance(plain, str):
        assert found == plain
        return
    for one, other in zip(found, plain, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("moves_per_update", [1, 6])
def test_waits_of_an_update_of_a_training(moves_per_update):
    """Two steps of clouds, each with the number of its resamplings; the gradient, the loss.

    The gradient of the walkers asks whether any counts, and for its weights; the loss is
    read with the norm, the sizes together, and `log Z` with its check.
    """
    settings = {"kernel": MALA(0.1), "moves_per_update": moves_per_update}
    learner = mixture_learner(ess_threshold=0.0, **settings)
    learner.fit(mixture_data(), 1)
    walkers, generator = learner.cloud.position, learner.data_generator
    batches = Batches(mixture_data(), 64, walkers, generator)
    batch = next(batches)
    with counted() as places:
        learner._update(batch, batches, ends_row=False)
    assert len(places) == 2 * (PER_STEP + 1) + 2 + 1 + 1 + 1 + 2, places


def legs_of(**settings):
    chosen = Settings(num_walkers=64, num_chains=2, **settings)
    return prepare(arriving, (STREAM,), {}, chosen)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_waits_of_a_temperature(jit_compile, compilations):
    """Those of a step and its resampling, as it is or compiled."""
    plan = {"adapt": "off", "schedule": [0, 0.1, 0.3, 1], "num_moves": 4}
    stages = anneal(*legs_of(jit_compile=jit_compile, **plan))
    next(stages)
    for _ in range(2):
        with counted() as places:
            reached = next(stages)
        most = PER_STEP + PER_RESAMPLING * bool(reached.info.resampled.any())
        assert len(places) == most, places


def test_waits_of_a_temperature_that_a_pilot_explores(compilations):
    """A wait per move of the pilot, to know whether it goes on; none for the others."""
    stages = anneal(*legs_of(jit_compile=True, learn_base=False))
    next(stages)
    with counted() as places:
        reached = next(stages)
    moves = [p for p in places if p.startswith("faults.py") and " read " in p]
    assert len(moves) == reached.stage.num_moves
    guesses = [p for p in places if "conditional_ess" in p or " share " in p]
    assert len(guesses) <= 40
    assert len(places) - len(moves) - len(guesses) <= 25, places


def test_a_block_on_a_gpu_is_as_large_as_memory_allows(compilations, monkeypatch):
    monkeypatch.setattr(compiled, "follows_memory", lambda _: True)
    terms = lambda x: (smooth(x), smooth(x) * 2)  # noqa: E731
    position = torch.randn(64, 3, generator=stream(0, "few"))
    for kept, block in ((1.0, 4096), (CACHE / 2048, 2048), (CACHE / 512, 512)):
        monkeypatch.setattr(
            "pyro_jarzynski.core.memory.bytes_per_walker", lambda *_, k=kept: k
        )
        made = CompiledTerms(terms, 64, whole=4096)
        made.graded(position)
        assert made.block == block


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here to wait for")
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_moves_on_a_gpu_do_not_wait(kernel):
    walkers, gathered = cloud("cuda"), Faults()
    tools = Tools(stream(1, "moves", "cuda"), faults=gathered)
    walkers, _ = kernel.move(walkers, smooth, tools)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            walkers, _ = kernel.move(walkers, smooth, tools)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    gathered.tell()
    assert torch.isfinite(walkers.log_normalizer)
    assert faults.waits(walkers.log_weight.device)
