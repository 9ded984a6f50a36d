"""A restricted Boltzmann machine of a user's own, whose truth is a finite sum."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from pyro_jarzynski import MALA, ULA, StartableEnergy
from tests.ebm.models import FLOAT, mixture_learner
from tests.scenarios import GaussianBernoulliRBM, gaussian_bernoulli_rbm
from tests.seeds import seeded


class Machine(StartableEnergy):
    """`U(x) = ½|x|² - b·x - Σ softplus(c + Wᵀx)`; with `W = b = 0` a standard normal."""

    def __init__(self, visible=10, hidden=6):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(visible, hidden, dtype=FLOAT))
        self.bias = nn.Parameter(torch.zeros(visible, dtype=FLOAT))
        # Equal hidden units would get equal gradients for ever.
        self.hidden_bias = nn.Parameter(torch.linspace(-1, 1, hidden, dtype=FLOAT))

    def forward(self, x):
        hidden = softplus(self.hidden_bias + x @ self.weight).sum(1)
        return x.square().sum(1) / 2 - x @ self.bias - hidden

    def draw(self, num, generator):
        return torch.randn((num, len(self.bias)), dtype=FLOAT, generator=generator)

    def start_log_normalizer(self):
        constant = float(softplus(self.hidden_bias.detach()).sum())
        return len(self.bias) / 2 * math.log(2 * math.pi) + constant

    def enumerated(self):
        """Return the same machine with everything summed over its hidden states."""
        parameters = (self.weight, self.bias, self.hidden_bias)
        return GaussianBernoulliRBM(*(p.detach().clone() for p in parameters))


def draws(machine, num, seed):
    generator = seeded(seed)
    chance = machine.state_scores.softmax(0)
    state = torch.multinomial(chance, num, replacement=True, generator=generator)
    noise = torch.randn((num, len(machine.bias)), dtype=FLOAT, generator=generator)
    return machine.centres[state] + noise


@pytest.fixture(scope="module", params=[ULA(0.05), MALA(0.1)], ids=["ULA", "MALA"])
def trained(request):
    truth = gaussian_bernoulli_rbm()
    learner = mixture_learner(
        model=Machine(),
        kernel=request.param,
        num_walkers=600,
        audit_walkers=2000,
        learning_rate=0.02,
    )
    test = draws(truth, 2000, seed=1)
    before = learner.nll(test).nll
    learner.fit(draws(truth, 1000, seed=0), 300, batch_size=200, eval_every=300)
    return learner, test, before


def test_the_start_is_exact():
    machine = Machine()
    exact = float(machine.enumerated().log_normalizer)
    assert machine.start_log_normalizer() == pytest.approx(exact, abs=1e-12)


def test_audit_agrees_with_enumeration(trained):
    """False alarms: 6.3e-5 each, a z of 4."""
    learner, _, _ = trained
    exact = float(learner.model.enumerated().log_normalizer)
    assert learner.log_normalizer_error < 0.1
    assert abs(learner.log_normalizer - exact) < 4 * learner.log_normalizer_error


def test_test_likelihood_rises_towards_the_truth(trained):
    """The gap closes by half; one nat is more than twenty errors of the test NLL."""
    learner, test, before = trained
    truth = gaussian_bernoulli_rbm()
    bound = float((truth.energy(test) + truth.log_normalizer).mean())
    after = learner.nll(test).nll
    assert before - bound > 1
    assert after - bound < (before - bound) / 2
