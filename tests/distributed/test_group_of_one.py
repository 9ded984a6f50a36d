"""A process group of one rank changes nothing, and refuses nothing."""

import pytest
import torch
from pyro.infer import MCMC
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import pyro_jarzynski as pj
from tests.distributed.annealings import Y, line
from tests.distributed.launch import group_of_one
from tests.ebm.models import mixture_data, network_model

FEW = {"num_walkers": 40, "num_chains": 3, "max_moves": 2, "progress": False}
SETTINGS = {
    "three islands": {},
    "waste-free": {"waste_free": True, "num_moves": 3},
    "online": {"adapt": "online"},
}
DATA = mixture_data(40).float()


def within_and_without(make):
    with group_of_one():
        within = make()
    return within, make()


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.EvidenceWarning")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_annealing_has_the_same_bits(settings):
    def make():
        result = pj.AnnealedSMC(line, **FEW, **settings).run(Y)
        return result.log_evidence, result.get_samples()["mu"]

    (evidence, draws), (expected, expected_draws) = within_and_without(make)
    assert evidence == expected
    assert torch.equal(draws, expected_draws)


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.EvidenceWarning")
def test_kernel_of_mcmc_has_the_same_bits():
    def make():
        kernel = pj.JarzynskiKernel(line, num_walkers=41, max_moves=2, seed=0)
        mcmc = MCMC(kernel, 50, warmup_steps=3, disable_progbar=True)
        mcmc.run(Y)
        return mcmc.get_samples()["mu"]

    assert torch.equal(*within_and_without(make))


def trained(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    # Neither number is a multiple of the shards of several ranks.
    learner = pj.JarzynskiLearner(model, optimizer, num_walkers=15, audit_walkers=9)
    learner.fit(DATA, 2)
    return learner.log_normalizer


def test_training_has_the_same_bits():
    within, without = within_and_without(lambda: trained(network_model()))
    assert within == without


def test_training_of_a_sliced_network():
    with group_of_one():
        model = fully_shard(network_model(), mesh=init_device_mesh("cpu", (1,)))
        found = trained(model)
    assert found == pytest.approx(trained(network_model()), rel=1e-5)
