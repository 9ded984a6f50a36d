"""Trainings of networks that torch shares among ranks; run by `launch.run`.

    python -m tests.distributed.sliced FOLDER NAME …

Rank 0 writes parameters and weights of each to a file there. A name with a number, as in
`MALA:4`, is a training of so many updates that keeps checkpoints, and goes on from what is
there. After the word `whole`, and in one process without a process group, networks are
whole: that is what the others must come to.
"""

import math
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import pyro_jarzynski as pj
from pyro_jarzynski.core.digests import digest
from pyro_jarzynski.core.slices import whole
from pyro_jarzynski.errors import ArgumentError
from tests.ebm.models import FLOAT, mixture_data

STEPS = 6
# GPUs, where a test lets programs see them.
DEVICE = "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu"


class Walled(nn.Module):
    """A network whose energy, and the gradient of that, are infinite outside of a disc."""

    def __init__(self) -> None:
        super().__init__()
        self.net = pj.MLP([3, 8], seed=0)

    def forward(self, x: Tensor) -> Tensor:
        wall = torch.where(x.norm(dim=1) > 2.7, math.inf, 1.0)
        return self.net(x).reshape(len(x)).exp() * wall - 1


def model_of(net: nn.Module) -> pj.EnergyModel:
    """Return a model in float64."""
    zero = torch.zeros(3, dtype=FLOAT, device=DEVICE)
    base = torch.distributions.Normal(zero, zero + 1.2)
    return pj.EnergyModel(net.to(zero), torch.distributions.Independent(base, 1))


def network() -> pj.EnergyModel:
    return model_of(pj.MLP([3, 12, 7], seed=0))


def layers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def sliced(model: nn.Module, **settings: Any) -> None:
    """Slice a model layer by layer, and what is left as a whole."""
    from torch.distributed.fsdp import fully_shard

    for layer in layers(model):
        fully_shard(layer, **settings)
    fully_shard(model, **settings)


def network_sliced(model: Any) -> None:
    """Slice the network alone, in one piece."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(model.net)


def partly(model: Any) -> None:
    """Slice all layers but the first, of which ranks have others until it is trained."""
    from torch.distributed.fsdp import fully_shard

    first, *others = layers(model)
    with torch.no_grad():
        first.bias += torch.distributed.get_rank()
    for layer in others:
        fully_shard(layer)


def in_copies(model: nn.Module) -> None:
    """Slice a model among half of the ranks, of which the other half has copies."""
    from torch.distributed.device_mesh import init_device_mesh

    half = torch.distributed.get_world_size() // 2
    sliced(model, mesh=init_device_mesh(DEVICE, (2, half), mesh_dim_names=("a", "b")))


def learner_of(
    model: Any, kind: type = pj.JarzynskiLearner, momentum: float = 0.5, **settings: Any
) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=momentum, foreach=False)
    few: dict[str, Any] = {"num_walkers": 64, "audit_walkers": 32, "kernel": pj.MALA(0.3)}
    return kind(model, optimizer, **(few | settings))


# Within the wall, and not of a number that all shards have alike.
DATA = mixture_data(101).to(DEVICE) * 0.5
VALIDATED = {"validation": mixture_data(40, seed=3).to(DEVICE) * 0.6}
RENEWED = {
    "walker_batch_size": 32,
    "renewal": pj.Renewal(every=3, num_temperatures=3, num_moves=1),
}
# How a training is built: model, what slices it, settings, arguments of `fit`.
Run = tuple[Callable[[], Any], Callable[[Any], None], dict[str, Any], dict[str, Any]]
RUNS: dict[str, Run] = {
    "MALA": (network, sliced, {"chunk_size": 3, "ess_threshold": 0.1}, VALIDATED),
    "ULA": (network, sliced, {"kernel": pj.ULA(0.1), "chunk_size": 5}, {}),
    "HMC": (network, network_sliced, {"kernel": pj.HMC(0.2, 2)}, {}),
    "underdamped": (network, sliced, {"kernel": pj.UnderdampedLangevin(0.2)}, {}),
    "renewed blocks": (network, sliced, RENEWED, VALIDATED),
    "one layer whole": (network, partly, {"ess_threshold": 0.1}, VALIDATED),
    "dead walkers": (
        lambda: model_of(Walled()),
        sliced,
        # Chunks of the living are 6 on one of two ranks, and 7 on the other.
        {"chunk_size": 5, "ess_threshold": 0.0, "conditional_ess": None},
        {},
    ),
    "few data": (network, sliced, {}, {"batch_size": 3}),
    "PCD": (network, sliced, {"kind": pj.PersistentContrastiveDivergence}, {}),
    "CD": (network, sliced, {"kind": pj.ContrastiveDivergence}, {}),
    "copies": (network, in_copies, {}, VALIDATED),
}


def train(name: str, *, slices: bool, steps: int, folder: str) -> Any:
    """Make a training, whole or sliced, and fit it."""
    build, slice_up, settings, arguments = RUNS[name]
    model = build()
    if slices:
        slice_up(model)
    learner = learner_of(model, **settings)
    kept = pj.Checkpoints(f"{folder}/kept", every=2, resume=True) if folder else None
    settings = {"batch_size": 30, "eval_every": 2, "checkpoints": kept}
    learner.fit(DATA, steps, **(settings | arguments))
    return learner


def audited(wrap: Callable[[nn.Module], nn.Module]) -> pj.LikelihoodTracker:
    """Audit somebody else's loop: of torch alone, over a share of the data of each rank."""
    model = network()
    trained = wrap(model)
    tracker = pj.LikelihoodTracker(model, num_walkers=64)
    optimizer = torch.optim.SGD(trained.parameters(), 1.0)
    ranks = tracker.cloud.team.ranks
    data = DATA[:64][ranks.rank :: ranks.size]
    for _ in range(3):
        optimizer.zero_grad()
        (trained(data) - trained(-data)).tanh().mean().backward()
        optimizer.step()
        tracker.update()
    return tracker


