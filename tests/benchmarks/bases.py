"""Count the bases whose walkers stay in the support and keep their moments.

    python tests/benchmarks/bases.py [--num 100000] [--updates 5] [--only Beta Gamma]

A model whose network is zero has the density of its base, and `log Z = 0`. Walkers start
as draws of the base and are moved by each kernel, for all distributions of torch and Pyro,
alone, in independent copies, and transformed by `x ↦ 0.5 - 2x`. The moments of numbers are
the first two of the distribution function, `E[F(x)] = 1/2` and `E[F(x)²] = 1/3`, with `F`
by quadrature; those of arrays are `E[tanh x]` and `E[tanh² x]`, by quadrature or from a
million draws. Weights of unadjusted kernels have infinite variance where the curvature of
the energy is unbounded at an end of the support: those bases count as warned if
`StepSizeWarning` is given. Distributions that are discrete or lie on sets of measure zero
count as refused if they raise `ArgumentError`.
"""

import argparse
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_jarzynski as pj
from pyro_jarzynski.errors import ArgumentError, StepSizeWarning

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.distributions import (
    ARRAYS,
    COUNT_ARRAYS,
    COUNTS,
    INF,
    OTHERS,
    SCALARS,
    Entry,
    default_dtype,
)

KERNELS = {
    "ULA": pj.ULA(0.05),
    "MALA": pj.MALA(0.3),
    "HMC": pj.HMC(0.3, num_leapfrog=3),
    "underdamped": pj.UnderdampedLangevin(0.3),
}
LOC, SCALE = 0.5, -2.0
# Largest of three numbers in standard errors: beyond 5.5 with probability 1e-7.
MAX_Z = 5.5
# Angles are between these, though torch and Pyro declare all numbers.
ANGLES = {"VonMises": (-math.pi, math.pi)}
# Arrays without a density in the space of their numbers, which are to be refused.
FLAT = [
    "Dirichlet",
    "Dirichlet(1, 1)",
    "ExpRelaxedCategorical",
    "LKJ",
    "LKJCholesky",
    "LogisticNormal",
    "ProjectedNormal",
    "RelaxedOneHotCategorical",
    "RelaxedOneHotCategoricalStraightThrough",
    "VonMises3D",
    "Wishart",
]
# Arrays that Pyro cannot draw, or of which it has no density.
NOT_DRAWN = [
    "CoalescentTimesWithRate",
    "GammaGaussianHMM",
    "GaussianMRF",
    "GaussianScaleMixture",
    "GroupedNormalNormal",
    "LinearHMM",
]


class Case(NamedTuple):
    """A base.

    Attributes:
        base: The distribution.
        original: Maps its values to those of the distribution of the table, `(N, k, ...)`.
        features: Maps these to numbers, `(N, m)`.
        means: Their means, `(m,)`.
        inside: Tells which of these are in the support, `(N,)`.
    """

    base: Any
    original: Callable[[Tensor], Tensor]
    features: Callable[[Tensor], Tensor]
    means: Tensor
    inside: Callable[[Tensor], Tensor]


class Found(NamedTuple):
    """What became of the walkers."""

    inside: float
    z: float
    share: float
    error: str
    is_warned: bool = False

    @property
    def verdict(self) -> str:
        """Return "right", "warned" or "wrong"."""
        if self.inside == 1 and self.z < MAX_Z and not self.error:
            return "right"
        return "warned" if self.is_warned and self.inside == 1 else "wrong"


class Flat(nn.Module):
    """A network of numbers or arrays, whatever their shape."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(len(x), -1))


def forms(fn: Any) -> dict[str, Any]:
    """Return a distribution in each form, with the dimension of its copies, if any."""
    made = {"plain": fn, "transformed": affine(fn)}
    try:
        several = fn.expand(torch.Size([3])).to_event(1)
        several.sample(torch.Size([4]))
    except (NotImplementedError, AttributeError, RuntimeError, TypeError):
        # Pyro cannot expand it, or not draw it then.
        return made
    return made | {"independent": several, "transformed independent": affine(several)}


def affine(fn: Any) -> Any:
    link = dist.transforms.AffineTransform(LOC, SCALE, len(fn.event_shape))
    return dist.TransformedDistribution(fn, [link])


def cases(name: str) -> dict[str, Case]:
    """Return a distribution of the table in all forms, with its moments."""
    entry = {**SCALARS, **ARRAYS}[name]
    fn = entry.make()
    features, means = of_numbers(name, entry) if name in SCALARS else of_array(name, fn)
    low, high = ANGLES.get(name, (entry.low, entry.high))

    def inside(x: Tensor) -> Tensor:
        found = (low <= x) & (x <= high)
        if name == "SineBivariateVonMises" or name == "SineSkewed":
            found = found & (x.abs() <= math.pi)
        if name == "OrderedTransform":
            found = found & (x.diff(dim=-1, prepend=x[..., :1] - 1) > 0)
        return found.reshape(len(x), -1).all(1)

    def original(form: str) -> Callable[[Tensor], Tensor]:
        def values(x: Tensor) -> Tensor:
            x = (x - LOC) / SCALE if form.startswith("transformed") else x
            return x if form.endswith("independent") else x.unsqueeze(1)

        return values

    return {
        form: Case(base, original(form), features, means, inside)
        for form, base in forms(fn).items()
    }


def of_numbers(name: str, entry: Entry) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return `F` and `F²` of numbers, and their means."""
    low, high = ANGLES.get(name, (entry.low, entry.high))
    u = torch.sinh(torch.linspace(-12, 12, 20_001, dtype=torch.float64))
    with default_dtype(torch.float64), pyro.validation_enabled(is_validate=False):
        fn = entry.make()
        x, log_slope = constrained(u, low, high)
        density = (fn.log_prob(x) + log_slope).exp()
        density = torch.where(torch.isfinite(density), density, 0.0)
    cumulative = torch.cumulative_trapezoid(density, u)
    cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), cumulative])
    assert abs(float(cumulative[-1]) - 1) < 2e-3, (name, float(cumulative[-1]))

    def features(values: Tensor) -> Tensor:
        place = unconstrained(values.double(), low, high).contiguous()
        after = torch.searchsorted(u, place).clamp(1, len(u) - 1)
        part = ((place - u[after - 1]) / (u[after] - u[after - 1])).clamp(0, 1)
        f = torch.lerp(cumulative[after - 1], cumulative[after], part)
        return torch.stack([f.mean(1), f.square().mean(1)], 1)

    return features, torch.tensor([1 / 2, 1 / 3], dtype=torch.float64)


