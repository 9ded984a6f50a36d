"""What a user sets is used, and what a run adapts is in its result."""

import math
from collections import Counter

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_jarzynski import HMC, MALA, ULA
from pyro_jarzynski.errors import ArgumentError
from tests.infer.batches import run

Y = torch.tensor([0.5, 1.5])


def three_means(y):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu.sum(), 1.0), obs=y)


@pytest.fixture
def moves(monkeypatch):
    """Leapfrog steps of all moves of HMC, and their lengths."""
    seen = Counter()
    move = HMC.move

    def seen_move(kernel, *args):
        seen[kernel.num_leapfrog, kernel.trajectory, kernel.steps_per_move] += 1
        return move(kernel, *args)

    monkeypatch.setattr(HMC, "move", seen_move)
    return seen


@pytest.mark.parametrize("adapt", ["pilot", "online"])
def test_leapfrog_steps_are_those_that_were_asked_for(moves, adapt):
    result = run(three_means, Y, kernel=HMC(0.1, num_leapfrog=7), adapt=adapt)
    assert list(moves) == [(7, None, 7)]
    assert (result.history["num_leapfrog"] == 7).all()


def test_length_of_trajectories_is_that_which_was_asked_for(moves):
    """Twelve steps and more, beyond the ten of a kernel of which nothing was asked."""
    run(three_means, Y, kernel=HMC(0.1, trajectory=2.5, target_acceptance=None))
    assert list(moves) == [(None, 2.5, 25)]


def test_moves_of_which_nothing_was_asked_are_a_quarter_period(moves):
    result = run(three_means, Y, kernel=HMC(0.1))
    assert {(most, length) for most, length, _ in moves} == {(10, math.pi / 2)}
    step, steps = (result.history[n][-1] for n in ("step_size", "num_leapfrog"))
    assert int(steps) == min(10, max(1, round(math.pi / 2 / float(step))))


def test_without_whitening_ten_steps(moves):
    run(three_means, Y, kernel=HMC(0.1), preconditioner="none")
    assert list(moves) == [(None, None, 10)]


@pytest.mark.parametrize("kernel", [MALA, HMC, ULA])
def test_preconditioner_of_a_kernel_is_kept(kernel):
    given = torch.diag(torch.tensor([0.3, 0.2, 0.1]))
    result = run(three_means, Y, kernel=kernel(0.1, preconditioner=given))
    assert result.kernel.preconditioner is given
    other = run(three_means, Y, kernel=kernel(0.1))
    assert other.kernel.preconditioner.shape == (3, 3)
    assert other.log_evidence != result.log_evidence


def test_step_size_without_a_target_is_kept():
    result = run(three_means, Y, kernel=MALA(0.123, target_acceptance=None))
    assert (result.history["step_size"] == 0.123).all()
    assert result.kernel.step_size == 0.123


def test_number_of_moves_goes_before_their_bound():
    result = run(three_means, Y, num_moves=4, max_moves=2)
    assert (result.history["num_moves"] == 4).all()


def test_what_was_adapted_is_in_the_result():
    result = run(three_means, Y, kernel=HMC(0.1))
    last = {
        name: float(values[-1].double().mean()) for name, values in result.history.items()
    }
    assert result.kernel.step_size == last["step_size"] != 0.1
    assert result.kernel.steps_per_move == last["num_leapfrog"]
    told = (
        f"{last['num_moves']:.0f} moves of HMC with step size {last['step_size']:.3g} and "
        f"{last['num_leapfrog']:.0f} leapfrog steps"
    )
    assert told in repr(result)
    assert result.settings.kernel == HMC(0.1)


def test_settings_that_would_not_be_used_are_refused():
    with pytest.raises(
        ArgumentError, match=r'`waste_free` needs a plan .* `adapt="pilot"`'
    ):
        run(three_means, Y, waste_free=True, adapt="online")
    with pytest.raises(
        ArgumentError, match=r"`kernel` must have temperature 1.*ULA .*2\.0"
    ):
        run(three_means, Y, kernel=ULA(0.1, temperature=2.0))
