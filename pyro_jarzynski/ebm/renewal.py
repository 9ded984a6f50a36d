"""Walkers that are renewed now and then by fresh ones, annealed from the base.

Walkers that follow a training see only where walkers have been. Where the network has dug
a hole that none of them met, the density has its mass, and neither gradient nor likelihood
knows of it. Fresh walkers come from the base through all temperatures: they meet such
holes while these are shallow, and owe nothing to the history of the others.
"""

import math
import warnings
from typing import NamedTuple

import torch

from pyro_jarzynski.ebm.check import Plan
from pyro_jarzynski.ebm.cloud import Cloud
from pyro_jarzynski.ebm.startable import StartableEnergy
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, AuditWarning, count

# Standard errors, and nats, by which two estimates of one `log Z` must not differ.
MAX_Z, MIN_GAP = 6.0, 0.5


class Renewal(NamedTuple):
    """How often and how carefully walkers are renewed.

    Attributes:
        every: Updates between two renewals.
        num_temperatures: Steps of the inverse temperature from the base to the model.
        num_moves: Moves of every walker per temperature.

    Example:
        >>> pj.Renewal(every=250, num_temperatures=16)
        Renewal(every=250, num_temperatures=16, num_moves=4)
    """

    every: int = 500
    num_temperatures: int = 50
    num_moves: int = 4


class Renewed(NamedTuple):
    """Estimates of one `log Z` before and after a renewal, with errors, in nats.

    Attributes:
        before: By the walkers that were replaced.
        before_error: Its standard error.
        after: By the fresh walkers.
        after_error: Its standard error.
    """

    before: float
    before_error: float
    after: float
    after_error: float

    @property
    def agrees(self) -> bool:
        """Whether the two differ by no more than their errors explain."""
        gap = abs(self.after - self.before)
        return gap < MIN_GAP + MAX_Z * math.hypot(self.before_error, self.after_error)


def check_renewal(model: StartableEnergy, renewal: Renewal | None) -> Renewal | None:
    """Return the settings, or raise if they cannot be used for a model."""
    if renewal is None:
        return None
    if not isinstance(renewal, Renewal):
        raise ArgumentTypeError(
            f"`renewal` must be a `Renewal` or None, got {type(renewal).__name__}."
        )
    for name, value in renewal._asdict().items():
        count(f"renewal.{name}", value)
    if type(model).annealing is StartableEnergy.annealing:
        raise ArgumentError(
            f"`renewal` needs a model that can be annealed, such as an `EnergyModel`; "
            f"{type(model).__name__} has no `annealing`. Pass `renewal=None`."
        )
    return renewal


def plan_for(cloud: Cloud, *, num_temperatures: int, num_moves: int) -> Plan:
    """Find a way from the base to the model of a cloud, by noise of the cloud's own."""
    generator = cloud.generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return Plan.make(
        cloud.model,
        num_temperatures=num_temperatures,
        num_moves=num_moves,
        kernel=cloud.kernel,
        seed=int(seed),
        chunk_size=cloud.tools.chunk_size,
    )


def renew(cloud: Cloud, plan: Plan, num_walkers: int) -> Renewed:
    """Replace all walkers of a cloud, and warn if the old ones had lost the model."""
    if not cloud.is_current():
        # Reweighted for the parameters of now, the walkers have a `log Z` to compare.
        cloud.wait()
    before, after = cloud.here, plan.go_up(num_walkers)
    cloud.walkers = after
    outcome = Renewed(
        float(before.log_normalizer),
        float(before.log_normalizer_error),
        float(after.log_normalizer),
        float(after.log_normalizer_error),
    )
    if not outcome.agrees:
        warnings.warn(
            f"log Z was {outcome.before:.2f} ± {outcome.before_error:.2f} by walkers that "
            f"followed the training, and is {outcome.after:.2f} ± "
            f"{outcome.after_error:.2f} by fresh ones: the model has changed faster than "
            "walkers could follow, or has mass where none of them was. Use a smaller "
            "learning rate, more moves per update, or renew more often.",
            AuditWarning,
            stacklevel=3,
        )
    return outcome


def renew_next_block(cloud: Cloud, plan: Plan) -> None:
    """Replace the block of a cloud whose turn is next; a single block stays.

    One that fed the last gradient alone would make the next one jump.
    """
    if cloud.num_blocks > 1:
        cloud.replace_next(plan.go_up)
