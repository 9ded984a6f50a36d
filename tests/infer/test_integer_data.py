"""Data of integers and booleans have the densities of the same data as floats."""

from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_jarzynski as pj
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.sites import as_floats

OBSERVED = {
    "Bernoulli by logits": lambda m: dist.Bernoulli(logits=m),
    "Bernoulli by probabilities": lambda m: dist.Bernoulli(m.sigmoid()),
    "ContinuousBernoulli": lambda m: dist.ContinuousBernoulli(logits=m),
    "Geometric": lambda m: dist.Geometric(logits=m),
    "Normal": lambda m: dist.Normal(m, 1.0),
    "masked": lambda m: dist.Normal(m, 1.0).mask(torch.tensor([True, False, True])),
    "Poisson": lambda m: dist.Poisson(m.exp()),
    "ZeroInflatedPoisson": lambda m: dist.ZeroInflatedPoisson(
        m.exp(), gate=m.new_tensor(0.2)
    ),
    "Binomial": lambda m: dist.Binomial(3, logits=m),
    "Categorical": lambda m: dist.Categorical(logits=torch.stack([m, -m])),
    "OrderedLogistic": lambda m: dist.OrderedLogistic(m, m.new_tensor([0.5])),
    "Mixture": lambda m: dist.MixtureSameFamily(
        dist.Categorical(m.new_ones(2)), dist.Bernoulli(logits=torch.stack([m, -m]))
    ),
}


def model_of(distribution, dtype):
    def model(y):
        m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=dtype), 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", distribution(m), obs=y)

    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distribution", OBSERVED.values(), ids=OBSERVED)
def test_integers_have_the_density_of_floats(distribution, dtype):
    y = torch.tensor([1, 0, 1])
    expected = PyroModel(model_of(distribution, dtype), (y.to(dtype),), {})
    walker = torch.tensor([0.3], dtype=dtype)
    for kind in (torch.int64, torch.int32, torch.uint8, torch.bool):
        found = PyroModel(model_of(distribution, dtype), (y.to(kind),), {})
        for ours, theirs in zip(
            found.log_densities(walker), expected.log_densities(walker), strict=True
        ):
            assert ours.dtype == dtype
            assert torch.equal(ours, theirs), kind


def test_labels_as_integers_have_their_evidence():
    y = torch.tensor([1, 0, 1, 1])
    runs = [
        pj.AnnealedSMC(
            model_of(lambda m: dist.Bernoulli(logits=m), torch.float64),
            num_walkers=32,
            num_chains=2,
            progress=False,
        ).run(data)
        for data in (y, y.bool(), y.double())
    ]
    assert len({run.log_evidence for run in runs}) == 1


class Indexed(dist.TorchDistribution):
    """Takes its values as indices, as a user's distribution may."""

    arg_constraints: ClassVar = {"logits": dist.constraints.real}
    support = dist.constraints.nonnegative_integer

    def __init__(self, logits):
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Indexed(self.logits.expand((*batch_shape, self.logits.shape[-1])))

    def sample(self, sample_shape=()):
        return torch.zeros(self.shape(sample_shape), dtype=torch.int64)

    def log_prob(self, value):
        table = self.logits.log_softmax(-1)
        return table[torch.arange(len(value)), value]


def test_values_that_are_indices_stay_integers():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", Indexed(torch.stack([m, -m]).expand(len(y), 2)), obs=y)

    y = torch.tensor([1, 0, 1])
    walker = torch.tensor([0.3])
    _, joint = PyroModel(model, (y,), {}).log_densities(walker)
    same = model_of(OBSERVED["Categorical"], torch.float32)
    _, expected = PyroModel(same, (y,), {}).log_densities(walker)
    torch.testing.assert_close(joint, expected)
    edges = torch.tensor([[0, 1], [0, 2]])
    tree = dist.SpanningTree(torch.zeros(3))
    assert as_floats(tree, edges) is edges
    assert as_floats(tree.mask(mask=True), edges) is edges
