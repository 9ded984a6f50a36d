"""Seeds of the statistical checks: fixed by default, fresh where the environment says so.

With `FRESH_SEED=17` all random numbers of the checks are others, and the same ones each
time, so that what a night found can be repeated:

    FRESH_SEED=17 python -m pytest tests/core/test_identities.py
"""

import hashlib
import os

import torch

VARIABLE = "FRESH_SEED"


def seed_of(number: int) -> int:
    """Return the seed that stands for a number: itself, or a hash with the fresh seed."""
    fresh = os.environ.get(VARIABLE)
    if fresh is None:
        return number
    # Hashed, since the numbers of one run and the seeds of runs are both consecutive.
    digest = hashlib.sha256(f"{fresh}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def seeded(number: int) -> torch.Generator:
    """Return a generator with the seed that stands for a number."""
    return torch.Generator().manual_seed(seed_of(number))
