"""Networks that torch wraps are taken, unwrapped, or refused with a word on what to do."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import MultiStepLR

import pyro_jarzynski as pj
from pyro_jarzynski.core.sharing import sharing
from pyro_jarzynski.core.slices import whole
from pyro_jarzynski.ebm.wrapped import check_wrapping, shaken_in_place
from pyro_jarzynski.errors import ArgumentError, CheckpointError, EnergyError
from tests.distributed.launch import group_of_one
from tests.ebm.models import mixture_data, network_model, seeded, standard_normal

DATA = mixture_data(40).float()


@pytest.fixture(autouse=True)
def _group():
    """Be the only rank of a process group, with walkers in the shards of several."""
    with group_of_one(), sharing():
        yield


def sliced_model(net=None):
    model = network_model() if net is None else pj.EnergyModel(net, standard_normal())
    return fully_shard(model, mesh=init_device_mesh("cpu", (1,)))


def learner_of(model, **settings):
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    few = {"num_walkers": 16, "audit_walkers": 8}
    return pj.JarzynskiLearner(model, optimizer, **(few | settings))


def replicated_within(model):
    model.net = DistributedDataParallel(model.net)
    return model


def fully_sharded_of_old(model):
    model.net = FullyShardedDataParallel(model.net, device_id=torch.device("cpu"))
    return model


def sliced_by_hand(model):
    layer = model.net.layers[0]
    rows = distribute_tensor(layer.weight.detach(), init_device_mesh("cpu", (1,)))
    layer.weight = nn.Parameter(rows)
    return model


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (replicated_within, "a DistributedDataParallel at 'net'. Give the network"),
        (fully_sharded_of_old, "a FullyShardedDataParallel at 'net'. .*`fully_shard`"),
        (sliced_by_hand, "a DTensor at 'net.layers.0.weight' that nobody gathers"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_other_ways_to_share_a_network_are_refused(wrap, told):
    model = wrap(network_model())
    with pytest.raises(ArgumentError, match=told):
        learner_of(model)
    with pytest.raises(ArgumentError, match=told):
        pj.LikelihoodTracker(model, num_walkers=8)


def test_ddp_is_taken_off():
    bare, wrapped = network_model(), DistributedDataParallel(network_model())
    net = DistributedDataParallel(network_model().net)
    assert learner_of(wrapped).model is wrapped.module
    assert pj.LikelihoodTracker(wrapped, num_walkers=8).model is wrapped.module
    assert pj.Followers(wrapped, num_walkers=8, audit_walkers=8).model is wrapped.module
    assert pj.EnergyModel(net, standard_normal()).net is net.module
    for model in (bare, wrapped):
        learner_of(model).fit(DATA, 2)
    for a, b in zip(bare.parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"jit_compile": True}, "`jit_compile` must be false"),
        ({"kernel": pj.BlockGibbs()}, "`kernel` must be one that only evaluates"),
        ({"num_walkers": 20}, "20 walkers cannot be cut into 8 equal shards"),
        ({"walker_batch_size": 12}, "12 walkers cannot be cut into 8 equal shards"),
        ({"audit_walkers": 9}, "9 walkers cannot be cut into 8 equal shards"),
    ],
)
def test_settings_that_need_a_whole_network_are_refused(settings, told):
    with pytest.raises(ArgumentError, match=told):
        learner_of(sliced_model(), **settings)


def test_what_one_rank_would_do_alone_is_refused():
    learner = learner_of(sliced_model())
    with pytest.raises(ArgumentError, match="`gather` is for a network that every rank"):
        learner.gather()
    with pytest.raises(ArgumentError, match="known to its learner and tracker alone"):
        learner.model.distribution()
    with pytest.raises(ArgumentError, match="20 walkers cannot be cut"):
        learner.audit.renew(num_walkers=20, num_temperatures=2)


@pytest.mark.parametrize(("size", "num_shards"), [(3, 8), (2, None)])
def test_ranks_that_would_not_keep_step_are_refused(size, num_shards):
    team = SimpleNamespace(ranks=SimpleNamespace(size=size), num_shards=num_shards)
    with pytest.raises(ArgumentError, match=f"multiple of the {size} ranks"):
        check_wrapping(sliced_model(), team)


def test_slices_among_other_ranks_are_refused():
    team = SimpleNamespace(ranks=SimpleNamespace(size=2), num_shards=8)
    told = r"shared among 1 ranks at 'net\..*', as Shard; .* among all 2 ranks"
    with pytest.raises(ArgumentError, match=told):
        check_wrapping(sliced_model(), team)


class Coupled(nn.Module):
    """Lets one walker know of the mean of all, by a weight that starts at zero."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 1)

    def forward(self, x):
        return self.last(x - x.mean(0))


