"""Warnings about walkers that no longer stand for the model, each with its remedy.

Every kind of trouble is told once in a run.
"""

import math
import warnings

import torch
from torch import Tensor

from pyro_jarzynski.core.precision import coarseness
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.core.weights import normalise
from pyro_jarzynski.ebm.cloud import Cloud
from pyro_jarzynski.ebm.followers import Followers
from pyro_jarzynski.errors import AuditWarning, ExploitationWarning, PrecisionWarning

# Standard error of log Z, at most 1 by its nature, from which it has no meaning.
COLLAPSED = 0.95
# Share of the walkers that must be effective.
MIN_ESS = 0.05
# Effective walkers from which a mean energy says anything.
MIN_SIZE = 20
# Standard errors by which the mean energies of the two clouds must not differ, and the
# part of the energies' standard deviation below which no difference matters.
MAX_Z, MIN_SHIFT = 6.0, 0.5


class Alarms:
    """Looks at the walkers of a training run, and tells each kind of trouble once."""

    def __init__(self, followers: Followers, *, weighted: bool) -> None:
        """Watch some walkers; those without weights have no effective sample size."""
        self.followers, self.weighted = followers, weighted
        self.told: set[str] = set()

    def look(self, step: int, ess: float) -> None:
        """Warn of what is wrong after an update.

        Args:
            step: Updates so far.
            ess: Effective sample size of the last update, as a fraction.
        """
        if self.followers.audit_cloud.here.log_normalizer_error >= COLLAPSED:
            self.tell(
                "collapse",
                f"At update {step} almost all audit walkers descend from one: log Z and "
                "the likelihoods are no longer to be trusted. Use more audit walkers, more "
                "moves per update, a smaller learning rate, or `renewal`.",
                AuditWarning,
            )
        if self.weighted and ess < MIN_ESS:
            self.tell(
                "ess",
                f"At update {step} only {ess:.1%} of the training walkers are effective: "
                "the parameters change faster than the walkers can follow, and the "
                "gradient is that of a few of them. Use a smaller learning rate, more "
                "walkers, or more moves per update.",
                ExploitationWarning,
            )
        cloud = self.followers.cloud
        coarse = coarseness(_energies(cloud, cloud.active))
        if coarse:
            self.tell("precision", f"At update {step}: {coarse}", PrecisionWarning)
        # Energies that cannot be told apart tell nothing of their means.
        judged = self.weighted and not coarse
        shift = energy_shift(self.followers) if judged else math.nan
        if abs(shift) > MIN_SHIFT:
            self.tell(
                "exploitation",
                f"At update {step} the walkers that train the model and those of the audit "
                f"are {abs(shift):.2g} standard deviations apart in their mean energy: the "
                "optimiser has led its own walkers astray, so that its gradient is biased. "
                "Use more walkers, more moves per update, a smaller learning rate, or "
                "`renewal`.",
                ExploitationWarning,
            )

    def tell(self, kind: str, message: str, category: type[Warning]) -> None:
        """Warn of one kind of trouble, once in a run."""
        if kind in self.told:
            return
        self.told.add(kind)
        warnings.warn(message, category, stacklevel=4)


def energy_shift(followers: Followers) -> float:
    """Return how far apart the two clouds are in energy, in standard deviations of it.

    `(E_train[U] - E_audit[U]) / sd_audit[U]`, and 0 if this is within six of its standard
    errors. Both clouds stand for one law, so only exploitation, or lost walkers, set them
    apart.
    """
    cloud, audit = followers.cloud, followers.audit_cloud
    mean, _, size = _moments(cloud, cloud.active)
    known, spread, known_size = _moments(audit, audit.here)
    if min(size, known_size) < MIN_SIZE or spread == 0:
        return 0.0
    shift = (mean - known) / spread
    error = math.sqrt(1 / size + 1 / known_size)
    return shift if abs(shift) > MAX_Z * error else 0.0


def _energies(cloud: Cloud, walkers: Walkers) -> Tensor:
    """Return the energies of a block's walkers, of all ranks."""
    return cloud.team.gathered(walkers.evaluation.energy, walkers.num_walkers)


def _moments(cloud: Cloud, walkers: Walkers) -> tuple[float, float, float]:
    """Return the mean and standard deviation of the energy, and the effective size."""
    weight = normalise(walkers.log_weight)
    energy = _energies(cloud, walkers).to(torch.float64)
    mean = weight @ energy
    spread = (weight @ (energy - mean).square()).sqrt()
    return float(mean), float(spread), float(walkers.ess)
