"""Steps of the optimiser are shortened to what walkers can follow, by a known rule."""

import math

import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.ebm.step_control import StepControl
from pyro_jarzynski.errors import ArgumentError
from tests.ebm.models import FLOAT, mixture_data, mixture_learner, start_mixture


def test_scale_follows_its_equation():
    control = StepControl(0.9, pj.MALA())
    logs = 0.0
    for conditional_ess in (0.5, 0.2, 0.95, 0.7):
        control.learn(conditional_ess)
        logs = min(0.0, logs + 0.1 * (conditional_ess - 0.9) / 0.1)
        assert control.scale == pytest.approx(math.exp(logs), rel=1e-12)
    for _ in range(100):
        control.learn(1.0)
    assert control.scale == 1


@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_a_change_is_shortened_by_the_scale(scale):
    control = StepControl(0.9, pj.MALA())
    control.scale = scale
    start = torch.arange(4, dtype=FLOAT)
    parameter, change = start.clone(), torch.tensor([1.0, -2.0, 0.0, 5.0], dtype=FLOAT)
    with control.shortened([parameter]):
        parameter += change
    torch.testing.assert_close(parameter, start + scale * change, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("target", "kernel", "seen"),
    [
        (None, pj.MALA(), 0.1),
        (0.9, pj.ULA(), 0.1),
        (0.9, pj.UnderdampedLangevin(0.1), 0.1),
        (1.0, pj.MALA(), 0.1),
        (0.9, pj.MALA(), math.nan),
    ],
)
def test_steps_are_left_as_they_are(target, kernel, seen):
    control = StepControl(target, kernel)
    control.learn(seen)
    assert control.scale == 1


def exact_nll(seed, **settings):
    """Return the exact NLL of new data after training at a reckless learning rate."""
    model = start_mixture(5)
    learner = mixture_learner(
        model=model,
        num_walkers=200,
        audit_walkers=400,
        kernel=pj.MALA(0.5),
        learning_rate=3.0,
        seed=seed,
        **settings,
    )
    data, scales = mixture_data(200, 5) + 2, []
    learner.optimizer.register_step_pre_hook(
        lambda *_: scales.append(learner.step_control.scale)
    )
    learner.fit(data, 150, batch_size=50, eval_every=150)
    new = model(mixture_data(200, 5, seed=9) + 2).detach().mean()
    assert learner.history["learning_rate"][-1] == 3.0 * scales[-1]
    return float(new + model.log_normalizer())


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.AuditWarning")
def test_a_reckless_learning_rate_trains():
    """Four seeds come to 7.6 … 8.2 nats with the control; without to 1e58 and more."""
    assert max(exact_nll(seed) for seed in range(2)) < 9


@pytest.mark.filterwarnings("ignore")
def test_without_control_it_does_not():
    assert exact_nll(0, conditional_ess=None) > 1000


def test_targets_are_fractions():
    with pytest.raises(ArgumentError, match=r"`conditional_ess` must lie in \[0, 1\]"):
        mixture_learner(conditional_ess=1.5)
