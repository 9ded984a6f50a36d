"""Data that a model predicts at given values of its latents, and all else it computes."""

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_jarzynski.infer.model import PyroModel, quiet_pyro
from pyro_jarzynski.infer.singular import SingularAsNaN
from pyro_jarzynski.infer.sites import ExactDraws, Given, Simulate, seeded

# Seconds after which a bar tells how long it will take.
PATIENCE = 2.0


def draw_predictive(
    model: PyroModel,
    values: dict[str, Tensor],
    *,
    seed: int,
    purpose: str,
    progress: bool = True,
) -> dict[str, Tensor]:
    """Draw new data from the model, one data set for each draw of its latents.

    The model runs once per draw, a millisecond or so each: what it does with random
    numbers cannot be mapped.

    Args:
        model: The model.
        values: Latents by site, each `(n, *shape)`; those that are left out are drawn.
        seed: Seed of the run.
        purpose: What the draws are for; draws for different purposes are independent.
        progress: Whether to show a bar if it takes long.

    Returns:
        Data by observed site, each `(n, *shape)`.
    """
    num = len(next(iter(values.values())))
    rows = []
    with seeded(seed, purpose), quiet_pyro(), SingularAsNaN(), torch.no_grad():
        for index in tqdm(range(num), desc=purpose, delay=PATIENCE, disable=not progress):
            simulate = Simulate()
            given = Given({name: value[index] for name, value in values.items()})
            with ExactDraws(), given, simulate:
                model.model(*model.args, **model.kwargs)
            rows.append(simulate.data)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
