"""Several optimisers as one: every parameter is moved by its own."""

import pytest
import torch

import pyro_jarzynski as pj
from tests.ebm.models import standard_normal


def model_of(seed=0):
    return pj.EnergyModel(pj.MLP([3, 16, 8], seed=seed), standard_normal())


def test_matrices_go_to_muon_and_all_else_to_adam():
    model = model_of()
    muon, adam = pj.muon_and_adam(model).parts
    shapes = [
        [tuple(p.shape) for p in part.param_groups[0]["params"]] for part in (muon, adam)
    ]
    assert shapes == [[(16, 3), (8, 16)], [(16,), (8,), (1, 8), (1,)]]


def test_a_model_without_matrices_is_left_to_adam():
    energy = pj.GaussianMixtureEnergy(torch.zeros(2, 1), torch.zeros(2))
    (adam,) = pj.muon_and_adam(energy).parts
    assert isinstance(adam, torch.optim.Adam)


def test_a_step_is_that_of_the_parts():
    first, second = model_of(), model_of()
    joint = pj.muon_and_adam(first, matrix_learning_rate=0.03, learning_rate=0.01)
    weights = [p for p in second.parameters() if p.ndim == 2 and min(p.shape) > 1]
    rest = [p for p in second.parameters() if p.ndim == 1 or min(p.shape) == 1]
    alone = [
        torch.optim.Muon(weights, lr=0.03, weight_decay=0.1),
        torch.optim.Adam(rest, 0.01),
    ]
    for number in range(3):
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            a.grad = torch.full_like(a, 0.1 * number).add_(torch.arange(a.shape[-1]))
            b.grad = a.grad.clone()
        joint.step()
        for part in alone:
            part.step()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_scheduler_and_zero_grad_reach_all_parts():
    model = model_of()
    joint = pj.muon_and_adam(model, matrix_learning_rate=0.02, learning_rate=0.001)
    fall = torch.optim.lr_scheduler.LambdaLR(joint, lambda step: 0.5**step)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    joint.step()
    fall.step()
    assert [group["lr"] for part in joint.parts for group in part.param_groups] == [
        pytest.approx(0.01),
        pytest.approx(0.0005),
    ]
    joint.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_its_state_is_restored():
    model, other = model_of(), model_of()
    joint, again = pj.muon_and_adam(model), pj.muon_and_adam(other)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        joint.step()
    other.load_state_dict(model.state_dict())
    again.load_state_dict(joint.state_dict())
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    joint.step()
    again.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_learner_trains_by_it():
    model = model_of()
    learner = pj.JarzynskiLearner(
        model, pj.muon_and_adam(model), kernel=pj.MALA(0.3), num_walkers=64
    )
    data = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) + 1
    learner.fit(data, 80)
    # From the base's 5.8 nats towards the 4.3 of the data.
    assert learner.history["train_nll"][-1] < 5.3


def test_a_closure_is_called_once_before_the_parts():
    model, calls = model_of(), []
    joint = pj.muon_and_adam(model)

    def closure():
        calls.append([p.grad for p in model.parameters()])
        for p in model.parameters():
            p.grad = torch.ones_like(p)

    before = [p.detach().clone() for p in model.parameters()]
    joint.step(closure)
    assert len(calls) == 1
    assert all((p != q).any() for p, q in zip(model.parameters(), before, strict=True))
