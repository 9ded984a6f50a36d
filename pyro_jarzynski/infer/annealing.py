"""From a base to a posterior, stage by stage.

A scout looks where the posterior is, and a base is learned from it. Then a pilot cloud
goes first and chooses; the walkers that count follow one stage behind it, with noise of
their own, so that their evidence is unbiased and is known for every temperature that has
been reached.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.evaluation import CombinedEnergy
from pyro_jarzynski.core.kernels import Kernel
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.pilot import Found, explore, stage_of
from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.resampling import get_resampler
from pyro_jarzynski.core.smc import Stage, StepInfo
from pyro_jarzynski.core.team import WHOLE, Team, Tools
from pyro_jarzynski.core.walkers import Walkers, drop, init
from pyro_jarzynski.core.watching import Abandoned, on_all, watched
from pyro_jarzynski.errors import NonFiniteEnergyError, WeightCollapseError
from pyro_jarzynski.infer.agreement import agree_on_energies, agree_on_stage
from pyro_jarzynski.infer.learned import LearnedPosterior
from pyro_jarzynski.infer.legs import Counted, Leg
from pyro_jarzynski.infer.nonfinite import MIN_DENSE, NonFiniteCounts, remedies
from pyro_jarzynski.infer.schedules import AdaptiveTempering
from pyro_jarzynski.infer.settings import Settings
from pyro_jarzynski.infer.standing import Standing
from pyro_jarzynski.infer.time_limit import TimeLimit

# Share of the draws of the base at which the density of a posterior may be infinite: up to
# it, by rounding.
MAX_INFINITE = 0.01
# A scout only has to arrive.
SCOUTING = AdaptiveTempering(0.5)
# A path of so few steps of a scout needs no better base, and a Gaussian may be a worse one.
SHORT_PATH = 4
# Times that so many draws as there are walkers are looked at for some of finite density.
MAX_LOOKS = 100


class Reached(NamedTuple):
    """Where a run stands after a stage.

    Attributes:
        walkers: The walkers that count, on their islands; those of the scout before.
        info: What the stage did to them.
        stage: The stage.
        beta: Inverse temperature on this leg of the path.
        leg: The leg.
        decorrelated: Whether the moves of the stage went as far as asked.
        counts: Whether these are the walkers that count.
        team: Who has the walkers.
    """

    walkers: Walkers
    info: StepInfo
    stage: Stage
    beta: float
    leg: Leg
    decorrelated: bool
    counts: bool
    team: Team

    @property
    def whole(self) -> "Reached":
        """The same with all walkers; all ranks must ask."""
        return self._replace(walkers=self.team.whole(self.walkers), team=WHOLE)


def anneal(
    legs: Sequence[Leg],
    settings: Settings,
    *,
    limit: TimeLimit | None = None,
    standing: Standing | None = None,
) -> Generator[Reached]:
    """Carry walkers along the legs of a path, yielding after each stage.

    Args:
        legs: The path.
        settings: How to go.
        limit: Time of the run; scouting is given up when half of it is up.
        standing: Where the walkers stand, which changes with every stage; `None` begins.

    Raises:
        NonFiniteEnergyError: Moves meet too many points of no finite density, or the
            posterior density is infinite at a draw of the base.
        WeightCollapseError: The posterior has no density at any draw of the base.

    Warns:
        NonFiniteEnergyWarning: Once, at the end: the density was not finite at some points.
    """
    at = standing or Standing(settings, legs[0].posterior.device)
    at.counts.posterior = legs[0].posterior
    try:
        yield from _stages(legs, settings, limit, at)
    finally:
        at.counts.warn()


def _stages(
    legs: Sequence[Leg], settings: Settings, limit: TimeLimit | None, at: Standing
) -> Iterator[Reached]:
    """Carry walkers along the legs, yielding after each stage."""
    team, ranks = at.team, at.team.ranks
    if settings.learns:
        at.know_terms(legs[0].terms, "scout")
        scouted = _scout(legs[0], settings, at)
        yield from scouted if limit is None else _in_half_time(scouted, limit, ranks)
        if at.has_scouted(SHORT_PATH):
            assert at.scout is not None
            first = legs[0]
            learned = LearnedPosterior(first.posterior, at.scout, first.terms.terms)
            legs = [Leg(learned, Counted(learned.terms, first.terms.count), None)]
    # Those of a pilot are read by nobody.
    ahead = NonFiniteCounts(settings, legs[0].posterior)
    if at.walkers is None:
        _set_out(legs[0], settings, at, ahead)
    if settings.adapt == "online":
        ahead = at.counts
    tools = Tools(at.generators["walkers"], settings.walkers_per_call, team, at.counts)
    pilot_tools = Tools(at.generators["pilot"], settings.walkers_per_call, faults=ahead)
    at.know_terms(legs[at.leg].terms, "pilot", "walkers")
    for number in range(at.leg, len(legs)):
        leg = legs[number]
        if settings.adapt == "off":
            stages = _as_planned(leg, at, settings, tools)
        else:
            stages = _explore(leg, at.ahead, at.kernel, settings, pilot_tools, at.beta)
        while (found := _confirmed(stages, leg, settings, ranks)) is not None:
            if settings.adapt != "off":
                agree_on_stage(ranks, found)
            info, walkers = found.info, found.walkers
            if settings.adapt == "pilot":
                assert at.walkers is not None
                with leg.terms.by_all(ranks), at.counts.by_all(ranks):
                    walkers, info = _follow(leg, at.walkers, found.stage, settings, tools)
            at.counts.moved += _num_moved(found.stage, settings)
            at.take(found, walkers, number)
            yield _reached(found, leg)._replace(
                walkers=walkers, info=info, counts=True, team=team
            )
        at.beta = 0.0


def _set_out(leg: Leg, settings: Settings, at: Standing, ahead: NonFiniteCounts) -> None:
    """Draw the walkers that count, and the pilot if one goes ahead, from the base."""
    num, islands, team = settings.num_walkers, settings.num_chains, at.team
    pilot = None
    # First the pilot: what is compiled is compared at the walkers that come first, and
    # those are the same on all ranks.
    if settings.adapt == "pilot":
        pilot = on_all(team.ranks, lambda: _start_ahead(leg, settings, "pilot", ahead))
    else:
        agree_on_energies(team.ranks, leg.posterior, settings.seed)
    counts = NonFiniteCounts(settings, leg.posterior)
    with leg.terms.by_all(team.ranks), counts.by_all(team.ranks):
        walkers = _start(leg, num * islands, islands, settings, "walkers", counts, team)
    at.set_out(walkers, pilot, counts)


def _scout(leg: Leg, settings: Settings, at: Standing) -> Iterator[Reached]:
    """Carry a cloud to the posterior in larger steps, to see where it is."""
    if at.walkers is not None:
        return
    num, counts, ranks = settings.num_walkers, at.counts, at.team.ranks
    scout = at.scout
    if scout is None:
        scout = on_all(ranks, lambda: _start_ahead(leg, settings, "scout", counts))
        # A path that began with so few walkers was not short.
        at.sparse = counts.is_sparse
    quick = replace(settings, schedule=SCOUTING)
    tools = Tools(at.generators["scout"], settings.walkers_per_call, faults=counts)
    stages = _explore(leg, scout, at.kernel, quick, tools, at.beta)
    while (found := _confirmed(stages, leg, settings, ranks)) is not None:
        agree_on_stage(ranks, found)
        counts.moved += found.stage.num_moves * num
        at.take_scout(found)
        yield _reached(found, leg)


def _in_half_time(
    stages: Iterator[Reached], limit: TimeLimit, ranks: Ranks
) -> Iterator[Reached]:
    """Yield stages until half of the time is up; the one that is under way is given up."""
    while True:
        try:
            with watched(lambda: limit.watch(0.5)):
                reached = next(stages, None)
        except Abandoned:
            # A clock of each rank, and one decision.
            if any(ranks.largest(limit.is_over(0.5))):
                return
            raise
        if reached is None:
            return
        yield reached
        if any(ranks.largest(limit.is_over(0.5))):
            return


def _confirmed(
    stages: Iterator[Found], leg: Leg, settings: Settings, ranks: Ranks
) -> Found | None:
    """Return the next stage of the cloud that goes ahead, if all ranks have finished it."""

    def step() -> Found | None:
        found = next(stages, None)
        if found is not None:
            leg.posterior.confirm(found.walkers, compiled=settings.jit_compile)
        return found

    return on_all(ranks, step)


def _reached(found: Found, leg: Leg) -> Reached:
    """Return where the cloud that goes ahead stands."""
    return Reached(
        walkers=found.walkers,
        info=found.info,
        stage=found.stage,
        beta=found.beta,
        leg=leg,
        decorrelated=found.decorrelated,
        counts=False,
        team=WHOLE,
    )


def _explore(
    leg: Leg,
    walkers: Walkers,
    kernel: Kernel,
    settings: Settings,
    tools: Tools,
    beta: float,
) -> Iterator[Found]:
    """Let walkers find out how to go, from where they are."""
    stages = explore(
        walkers,
        leg.terms,
        kernel,
        settings.exploration,
        betas=settings.betas,
        beta=beta,
        resampler=get_resampler(settings.resampler),
        tools=tools,
    )
    return _explained(stages, leg, settings)


def _as_planned(
    leg: Leg, at: Standing, settings: Settings, tools: Tools
) -> Iterator[Found]:
    """Carry the walkers that count through stages that nobody need explore."""
    how, betas = settings.exploration, settings.betas
    assert betas is not None
    for beta in betas[betas.index(at.beta) + 1 :]:
        assert at.walkers is not None
        stage = stage_of(leg.terms, beta, at.kernel, how)
        ranks = tools.team.ranks
        with leg.terms.by_all(ranks), at.counts.by_all(ranks):
            walkers, info = _follow(leg, at.walkers, stage, settings, tools)
        yield Found(walkers, stage, info, beta, decorrelated=True)


def _follow(
    leg: Leg, walkers: Walkers, stage: Stage, settings: Settings, tools: Tools
) -> tuple[Walkers, StepInfo]:
    """Carry walkers through a stage that others have found."""
    follower = smc.follow(
        walkers,
        [stage],
        resampler=get_resampler(settings.resampler),
        waste_free=settings.waste_free,
        tools=tools,
    )
    return next(_explained(follower, leg, settings))


def _num_moved(stage: Stage, settings: Settings) -> int:
    """Return the number of moves of a stage that were proposed."""
    each = settings.num_walkers
    if settings.waste_free:
        each = -(-each // (stage.num_moves + 1))
    return stage.num_moves * each * settings.num_chains


def _start(
    leg: Leg,
    num: int,
    islands: int,
    settings: Settings,
    purpose: str,
    counts: NonFiniteCounts,
    team: Team = WHOLE,
) -> Walkers:
    """Draw walkers from the base, shard by shard."""

    def place(rows: slice, generator: torch.Generator, shard: str) -> Walkers:
        del generator  # the base has one by the name
        size = rows.stop - rows.start
        return draw_base(leg, size, settings, f"base of the {purpose}{shard}", counts)

    generator = stream(settings.seed, purpose, leg.posterior.device)
    return team.start(num, generator, place, islands)


def _start_ahead(
    leg: Leg, settings: Settings, purpose: str, counts: NonFiniteCounts
) -> Walkers:
    """Draw a cloud that finds the way, again and again where few draws have a density.

    Its weights are read by nobody, so that it may leave out the others.

    Raises:
        WeightCollapseError: No draw has a finite density.
    """
    num = settings.num_walkers
    alive: list[Tensor] = []
    for look in range(MAX_LOOKS):
        again = f", again {look}" if look else ""
        walkers = _start(leg, num, 1, settings, f"{purpose}{again}", counts)
        assert isinstance(walkers.position, Tensor)
        if look == 0 and not counts.is_sparse:
            return walkers
        dense = torch.isfinite(walkers.evaluation.terms[1].energy)
        alive.append(walkers.position[dense & torch.isfinite(walkers.log_weight)])
        if sum(map(len, alive)) >= MIN_DENSE * num:
            break
    positions = torch.cat(alive)
    if not len(positions):
        found = f"The density is zero or no number at all {counts.drawn} draws of the base."
        raise _collapse(found, leg, settings)
    rows = torch.arange(num, device=positions.device) % len(positions)
    base = CombinedEnergy(leg.terms, (1.0, 0.0))
    return init(positions[rows], base, chunk_size=settings.walkers_per_call, faults=counts)


def draw_base(
    leg: Leg, num: int, settings: Settings, purpose: str, counts: NonFiniteCounts
) -> Walkers:
    """Draw walkers from the base, and give weight zero where a density is not finite.

    Raises:
        NonFiniteEnergyError: The posterior density is infinite at a draw.
    """
    drawn = leg.posterior.draw(num, seed=settings.seed, purpose=purpose)
    lost = ~torch.isfinite(drawn).all(1)
    energy, chunk_size = CombinedEnergy(leg.terms, (1.0, 0.0)), settings.walkers_per_call
    # They are there nevertheless, somewhere.
    start = drawn.masked_fill(lost[:, None], 0.0)
    walkers = init(start, energy, chunk_size=chunk_size, faults=counts)
    goal = walkers.evaluation.terms[1].energy
    infinite = (goal == -math.inf) & ~lost
    if infinite.sum() > MAX_INFINITE * num:
        raise NonFiniteEnergyError(
            f"The posterior density is infinite at {int(infinite.sum())} of {num} draws of "
            f"the base. {leg.posterior.explain(drawn[infinite][0])} Bound it: look for a "
            "scale or a shape that can be zero."
        )
    lost |= goal.isnan() | infinite
    walkers = drop(walkers, lost)
    dead = walkers.log_weight == -math.inf
    counts.drawn += num
    counts.zero += int((goal == math.inf).sum())
    counts.lost += int(dead.sum())
    if dead.any():
        counts.blame(drawn[dead][0])
    return walkers


def _explained(stages: Iterator[Any], leg: Leg, settings: Settings) -> Iterator[Any]:
    """Pass stages on; name the sites of a model if no walker is left."""
    try:
        yield from stages
    except WeightCollapseError as error:
        raise _collapse(error.found, leg, settings) from error


def _collapse(found: str, leg: Leg, settings: Settings) -> WeightCollapseError:
    """Return the error that no walker is left, with a cause and what can help."""
    drawn = leg.posterior.draw(1, seed=0, purpose="explanation")
    cause = leg.posterior.explain(drawn[0])
    advice = remedies(drawn.dtype, leg.posterior, settings, sparse=True)
    return WeightCollapseError(f"{found} {cause}", advice)
