"""Checks of resampling, in the form of `tests.identities`."""

import math
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from pyro_jarzynski.core import resampling
from pyro_jarzynski.core.kernels import ULA, Kernel
from tests.identities import Z_SIX, carry, z_score
from tests.scenarios import FLOAT, gaussian_path
from tests.seeds import seeded


class Replicates(NamedTuple):
    """Results of independent runs on one path.

    Attributes:
        ratio: `Ẑ / Z`, `(R,)`.
        mean: `Σ W x`, `(R,)`.
        relative_variance: The runs' own estimates of `Var[Ẑ] / Z²`, `(R,)`.
        resampled: Resamplings per run, `(R,)`.
    """

    ratio: Tensor
    mean: Tensor
    relative_variance: Tensor
    resampled: Tensor


def replicate(
    scheme: str, num: int, threshold: float, runs: int, kernel: Kernel | None = None
) -> Replicates:
    """Run independent clouds on a short path, resampled by one scheme."""
    path, kernel = gaussian_path((4.0,), (1.0,), 5), kernel or ULA(0.2)
    settings = {
        "ess_threshold": threshold,
        "resampler": resampling.get_resampler(scheme),
    }
    rows = []
    for seed in range(runs):
        steps = list(carry(path, kernel, num, seed, **settings))
        walkers, resampled = steps[-1][0], sum(flag for _, flag in steps)
        ratio = (walkers.log_normalizer - path.log_ratio).exp()
        mean = walkers.weight @ walkers.position[:, 0]
        error = walkers.log_normalizer_error**2
        rows.append(torch.stack([ratio, mean, error, ratio.new_tensor(int(resampled))]))
    return Replicates(*torch.stack(rows).T)


def resampled_evidence(
    scheme: str,
    kernel: Kernel | None = None,
    num: int = 16,
    runs: int = 600,
    threshold: float = 0.7,
) -> float:
    """`E[Ẑ] = Z` and `E[Ẑ Σ W x] = Z E x` with resampling triggered by the ESS.

    False alarms: 5e-5 for the larger of two z of 4.2, doubled for skewness: 1e-4.
    """
    found = replicate(scheme, num, threshold, runs, kernel)
    scores = z_score(found.ratio, 1), z_score(found.ratio * (found.mean - 1), 0)
    return max(map(abs, scores)) / 4.2


def offspring(scheme: str, runs: int = 4000) -> float:
    """Every walker has `N W_i` children on average.

    False alarms: 1e-4 for the largest of five z, which are of bounded counts. A count
    that never varies must be exact.
    """
    weight = torch.tensor([0.0, 0.07, 0.25, 0.0, 0.41, 0.27, 0.0], dtype=FLOAT)
    generator = seeded(7)
    draw = resampling.get_resampler(scheme)
    size = len(weight)
    counts = torch.stack(
        [draw(weight.log(), size, generator).bincount(minlength=size) for _ in range(runs)]
    ).to(FLOAT)
    error = counts.std(0) / math.sqrt(runs) + 1e-12
    return ((counts.mean(0) - size * weight) / error).abs().max().item() / Z_SIX


def extreme_uniforms(scheme: str) -> float:
    """No walker of weight zero is chosen, and none that does not exist.

    The uniform numbers are the smallest and the largest that can be drawn.
    """
    weight = torch.tensor([0.0, 0.1, 0.3, 0.0, 0.6, 0.0], dtype=FLOAT)
    wrong = 0
    for extreme in (0.0, math.nextafter(1.0, 0.0)):
        with patch.object(resampling, "_uniform", partial(constant, extreme)):
            chosen = resampling.get_resampler(scheme)(weight.log(), 1000, None)
        inside = (chosen >= 0) & (chosen < len(weight))
        wrong += int((~inside).sum()) + int((weight[chosen[inside]] == 0).sum())
    return 2.0 * wrong


def constant(value: float, like: Tensor, num: int, generator: object) -> Tensor:
    return torch.full((num,), value, dtype=FLOAT)
