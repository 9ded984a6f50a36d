"""Trainings on the ranks that there are; run by `launch.run`.

    python -m tests.distributed.trainings FILE NAME …

Rank 0 writes parameters and walkers of each to FILE. A name with a number and a folder, as
in `ULA:4:DIR`, is a training of so many updates that is kept there after each of them, and
goes on from what is there.
"""

import sys
import warnings
from typing import Any

import torch
from safetensors.torch import save_file

import pyro_jarzynski as pj
from pyro_jarzynski.core.trees import map_tree
from tests.runtime.training_runs import train

STEPS = 8


def outcome(name: str) -> dict[str, torch.Tensor]:
    """Return parameters and all walkers of both clouds after a training."""
    name, _, kept = name.partition(":")
    steps, _, folder = kept.partition(":")
    place = f"{folder}/{name}" if folder else None
    learner: Any = train(name, place, steps=int(steps or STEPS), resume=bool(folder))
    found: list[torch.Tensor] = []
    map_tree(lambda x: found.append(x), learner.followers.walkers)
    found += [p.detach() for p in learner.model.parameters()]
    found.append(torch.tensor(learner.history["training_log_z"]))
    return {str(k): x.clone().contiguous() for k, x in enumerate(found)}


def main(file: str, *names: str) -> None:
    """Train, and write what comes out."""
    warnings.simplefilter("ignore")
    with pj.distributed() as ranks:
        found = {f"{n}/{key}": x for n in names for key, x in outcome(n).items()}
        if ranks.rank == 0:
            save_file(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
