"""Known wrong variants of the engine, with the checks that must catch each of them.

Each is a context manager that replaces names where the package looks them up. They show
that the checks have power: a check that no mutant fails proves little.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from pyro_jarzynski.core import (
    evaluation,
    hamiltonian,
    kernels,
    langevin,
    resampling,
    team,
    transitions,
    walkers,
)
from pyro_jarzynski.core.evaluation import Energy, Evaluation
from pyro_jarzynski.core.hamiltonian import UnderdampedLangevin
from pyro_jarzynski.core.kernels import MALA, ULA
from pyro_jarzynski.core.preconditioner import Covariance, scale_transposed
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.trees import Position, inner
from pyro_jarzynski.core.walkers import Walkers


class Mutant(NamedTuple):
    """A wrong variant.

    Attributes:
        apply: Makes the context in which the package is wrong.
        caught_by: Checks that must fail in it.
        survives: Checks that cannot see it, for reasons of theory.
    """

    apply: Callable[[], AbstractContextManager[Any]]
    caught_by: tuple[str, ...]
    survives: tuple[str, ...] = ()


def _replace(owner: object, name: str, value: object) -> Callable[[], Any]:
    return lambda: patch.object(owner, name, value)


def _with_gradient(at: Evaluation, grad: Tensor) -> Evaluation:
    return at._replace(grad_or_none=grad, grad_sq=inner(grad, grad))


def _weighted(
    half: float = 0.5, quarter: float = 0.25, back: float = 1.0, *, stale: bool = False
) -> Callable[[], Any]:
    """`log_ratio` with other factors before its terms."""

    def log_ratio(
        start: Tensor,
        here: Evaluation,
        end: Tensor,
        there: Evaluation,
        step: float,
        factor: Covariance = None,
        **known: Tensor,
    ) -> Tensor:
        del known
        if stale:
            there = _with_gradient(there, here.grad)

        def alpha(at: Evaluation, move: Tensor) -> Tensor:
            drift = half * inner(move, at.grad)
            slope = scale_transposed(factor, at.grad)
            return at.energy + drift + quarter * step * inner(slope, slope)

        return alpha(here, end - start) - alpha(there, back * (start - end))

    return _replace(langevin, "log_ratio", log_ratio)


@contextmanager
def _with_old_energy(rule: Callable[..., Tensor]) -> Iterator[None]:
    """Replace `log_ratio` by a rule that is also told the old and the new energy."""
    seen: list[Energy] = []
    evaluate = evaluation.evaluate

    def remember(energy: Energy, position: Position, **settings: Any) -> Evaluation:
        seen.append(energy)
        return evaluate(energy, position, **settings)

    true_ratio = langevin.log_ratio

    def log_ratio(start, here, end, there, step, factor=None, **known) -> Tensor:
        del known
        old, new = seen[-2:]
        ahead = _with_gradient(there, evaluate(old, end).grad)
        return rule(
            true_ratio=lambda: true_ratio(start, here, end, ahead, step, factor),
            at_start=here.energy - evaluate(new, start).energy,
            at_end=evaluate(old, end).energy - there.energy,
        )

    with (
        patch.object(langevin, "evaluate", remember),
        patch.object(transitions, "evaluate", remember),
        patch.object(walkers, "evaluate", remember),
        patch.object(langevin, "log_ratio", log_ratio),
    ):
        yield


def _small_noise(x, slope, noise, step, factor=None) -> Tensor:
    return _PROPOSE(x, slope, noise / math.sqrt(2), step, factor)


_PROPOSE = langevin.propose


def _no_drift(x, slope, noise, step, factor=None) -> Tensor:
    return _PROPOSE(x, 0 * slope, noise, step, factor)


def _without_proposal(
    walkers, end, there, log_ratio, tools, **excuse
) -> tuple[Walkers, Tensor]:
    gain = walkers.evaluation.energy - there.energy
    return _METROPOLIS(walkers, end, there, gain, tools, **excuse)


_METROPOLIS = kernels.metropolis


def _always_accept(
    walkers, end, there, log_ratio, tools, **excuse
) -> tuple[Walkers, Tensor]:
    return _METROPOLIS(walkers, end, there, log_ratio * 0, tools, **excuse)


def _stale_after_accepting(walkers, end, there, log_ratio, tools, **excuse) -> Any:
    moved, rate = _METROPOLIS(walkers, end, there, log_ratio, tools, **excuse)
    return moved._replace(evaluation=walkers.evaluation), rate


def _without_kinetic(here, before, there, after) -> Tensor:
    return here.energy - there.energy


def _wrong_refresh(self: UnderdampedLangevin, walkers: Walkers, tools: Tools) -> Tensor:
    fresh = kernels.normal_like(walkers.position, tools.generator)
    if walkers.momentum is None:
        return fresh
    keep = math.exp(-self.friction * self.step_size)
    return keep * walkers.momentum + math.sqrt(1 - keep) * fresh


def _kick_of_the_old_energy(momentum, at, step_size, factor) -> Tensor:
    return momentum.sub(hamiltonian.scale_transposed(factor, at.grad), alpha=step_size)


def _cold_noise(self: ULA, position: Tensor, tools: Tools) -> Tensor:
    return kernels.normal_like(position, tools.generator)


def _reweighted_twice(walkers, energy, tools, visit=None) -> Walkers:
    once = _REWEIGHT(walkers, energy, tools, visit)
    gain = once.log_weight - walkers.log_weight
    return once._replace(log_weight=once.log_weight + 0.5 * gain)


_REWEIGHT = transitions.reweight


def _resampled(**changes: Callable[[Walkers], Any]) -> Callable[[], Any]:
    """`resample` with fields that are taken from the walkers before it."""

    def resample(walkers: Walkers, ancestors: Tensor, *chosen: Tensor) -> Walkers:
        new = _RESAMPLE(walkers, ancestors, *chosen)
        return new._replace(**{name: old(walkers) for name, old in changes.items()})

    return _replace(team, "resample", resample)


_RESAMPLE = walkers.resample


def _inverted(*, right: bool, clamp: bool) -> Callable[[], Any]:
    def invert(weight: Tensor, level: Tensor) -> Tensor:
        cumulative = weight.cumsum(0) / weight.sum()
        if clamp:
            level = level.clamp(max=math.nextafter(1.0, 0.0))
        return torch.searchsorted(cumulative, level, right=right)

    return _replace(resampling, "_invert", invert)


def _residual_without_remainder(log_weight, num, generator=None) -> Tensor:
    copies = (num * log_weight.softmax(0)).floor().to(torch.int64)
    fixed = torch.arange(len(log_weight)).repeat_interleave(copies)
    rest = torch.randint(len(log_weight), (num - len(fixed),), generator=generator)
    return torch.cat([fixed, rest])


def _first_strata_only(uniform: Tensor, num: int) -> Tensor:
    return torch.arange(num, dtype=uniform.dtype) / num + uniform * 0


BY_WEIGHT = ("golden value", "densities", "evidence of known variance")

MUTANTS: dict[str, Mutant] = {
    "no half before the displacement": Mutant(
        _weighted(half=1.0), (*BY_WEIGHT, "crooks: ULA", "coin: ULA")
    ),
    "no squared gradient": Mutant(
        _weighted(quarter=0.0), (*BY_WEIGHT, "crooks: ULA"), survives=("coin: ULA",)
    ),
    "half of h before the squared gradient": Mutant(
        _weighted(quarter=0.5), (*BY_WEIGHT, "crooks: ULA"), survives=("coin: ULA",)
    ),
    "sign of the backward gradient": Mutant(_weighted(back=-1.0), BY_WEIGHT),
    "gradient of the old point": Mutant(_weighted(stale=True), BY_WEIGHT),
    "weights of an invariant kernel, new point": Mutant(
        lambda: _with_old_energy(lambda *, at_end, **_: at_end),
        ("golden value", "evidence of known variance", "crooks: ULA", "coin: ULA"),
    ),
    "weights of an invariant kernel, old point": Mutant(
        lambda: _with_old_energy(lambda *, at_start, **_: at_start),
        ("golden value", "evidence of known variance", "crooks: ULA", "coin: ULA"),
    ),
    # Any normalised backward move keeps the mean of e^A exact.
    "backward gradient of the old energy": Mutant(
        lambda: _with_old_energy(lambda *, true_ratio, **_: true_ratio()),
        ("golden value",),
        survives=("evidence of known variance",),
    ),
    "noise of variance h": Mutant(
        _replace(langevin, "propose", _small_noise),
        ("golden value", "proposal", "evidence of known variance", "crooks: ULA"),
    ),
    "no drift": Mutant(
        _replace(langevin, "propose", _no_drift),
        ("golden value", "proposal", "moments: MALA", "moments: ULA"),
    ),
    "noise through the transposed factor": Mutant(
        _replace(langevin, "scale", scale_transposed),
        ("dense proposal", "moments: dense ULA"),
    ),
    "noise that ignores the temperature": Mutant(
        _replace(ULA, "_noise", _cold_noise), ("moments: hot ULA", "moments: cold ULA")
    ),
    "MALA without its proposal ratio": Mutant(
        _replace(kernels, "metropolis", _without_proposal), ("moments: MALA",)
    ),
    "MALA that always accepts": Mutant(
        _replace(kernels, "metropolis", _always_accept), ("moments: MALA",)
    ),
    "MALA with a stale energy": Mutant(
        _replace(kernels, "metropolis", _stale_after_accepting),
        ("carried evaluation: MALA",),
    ),
    "MALA reweighted once and a half": Mutant(
        _replace(MALA, "switch", lambda _, *args: _reweighted_twice(*args)),
        ("moments: MALA", "crooks: MALA"),
    ),
    "no kinetic energy": Mutant(
        _replace(hamiltonian, "energy_drop", _without_kinetic),
        ("moments: HMC", "moments: underdamped", "infinite friction"),
    ),
    "HMC that always accepts": Mutant(
        _replace(hamiltonian, "metropolis", _always_accept), ("moments: HMC",)
    ),
    "momenta refreshed too little": Mutant(
        _replace(UnderdampedLangevin, "_refresh", _wrong_refresh), ("moments: underdamped",)
    ),
    "kicks of a whole step": Mutant(
        _replace(hamiltonian, "kick", _kick_of_the_old_energy), ("infinite friction",)
    ),
    "evidence not banked": Mutant(
        _resampled(log_banked=lambda w: w.log_banked), ("resampled evidence: systematic",)
    ),
    "weights kept by resampling": Mutant(
        _resampled(log_weight=lambda w: w.log_weight), ("resampled evidence: systematic",)
    ),
    "evaluation kept by resampling": Mutant(
        _resampled(evaluation=lambda w: w.evaluation), ("carried evaluation: ULA",)
    ),
    "position kept by resampling": Mutant(
        _resampled(position=lambda w: w.position), ("carried evaluation: ULA",)
    ),
    "resampling that only banks": Mutant(
        _resampled(position=lambda w: w.position, evaluation=lambda w: w.evaluation),
        ("resampled evidence: systematic",),
    ),
    "momenta kept by resampling": Mutant(
        _resampled(momentum=lambda w: w.momentum), ("resampled momenta",)
    ),
    "ancestors of weight zero": Mutant(
        _inverted(right=False, clamp=True),
        ("extremes: systematic", "extremes: multinomial"),
    ),
    "ancestors beyond the last": Mutant(
        _inverted(right=True, clamp=False),
        ("extremes: systematic", "extremes: stratified"),
    ),
    "residual without its remainder": Mutant(
        lambda: patch.dict(
            resampling.RESAMPLERS, {"residual": _residual_without_remainder}
        ),
        ("offspring: residual", "resampled evidence: residual"),
    ),
    "strata without their random number": Mutant(
        _replace(resampling, "_strata", _first_strata_only),
        ("offspring: systematic", "offspring: stratified"),
    ),
}
