"""Every kind of training, on the ranks that there are; run by `launch.run`.

python -m tests.distributed.trainings FILE [NAME ...]
"""

import sys
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


def main(file: str, *names: str) -> None:
    warnings.simplefilter("ignore")
    with pj.distributed() as ranks:
        results = {
            f"{name}/{key}": value
            for name in names or RUNS
            for key, value in outcome(train(name, steps=STEPS)).items()
        }
        if ranks.rank == 0:
            save_file(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
