"""Collectives keep the order of ranks and the tree of sums, on processors and GPUs."""

import pytest
import torch

from tests.distributed.launch import run

MODULE = "tests.distributed.collectives"


def test_ranks_of_processors():
    assert run(3, MODULE, CUDA_VISIBLE_DEVICES="") == ["all right\n"] * 3


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs are not here")
def test_ranks_of_gpus():
    assert run(2, MODULE) == ["all right\n"] * 2
