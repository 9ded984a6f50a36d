"""Masses of modes: annealed walkers against the No-U-Turn sampler.

    python tests/benchmarks/mode_masses.py [--seeds 6]

Two targets whose modes have known masses: a mixture model without an order of its
components, two label modes of 1/2 each, and a Gaussian mixture in ten dimensions with
masses 0.2, 0.3 and 0.5 at a distance of eight standard deviations. The standard error of
a mass `p` is binomial, `sqrt(p (1 - p) / A)`: walkers of one ancestor are not independent,
so `A` is the effective number of ancestors, `1 / Σ s²` with `s` the shares of their
descendants. Beside it stands the error from the spread of the islands.

The data of the first come from the folder shared/truth beside the repository.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from posterior_models import mixture_energy
from posteriordb_models import posteriordb_cases
from pyro.infer import MCMC, NUTS
from torch import Tensor

import pyro_jarzynski as pj

Samples = dict[str, Tensor]
MASSES = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
CENTRES = torch.tensor([-8.0, 0.0, 8.0], dtype=torch.float64)


@dataclass(frozen=True)
class Modes:
    """A model, the number of the mode in which a draw lies, and the masses.

    Attributes:
        name: What it is.
        model: Pyro model.
        args: Its arguments.
        mode: Mode of each draw, `(n,)` from the draws by site.
        masses: True mass of each mode.
    """

    name: str
    model: Callable[..., Any]
    args: tuple
    mode: Callable[[Samples], Tensor]
    masses: Tensor


def separated(size: int) -> None:
    """Three Gaussians far apart, with a wide Gaussian as the prior to start from."""
    wide = dist.Normal(0.0, 5.0).expand([size]).to_event(1)
    x = pyro.sample("x", wide)
    energy = mixture_energy(MASSES, CENTRES)(x[None])[0]
    pyro.factor("target", -energy - wide.log_prob(x))


def targets() -> list[Modes]:
    """Return the two targets."""
    (labels,) = (case for case in posteriordb_cases() if case.name == "low_dim_gauss_mix")
    return [
        Modes(
            "label modes",
            labels.model,
            labels.args,
            lambda draws: (draws["mu"][:, 0] > draws["mu"][:, 1]).long(),
            torch.tensor([0.5, 0.5], dtype=torch.float64),
        ),
        Modes(
            "mixture, d = 10",
            separated,
            (10,),
            lambda draws: torch.bucketize(draws["x"][:, 0], CENTRES[1:] - 4),
            MASSES,
        ),
    ]


def shares(mode: Tensor, weight: Tensor, num: int) -> Tensor:
    """Return the weight of each of `num` modes."""
    total = torch.zeros(num, dtype=torch.float64).index_add(0, mode, weight.double())
    return total / total.sum()


def annealed(target: Modes, seed: int, num_walkers: int) -> tuple[Tensor, ...]:
    """Return masses, errors by ancestors and by islands, and effective ancestors."""
    smc = pj.AnnealedSMC(
        target.model,
        num_walkers=num_walkers,
        seed=seed,
        progress=False,
    )
    result = smc.run(*target.args)
    draws, log_weight = result.weighted_samples()
    weight = (log_weight - log_weight.max()).exp()
    mode, num = target.mode(draws), len(target.masses)
    found = shares(mode, weight, num)
    family = shares(result.walkers.ancestor, weight, len(weight))
    ancestors = 1 / family.square().sum()
    islands = torch.stack(
        [shares(m, w, num) for m, w in zip(mode.chunk(4), weight.chunk(4), strict=True)]
    )
    binomial = (target.masses * (1 - target.masses) / ancestors).sqrt()
    return found, binomial, islands.std(0) / 2, ancestors


def nuts(target: Modes, seed: int, num_draws: int) -> Tensor:
    """Return the masses that one chain of NUTS finds."""
    pyro.set_rng_seed(seed)
    chain = MCMC(
        NUTS(target.model),
        num_samples=num_draws,
        warmup_steps=num_draws,
        disable_progbar=True,
    )
    chain.run(*target.args)
    mode = target.mode(chain.get_samples())
    return shares(mode, torch.ones(len(mode)), len(target.masses))


def report(target: Modes, arguments: argparse.Namespace) -> None:
    """Print the rows of a target."""

    def told(values: Tensor) -> str:
        return ", ".join(f"{value:.3f}" for value in values.tolist())

    def row(*cells: str) -> None:
        print(f"| {' | '.join((target.name, *cells))} |", flush=True)

    row("truth", told(target.masses), "", "", "", "", "")
    found = []
    for seed in range(arguments.seeds):
        start = time.perf_counter()
        masses, binomial, island, ancestors = annealed(target, seed, arguments.walkers)
        found.append(masses)
        worst = float(((masses - target.masses) / binomial).abs().max())
        row(
            f"AnnealedSMC, seed {seed}",
            told(masses),
            told(binomial),
            told(island),
            f"{float(ancestors):.0f}",
            f"{worst:.1f}",
            f"{time.perf_counter() - start:.1f}",
        )
    if len(found) > 1:
        mean, spread = torch.stack(found).mean(0), torch.stack(found).std(0)
        error = spread / len(found) ** 0.5
        worst = float(((mean - target.masses) / error).abs().max())
        row("AnnealedSMC, all", told(mean), told(error), "", "", f"{worst:.1f}", "")
    for seed in range(2):
        start = time.perf_counter()
        masses = nuts(target, seed, arguments.draws)
        took = f"{time.perf_counter() - start:.1f}"
        row(f"NUTS, chain {seed}", told(masses), "", "", "", "", took)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6, help="runs of AnnealedSMC")
    parser.add_argument("--walkers", type=int, default=1024, help="walkers per island")
    parser.add_argument("--draws", type=int, default=200, help="draws per chain of NUTS")
    parser.add_argument("--only", help="part of a name")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    print("| target | method | masses | s.e. | s.e. of islands | ancestors | worst z | s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for target in targets():
        if not arguments.only or arguments.only in target.name:
            report(target, arguments)


if __name__ == "__main__":
    main()
