"""The picture of the README: what Jarzynski weights and PCD learn of a known mixture.

    python tests/benchmarks/readme_picture.py [--size 10000] [--steps 8000] [--out FILE]

The paper's mixture of two modes in 50 dimensions, with its settings. Left, the density
along the axis of the modes: the truth, and what both have learned. Middle, the mass of the
smaller mode in the course of the training. Right, the divergence from the truth: exactly,
in thin dashes, and as the audit walkers know it, who do not know the normaliser.
"""

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_jarzynski.ebm.networks import GaussianMixtureEnergy
from pyro_jarzynski.experiments.mixture import Mixture, MixtureCurves, mixture_learner
from pyro_jarzynski.report.drawing import BLUE, GREY, VERMILLION
from pyro_jarzynski.report.plots import save_figure

FIGURE = Path(__file__).parents[2] / "tutorials/figures/jarzynski_against_pcd.png"
NAMES = {"jarzynski": "Jarzynski weights", "pcd": "persistent CD"}
COLOURS = {"jarzynski": BLUE, "pcd": VERMILLION}


class Line(NamedTuple):
    """A mixture along the axis of its modes: masses and centres."""

    masses: list[float]
    centres: list[float]

    @classmethod
    def of(cls, model: GaussianMixtureEnergy) -> "Line":
        """Take the first coordinate of a model."""
        return cls(model.masses().tolist(), model.means.detach()[:, 0].tolist())

    def density(self, x: torch.Tensor) -> torch.Tensor:
        """Return the density of its modes of unit variance."""
        modes = zip(self.masses, self.centres, strict=True)
        bells = [mass * (-((x - centre) ** 2) / 2).exp() for mass, centre in modes]
        return torch.stack(bells).sum(0) / math.sqrt(2 * math.pi)


class Run(NamedTuple):
    """What came out of a training, and its course."""

    line: Line
    rows: list[dict[str, float]]


def train(algorithm: str, mixture: Mixture, steps: int) -> Run:
    """Train with the published settings."""
    size, curves = len(mixture.data), MixtureCurves(mixture)
    learner = mixture_learner(algorithm, num_walkers=size, audit_walkers=size)
    start = time.process_time()
    learner.fit(mixture.data, steps, batch_size=None, eval_every=50, callbacks=[curves])
    last = curves.rows[-1]
    print(
        f"{algorithm}: mass {last['mass']:.3f}, divergence {last['exact_kl']:.3f}, by the "
        f"audit {last['estimated_kl']:.3f} ± {last['log_z_error']:.3f}, "
        f"{time.process_time() - start:.0f} s of CPU",
        flush=True,
    )
    return Run(Line.of(learner.model), curves.rows)


def draw(truth: Line, runs: dict[str, Run]) -> Figure:
    """Draw the three panels."""
    # White behind the axes, so that it can be read on a dark page too.
    figure = Figure(figsize=(11, 3.5), layout="constrained", facecolor="white")
    learned, mass, divergence = figure.subplots(1, 3)
    x = torch.linspace(-14, 10, 600)
    learned.fill_between(x, truth.density(x), color=GREY, alpha=0.3, linewidth=0)
    learned.text(-10, 0.11, "truth", color=GREY, ha="center")
    mass.axhline(truth.masses[0], color=GREY, linewidth=5, alpha=0.4)
    mass.text(runs["pcd"].rows[-1]["step"], 0.265, "truth", color=GREY, ha="right")
    for name, run in runs.items():
        colour, label = COLOURS[name], NAMES[name]
        learned.plot(x, run.line.density(x), color=colour, label=label)
        step, share, exact, known = (
            [row[column] for row in run.rows]
            for column in ("step", "mass", "exact_kl", "estimated_kl")
        )
        mass.plot(step, share, color=colour)
        divergence.plot(step, known, color=colour)
        divergence.plot(step, exact, "k--", linewidth=1)
    learned.set(xlabel="axis of the modes, 1 of 50 dimensions", ylim=(0, 0.52))
    learned.set_title("density learned")
    learned.legend(loc="upper left", frameon=False)
    mass.set(xlabel="updates", ylim=(0, 0.52))
    mass.set_title("mass of the left mode")
    divergence.set(xlabel="updates", ylim=(-0.3, 4), ylabel="nats")
    divergence.set_title("divergence from the truth")
    divergence.plot([], [], color=GREY, label="by the audit walkers")
    divergence.plot([], [], "k--", linewidth=1, label="exact")
    divergence.legend(loc="upper right", frameon=False)
    for ax in (learned, mass, divergence):
        _clear(ax)
    return figure


def _clear(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)


def main() -> None:
    """Train both, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=10_000, help="data, and walkers")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    mixture = Mixture.draw(arguments.size)
    runs = {name: train(name, mixture, arguments.steps) for name in NAMES}
    save_figure(draw(Line.of(mixture.truth), runs), arguments.out, dpi=150)


if __name__ == "__main__":
    main()
