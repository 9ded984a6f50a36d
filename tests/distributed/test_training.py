"""Trainings have the same bits on any number of ranks, and go on on another number."""

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launch import run
from tests.runtime.training_runs import RUNS

MODULE = "tests.distributed.trainings"
RESUMED = ("ULA", "blocks", "Muon, blocks, renewal", "underdamped", "PCD")


def trained(folder, num, *arguments):
    file = folder / f"{num}-{len(arguments)}.safetensors"
    run(num, MODULE, str(file), *arguments)
    return load_file(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone(folder):
    return trained(folder, 1)


def same(found, expected, name):
    keys = [key for key in expected if key.startswith(f"{name}/")]
    assert keys
    for key in keys:
        # The walkers of contrastive divergence have no `log Z`, which is NaN.
        a, b = found[key].nan_to_num(-1), expected[key].nan_to_num(-1)
        assert torch.equal(a, b), key


@pytest.fixture(scope="module", params=[2, 3, 4])
def several(request, folder):
    return trained(folder, request.param)


@pytest.mark.parametrize("name", RUNS)
def test_bits_are_those_of_one_rank(several, alone, name):
    same(several, alone, name)


@pytest.fixture(scope="module", params=[(2, 4), (4, 1)], ids=str)
def resumed(request, folder):
    first, second = request.param
    kept = ("--folder", str(folder / f"{first} to {second}"), "--names", *RESUMED)
    trained(folder, first, "--steps", "4", *kept)
    return trained(folder, second, *kept)


@pytest.mark.parametrize("name", RESUMED)
def test_training_goes_on_on_another_number_of_ranks(resumed, alone, name):
    same(resumed, alone, name)