def constrained(u: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    if low > -INF and high < INF:
        p = u.sigmoid()
        log_slope = nn.functional.logsigmoid(u) + nn.functional.logsigmoid(-u)
        return low + (high - low) * p, log_slope + math.log(high - low)
    return (low + u.exp(), u) if low > -INF else (u, torch.zeros_like(u))


def unconstrained(x: Tensor, low: float, high: float) -> Tensor:
    if low > -INF and high < INF:
        return ((x - low) / (high - x)).log()
    return (x - low).log() if low > -INF else x


def of_array(name: str, fn: Any) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return `tanh(x)`, its square, and their means."""

    def features(values: Tensor) -> Tensor:
        x = values.double().flatten(2).tanh()
        return torch.cat([x.mean(1), x.square().mean(1)], 1)

    if name in {"SineBivariateVonMises", "SineSkewed"}:
        angle = torch.linspace(-math.pi, math.pi, 801)[:-1] + math.pi / 800
        grid = torch.cartesian_prod(angle, angle)
        density = fn.log_prob(grid).double().exp() * (2 * math.pi / 800) ** 2
        assert abs(float(density.sum()) - 1) < 1e-3
        return features, density @ features(grid.unsqueeze(1))
    with pyro.validation_enabled(is_validate=False):
        sample = fn.sample(torch.Size([1_000_000]))
    return features, features(sample.unsqueeze(1)).mean(0)


def moved(case: Case, kernel: Any, num: int, updates: int, seed: int) -> Found:
    """Return what becomes of walkers of a base."""
    try:
        net = Flat(torch.Size(case.base.event_shape).numel())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tracker = pj.LikelihoodTracker(
                pj.EnergyModel(net, case.base),
                num_walkers=num,
                kernel=kernel,
                ess_threshold=0.0,
                seed=seed,
            )
            for _ in range(updates):
                tracker.update()
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return Found(math.nan, math.nan, math.nan, f"{type(error).__name__}: {first}")
    walkers = tracker.cloud.walkers
    values, weight = case.original(walkers.position), walkers.log_weight.exp()
    inside = case.inside(values)
    rows = torch.where(inside[:, None], case.features(values), 0.0) - case.means
    rows = torch.cat([weight[:, None] * rows, weight[:, None] - 1], 1)
    error = rows.std(0) / math.sqrt(num)
    z = float((rows.mean(0).abs() / (error + 1e-5)).max())
    share = float(walkers.ess) / num
    is_warned = any(issubclass(w.category, StepSizeWarning) for w in caught)
    return Found(float(inside.double().mean()), z, share, "", is_warned)


def is_refused(fn: Any) -> bool:
    """Return whether a distribution raises an error of this package as a base."""
    try:
        pj.EnergyModel(Flat(max(1, torch.Size(fn.event_shape).numel())), fn)
    except ArgumentError:
        return True
    except Exception as error:
        print(type(fn).__name__, type(error).__name__, str(error)[:100])
    return False


def main() -> None:
    """Print a line for each base and kernel that is not right, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=100_000)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--kernels", nargs="*", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--all", action="store_true", help="print the right ones as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in arguments.kernels}
    drawn = [name for name in ARRAYS if name not in (*FLAT, *NOT_DRAWN)]
    for name in arguments.only or [*SCALARS, *drawn]:
        torch.manual_seed(arguments.seed)
        for form, case in cases(name).items():
            for kind in arguments.kernels:
                found = moved(
                    case, KERNELS[kind], arguments.num, arguments.updates, arguments.seed
                )
                counts[kind][found.verdict] += 1
                if arguments.all or found.verdict != "right":
                    numbers = f"inside {found.inside:.4f}  z {found.z:6.1f}"
                    line = (
                        f"{name:32s} {form:24s} {kind:12s} {numbers}  ess {found.share:.2f}"
                    )
                    print(line, found.verdict, found.error[:100], flush=True)
    for kind, count in counts.items():
        print(f"{kind:12s} {dict(count)} of {count.total()}")
    if not arguments.only:
        known = {**ARRAYS, **COUNTS, **COUNT_ARRAYS, **OTHERS}
        others = [*FLAT, *NOT_DRAWN, *COUNTS, *COUNT_ARRAYS, *OTHERS]
        refused = sum(is_refused(event_of(known[name].make())) for name in others)
        print(f"refused {refused} of {len(others)}")


def event_of(fn: Any) -> Any:
    return fn.to_event(len(fn.batch_shape)) if fn.batch_shape else fn


if __name__ == "__main__":
    main()
