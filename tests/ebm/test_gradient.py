"""The gradient of `log Z` from weighted walkers is autograd's."""

import math

import pytest
import torch

from pyro_jarzynski import Tools, init
from pyro_jarzynski.core.team import WHOLE
from pyro_jarzynski.ebm.gradient import WalkerGradient, walker_gradient
from tests.ebm.models import FLOAT, mixture_data, network_model, start_mixture


@pytest.fixture
def model():
    model = network_model().double()
    # The last layer starts at zero, where most gradients vanish.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.arange(parameter.numel()).reshape_as(parameter).sin()
    return model


def weighted(model, num=50):
    log_weight = 3 * torch.arange(num, dtype=FLOAT).cos()
    return init(mixture_data(num), model, log_weight=log_weight)


def by_autograd(model, position, weight):
    loss = weight @ model(position)
    return torch.autograd.grad(loss, list(model.parameters()))


def close(found, expected):
    torch.testing.assert_close(list(found), list(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 50, 1000])
def test_gradient_is_that_of_the_weighted_energy(model, chunk_size):
    walkers = weighted(model)
    expected = by_autograd(model, walkers.position, walkers.log_weight.softmax(0))
    parameters = list(model.parameters())
    close(
        walker_gradient(model, walkers, parameters, tools=Tools(chunk_size=chunk_size)),
        expected,
    )


@pytest.mark.parametrize("chunk_size", [None, 7])
def test_unweighted_gradient_is_the_mean(model, chunk_size):
    walkers = weighted(model)
    expected = by_autograd(model, walkers.position, torch.full((50,), 1 / 50, dtype=FLOAT))
    parameters = list(model.parameters())
    found = walker_gradient(
        model, walkers, parameters, weighted=False, tools=Tools(chunk_size=chunk_size)
    )
    close(found, expected)


@pytest.mark.parametrize("chunk_size", [None, 1, 7])
def test_huge_log_weights_do_not_overflow(model, chunk_size):
    walkers = weighted(model)
    shifted = walkers._replace(log_weight=walkers.log_weight + 5000)
    expected = by_autograd(model, walkers.position, walkers.log_weight.softmax(0))
    parameters = list(model.parameters())
    close(
        walker_gradient(model, shifted, parameters, tools=Tools(chunk_size=chunk_size)),
        expected,
    )


@pytest.mark.parametrize("chunk_size", [None, 1, 7])
def test_dead_walkers_with_nan_energies_do_not_count(model, chunk_size):
    walkers = weighted(model)
    dead = torch.arange(50) < 20
    log_weight = walkers.log_weight.masked_fill(dead, -math.inf)
    position = walkers.position.masked_fill(dead[:, None], math.nan)
    broken = walkers._replace(log_weight=log_weight, position=position)
    expected = by_autograd(model, walkers.position, log_weight.softmax(0))
    parameters = list(model.parameters())
    close(
        walker_gradient(model, broken, parameters, tools=Tools(chunk_size=chunk_size)),
        expected,
    )


def test_chunks_of_dead_walkers_are_passed_over(model):
    walkers = weighted(model)
    gather = WalkerGradient(list(model.parameters()))
    dead = torch.full((25,), -math.inf, dtype=FLOAT)
    gather(slice(0, 25), model(walkers.position[:25]), dead)
    assert all((g == 0).all() for g in gather.mean(WHOLE))
    alive = walkers.log_weight[25:]
    gather(slice(25, 50), model(walkers.position[25:]), alive)
    gather(slice(25, 50), model(walkers.position[:25]), dead)
    close(gather.mean(WHOLE), by_autograd(model, walkers.position[25:], alive.softmax(0)))


def test_parameters_that_energies_do_not_reach_have_gradient_zero():
    model = start_mixture()
    walkers = init(mixture_data(10), model)
    stranger = torch.nn.Parameter(torch.ones(2, dtype=FLOAT))
    _, found = walker_gradient(model, walkers, [model.means, stranger])
    assert torch.equal(found, torch.zeros(2, dtype=FLOAT))
