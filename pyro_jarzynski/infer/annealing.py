"""From a base to a posterior, stage by stage.

A pilot cloud goes first and chooses; the walkers that count follow one stage behind it,
with noise of their own, so that their evidence is unbiased and is known for every
temperature that has been reached.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.evaluation import CombinedEnergy, TermsFn
from pyro_jarzynski.core.kernels import Tools
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.pilot import explore
from pyro_jarzynski.core.resampling import get_resampler
from pyro_jarzynski.core.smc import Stage, StepInfo
from pyro_jarzynski.core.walkers import MAX_BROKEN, Walkers, drop, init
from pyro_jarzynski.errors import (
    ArgumentError,
    ModelError,
    NonFiniteEnergyError,
    NonFiniteEnergyWarning,
    WeightCollapseError,
)
from pyro_jarzynski.infer.posterior import (
    ModelPosterior,
    Posterior,
    between,
    make_posterior,
)
from pyro_jarzynski.infer.schedules import DataTempering
from pyro_jarzynski.infer.settings import Settings


class Reached(NamedTuple):
    """Where a run stands after a stage.

    Attributes:
        walkers: The walkers that count, on their islands.
        info: What the stage did to them.
        stage: The stage.
        beta: Inverse temperature between the last two laws.
        posterior: The law that is being approached.
        num_observations: Number of data in it, if they arrive one after the other.
        decorrelated: Whether the moves of the stage went as far as asked.
    """

    walkers: Walkers
    info: StepInfo
    stage: Stage
    beta: float
    posterior: Posterior
    num_observations: int | None
    decorrelated: bool


class Leg(NamedTuple):
    """A part of the path: from one law, the base or a posterior, to the next."""

    posterior: Posterior
    terms: TermsFn
    num_observations: int | None


class Counted:
    """Counts the walkers at which energies and gradients were evaluated."""

    def __init__(self, terms: TermsFn) -> None:
        """Start at zero."""
        self.terms, self.num = terms, 0

    def __call__(self, position: Tensor) -> tuple[Tensor, ...]:
        """Evaluate, and count."""
        self.num += len(position)
        return self.terms(position)


def make_legs(
    model: Any, args: tuple, kwargs: dict[str, Any], settings: Settings
) -> list[Leg]:
    """Return the parts of the path that a schedule asks for."""

    def posterior(args: tuple, kwargs: dict[str, Any]) -> Any:
        return make_posterior(
            model,
            args,
            kwargs,
            base=settings.base,
            num_walkers=settings.num_walkers * settings.num_chains,
            seed=settings.seed,
        )

    schedule = settings.schedule
    if not isinstance(schedule, DataTempering):
        whole = posterior(args, kwargs)
        return [Leg(whole, Counted(whole.terms), None)]
    legs: list[Leg] = []
    for size in schedule.sizes:
        present = posterior(*schedule.cut(args, kwargs, size))
        if not isinstance(present, ModelPosterior):
            raise ArgumentError("`DataTempering` needs a Pyro model, not a `Target`.")
        if not legs:
            legs.append(Leg(present, Counted(present.terms), size))
            continue
        known = legs[-1].posterior
        assert isinstance(known, ModelPosterior)
        _check_same_latents(known, present, size)
        legs.append(Leg(present, Counted(between(known, present)), size))
    return legs


def anneal(legs: Sequence[Leg], settings: Settings) -> Iterator[Reached]:
    """Carry walkers along the legs of a path, yielding after each stage."""
    num, islands = settings.num_walkers, settings.num_chains
    alone = settings.adapt == "online"
    pilot_tools = Tools(stream(settings.seed, "pilot"), settings.chunk_size)
    tools = Tools(stream(settings.seed, "walkers"), settings.chunk_size)
    resampler = get_resampler(settings.resampler)
    if alone:
        walkers = pilot = _start(legs[0], num * islands, islands, settings, "walkers")
    else:
        pilot = _start(legs[0], num, 1, settings, "pilot")
        walkers = _start(legs[0], num * islands, islands, settings, "walkers")
    kernel = settings.kernel
    betas = None if hasattr(settings.schedule, "ess") else settings.schedule
    for leg in legs:
        found_stages = explore(
            pilot,
            leg.terms,
            kernel,
            settings.exploration,
            betas=betas,
            resampler=resampler,
            tools=pilot_tools,
        )
        for found in _explained(found_stages, leg):
            pilot, kernel, stage, info = (
                found.walkers,
                found.stage.kernel,
                found.stage,
                found.info,
            )
            if alone:
                walkers = pilot
            else:
                follower = smc.follow(
                    walkers,
                    [stage],
                    resampler=resampler,
                    waste_free=settings.waste_free,
                    tools=tools,
                )
                walkers, info = next(_explained(follower, leg))
            yield Reached(
                walkers,
                info,
                stage,
                found.beta,
                leg.posterior,
                leg.num_observations,
                found.decorrelated,
            )


def _start(leg: Leg, num: int, islands: int, settings: Settings, purpose: str) -> Walkers:
    """Draw walkers from the base and look at the likelihood there."""
    drawn = leg.posterior.draw(num, seed=settings.seed, purpose=f"base of the {purpose}")
    energy = CombinedEnergy(leg.terms, (1.0, 0.0))
    walkers = init(drawn, energy, num_islands=islands, chunk_size=settings.chunk_size)
    goal = walkers.evaluation.terms[1]
    gradient = goal.grad
    assert isinstance(gradient, Tensor)
    broken = torch.isnan(goal.energy + gradient.sum(1)) & ~torch.isposinf(goal.energy)
    if not broken.any():
        return walkers
    first = int(broken.nonzero()[0])
    told = (
        f"The log-density or its gradient is not finite at {int(broken.sum())} of {num} "
        f"draws of the base, first at walker {first}. "
        f"{leg.posterior.explain(drawn[first])}"
    ).strip()
    if broken.double().mean() > MAX_BROKEN:
        raise NonFiniteEnergyError(told)
    warnings.warn(f"{told} They get weight zero.", NonFiniteEnergyWarning, stacklevel=2)
    return drop(walkers, broken)


def _explained(stages: Iterator[Any], leg: Leg) -> Iterator[Any]:
    """Pass stages on; name the sites of a model if no walker is left."""
    try:
        yield from stages
    except WeightCollapseError as error:
        drawn = leg.posterior.draw(1, seed=0, purpose="explanation")
        raise WeightCollapseError(f"{error} {leg.posterior.explain(drawn[0])}") from error


def _check_same_latents(first: ModelPosterior, second: ModelPosterior, size: int) -> None:
    known = {latent.name: latent.shape for latent in first.model.latents}
    found = {latent.name: latent.shape for latent in second.model.latents}
    if known != found:
        differing = sorted(
            name
            for name in known.keys() | found.keys()
            if known.get(name) != found.get(name)
        )
        raise ModelError(
            f"The latent {differing[0]!r} changes with the number of observations (here "
            f"{size}); `DataTempering` needs latents that do not."
        )
