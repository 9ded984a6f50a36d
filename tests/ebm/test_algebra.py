"""Networks made of networks: sums, products of experts, and conditionals."""

import math

import pytest
import torch
from torch import nn

from pyro_jarzynski import MALA, MLP, EnergyModel, JarzynskiLearner, LikelihoodTracker
from pyro_jarzynski.ebm.algebra import ConditionedNet, SumNet
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, EnergyError
from tests.ebm.models import FLOAT, Bowl, mixture_data, standard_normal


def bowl(a):
    net = Bowl()
    nn.init.constant_(net.a, a)
    return net


def double_normal(dimension):
    law = standard_normal(dimension)
    zero = law.mean.double()
    return torch.distributions.Independent(
        torch.distributions.Normal(zero, torch.ones_like(zero)), 1
    )


def points(num=20, dimension=3):
    return torch.randn(
        (num, dimension), dtype=FLOAT, generator=torch.Generator().manual_seed(0)
    )


def test_a_sum_is_a_weighted_sum():
    first, second = MLP([3, 8], seed=1).double(), bowl(0.7)
    net, x = SumNet([first, second], [2.0, -0.5]), points()
    expected = 2 * first(x) - 0.5 * second(x)[:, None]
    torch.testing.assert_close(net(x), expected)
    assert net.weights == [2.0, -0.5]
    torch.testing.assert_close(SumNet([first, second])(x), first(x) + second(x)[:, None])


def test_a_model_starts_at_the_base_and_keeps_its_networks():
    experts = [MLP([3, 8], seed=seed).double() for seed in (1, 2)]
    x = points()
    before = [net(x) for net in experts]
    model = EnergyModel(SumNet(experts), double_normal(3))
    assert model.start_log_normalizer() == 0
    assert model.net.weights == [0, 0]
    for net, values in zip(experts, before, strict=True):
        assert torch.equal(net(x), values)


def test_the_product_of_two_experts_is_tracked_from_an_exact_start():
    """False alarms: 6e-7, a z of 5; `Z = (1 + a + b)^{-d/2}` for bowls `a` and `b`."""
    model = EnergyModel(SumNet([bowl(1.0), bowl(2.0)]), double_normal(3))
    tracker = LikelihoodTracker(model, num_walkers=2000, kernel=MALA(0.5), seed=1)
    for share in torch.linspace(0, 1, 21)[1:].tolist():
        model.net.set_weights([share, share])
        tracker.update()
    exact = -1.5 * math.log(1 + 1 + 2)
    assert 0 < tracker.log_normalizer_error < 0.1
    assert abs(tracker.log_normalizer - exact) < 5 * tracker.log_normalizer_error
    variance = tracker.sample(2000).square().mean()
    assert float(variance) == pytest.approx(1 / 4, rel=0.2)


def test_weights_and_networks_are_trained():
    model = EnergyModel(
        SumNet([MLP([3, 8], seed=seed) for seed in (1, 2)]), standard_normal(3)
    )
    learner = JarzynskiLearner(
        model, torch.optim.Adam(model.parameters(), 0.02), num_walkers=50, audit_walkers=50
    )
    before = [p.detach().clone() for p in model.parameters()]
    learner.fit(mixture_data(100).float(), 5)
    assert 0 not in model.net.weights
    changed = [
        not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)
    ]
    # A constant that is added to the energy has no gradient: the last biases stay.
    assert sum(changed) >= len(changed) - 2


def quadratic_of_pairs():
    """`½ a x² + b x c + ½ c²` as a network of `(x, c)`."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1.5, 0.8], dtype=FLOAT))

        def forward(self, pair):
            x, c = pair[:, :1], pair[:, 1:]
            return self.weight[0] * x**2 / 2 + self.weight[1] * x * c + c**2 / 2

    return Pair()


@pytest.mark.parametrize("value", [-1.0, 2.0])
def test_a_conditional_is_the_joint_at_a_fixed_part(value):
    """False alarms: 6e-7, a z of 5.

    With the base, `½ (1 + a) x² + b c x + ½ c²`: a Gaussian of mean `-b c / (1 + a)`.
    """
    net = ConditionedNet(quadratic_of_pairs(), torch.tensor([value], dtype=FLOAT))
    model = EnergyModel(SumNet([net]), double_normal(1))
    tracker = LikelihoodTracker(model, num_walkers=2000, kernel=MALA(0.5))
    for share in torch.linspace(0, 1, 21)[1:].tolist():
        model.net.set_weights([share])
        tracker.update()
    exact = (0.8 * value) ** 2 / 2 / 2.5 - value**2 / 2 - math.log(2.5) / 2
    assert abs(tracker.log_normalizer - exact) < 5 * tracker.log_normalizer_error
    assert tracker.log_normalizer_error < 0.1
    mean = float(tracker.sample(2000).mean())
    assert mean == pytest.approx(-0.8 * value / 2.5, abs=0.1)


def test_conditioned_networks_see_the_condition_last():
    seen = []

    class Spy(nn.Module):
        def forward(self, pair):
            seen.append(pair)
            return pair.sum(1)

    condition = torch.tensor([7.0, 8.0], dtype=FLOAT)
    net, x = ConditionedNet(Spy(), condition), points()
    net(x)
    assert torch.equal(seen[0], torch.cat([x, condition.expand(20, 2)], 1))
    # It is no parameter, and moves with the network.
    assert not list(net.parameters())
    assert net.float().condition.dtype == torch.float32


class Wide(nn.Module):
    def forward(self, x):
        return x


def test_what_cannot_be_summed():
    with pytest.raises(ArgumentError, match="`nets` must have at least one network"):
        SumNet([])
    with pytest.raises(ArgumentTypeError, match="must be torch modules, got function"):
        SumNet([lambda x: x.sum(1)])
    with pytest.raises(ArgumentError, match="each of 2 networks, got 1"):
        SumNet([bowl(1.0), bowl(2.0)], [1.0])
    with pytest.raises(EnergyError, match=r"expected shape \(20,\) or \(20, 1\), got"):
        SumNet([Wide()])(points())
    with pytest.raises(ArgumentError, match=r"shape \(k,\), got \(2, 1\)"):
        ConditionedNet(bowl(1.0), torch.zeros(2, 1))