def test_energy_that_couples_walkers_is_found():
    with pytest.raises(EnergyError, match="The energy couples walkers"):
        learner_of(sliced_model(seeded(Coupled)), audit_walkers=32)


def test_parameters_that_change_after_a_look_are_seen():
    """A call without gradients leaves nothing gathered, of which torch would go on."""
    model = sliced_model()
    tracker = pj.LikelihoodTracker(model, num_walkers=16)
    tracker.nll(DATA)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    tracker.update()
    whole_one = network_model()
    for parameter in whole_one.parameters():
        parameter.data += 0.1
    torch.testing.assert_close(model(DATA), whole_one(DATA))
    assert tracker.log_normalizer < -0.1


def test_shaken_parameters_and_buffers_are_put_back():
    net = seeded(lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)))
    model = sliced_model(net)
    before = {name: whole(x).clone() for name, x in model.state_dict().items()}
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(), torch.no_grad(), shaken_in_place(model):
        assert model(x).std() > 0
        assert (model.net[0].running_mean != 0).any()
    for name, value in model.state_dict().items():
        assert torch.equal(whole(value), before[name])


@pytest.mark.parametrize("first", [network_model, sliced_model])
def test_checkpoint_of_a_whole_network_is_none_of_a_sliced_one(tmp_path, first):
    (second,) = {network_model, sliced_model} - {first}
    kept = pj.Checkpoints(tmp_path, every=1, resume=True)
    learner_of(first()).fit(DATA, 1, checkpoints=kept)
    with pytest.raises(CheckpointError, match="`fully_sharded` was"):
        learner_of(second()).fit(DATA, 2, checkpoints=kept)


def test_scheduler_of_a_sliced_training_goes_on_as_it_was(tmp_path):
    """Its state is no part of what is put together: milestones are counted as before."""
    found = []
    for steps in (1, 2):
        model = sliced_model()
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        fall = MultiStepLR(optimizer, [2])
        learner = pj.JarzynskiLearner(
            model, optimizer, num_walkers=16, audit_walkers=8, lr_scheduler=fall
        )
        kept = pj.Checkpoints(tmp_path, every=1, resume=True)
        learner.fit(DATA, steps, checkpoints=kept)
        found.append((learner.num_steps, type(fall.milestones), fall.get_last_lr()))
    assert found == [(1, Counter, [0.5]), (2, Counter, [0.05])]


def test_masses_of_a_sliced_base_are_known():
    """`ComponentMasses` has a way of its own to its energy, by which nobody gathers."""
    base = pj.PCAMixture.fit(DATA, (DATA[:, 0] > 0).long(), rank=1)
    found = []
    for slices in (False, True):
        net = pj.ComponentMasses(pj.MLP([3, 8], seed=0), base)
        model = pj.EnergyModel(net, base)
        if slices:
            fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
        learner_of(model).fit(DATA, 3)
        found.append(net.masses())
    torch.testing.assert_close(*found)
    assert (found[0] - base.masses).abs().max() > 1e-3
