"""The path that a schedule asks for: its legs, from one law to the next.

Tempering has one leg, from the base to the posterior; data tempering has one more for every
number of observations.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from pyro_jarzynski.core.compiled import CompiledTerms
from pyro_jarzynski.core.gradients import GradedTerms, Term, TermsFn, grade
from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.errors import (
    ArgumentError,
    CompilationWarning,
    EvidenceWarning,
    ModelError,
)
from pyro_jarzynski.infer.agreement import agree_on_path, agree_to_begin
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.posterior import (
    ModelPosterior,
    Posterior,
    Target,
    between,
    make_posterior,
)
from pyro_jarzynski.infer.run_warnings import warn
from pyro_jarzynski.infer.schedules import DataTempering
from pyro_jarzynski.infer.settings import Settings


@dataclass
class EvaluationCount:
    """Walkers at which a run has evaluated energies and gradients."""

    num: int = 0


class Counted:
    """Terms that count the walkers at which they were evaluated.

    Args:
        terms: The terms.
        count: The count of the run.
    """

    def __init__(self, terms: TermsFn | GradedTerms, count: EvaluationCount) -> None:
        """Keep terms and count."""
        self.terms, self.count = terms, count

    def __call__(self, position: Tensor) -> tuple[Tensor, ...]:
        """Evaluate, and count."""
        found = self.terms(position)
        self.count.num += len(position)
        return found

    def graded(self, position: Tensor) -> tuple[Term, ...]:
        """Evaluate with gradients, and count."""
        found = grade(self.terms, position)
        self.count.num += len(position)
        return found

    @contextmanager
    def by_all(self, ranks: Ranks) -> Iterator[None]:
        """Count what all ranks evaluate inside the block; elsewhere all do the same."""
        before = self.count.num
        yield
        self.count.num = before + ranks.sum(self.count.num - before)


class Leg(NamedTuple):
    """A part of the path: from one law, the base or a posterior, to the next."""

    posterior: Posterior
    terms: Counted
    num_observations: int | None


def prepare(
    model: Any,
    args: tuple,
    kwargs: dict[str, Any],
    settings: Settings,
    *,
    analysed: PyroModel | None = None,
) -> tuple[list[Leg], Settings]:
    """Return the parts of the path that a schedule asks for, and settings that fit them.

    Where walkers per call are `"auto"`, the settings have their number.

    Args:
        model: A Pyro model, or a `Target`.
        args: Its arguments.
        kwargs: Its keyword arguments.
        settings: How to anneal.
        analysed: The model with these arguments, if it has been analysed already.
    """
    agree_to_begin(model, args, kwargs, settings)
    legs = _make_legs(model, args, kwargs, settings, analysed)
    if settings.chunk_size == "auto":
        # Compiled code has blocks of its own, into which walkers that come at once are cut.
        per_call = None if settings.jit_compile else legs[-1].posterior.chunk_size
        settings = replace(settings, chunk_size=per_call)
    if isinstance(legs[-1].posterior, ModelPosterior):
        _warn_of_scales(legs[-1].posterior.model)
    agree_on_path([leg.posterior for leg in legs], settings)
    return legs, settings


def _warn_of_scales(model: PyroModel) -> None:
    """Warn of latents under a scale, whose densities are not normalised."""
    names = model.scaled_latents
    if names:
        warn(
            f"The latent {names[0]!r} is under a scale, which raises its density to a "
            "power, as in Pyro's NUTS. That is not normalised: the evidence is not the "
            "probability of the data. Scale observed sites alone.",
            EvidenceWarning,
        )


def _make_legs(
    model: Any,
    args: tuple,
    kwargs: dict[str, Any],
    settings: Settings,
    analysed: PyroModel | None,
) -> list[Leg]:
    def posterior(
        args: tuple,
        kwargs: dict[str, Any],
        chunk_size: Any,
        analysed: PyroModel | None = None,
    ) -> Any:
        return make_posterior(
            model,
            args,
            kwargs,
            analysed=analysed,
            base=settings.base,
            num_walkers=settings.num_walkers * settings.num_chains,
            seed=settings.seed,
            chunk_size=chunk_size,
            cloud_sizes=settings.cloud_sizes,
            walkers_of_run=settings.walkers_of_run,
        )

    schedule, most, count = settings.schedule, settings.chunk_size, EvaluationCount()
    if settings.jit_compile:
        most = settings.block
    if not isinstance(schedule, DataTempering):
        whole = posterior(args, kwargs, most, analysed)
        return [Leg(whole, _counted(whole.terms, whole, settings, count), None)]
    if isinstance(model, Target):
        raise ArgumentError(
            "`DataTempering` needs a Pyro model, got a `Target`, whose data are not known; "
            "use `AdaptiveTempering`."
        )
    legs: list[Leg] = []
    # All legs have as many walkers per call as the one of most data.
    last = posterior(*schedule.cut(args, kwargs, schedule.sizes[-1]), most)
    for size in schedule.sizes:
        if size == schedule.sizes[-1]:
            present = last
        else:
            present = posterior(*schedule.cut(args, kwargs, size), last.chunk_size)
        if not legs:
            counted = _counted(present.terms, present, settings, count)
            legs.append(Leg(present, counted, size))
            continue
        known = legs[-1].posterior
        assert isinstance(known, ModelPosterior)
        _check_same_latents(known, present, size)
        terms = between(known, present)
        legs.append(Leg(present, _counted(terms, present, settings, count), size))
    return legs


def _counted(
    terms: TermsFn, posterior: Posterior, settings: Settings, count: EvaluationCount
) -> Counted:
    """Return terms that count, and are compiled if that is asked for."""
    if not settings.jit_compile:
        return Counted(terms, count)
    if posterior.method == "loop":
        warnings.warn(
            "The model is not compiled: it can only be evaluated one walker at a time. "
            "Write it so that `torch.func.vmap` can map it, without branches on latents "
            "and without writing in place.",
            CompilationWarning,
            stacklevel=2,
        )
        return Counted(terms, count)
    return Counted(CompiledTerms(terms, settings.block, settings.whole), count)


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
