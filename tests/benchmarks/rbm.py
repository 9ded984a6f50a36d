"""Boltzmann machines: weighted walkers against persistent contrastive divergence.

    python tests/benchmarks/rbm.py bars [--seeds 0 1 2] [--rates 0.2 0.8]
    python tests/benchmarks/rbm.py digits01 --mnist DIRECTORY
    python tests/benchmarks/rbm.py threes --mnist DIRECTORY

Both methods have equal walkers, equal Gibbs sweeps per update, equal batches, the same
first weights, and each of the learning rates, which fall by a factor of twenty in the
course of a run. `bars` are the 30 bars and stripes of 4 x 4,
with the exact NLL of an enumerable machine. `digits01` are the zeros and ones of MNIST,
binarised at one half; `threes` are all classes with one of them twenty times as frequent
as each of the others. There the test NLL comes from a long annealed check, upwards from
the data's rates, and downwards from the walkers of the training. The last columns are the
mass of one class, by a linear classifier: of the test data, of the walkers that trained
the model, and of annealed walkers. An annealing that misses a mode of the model errs in
that last mass, and by minus the log of the rest in the NLL from below; the NLL from above
is one as far as the walkers of the training are draws of the model.

DIRECTORY holds `MNIST/raw/*-ubyte`, as torchvision lays it out.
"""

import argparse
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import pyro_jarzynski as pj
from pyro_jarzynski.ebm.closed_forms import binary_states
from pyro_jarzynski.ebm.learner import Learner

METHODS: dict[str, type[Learner]] = {
    "weighted": pj.JarzynskiLearner,
    "PCD": pj.PersistentContrastiveDivergence,
}
FREQUENT, TIMES = 3, 20
# Learning rate at the end of a run, as a share of that at its beginning.
DECAY = 0.05


@dataclass(frozen=True)
class Case:
    """Data to train on.

    Attributes:
        train: Training data, `(n, d)`.
        test: Test data, `(m, d)`.
        hidden: Hidden units of the machine.
        exact: Whether the machine is enumerable.
        is_class: Logit of the class whose mass is reported, `(n, d) -> (n, 1)`.
    """

    train: Tensor
    test: Tensor
    hidden: int
    exact: bool = False
    is_class: nn.Module | None = None


def bars_and_stripes(side: int = 4) -> Case:
    """Return all images whose rows, or whose columns, are constant."""
    lines = binary_states(side, torch.device("cpu")).float()
    rows = lines[:, :, None].expand(-1, side, side)
    images = torch.cat([rows, rows.mT]).flatten(1).unique(dim=0)
    return Case(images, images, 12, exact=True)


def read_mnist(root: Path, part: str) -> tuple[Tensor, Tensor]:
    """Return binarised images `(n, 784)` and labels `(n,)`."""
    raw = root / "MNIST" / "raw"
    pixels = np.fromfile(raw / f"{part}-images-idx3-ubyte", np.uint8)[16:]
    labels = np.fromfile(raw / f"{part}-labels-idx1-ubyte", np.uint8)[8:]
    images = torch.from_numpy(pixels.reshape(-1, 784) > 127).float()
    return images, torch.from_numpy(labels).long()


def thinned(labels: Tensor, counts: dict[int, int]) -> Tensor:
    """Return the rows of the first images of each class, so many of each."""
    rows = [(labels == k).nonzero().flatten()[:n] for k, n in counts.items()]
    return torch.cat(rows)


def digits(name: str, root: Path, hidden: int) -> Case:
    """Return zeros and ones, or all digits with one class more frequent."""
    parts, wanted = [], []
    for part, rare in (("train", 250), ("t10k", 50)):
        images, labels = read_mnist(root, part)
        counts = {k: TIMES * rare if k == FREQUENT else rare for k in range(10)}
        if name == "digits01":
            counts = {k: int((labels == k).sum()) for k in (0, 1)}
        rows = thinned(labels, counts)
        parts.append(images[rows])
        chosen = 1 if name == "digits01" else FREQUENT
        wanted.append((labels[rows] == chosen).float())
    return Case(*parts, hidden, is_class=classifier(parts[0], wanted[0]))


