"""Two moons: the likelihood that training reaches, known exactly, against its rivals.

    python tests/benchmarks/two_moons.py [--rivals DIR] [--seeds 0 1 2 3 4] [--only NAME …]

8,192 points, a network 2-128-128-1, one thread. The law of the data has a density, so that
the mean log-likelihood of a model under that law is an integral, taken here on a grid: it
has no error of a test set (one of 4,000 points errs by .015 nats). log Z is a sum over a
grid as well. Also told: what the package says of its own log Z, with its cost.

Rivals are those of `ebmkit` with the settings of its `examples/benchmark_losses.py`: a
directory that holds its package `ebm` (0.16). A kernel density estimate, whose bandwidth
is chosen on a half of the data, is the reference.
"""

import argparse
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_jarzynski as pj

NOISE, NUM = 0.1, 8192
CENTRE = torch.tensor([0.5, 0.25])
NAMES = ("jarzynski", "nce", "pcd", "cd", "ssm", "kde")


class Law:
    """The density of the data, on a grid over all that carries mass."""

    def __init__(self) -> None:
        """Integrate over the arcs by the midpoint rule."""
        side = torch.arange(-2.6, 2.6, 0.02)
        grid = torch.cartesian_prod(side, side)
        log_density = self.log_density(grid)
        kept = log_density > -25
        self.points = grid[kept]
        self.mass = log_density[kept].exp() * 0.02**2
        self.best = float((self.mass * log_density[kept]).sum())

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log-density of points, `(n,)`, float64."""
        angle = (torch.arange(1500, dtype=torch.float64) + 0.5) * math.pi / 1500
        upper = torch.stack([angle.cos(), angle.sin()], 1)
        arcs = torch.cat([upper, torch.tensor([1.0, 0.5]) - upper]) - CENTRE
        parts = [
            (-torch.cdist(part.double(), arcs).square() / (2 * NOISE**2)).logsumexp(1)
            for part in x.split(500)
        ]
        constant = math.log(len(arcs)) + math.log(2 * math.pi * NOISE**2)
        return torch.cat(parts) - constant

    def mean(self, log_prob: Callable[[Tensor], Tensor]) -> float:
        """Return the mean of a log-density under the law."""
        with torch.no_grad():
            return float((self.mass * log_prob(self.points).double()).sum())


class Score(NamedTuple):
    """What one run came to: nats, seconds of training, and of the check of log Z."""

    log_likelihood: float
    seconds: float
    audit_error: float = math.nan
    check_seconds: float = math.nan


def draw(num: int, seed: int) -> Tensor:
    """Draw centred data."""
    return pj.toy("moons", num, seed) - CENTRE


@torch.no_grad()
def exact_log_normalizer(energy: Callable[[Tensor], Tensor]) -> float:
    """Return log Z by a sum over a grid of step 0.04 on [-7, 7]²."""
    side = torch.arange(-7, 7.02, 0.04)
    grid = torch.cartesian_prod(side, side)
    energies = torch.cat([energy(part).flatten() for part in grid.split(16384)])
    return float((-energies).double().logsumexp(0)) + 2 * math.log(0.04)


def jarzynski(data: Tensor, law: Law, seed: int) -> Score:
    """Train by weighted walkers."""
    steps, hold = 1700, 500
    net = pj.MLP([2, 128, 128], seed=seed)
    with torch.no_grad():
        # Features as fine as the arcs are thin.
        net.layers[0].weight.mul_(3)
        net.layers[0].bias.mul_(3)
    model = pj.EnergyModel(net, dist.Normal(0.0, 1.5).expand([2]).to_event(1))
    square = net.layers[2].weight
    others = [p for p in net.parameters() if p is not square]
    optimizer = pj.JointOptimizer(
        torch.optim.Muon([square], lr=0.03, weight_decay=0.0),
        torch.optim.Adam(others, 0.02),
    )
    fall = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1.0, (steps - k) / (steps - hold)) ** 1.5
    )
    start = time.perf_counter()
    learner = pj.JarzynskiLearner(
        model,
        optimizer,
        num_walkers=4096,
        walker_batch_size=512,
        audit_walkers=512,
        kernel=pj.MALA(),
        moves_per_update=2,
        ess_threshold=0.9,
        lr_scheduler=fall,
        renewal=pj.Renewal(every=250, num_temperatures=16, num_moves=2),
        seed=seed,
        chunk_size=2048,
    )
    learner.fit(data, steps, batch_size=512, eval_every=200)
    trained = time.perf_counter()
    learner.audit.renew(num_walkers=16384, num_temperatures=60, num_moves=3)
    checked = time.perf_counter()
    exact = exact_log_normalizer(model)
    return Score(
        law.mean(lambda x: -model(x) - exact),
        trained - start,
        learner.log_normalizer - exact,
        checked - trained,
    )


def rival(name: str, data: Tensor, law: Law, seed: int) -> Score:
    """Train one of ebmkit's ways, with the settings of its own benchmark."""
    import ebm

    def moves() -> Any:
        return ebm.LangevinDynamics(step_size=1e-2, steps=60)

    losses: dict[str, Callable[[], Any]] = {
        "nce": lambda: ebm.NoiseContrastiveEstimation(noise_ratio=4),
        "pcd": lambda: ebm.ContrastiveDivergence(
            moves(), buffer=ebm.ReplayBuffer(NUM, (2,)), energy_reg=0.1
        ),
        "cd": lambda: ebm.ContrastiveDivergence(moves(), energy_reg=0.1),
        "ssm": ebm.SlicedScoreMatching,
    }
    torch.manual_seed(seed)
    energy: nn.Module = ebm.nets.MLPEnergy(dim=2, hidden=(128, 128))
    trainer = ebm.Trainer(energy, losses[name](), lr=1e-3, device="cpu")
    start = time.perf_counter()
    trainer.fit(data, steps=6000, batch_size=256, verbose=False)
    seconds = time.perf_counter() - start
    exact = exact_log_normalizer(energy)
    return Score(law.mean(lambda x: -energy(x).flatten() - exact), seconds)


