"""What a run leaves out because it is known, and that this changes no number."""

import pyro
import pyro.distributions as dist
import torch

from pyro_jarzynski import MALA, ULA, AnnealedSMC, init
from pyro_jarzynski.core import smc
from pyro_jarzynski.core.evaluation import CombinedEnergy
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import systematic
from pyro_jarzynski.core.smc import Stage
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.infer import prior
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import draw_prior
from tests.infer.batches import run
from tests.infer.test_annealed_smc import STREAM, arriving

BETAS = [0.0, 0.1, 0.4, 1.0]


def by_hand(result, kernel, num_moves):
    """Return the walkers of a plan that nobody need explore, from the first draws."""
    posterior, settings = result.posterior, result.settings
    num = settings.num_walkers * settings.num_chains
    drawn = posterior.draw(num, seed=settings.seed, purpose="base of the walkers")
    energies = [CombinedEnergy(posterior.terms, (1 - b, b)) for b in BETAS]
    walkers = init(drawn, energies[0], num_islands=settings.num_chains)
    last = 0.5 if kernel.moves_on_switch else 1.0
    stages = [
        Stage(energy, kernel, num_moves, threshold)
        for energy, threshold in zip(energies[1:], (0.5, 0.5, last), strict=True)
    ]
    tools = Tools(stream(settings.seed, "walkers"))
    for moved, _ in smc.follow(walkers, stages, resampler=systematic, tools=tools):
        walkers = moved
    return walkers


def test_without_adaptation_there_is_no_pilot_and_no_number_changes():
    for kernel in (MALA(0.1), ULA(0.02)):
        settings = {"kernel": kernel, "schedule": BETAS, "adapt": "off", "num_moves": 2}
        result = run(arriving, STREAM, seed=3, **settings)
        walkers = by_hand(result, kernel, 2)
        assert torch.equal(result.walkers.position, walkers.position)
        assert torch.equal(result.log_evidence_per_chain, walkers.log_normalizer)
        assert result.num_gradients == walkers.num_walkers * (1 + 3 * 2)


def model_of(num):
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", num):
            pyro.sample("y", dist.Normal(x, 1.0))

    return PyroModel(model, (), {})


def test_a_plate_of_draws_is_checked_once_for_every_number(monkeypatch):
    """The draws are those of a model that has never been drawn from."""
    checked = []
    real = prior._agrees

    def counted(model, drawn, *, seed):
        checked.append(drawn.num)
        return real(model, drawn, seed=seed)

    monkeypatch.setattr(prior, "_agrees", counted)
    model = model_of(5)
    for num in (50, 20, 50, 20):
        drawn = draw_prior(model, num, seed=1, purpose="test")
        assert torch.equal(drawn, draw_prior(model_of(5), num, seed=1, purpose="test"))
    mine = [7, 50, 20]
    assert [checked.count(num) for num in mine] == [1 + 4, 1 + 2, 1 + 2]


def test_changed_data_of_one_shape_change_the_result(compilations):
    """What one run learned of a model is never used for other data."""
    data = STREAM.clone()
    before = run(arriving, data, seed=1, jit_compile=True)
    # The very tensor that the first run had.
    data.add_(0.25)
    after, plain = (run(arriving, data, seed=1, jit_compile=jit) for jit in (True, False))
    assert abs(before.log_evidence - after.log_evidence) > 1e-3
    assert abs(after.log_evidence - plain.log_evidence) < 1e-7
    assert len(compilations) == 1


def test_of_a_run_that_shows_no_bar_no_line_is_made(monkeypatch):
    monkeypatch.setattr("pyro_jarzynski.infer.recorder.Recorder.line", lambda _: 1 / 0)
    AnnealedSMC(arriving, num_walkers=64, progress=False).run(STREAM)
