"""Networks that torch slices among ranks are trained and audited as whole ones are.

The reference is one process with the whole network, in float64: the same walkers, with the
same noise. Sums over ranks are torch's there, so that only their last bits may differ.
"""

import pytest
import torch
from safetensors.torch import load_file

import pyro_jarzynski as pj
from pyro_jarzynski.core.sharing import sharing
from tests.distributed.launch import run
from tests.distributed.sliced import RUNS, outcome

MODULE = "tests.distributed.sliced"
# Rounding of sums, after six updates.
ROUNDING = {"rtol": 1e-10, "atol": 1e-12}
ON_TWO = [*(n for n in RUNS if n != "copies"), "learner of DDP", "DDP audited", "audited"]
# After four updates on two ranks, two more on four.
ON_FOUR = ["MALA:6", "copies"]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sliced")


@pytest.fixture(scope="module")
def on_two(folder):
    run(2, MODULE, str(folder), *ON_TWO, "MALA:4", CUDA_VISIBLE_DEVICES="")
    return {name: load_file(folder / f"{name} on 2") for name in ON_TWO}


@pytest.fixture(scope="module")
def on_four(folder, on_two):
    run(4, MODULE, str(folder), *ON_FOUR, CUDA_VISIBLE_DEVICES="")
    return {name: load_file(folder / f"{name} on 4") for name in ON_FOUR}


def whole(name):
    """Return what one process with a whole network comes to."""
    with sharing():
        return outcome(name)


def check(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, **tolerance)


@pytest.mark.parametrize("name", ON_TWO)
def test_two_ranks_come_to_what_a_whole_network_comes_to(on_two, name):
    expected = whole(name)
    check(on_two[name], expected, **ROUNDING)
    # Weights are uneven, so that wrong shares of the ranks would show.
    assert bool(expected["log_weight"].exp().std() > 0.01) != (name in ("PCD", "CD"))


def test_a_network_within_ddp_has_the_bits_of_the_bare_one(on_two):
    check(on_two["learner of DDP"], whole("learner of DDP"), rtol=0, atol=0)


def test_walkers_of_weight_zero_take_no_part(on_two):
    assert (on_two["dead walkers"]["log_weight"] == -torch.inf).sum() > 8


def test_slices_may_have_copies(on_four):
    check(on_four["copies"], whole("copies"), **ROUNDING)


def test_training_goes_on_on_another_number_of_ranks(folder, on_four):
    """With the best parameters, momenta, and the gradient that waits."""
    expected = whole("MALA")
    check(on_four["MALA:6"], expected, **ROUNDING)
    saved = pj.load_model(folder / "saved").model
    for name, value in saved.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], **ROUNDING)


@pytest.mark.gpu
@pytest.mark.parametrize("num", [1, 2])
def test_gpus_come_to_what_a_whole_network_comes_to(tmp_path, num):
    if torch.cuda.device_count() < num:
        pytest.skip(f"{num} GPUs are not here")
    seen = ",".join(map(str, range(num)))
    run(num, MODULE, str(tmp_path), "MALA", "whole MALA", CUDA_VISIBLE_DEVICES=seen)
    found, expected = (
        load_file(tmp_path / f"{name} on {num}") for name in ("MALA", "whole MALA")
    )
    check(found, expected, **ROUNDING)
