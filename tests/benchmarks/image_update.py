"""Time and passes of one update at the published settings of images.

    python tests/benchmarks/image_update.py [--published FOLDER] [--experiments mnist cifar]
        [--shrink 8] [--features F] [--repeats 3]

The published code is the repository `submissionx12/EBMs_Jarzynski`, commit 3cc3c00, run as
it is: its `Sampler`, its network, and `training_step` of its notebooks, followed by the
clipped Adam step that Lightning makes of it. MNIST: 1,024 walkers, six batches of 256, 30
moves each, 128 images per update, and 9,800 in its estimate of the cross-entropy. CIFAR-10:
4,096 walkers, one batch of 256, 60 moves, 512 images, and 50,000. Images are random.

Ours makes as many moves: MNIST 45 of each walker, CIFAR-10 60 of a batch of 256, of which
16 make a pass over all walkers; updates are averaged over a pass. The cross-entropy comes
from the audit, which is all there is to pay for it: rows are with two audit walkers, which
is none, and with a quarter as many as move.

Equal are the moves, images per update, widths of the network and the number type. Not
equal: the energy is on top of a Gaussian base; the activation of the network for CIFAR-10
is smooth, not LeakyReLU; and our noise is that of the step, which costs the same.

`--shrink` divides numbers of walkers, batches and images, of both alike; moves remain.
Passes are counted by hooks, in images through the network per update, as if not shrunk.
The floor is the passes that such an update cannot do without, in bare torch: a forward
pass with the gradient of the image per move, and one by the parameters of the walkers that
moved and of the data.
"""

import argparse
import ast
import contextlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from pyro.distributions import Normal
from torch import Tensor, nn

import pyro_jarzynski as pj