def replicated(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def in_slices(model: nn.Module) -> nn.Module:
    sliced(model)
    return model


def outcome(name: str, folder: str = "") -> dict[str, Tensor]:
    """Return parameters, weights and likelihood of what is trained or audited."""
    shared = torch.distributed.is_initialized() and not name.startswith("whole ")
    name, _, steps = name.removeprefix("whole ").partition(":")
    followed: Any
    if name in RUNS:
        count = int(steps or STEPS)
        followed = train(name, slices=shared, steps=count, folder=steps and folder)
    elif name == "learner of DDP":
        model = network()
        followed = learner_of(replicated(model) if shared else model)
        followed.fit(DATA, STEPS, batch_size=30)
    else:
        wrap = replicated if name == "DDP audited" else in_slices
        followed = audited(wrap if shared else lambda model: model)
    # What is tried out with walkers has the same course on all ranks.
    if followed.cloud.fully_sharded:
        followed.cloud.team.ranks.agree({"shown": digest(followed.cloud.shown)})
    if steps:
        pj.save_model(f"{folder}/saved", followed.model, followed.cloud.walkers)
    found = {n: whole(p.detach()).clone() for n, p in followed.model.named_parameters()}
    found["log_weight"] = followed.cloud.here.log_weight
    if isinstance(followed, pj.JarzynskiLearner):
        found["norm"] = torch.tensor(followed.history["grad_norm"])
    found["nll"] = torch.tensor(followed.nll(DATA[:30]).nll)
    if followed.cloud.fully_sharded:
        read_alone(followed)
    return {key: x.cpu().clone().contiguous() for key, x in found.items()}


def read_alone(followed: Any) -> None:
    """Read log Z on rank 0 alone, and see that a change of parameters makes it stale."""
    if torch.distributed.get_rank() == 0:
        assert math.isfinite(followed.log_normalizer)
    with torch.no_grad():
        for parameter in followed.model.parameters():
            parameter.add_(0.5)
    if torch.distributed.get_rank() == 0:
        with pytest.raises(ArgumentError, match="parameters of `model` have changed"):
            _ = followed.log_normalizer


def main(folder: str, *names: str) -> None:
    """Train, and write what comes out."""
    warnings.simplefilter("ignore")
    with pj.distributed() as ranks:
        for name in names:
            found = outcome(name, folder)
            if ranks.rank == 0:
                save_file(found, f"{folder}/{name} on {ranks.size}")


if __name__ == "__main__":
    main(*sys.argv[1:])
