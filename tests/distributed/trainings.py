"""Trainings on the ranks that there are; run by `launch.run`.

    python -m tests.distributed.trainings FILE [--steps N] [--folder DIR] [--names …]

Rank 0 writes parameters and walkers of each to FILE. With a folder, each is kept there
after every update, and goes on from what is there.
"""

import argparse
import warnings
from typing import Any

import torch
from safetensors.torch import save_file

import pyro_jarzynski as pj
from pyro_jarzynski.core.trees import map_tree
from tests.runtime.training_runs import RUNS, train

STEPS = 8


def outcome(learner: Any) -> dict[str, torch.Tensor]:
    """Return parameters and all walkers of both clouds after a training."""
    found: list[torch.Tensor] = []
    map_tree(lambda x: found.append(x), learner.followers.walkers)
    found += [p.detach() for p in learner.model.parameters()]
    found.append(torch.tensor(learner.history["training_log_z"]))
    return {str(k): x.clone().contiguous() for k, x in enumerate(found)}


def main() -> None:
    """Train, and write what comes out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--folder")
    parser.add_argument("--names", nargs="*", default=list(RUNS))
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    with pj.distributed() as ranks:
        results = {}
        for name in chosen.names:
            folder = chosen.folder and f"{chosen.folder}/{name}"
            learner = train(name, folder, steps=chosen.steps, resume=folder is not None)
            for key, value in outcome(learner).items():
                results[f"{name}/{key}"] = value
        if ranks.rank == 0:
            save_file(results, chosen.file)


if __name__ == "__main__":
    main()