@dataclass(frozen=True)
class Setting:
    """Numbers of a published experiment, and how it is run here."""

    folder: str
    notebook: str
    image: tuple[int, int, int]
    network: Callable[..., nn.Module]
    features: int
    walkers: int
    batch: int
    batches: int
    moves: int
    data: int
    dataset: int
    hparams: dict[str, float]

    @property
    def walker_moves(self) -> int:
        """Moves of single walkers per update."""
        return self.batch * self.batches * self.moves

    def shrunk(self, by: int) -> "Setting":
        """Return the setting with fewer walkers and images."""
        smaller = {
            name: max(1, getattr(self, name) // by)
            for name in ("walkers", "batch", "data", "dataset")
        }
        return replace(self, **smaller)


SETTINGS = {
    "mnist": Setting(
        folder="MNIST_code",
        notebook="main.ipynb",
        image=(1, 28, 28),
        network=pj.mnist_network,
        features=32,
        walkers=1024,
        batch=256,
        batches=6,
        moves=30,
        data=128,
        dataset=9800,
        hparams={"step_size": 5e-5, "noise_level": 1e-4, "resample_std": 1.5},
    ),
    "cifar": Setting(
        folder="CIFAR-10_code",
        notebook="main_CIFAR_Jarzynski.ipynb",
        image=(3, 32, 32),
        network=pj.cifar_network,
        features=64,
        walkers=4096,
        batch=256,
        batches=1,
        moves=60,
        data=512,
        dataset=50_000,
        hparams={"step_size": 1.0, "noise_level": 1e-2, "resample_ess": 64},
    ),
}


class Passes:
    """Counts images that go through a network, forward and backward."""

    def __init__(self, network: nn.Module) -> None:
        """Put a hook on the network."""
        self.forward = self.backward = 0
        self.handle = network.register_forward_hook(self._seen)

    def _seen(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        rows = len(inputs[0])
        self.forward += rows
        if output.requires_grad:
            output.register_hook(lambda grad: self._returned(rows))

    def _returned(self, rows: int) -> None:
        self.backward += rows


@dataclass(frozen=True)
class Cost:
    """Seconds of processor time, and passes, per update."""

    seconds: float
    forward: float
    backward: float


def measured(
    update: Callable[[], None], network: nn.Module, updates: int, *, warm: bool = False
) -> Cost:
    """Return the cost of one update, over some of them, after one to warm up."""
    if not warm:
        update()
    passes, start = Passes(network), time.process_time()
    for _ in range(updates):
        update()
    seconds = time.process_time() - start
    passes.handle.remove()
    return Cost(seconds / updates, passes.forward / updates, passes.backward / updates)


def ours(setting: Setting, audit_walkers: int, updates: int) -> Cost:
    """Return the cost of one update of `JarzynskiLearner`."""
    base = Normal(torch.zeros(setting.image), 1.0).to_event(3)
    network = setting.network(features=setting.features)
    model = pj.EnergyModel(network, base)
    all_move = setting.batch * setting.batches >= setting.walkers
    moved = setting.walkers if all_move else setting.batch
    learner = pj.JarzynskiLearner(
        model,
        torch.optim.Adam(model.parameters(), 1e-5, betas=(0.0, 0.999)),
        kernel=pj.ULA(1e-3),
        num_walkers=setting.walkers,
        audit_walkers=audit_walkers,
        walker_batch_size=None if all_move else setting.batch,
        moves_per_update=setting.walker_moves // moved,
        chunk_size=setting.batch,
    )
    images = 2 * torch.rand(max(setting.data, 2), *setting.image) - 1

    def update(num: int) -> None:
        learner.fit(images, num, batch_size=setting.data, eval_every=10**6)

    update(1)
    # In one call: at its end all walkers are weighted.
    cost = measured(lambda: update(updates), network, 1, warm=True)
    return Cost(cost.seconds / updates, cost.forward / updates, cost.backward / updates)


def floor(setting: Setting, updates: int) -> Cost:
    """Return the cost of the bare passes."""
    network = setting.network(features=setting.features)
    walkers = torch.randn(setting.batch, *setting.image)
    images = 2 * torch.rand(setting.data, *setting.image) - 1
    parameters = list(network.parameters())

    def update() -> None:
        for _ in range(setting.walker_moves // setting.batch):
            point = walkers.detach().requires_grad_()
            torch.autograd.grad(network(point).sum(), point)
        for batch in (walkers, images):
            torch.autograd.grad(network(batch).mean(), parameters)

    return measured(update, network, updates)


def published(setting: Setting, folder: Path, updates: int) -> Cost:
    """Return the cost of one update of the published code."""
    place = folder / setting.folder
    sampler, step = _module(place / "Sampler.py"), _source(place / setting.notebook)
    names: dict[str, Any] = {"torch": torch, "nn": nn, "device": torch.device("cpu")}
    _define(step, "training_step", names)
    if setting.folder == "MNIST_code":
        cnn = _module(place / "CNNModel.py").CNNModel(setting.features)
    else:
        _define(step, "Paper_net", names)
        cnn = names["Paper_net"](n_f=setting.features)
    optimizer = torch.optim.Adam(cnn.parameters(), 1e-4, betas=(0.0, 0.999))
    walkers = sampler.Sampler(cnn, setting.image, setting.walkers)
    walkers.normalization = walkers.normal_0 = torch.tensor(1.0)
    index = torch.randperm(setting.walkers)[: setting.batch]
    hparams = setting.hparams | {
        "steps": setting.moves,
        "num_batch": setting.batches,
        "sample_size": setting.walkers,
        "sampler_batch": setting.batch,
        "alpha": 1e-2,
    }
    module = SimpleNamespace(
        cnn=cnn,
        sampler=walkers,
        hparams=SimpleNamespace(**hparams),
        data=2 * torch.rand(setting.dataset, *setting.image) - 1,
        langevin_steps=0,
        current_epoch=0,
        fake_imgs=walkers.examples[index],
        fake_imgs_weights=walkers.log_weights[index],
        log=lambda *_: None,
    )
    images = 2 * torch.rand(setting.data, *setting.image) - 1

    def update() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            loss = names["training_step"](module, (images, None), 0)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(cnn.parameters(), 1.0)
        optimizer.step()

    return measured(update, cnn, updates)


def _module(path: Path) -> Any:
    """Execute a file, but for its imports of torchvision, of which nothing is used."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if "torchvision" not in ast.dump(node)]
    names: dict[str, Any] = {}
    exec(compile(tree, str(path), "exec"), names)
    return SimpleNamespace(**names)


def _source(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return next(text for text in code if "def training_step" in text)


def _define(source: str, name: str, names: dict[str, Any]) -> None:
    """Define one function or class of a notebook, and nothing else of it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            exec(compile(ast.Module([node], []), name, "exec"), names)


def all_costs(setting: Setting, folder: Path | None) -> dict[str, Cost]:
    """Return the cost of an update by the way to make it, measured one after the other."""
    # As many updates as make whole passes over the walkers.
    updates = 1 if setting.batches > 1 else setting.walkers // setting.batch
    quarter = min(setting.walkers, setting.batch * setting.batches) // 4
    costs = {
        "floor": floor(setting, 1),
        "ours, no audit": ours(setting, 2, updates),
        "ours, audit": ours(setting, max(quarter, 2), updates),
    }
    if folder is not None:
        costs["published"] = published(setting, folder, 1)
    return costs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, help="folder of the published code")
    parser.add_argument("--experiments", nargs="+", default=list(SETTINGS))
    parser.add_argument("--shrink", type=int, default=8)
    parser.add_argument("--features", type=int, help="width of the networks")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; medians count")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| experiment | update | CPU, s | forward | backward | over floor | gain |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.experiments:
        setting = SETTINGS[name].shrunk(arguments.shrink)
        if arguments.features:
            setting = replace(setting, features=arguments.features)
        rounds = [all_costs(setting, arguments.published) for _ in range(arguments.repeats)]
        for label, cost in rounds[0].items():
            seconds = median(costs[label].seconds for costs in rounds)
            over = median(c[label].seconds / c["floor"].seconds for c in rounds)
            gain = "–"
            if arguments.published:
                gains = [c["published"].seconds / c[label].seconds for c in rounds]
                gain = f"{median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f})"
            print(
                f"| {name} | {label} | {seconds:.2f} "
                f"| {arguments.shrink * cost.forward:.0f} "
                f"| {arguments.shrink * cost.backward:.0f} | {over:.2f} | {gain} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