def kernel_density(data: Tensor, law: Law) -> Score:
    """Estimate the density by Gaussian kernels."""

    def log_prob(x: Tensor, known: Tensor, width: float) -> Tensor:
        parts = [
            (-torch.cdist(part, known).square() / (2 * width**2)).logsumexp(1)
            for part in x.split(2000)
        ]
        constant = math.log(len(known)) + math.log(2 * math.pi * width**2)
        return torch.cat(parts) - constant

    start = time.perf_counter()
    known, held = data[::2], data[1::2]
    widths = [0.02 * 1.15**k for k in range(12)]
    width = max(widths, key=lambda w: float(log_prob(held, known, w).mean()))
    # Twice the data allow a bandwidth smaller by 2^(1/6).
    width /= 2 ** (1 / 6)
    seconds = time.perf_counter() - start
    return Score(law.mean(lambda x: log_prob(x, data, width)), seconds)


def run(name: str, seed: int, law: Law) -> Score:
    """Do one run of one method."""
    data = draw(NUM, seed)
    if name == "jarzynski":
        return jarzynski(data, law, seed)
    if name == "kde":
        return kernel_density(data, law)
    return rival(name, data, law, seed)


def main() -> None:
    """Print one line per run, and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rivals", help="directory that holds the package `ebm`")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--only", nargs="+", choices=NAMES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.only or (NAMES if options.rivals else ("jarzynski", "kde"))
    if options.rivals:
        sys.path.insert(0, options.rivals)
    law = Law()
    print(f"mass on the grid {float(law.mass.sum()):.6f}, best possible {law.best:.4f}")
    scores: dict[str, list[Score]] = {name: [] for name in names}
    # Seed by seed, so that all methods meet the machine in the same state.
    for seed in options.seeds:
        for name in names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scores[name].append(run(name, seed, law))
            print(name, seed, scores[name][-1], flush=True)
    print("\n| method | log-likelihood | spread | s | audit error, largest | check, s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, found in scores.items():
        columns = list(zip(*found, strict=True))
        spread = statistics.stdev(columns[0]) if len(found) > 1 else math.nan
        print(
            f"| {name} | {statistics.mean(columns[0]):.4f} | {spread:.4f} "
            f"| {statistics.mean(columns[1]):.1f} | {max(map(abs, columns[2])):.3f} "
            f"| {statistics.mean(columns[3]):.1f} |"
        )


if __name__ == "__main__":
    main()
