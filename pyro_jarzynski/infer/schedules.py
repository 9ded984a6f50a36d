"""Schedules: in which order the likelihood is switched on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from torch import Tensor

from pyro_jarzynski.core.paths import check_betas
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, count, fraction


@dataclass(frozen=True)
class AdaptiveTempering:
    """Inverse temperatures chosen so that each step keeps a share of the walkers.

    The next `β'` solves `(Σ W_i g_i)² / Σ W_i g_i² = ess`, with the weights `W` so far and
    the factors `g = (joint / base)^{β' - β}` of the step.

    Args:
        ess: Conditional effective sample size of a step, as a share of the walkers, in
            (0, 1); larger is slower and more exact.

    Raises:
        ArgumentError: `ess` is out of its range.

    Source:
        Zhou, Johansen, Aston (2016), J. Comput. Graph. Stat. 25(3).

    Example:
        >>> pj.AdaptiveTempering(0.9)
        AdaptiveTempering(ess=0.9)
    """

    ess: float = 0.8

    def __post_init__(self) -> None:
        """Check the share."""
        if not 0 < fraction("ess", self.ess) < 1:
            raise ArgumentError(f"`ess` must lie in (0, 1), got {self.ess!r}.")


@dataclass(frozen=True)
class DataTempering:
    """Data that arrive: posteriors of the first `sizes[0]`, `sizes[1]`, … observations.

    Every tensor among the arguments of the model that has `sizes[-1]` rows is cut to its
    first rows. From one posterior to the next, the path is tempered as far as needed.
    Latents must not depend on the number of observations.

    Args:
        sizes: Increasing numbers of observations; the last is all of them.
        ess: Conditional effective sample size of a step, as a share of the walkers.

    Raises:
        ArgumentError: `sizes` is empty or does not increase, or `ess` is out of its range.

    Source:
        Chopin (2002), Biometrika 89(3).

    Example:
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> sampler = pj.AnnealedSMC(
        ...     model, num_walkers=256, schedule=pj.DataTempering([2, 4]), progress=False
        ... )
        >>> result = sampler.run(torch.tensor([0.5, 1.5, 0.0, 1.0]))
        >>> result.history["num_observations"].unique().tolist()
        [2.0, 4.0]
    """

    sizes: Sequence[int]
    ess: float = 0.8

    def __post_init__(self) -> None:
        """Check sizes and share."""
        AdaptiveTempering(self.ess)
        if hasattr(self.sizes, "tolist"):
            # An array of NumPy, or a tensor.
            object.__setattr__(self, "sizes", self.sizes.tolist())
        if len(self.sizes) == 0:
            raise ArgumentError("`sizes` must name at least one number of observations.")
        for size in self.sizes:
            count("sizes", size)
        for low, high in pairwise(self.sizes):
            if high <= low:
                raise ArgumentError(f"`sizes` must increase; got {high} after {low}.")

    def cut(
        self, args: tuple, kwargs: dict[str, Any], size: int
    ) -> tuple[tuple, dict[str, Any]]:
        """Return the arguments of the model with the first `size` observations."""
        total = self.sizes[-1]

        def is_data(value: Any) -> bool:
            return isinstance(value, Tensor) and value.ndim > 0 and len(value) == total

        if not any(map(is_data, [*args, *kwargs.values()])):
            raise ArgumentError(
                f"`sizes` ends with {total}, but no tensor among the model's arguments has "
                "so many rows."
            )
        cut_args = tuple(v[:size] if is_data(v) else v for v in args)
        return cut_args, {k: v[:size] if is_data(v) else v for k, v in kwargs.items()}


Schedule: TypeAlias = AdaptiveTempering | DataTempering | Sequence[float]


def check_schedule(schedule: Any) -> None:
    """Raise unless `schedule` is one."""
    if isinstance(schedule, AdaptiveTempering | DataTempering):
        return
    known = isinstance(schedule, Sequence) or hasattr(schedule, "__array__")
    if isinstance(schedule, str) or not known:
        raise ArgumentTypeError(
            "`schedule` must be AdaptiveTempering(), DataTempering(sizes) or a sequence of "
            f"inverse temperatures from 0 to 1; got {type(schedule).__name__}."
        )
    check_betas("schedule", [float(beta) for beta in schedule])
