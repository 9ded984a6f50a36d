"""Effective draws per second against Pyro's NUTS: three regressions and eight schools.

    python tests/benchmarks/nuts_rates.py [--repeats 16] [--nuts-repeats 3] [--out DIR]

Both run the same model in one process on one core. Bulk effective sample sizes are
ArviZ's, the least over all parameters. Draws of walkers come in random order, which hides
common ancestors from ArviZ, so ours are also counted by the variance of posterior means
over independent runs, as `1 / mean_i(Var[mean_i] / Var[x_i])`, and the smaller counts.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from one_core import one_core

one_core()
import pyro  # noqa: E402
import pyro.distributions as dist  # noqa: E402
import torch  # noqa: E402
from inference_models import sonar_file  # noqa: E402
from inference_problems import problems  # noqa: E402
from pyro.infer import MCMC, NUTS  # noqa: E402
from torch import Tensor  # noqa: E402

import pyro_jarzynski as pj  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

GROUPS, PER_GROUP = 12, 12


def hierarchical(x: Tensor, group: Tensor, y: Tensor) -> None:
    """Regression with intercept and slope by group, non-centred."""
    centre = pyro.sample("centre", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(2.0).expand([2]).to_event(1))
    noise = pyro.sample("noise", dist.HalfNormal(2.0))
    raw = pyro.sample("raw", dist.Normal(0.0, 1.0).expand([GROUPS, 2]).to_event(2))
    line = (centre + scale * raw)[group]
    pyro.sample("y", dist.Normal(line[:, 0] + line[:, 1] * x, noise).to_event(1), obs=y)


def hierarchical_data() -> tuple[Tensor, Tensor, Tensor]:
    """Return covariate, group and outcome of simulated groups."""
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(GROUPS).repeat_interleave(PER_GROUP)
    x = torch.randn(len(group), generator=generator)
    lines = torch.tensor([1.0, -0.5]) + torch.tensor([1.0, 0.5]) * torch.randn(
        GROUPS, 2, generator=generator
    )
    noise = 0.7 * torch.randn(len(group), generator=generator)
    return x, group, lines[group, 0] + lines[group, 1] * x + noise


@dataclass(frozen=True)
class Rate:
    """What a sampler gave: seconds per run, and effective draws by two counts."""

    seconds: float
    wall: float
    bulk: float
    by_variance: float | None

    @property
    def per_second(self) -> float:
        """Effective draws per second, by the smaller count."""
        return min(self.bulk, self.by_variance or self.bulk) / self.seconds


Draws = dict[str, Tensor]


def nuts(model: Any, args: tuple, seed: int, draws: int) -> Draws:
    """Draw with NUTS, as many for warming up as for keeping."""
    pyro.set_rng_seed(seed)
    mcmc = MCMC(NUTS(model), num_samples=draws, warmup_steps=draws, disable_progbar=True)
    mcmc.run(*args)
    return mcmc.get_samples(group_by_chain=True)


def annealed(model: Any, args: tuple, seed: int, draws: int, **options: Any) -> Draws:
    """Draw with four islands."""
    smc = pj.AnnealedSMC(
        model, num_walkers=draws // 4, seed=seed, progress=False, **options
    )
    return smc.run(*args).get_samples(group_by_chain=True)


def measure(run: Callable[[int], Draws], repeats: int, *, walkers: bool) -> Rate:
    """Time some runs and count their effective draws."""
    seconds, walls, sizes, means, spreads = [], [], [], [], []
    for seed in range(repeats):
        start, wall = time.process_time(), time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            draws = run(seed)
        seconds.append(time.process_time() - start)
        walls.append(time.perf_counter() - wall)
        columns = [v.reshape(*v.shape[:2], -1) for v in draws.values()]
        flat = torch.cat(columns, -1)
        sizes.append(min(float(arviz.ess(column.numpy())) for column in flat.unbind(-1)))
        means.append(flat.mean((0, 1)))
        spreads.append(flat.flatten(0, 1).var(0))
    spent, length = statistics.median(seconds), statistics.median(walls)
    if not walkers:
        return Rate(spent, length, statistics.mean(sizes), None)
    noise = torch.stack(means).var(0) / torch.stack(spreads).mean(0)
    return Rate(spent, length, statistics.mean(sizes), 1 / float(noise.mean()))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--nuts-repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--jit", action="store_true", help="jit_compile=True for ours")
    parser.add_argument("--out", type=Path, help="folder for nuts.md and nuts.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = {"jit_compile": True} if arguments.jit else {}
    known = {problem.name: problem for problem in problems(sonar_file(), None)}
    models: dict[str, tuple[Any, tuple]] = {
        name: (known[name].model, known[name].args)
        for name in ("eight schools", "sonar")
        if name in known
    }
    models["hierarchical"] = hierarchical, hierarchical_data()
    lines = [
        "| model | sampler | CPU s | bulk ESS | ESS by variance | ESS/s | ratio |",
        "|" + "---|" * 7,
    ]
    records = []
    for name, (model, args) in models.items():
        if arguments.only and name not in arguments.only:
            continue
        rows = {
            "NUTS, 300 + 300": measure(
                lambda seed, m=model, a=args: nuts(m, a, seed, 300),
                arguments.nuts_repeats,
                walkers=False,
            )
        }
        for label, more in (("4 x 1024", {}), ("4 x 1024, HMC", {"kernel": pj.HMC()})):
            rows[f"AnnealedSMC, {label}"] = measure(
                lambda seed, m=model, a=args, o=more: annealed(
                    m, a, seed, 4096, **o, **options
                ),
                arguments.repeats,
                walkers=True,
            )
        floor = rows["NUTS, 300 + 300"].per_second
        for label, rate in rows.items():
            spread = "" if rate.by_variance is None else f"{rate.by_variance:.0f}"
            lines.append(
                f"| {name} | {label} | {rate.seconds:.2f} | {rate.bulk:.0f} | {spread} "
                f"| {rate.per_second:.1f} | {rate.per_second / floor:.1f} |"
            )
            records.append({"model": name, "sampler": label, **vars(rate)})
            print(lines[-1], flush=True)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            (arguments.out / "nuts.md").write_text("\n".join(lines) + "\n")
            (arguments.out / "nuts.json").write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
