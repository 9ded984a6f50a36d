"""Networks of images and residual networks: shapes, seeds, smoothness, a first training."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from pyro_jarzynski import MALA, EnergyModel, JarzynskiLearner
from pyro_jarzynski.ebm.convolutional import (
    ConvNet,
    Convolution,
    ResidualMLP,
    cifar_network,
    mnist_network,
)
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, EnergyError

NETWORKS = {
    "mnist": (lambda **s: mnist_network(features=4, **s), (1, 28, 28)),
    "cifar": (lambda **s: cifar_network(features=2, **s), (3, 32, 32)),
    "residual": (lambda **s: ResidualMLP(5, 16, **s), (5,)),
}


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def standard_normal(shape):
    zero = torch.zeros(shape)
    return Independent(Normal(zero, torch.ones_like(zero)), len(shape))


def parameters_of(net):
    return nn.utils.parameters_to_vector(net.parameters())


@pytest.mark.parametrize(
    ("build", "shape", "number"),
    [(mnist_network, (1, 28, 28), 76_993), (cifar_network, (3, 32, 32), 2_763_393)],
)
def test_the_papers_networks_have_the_papers_numbers_of_parameters(build, shape, number):
    net = build()
    assert len(parameters_of(net)) == number
    assert net(normal(2, *shape)).shape == (2, 1)


def test_the_mnist_network_shrinks_as_in_the_paper():
    x, sides = normal(1, 1, 28, 28), []
    for layer in mnist_network(features=2).layers:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            sides.append(x.shape[-1])
    assert sides == [16, 8, 4, 2]


def test_the_last_linear_layer_is_a_convolution_over_all_that_is_left():
    net = cifar_network(features=2)
    *before, linear = net.layers
    x = normal(3, 3, 32, 32)
    features = nn.Sequential(*before[:-1])(x)
    kernel = linear.weight.reshape(1, *features.shape[1:])
    whole = nn.functional.conv2d(features, kernel, linear.bias).flatten(1)
    torch.testing.assert_close(net(x), whole)


@pytest.mark.parametrize("shape", [(1, 6, 5), (6, 5), (30,)])
def test_images_of_any_layout(shape):
    net = ConvNet((1, 6, 5), [Convolution(4)], [8])
    x = normal(7, *shape)
    assert net(x).shape == (7, 1)
    assert torch.equal(net(x), net(x.reshape(7, 1, 6, 5)))


@pytest.mark.parametrize("shape", [(6, 5, 1), (5, 6), (31,), (2, 6, 5)])
def test_images_of_another_shape(shape):
    net = ConvNet((1, 6, 5), [Convolution(4)])
    with pytest.raises(EnergyError, match=r"\(1, 6, 5\) or \(30,\) or \(6, 5\).*, got"):
        net(normal(7, *shape))


def test_coloured_images_need_their_channels():
    net = ConvNet((3, 6, 5), [Convolution(4)])
    assert net(normal(2, 90)).shape == (2, 1)
    with pytest.raises(EnergyError, match=r"got \(6, 5\)"):
        net(normal(2, 6, 5))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_seed_decides(name):
    build, _ = NETWORKS[name]
    first, again, other = (parameters_of(build(seed=s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("activation", ["silu", "softplus", "tanh"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_smooth(name, activation):
    """Gradients differ by what the Hessian says; of LeakyReLU, that would be nothing."""
    build, shape = NETWORKS[name]
    net, h = build(activation=activation).double(), 1e-4
    x, way = normal(2, 1, *shape, dtype=torch.float64)

    def slope(t):
        at = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(net(x + at * way).sum(), at, create_graph=True)[0], at

    curvature = torch.autograd.grad(*slope(0.0))[0]
    difference = (slope(h)[0] - slope(-h)[0]) / (2 * h)
    assert abs(curvature) > 1e-5
    torch.testing.assert_close(difference, curvature, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_starts_at_its_base_and_trains(name):
    build, shape = NETWORKS[name]
    base = standard_normal(shape)
    model = EnergyModel(build(), base)
    x = normal(6, *shape)
    assert torch.equal(model(x), model.base_energy(x))
    torch.testing.assert_close(model(x), -base.log_prob(x))
    learner = JarzynskiLearner(
        model,
        torch.optim.Adam(model.parameters(), 1e-3),
        num_walkers=8,
        audit_walkers=8,
        kernel=MALA(0.05),
    )
    assert learner.log_normalizer == 0
    learner.fit(0.5 * normal(16, *shape), 3, batch_size=8)
    assert learner.num_steps == 3
    assert 0 < abs(learner.log_normalizer) < 1
    assert learner.sample(5).shape == (5, *shape)


def test_flat_walkers_train_as_well():
    model = EnergyModel(ConvNet((1, 4, 4), [Convolution(4)]), standard_normal((16,)))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    learner = JarzynskiLearner(model, optimizer, num_walkers=8, audit_walkers=8)
    learner.fit(normal(16, 16), 2)
    assert learner.sample(5).shape == (5, 16)


def test_residual_blocks_add_to_what_comes():
    net = ResidualMLP(3, 8, blocks=2)
    x = normal(4, 3)
    h = net.first(x)
    for block in net.blocks:
        h = h + block(h)
    torch.testing.assert_close(net(x), net.last(h))
    for block in net.blocks:
        nn.init.zeros_(block[-1].weight)
        nn.init.zeros_(block[-1].bias)
    torch.testing.assert_close(net(x), net.last(net.first(x)))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: ConvNet((28, 28), []), r"channels, height and width, got \(28, 28\)"),
        (lambda: ConvNet((1, 0, 28), []), r"`image_shape` must be at least 1, got 0"),
        (
            lambda: ConvNet((1, 8, 8), [Convolution(2, padding=0)] * 3),
            r"Convolution 3 leaves nothing of 1×1 pixels with a kernel of 3",
        ),
        (lambda: ConvNet((1, 8, 8), [Convolution(2, stride=0)]), r"`stride` must be at"),
        (lambda: ConvNet((1, 8, 8), [(0, 3, 2, 1)]), r"`channels` must be at least 1"),
        (lambda: ConvNet((1, 8, 8), [], [0]), r"`hidden` must be at least 1, got 0"),
        (lambda: ConvNet((1, 8, 8), [], activation="relu"), r"`activation` must be one of"),
        (lambda: mnist_network(features=1), r"`features` must be at least 2, got 1"),
        (lambda: cifar_network(features=0), r"`features` must be at least 1, got 0"),
        (lambda: ResidualMLP(3, blocks=0), r"`blocks` must be at least 1, got 0"),
    ],
)
def test_sizes_that_cannot_be(build, match):
    with pytest.raises(ArgumentError, match=match):
        build()


def test_sizes_are_integers():
    with pytest.raises(ArgumentTypeError, match="`kernel` must be an integer"):
        ConvNet((1, 8, 8), [Convolution(2, 1.5)])
    with pytest.raises(ArgumentTypeError, match="`width` must be an integer"):
        ResidualMLP(3, 1.5)