def classifier(images: Tensor, wanted: Tensor) -> nn.Module:
    """Fit a logistic regression, so that its mass on the data is right."""
    net = nn.Linear(images.shape[1], 1)
    nn.init.zeros_(net.weight)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=60)

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = nn.functional.binary_cross_entropy_with_logits(net(images)[:, 0], wanted)
        value = fit + 1e-3 * net.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return net.requires_grad_(requires_grad=False)


def mass(case: Case, x: Tensor, weight: Tensor | None = None) -> float:
    """Return the mass of the class of a case in weighted draws."""
    assert case.is_class is not None
    member = (case.is_class(x)[:, 0] > 0).double()
    return float(member.mean() if weight is None else weight @ member)


def trained(
    case: Case,
    method: str,
    sweeps: int,
    rate: float,
    seed: int,
    setting: argparse.Namespace,
) -> Learner:
    """Train a machine from small random weights, which the walkers follow exactly."""
    model = pj.BinaryRBMEnergy(case.train.shape[1], case.hidden, data=case.train, seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    decay = DECAY ** (1 / setting.updates)
    learner = METHODS[method](
        model,
        optimizer,
        lr_scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, decay),
        num_walkers=setting.walkers,
        audit_walkers=setting.audit_walkers,
        kernel=pj.BlockGibbs(sweeps),
        ess_threshold=setting.ess_threshold,
        walker_batch_size=setting.walker_batch_size,
        conditional_ess=setting.conditional_ess,
        seed=seed,
    )
    model.scatter(0.01, seed=seed)
    learner.followers.update()
    learner.fit(case.train, setting.updates, batch_size=setting.batch, eval_every=100)
    return learner


def judged(case: Case, learner: Learner, setting: argparse.Namespace) -> tuple[str, ...]:
    """Return the NLL from below and above, and masses, as cells of the table."""
    model = learner.model
    with torch.no_grad():
        energy = float(model(case.test).double().mean())
    if case.exact:
        exact = energy + model.start_log_normalizer()
        return f"{exact:.3f}", f"{exact:.3f}", "", "", "", ""
    settings = {
        "num_temperatures": setting.temperatures,
        "num_walkers": setting.check_walkers,
        "num_moves": 1,
        "kernel": pj.BlockGibbs(),
        "seed": 1000,
    }
    up = pj.annealed_walkers(model, **settings)
    draws = learner.sample(setting.check_walkers)
    down = pj.normalizer_bounds(model, draws, **(settings | {"num_walkers": 1})).upper
    below = energy + float(up.log_normalizer)
    return (
        f"{below:.2f}",
        f"{energy + down:.2f}",
        f"{float(up.log_normalizer_error):.2f}",
        f"{mass(case, case.test):.3f}",
        f"{mass(case, draws):.3f}",
        f"{mass(case, up.position, up.weight):.3f}",
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=["bars", "digits01", "threes"])
    parser.add_argument("--mnist", type=Path, default=Path())
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--sweeps", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.02, 0.06, 0.2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--walkers", type=int, default=256)
    parser.add_argument("--walker-batch-size", type=int)
    parser.add_argument("--conditional-ess", type=float, default=0.9)
    parser.add_argument("--audit-walkers", type=int, default=16)
    parser.add_argument("--ess-threshold", type=float, default=0.5)
    parser.add_argument("--temperatures", type=int, default=1000)
    parser.add_argument("--check-walkers", type=int, default=256)
    setting = parser.parse_args()
    warnings.simplefilter("ignore")
    case = (
        bars_and_stripes()
        if setting.case == "bars"
        else digits(setting.case, setting.mnist, setting.hidden)
    )
    print(
        "| data | method | sweeps | rate | seed | NLL, from below | from above | s.e. "
        "| mass: data | walkers | model | ESS | resampled | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for sweeps in setting.sweeps:
        for rate in setting.rates:
            for seed in setting.seeds:
                for method in setting.methods:
                    start = time.process_time()
                    learner = trained(case, method, sweeps, rate, seed, setting)
                    took = time.process_time() - start
                    cells = judged(case, learner, setting)
                    ess = sum(learner.history["ess"]) / len(learner.history)
                    row = (
                        setting.case,
                        method,
                        str(sweeps),
                        f"{rate:g}",
                        str(seed),
                        *cells,
                        f"{ess:.2f}",
                        str(learner.cloud.num_resamplings),
                        f"{took:.0f}",
                    )
                    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
