"""An independent check of a trained model: `log Z` by long annealing from its base.

Nothing of the training is used but the parameters: new walkers are drawn from the base
and carried to the model through many temperatures. A first, small cloud finds the step
size of every temperature; they are then frozen and replayed by fresh walkers, so that
the estimate of `Z` stays unbiased.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.adaptation import adapted
from pyro_jarzynski.core.backward import go_back
from pyro_jarzynski.core.evaluation import Energy
from pyro_jarzynski.core.kernels import MALA, Kernel
from pyro_jarzynski.core.memory import chunk_size_for
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import systematic
from pyro_jarzynski.core.smc import Stage
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.walkers import Walkers, init
from pyro_jarzynski.ebm.data import check_data
from pyro_jarzynski.ebm.soundness import check_kernel, check_walkers_are_independent
from pyro_jarzynski.ebm.startable import (
    Annealing,
    StartableEnergy,
    device_of,
    in_checked_mode,
)
from pyro_jarzynski.errors import count

# Draws at which an energy without walkers is checked.
NUM_CHECKED = 8


@standard_modes()
def annealed_walkers(
    model: StartableEnergy,
    *,
    num_temperatures: int = 400,
    num_walkers: int = 1024,
    num_moves: int = 5,
    num_pilot_walkers: int = 128,
    kernel: Kernel = MALA(0.3),  # noqa: B008
    seed: int = 0,
    chunk_size: int | str | None = None,
) -> Walkers:
    """Anneal fresh walkers from the base of a model to the model.

    Args:
        model: An `EnergyModel`, or another energy with a method `annealing`; its present
            parameters are checked.
        num_temperatures: Equal steps of the inverse temperature from 0 to 1.
        num_walkers: Walkers of the estimate.
        num_moves: Moves of every walker per temperature.
        num_pilot_walkers: Walkers that find the step sizes and are then thrown away; there
            are none for a kernel without a target of acceptance.
        kernel: How walkers move; its step size is where the pilot starts.
        seed: Seed of both clouds; use another than that of the training.
        chunk_size: Walkers per call of the model; `"auto"` takes as many as a cache holds,
            or a part of the memory of a GPU; `None` takes all at once.

    Returns:
        Walkers weighted for the model, with `log_normalizer` and its error.

    Source:
        Neal (2001), Statistics and Computing 11; with resampling Del Moral, Doucet, Jasra
        (2006), J. R. Stat. Soc. B 68(3).

    Raises:
        ArgumentError: A number is out of its range, or the model cannot be annealed.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> with torch.no_grad():
        ...     model.net.layers[-1].bias += 0.1  # U is 0.1 higher everywhere
        >>> walkers = pj.annealed_walkers(model, num_temperatures=5, num_walkers=64)
        >>> round(float(walkers.log_normalizer), 4)
        -0.1
    """
    with in_checked_mode(model):
        _check(model)
        plan = Plan.make(
            model,
            num_temperatures=num_temperatures,
            num_moves=num_moves,
            num_pilot_walkers=num_pilot_walkers,
            kernel=kernel,
            seed=seed,
            chunk_size=chunk_size,
        )
        return plan.go_up(count("num_walkers", num_walkers))


def _check(model: StartableEnergy) -> None:
    """Raise if an energy couples walkers or is random, unless it has been checked."""
    if model.followers is None:
        draws = model.draw(NUM_CHECKED, stream(0, "check", device_of(model)))
        check_walkers_are_independent(model, draws)


class NormalizerBounds(NamedTuple):
    """Outcome of `normalizer_bounds`, in nats.

    Attributes:
        lower: `log Ẑ` from the base up: below `log Z` on average.
        lower_error: Its standard error.
        upper: `-log Ẑ⁻¹` from draws of the model down: above `log Z` on average.
        upper_error: Its standard error.

    Example:
        >>> pj.NormalizerBounds(-8.0, 0.06, -7.75, 0.03).gap
        0.25
    """

    lower: float
    lower_error: float
    upper: float
    upper_error: float

    @property
    def gap(self) -> float:
        """Difference of the bounds; near zero if both are tight."""
        return self.upper - self.lower


@standard_modes()
def normalizer_bounds(
    model: StartableEnergy,
    draws: Tensor,
    *,
    num_walkers: int = 1024,
    **settings: Any,
) -> NormalizerBounds:
    """Bound `log Z` of a trained model from both sides.

    Up from the base, walkers that are too fast or miss a mode give too small a `Z`; down
    from draws of the model, too large a one. A gap tells that one of them errs.

    Args:
        model: The model; its present parameters are checked.
        draws: Draws of the model, `(n, *event)`, such as `learner.audit.sample(n)`. The
            upper bound is one as far as they are of the model.
        num_walkers: Walkers on the way up.
        **settings: The other arguments of `annealed_walkers`.

    Raises:
        DataError: The draws are empty, not finite, or of another shape than the model's.

    Source:
        Grosse, Ghahramani, Adams (2015), arXiv:1511.02543.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> with torch.no_grad():
        ...     model.net.layers[-1].bias += 0.1  # U is 0.1 higher everywhere
        >>> draws = torch.randn(64, 2)  # and so these are draws of the model
        >>> bounds = pj.normalizer_bounds(model, draws, num_temperatures=5, num_walkers=64)
        >>> round(bounds.lower, 4), round(bounds.upper, 4)
        (-0.1, -0.1)
    """
    with in_checked_mode(model):
        _check(model)
        plan = Plan.make(model, **settings)
        check_data("`draws`", draws, plan.start.draw(1, plan.generator), model.support)
        up = plan.go_up(count("num_walkers", num_walkers))
        down = plan.go_down(draws)
    return NormalizerBounds(
        lower=float(up.log_normalizer),
        lower_error=float(up.log_normalizer_error),
        upper=-float(down.log_normalizer),
        upper_error=float(down.log_normalizer_error),
    )


class Plan(NamedTuple):
    """The way to a model, with the step size of each temperature."""

    start: Annealing
    stages: list[Stage]
    generator: torch.Generator
    tools: Tools

    @classmethod
    def make(
        cls,
        model: StartableEnergy,
        *,
        num_temperatures: int = 400,
        num_moves: int = 5,
        num_pilot_walkers: int = 128,
        kernel: Kernel = MALA(0.3),  # noqa: B008
        seed: int = 0,
        chunk_size: int | str | None = None,
    ) -> "Plan":
        """Let a pilot find the step sizes, if there are any to find."""
        count("num_temperatures", num_temperatures)
        count("num_pilot_walkers", num_pilot_walkers)
        count("num_moves", num_moves)
        check_kernel(kernel, model)
        betas = torch.linspace(
            0, 1, num_temperatures + 1, dtype=torch.float64, device="cpu"
        ).tolist()
        start = model.annealing(betas)
        generator = stream(seed, "annealing", device_of(model))
        stages = [Stage(start.path[k], kernel, num_moves) for k in range(1, len(betas))]
        if isinstance(chunk_size, str):
            few = start.draw(1, stream(seed, "memory", device_of(model)))
            chunk_size = chunk_size_for(chunk_size, model, few)
        tools = Tools(generator, chunk_size)
        plan = cls(start, stages, generator, tools)
        if kernel.target_acceptance is None:
            return plan
        return plan.adapted(num_pilot_walkers)

    def adapted(self, num_pilot_walkers: int) -> "Plan":
        """Return the plan with the step sizes at which a pilot keeps its acceptance."""
        walkers = self.fresh(num_pilot_walkers)
        stages, kernel = [], self.stages[0].kernel
        for energy, _, num_moves, _ in self.stages:
            walkers, info = smc.step(
                walkers, energy, kernel, num_moves=num_moves, tools=self.tools
            )
            kernel = adapted(kernel, float(info.acceptance_rate), rate=0.3)
            stages.append(Stage(energy, kernel, num_moves))
        return self._replace(stages=stages)

    def fresh(self, num_walkers: int) -> Walkers:
        """Draw walkers at the start."""
        return self.placed(
            self.start.draw(num_walkers, self.generator),
            self.start.path[0],
            self.start.log_normalizer,
        )

    def placed(self, draws: Tensor, energy: Energy, log_normalizer: float = 0.0) -> Walkers:
        """Return walkers at draws of an energy."""
        return init(
            draws,
            energy,
            log_normalizer=log_normalizer,
            chunk_size=self.tools.chunk_size,
            gradient=self.stages[0].kernel.needs_gradient,
        )

    def go_up(self, num_walkers: int) -> Walkers:
        """Carry fresh walkers to the model."""
        walkers = self.fresh(num_walkers)
        for moved, _ in smc.follow(walkers, self.stages, tools=self.tools):
            walkers = moved
        # Those at the model have no use for the terms of the way there.
        bare = walkers.evaluation._replace(terms=(), source=None)
        return walkers._replace(evaluation=bare)

    def go_down(self, draws: Tensor) -> Walkers:
        """Carry draws of the model to the start."""
        # From an unknown log Z to a known one: their difference is found.
        walkers = self.placed(draws, self.stages[-1].energy, -self.start.log_normalizer)
        return go_back(
            walkers, self.stages, self.start.path[0], self.tools, resampler=systematic
        )
