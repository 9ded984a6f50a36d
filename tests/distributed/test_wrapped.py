"""Models that torch shares among ranks are refused: their gradient is summed here."""

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from pyro_jarzynski import MLP, EnergyModel, JarzynskiLearner, LikelihoodTracker
from pyro_jarzynski.errors import ArgumentError
from tests.ebm.models import standard_normal


@pytest.fixture
def mesh():
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def replicated(model, mesh):
    return DistributedDataParallel(model)


def replicated_network(model, mesh):
    model.net = DistributedDataParallel(model.net)
    return model


def sharded(model, mesh):
    return fully_shard(model, mesh=mesh)


def sharded_parameter(model, mesh):
    layer = model.net.layers[0]
    layer.weight = torch.nn.Parameter(distribute_tensor(layer.weight.detach(), mesh))
    return model


@pytest.mark.parametrize(
    ("wrap", "what"),
    [
        (replicated, "a DistributedDataParallel."),
        (replicated_network, "a DistributedDataParallel at 'net'"),
        (sharded, "a FSDPModule."),
        (sharded_parameter, "a DTensor at 'net.layers.0.weight'"),
    ],
)
def test_wrapped_models_are_refused(mesh, wrap, what):
    model = wrap(EnergyModel(MLP([2, 8]), standard_normal(2)), mesh)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ArgumentError, match=f"must be a bare module, got {what}"):
        JarzynskiLearner(model, optimizer, num_walkers=8, audit_walkers=8)
    with pytest.raises(ArgumentError, match="the package itself sums the gradient"):
        LikelihoodTracker(model, num_walkers=8)
