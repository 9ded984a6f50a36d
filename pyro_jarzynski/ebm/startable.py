"""An energy that can be drawn exactly at its start, as training by walkers asks for."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_jarzynski.core.paths import Path, Tempering
from pyro_jarzynski.distributions.constraints import check_events, is_whole
from pyro_jarzynski.ebm.distribution import EnergyDistribution, Following
from pyro_jarzynski.ebm.wrapped import is_fully_sharded
from pyro_jarzynski.errors import ArgumentError


class Annealing(NamedTuple):
    """A way from a law that can be drawn to a model.

    Attributes:
        path: Energies from that law to the model.
        draw: Function of a number and a generator that draws the law, `(num, *event)`.
        log_normalizer: `log Z` of `path[0]`.
    """

    path: Path | Tempering
    draw: Callable[[int, torch.Generator], Tensor]
    log_normalizer: float


class StartableEnergy(nn.Module, ABC):
    """An energy module whose law at its present parameters can be drawn exactly.

    What can be trained from exact first walkers: `EnergyModel`, `GaussianMixtureEnergy`,
    or a subclass of your own. `forward` takes `(N, *event)` walkers to `(N,)` energies in
    nats.

    Attributes:
        followers: Walkers that follow its parameters, once there are any.

    Example:
        >>> class Shifted(pj.StartableEnergy):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.mean = torch.nn.Parameter(torch.zeros(2))
        ...
        ...     def forward(self, x):
        ...         return (x - self.mean).square().sum(1) / 2
        ...
        ...     def draw(self, num, generator):
        ...         noise = torch.randn(num, 2, generator=generator)
        ...         return self.mean.detach() + noise
        ...
        ...     def start_log_normalizer(self):
        ...         return 1.8378770664093453  # log 2π
        >>> tracker = pj.LikelihoodTracker(Shifted())
        >>> round(tracker.log_normalizer, 4)
        1.8379
    """

    followers: Following | None = None

    @property
    def support(self) -> Any:
        """Where the density is positive, a constraint of torch; `None` is everywhere."""
        return None

    def in_support(self, x: Tensor) -> Tensor | None:
        """Return a mask of walkers in the support, `(N,)`; `None` if all of space is.

        Kernels without acceptance step turn moves back that end elsewhere, so that their
        weights are exact. NaN counts as a place of positive density, where the energy is
        evaluated and reported.
        """
        support = self.support
        if support is None or support.is_discrete or is_whole(support):
            return None
        inside = check_events(support, x, x.ndim - 1)
        return inside | x.isnan().reshape(len(x), -1).any(1)

    def distribution(self) -> EnergyDistribution:
        """Return the law of the model as a distribution of Pyro.

        Raises:
            ArgumentError: No walkers follow the model, or its parameters have changed since
                they did.
        """
        followers = self.followers
        if is_fully_sharded(self):
            raise ArgumentError(
                "The law of a network that `fully_shard` has sliced is known to its "
                "learner and tracker alone: ask these for likelihoods and draws."
            )
        if followers is None:
            raise ArgumentError(
                "No walkers follow this energy, so that its normaliser is not known. Build "
                "`JarzynskiOptim(optim, energy)`, a learner, or `Followers(energy)` first, "
                "while it can be drawn exactly."
            )
        event = followers.audit_cloud.example.ndim - 1
        everywhere = constraints.independent(constraints.real, event)
        return EnergyDistribution(self, followers, support=self.support or everywhere)

    @abstractmethod
    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw `num` walkers of the law at the start, `(num, *event)`."""

    @abstractmethod
    def start_log_normalizer(self) -> float:
        """Return `log Z` at the start."""

    def annealing(self, betas: Sequence[float]) -> Annealing:
        """Return a way to the model at its present parameters, for `annealed_walkers`.

        Args:
            betas: Increasing inverse temperatures from 0 to 1, one for each energy.

        Raises:
            ArgumentError: The energy has none.
        """
        del betas
        raise ArgumentError(
            f"{type(self).__name__} cannot be annealed: it has no law to start from. "
            "Define `annealing(betas)`, or use an `EnergyModel`."
        )


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters, or of its buffers if it has none."""
    tensors = chain(model.parameters(), model.buffers())
    return next((x.device for x in tensors), torch.get_default_device())


def kind_of(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Return dtype and device of a model's first floating parameter."""
    floating = (p for p in model.parameters() if p.is_floating_point())
    first = next(floating, torch.zeros((), device="cpu"))
    return first.dtype, first.device


def in_checked_mode(model: object) -> AbstractContextManager[None]:
    """Return a context with a model in the mode of its walkers, if it has any."""
    followers = getattr(model, "followers", None)
    return nullcontext() if followers is None else followers.module_modes
