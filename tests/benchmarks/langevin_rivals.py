"""Langevin moves of one energy: ours, with their weights, against samplers without any.

    python tests/benchmarks/langevin_rivals.py [--rivals FOLDER]

The same module is moved by the same step, 20 moves a call, in turns in one process; medians
of the processor time per move, and of the ratio to ours in each round. `torchebm` 0.8 and
`ebmkit` 0.16 return positions alone. Ours return the energy, its gradient and the exact
log-weight of every walker too, as training with them needs; `compiled` is
`jit_compile=True`, after its compilation. Rivals that are not installed, nor in the folder,
are left out.
"""

import argparse
import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

import pyro_jarzynski as pj
from pyro_jarzynski.core.compiled_moves import CompiledEnergy
from pyro_jarzynski.core.kernels import Kernel
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.team import Tools

MOVES, STEP = 20, 1e-3
PROBLEMS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "2-d, 128-128": (lambda: pj.MLP([2, 128, 128]), 2, 512),
    "digits, 256-256": (lambda: pj.MLP([64, 256, 256]), 64, 512),
    "MNIST, convolutions": (pj.mnist_network, 784, 256),
}


def ours(energy: Callable[[Tensor], Tensor], kernel: Kernel, x: Tensor) -> Callable:
    """Return a task that moves walkers, and weighs them."""
    start, tools = pj.init(x, energy), Tools(stream(0, "moves"))

    def task() -> None:
        walkers = start
        for _ in range(MOVES):
            walkers, _ = kernel.move(walkers, energy, tools)

    return task


def rivals(model: nn.Module, x: Tensor) -> dict[str, Callable]:
    """Return the tasks of the rivals that are there."""
    found = {}
    if importlib.util.find_spec("torchebm"):
        from torchebm.core import BaseModel
        from torchebm.samplers import LangevinDynamics

        class Wrapped(BaseModel):
            def forward(self, position: Tensor) -> Tensor:
                return model(position)

        sampler = LangevinDynamics(Wrapped(), step_size=STEP)
        found["torchebm ULA"] = lambda: sampler.sample(x=x, n_steps=MOVES)
    if importlib.util.find_spec("ebm"):
        from ebm import samplers

        for name, kind in (("ULA", samplers.LangevinDynamics), ("MALA", samplers.MALA)):
            mover = kind(step_size=STEP, steps=MOVES)
            found[f"ebmkit {name}"] = lambda mover=mover: mover.sample(model, x)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rivals", help="folder of the rivals' packages")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    if arguments.rivals:
        sys.path[:0] = arguments.rivals.split(":")
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| energy | moves | ms per move | time / our ULA |\n|---|---|---|---|")
    for problem, (build, size, num) in PROBLEMS.items():
        net = build()
        model = pj.EnergyModel(net, Independent(Normal(torch.zeros(size), 1.0), 1))
        nn.init.normal_(list(net.parameters())[-2], std=0.01)
        x = model.draw(num, stream(0, "start"))
        ula, mala = pj.ULA(STEP), pj.MALA(STEP, target_acceptance=None)
        tasks = {
            "ours ULA": ours(model, ula, x),
            "ours ULA, compiled": ours(CompiledEnergy(model), ula, x),
            "ours MALA": ours(model, mala, x),
            "ours MALA, compiled": ours(CompiledEnergy(model), mala, x),
            **rivals(model, x),
        }
        times: dict[str, list[float]] = {name: [] for name in tasks}
        for number in range(arguments.rounds + 1):
            for name, task in tasks.items():
                start = time.process_time()
                task()
                if number:
                    times[name].append((time.process_time() - start) / MOVES)
        for name, row in times.items():
            ratios = [a / b for a, b in zip(row, times["ours ULA"], strict=True)]
            print(
                f"| {problem} | {name} | {1e3 * statistics.median(row):.2f} "
                f"| {statistics.median(ratios):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
