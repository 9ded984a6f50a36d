"""Time of one training step of the paper's mixture experiment, as two ratios.

    python tests/benchmarks/training_step.py [--published GMM.py]

The floor is the bare torch forward and backward passes that a step cannot do without:
one forward with the gradients of walkers and parameters, and one forward and backward on
the data. Floor and step alternate in one process, and the median of the paired ratios
counts. It is printed for two ways to write the same energy: as the published code does,
with a tensor of all differences, and as the package does, by a matrix product; the faster
the energy, the more the noise and the weights of the walkers show beside it.

The published code is `GMM_code/GMM.py` of the repository `submissionx12/EBMs_Jarzynski`,
run as it is but for the number of its iterations.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pyro_jarzynski.ebm.learner import Learner
from pyro_jarzynski.ebm.networks import GaussianMixtureEnergy
from pyro_jarzynski.experiments.mixture import Mixture, mixture_learner


class DifferencesEnergy(GaussianMixtureEnergy):
    """The same energy through all differences `x - a`, `(N, modes, d)`."""

    def forward(self, x: Tensor) -> Tensor:
        distance = (x[:, None] - self.means).square().sum(2)
        return -torch.logsumexp(-self.z - distance / 2, 1)


def floor_step(model: GaussianMixtureEnergy, walkers: Tensor, data: Tensor) -> None:
    """Do the passes that no training step can do without."""
    parameters = list(model.parameters())
    point = walkers.detach().requires_grad_()
    energy = model(point)
    torch.autograd.grad(energy.sum(), point, retain_graph=True)
    torch.autograd.grad(energy.mean(), parameters)
    torch.autograd.grad(model(data).mean(), parameters)


def make_learner(energy: type[GaussianMixtureEnergy], audit_walkers: int) -> Learner:
    """Return the experiment's learner with the energy written in one of two ways."""
    learner = mixture_learner("jarzynski", audit_walkers=audit_walkers)
    # The class alone differs: parameters, optimiser and walkers stay as they are.
    learner.model.__class__ = energy
    return learner


def seconds(task: Callable[[], None]) -> float:
    """Return the wall time of a call, s."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def paired(learner: Learner, data: Tensor, repeats: int) -> tuple[float, float, float]:
    """Return medians of the step, of the floor and of their ratio, over paired runs."""
    size = 5

    def floor() -> None:
        for _ in range(size):
            floor_step(learner.model, learner.cloud.position, data)

    def step() -> None:
        learner.fit(data, size, batch_size=None, eval_every=10**6)

    step(), floor()
    times = [(seconds(step) / size, seconds(floor) / size) for _ in range(repeats)]
    steps, floors = zip(*times, strict=True)
    ratios = [s / f for s, f in times]
    return statistics.median(steps), statistics.median(floors), statistics.median(ratios)


def published_seconds(script: Path, iterations: int = 20) -> float:
    """Return the time per step of the published code, from two runs of different length."""
    source = script.read_text(encoding="utf-8")
    times = []
    for length in (2, 2 + iterations):
        text = re.sub(r"^algo=\[.*$", "algo=[0]", source, flags=re.M)
        text = re.sub(r"^std1=.*$", "std1=th.tensor([1.0],device=device)", text, flags=re.M)
        text = re.sub(r"^n_stat=.*$", "n_stat=1", text, flags=re.M)
        text = re.sub(r"^n_iter = .*$", f"n_iter = th.tensor([{length}])", text, flags=re.M)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "published.py"
            path.write_text(text, encoding="utf-8")
            command = [sys.executable, str(path)]
            times.append(seconds(lambda c=command, f=folder: _run(c, f)))
    return (times[1] - times[0]) / iterations


def _run(command: list[str], folder: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, help="GMM.py of the published code")
    parser.add_argument("--repeats", type=int, default=15, help="paired runs per row")
    arguments = parser.parse_args()
    data = Mixture.draw(10_000).data
    published = published_seconds(arguments.published) if arguments.published else None
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; N = n = 10⁴, d = 50"
    )
    if published:
        print(f"published code: {1e3 * published:.1f} ms per step")
    print("| energy | step, ms | floor, ms | step / floor | published / step |")
    print("|---|---|---|---|---|")
    for name, energy in (
        ("differences", DifferencesEnergy),
        ("product", GaussianMixtureEnergy),
    ):
        step, floor, ratio = paired(make_learner(energy, 2), data, arguments.repeats)
        gain = f"{published / step:.1f}" if published else "–"
        print(f"| {name} | {1e3 * step:.2f} | {1e3 * floor:.2f} | {ratio:.2f} | {gain} |")


if __name__ == "__main__":
    main()
