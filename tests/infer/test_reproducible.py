"""A seed gives the same bits in every process, whatever its order of sets."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import pyro
import pyro.distributions as dist
import torch

import pyro_jarzynski as pj


def model():
    with pyro.plate("sites", 3):
        scales = [pyro.sample(name, dist.HalfNormal(1.3)) for name in "abcdefgh"]
        pyro.sample("y", dist.Normal(0.1, sum(scales)), obs=torch.tensor([0.3, -2.0, 1.7]))


print(repr(pj.AnnealedSMC(model, num_walkers=256, progress=False).run().log_evidence))
"""


def evidence(hash_seed: str) -> str:
    changes = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | changes,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_evidence_is_that_of_any_other_process():
    assert len({evidence(seed) for seed in "123"}) == 1
