"""Contrastive divergence, plain and persistent: the baselines, with the same interface.

Their walkers carry no weights, so the gradient is that of another objective and the
masses of separated modes are never learned. Nor do they know a `log Z` of their own: that
is NaN, and the likelihood that they report comes from the audit cloud.
"""

from typing import Any

from torch.optim import Optimizer

from pyro_jarzynski.ebm.cloud import Cloud
from pyro_jarzynski.ebm.data import Batches
from pyro_jarzynski.ebm.gradient import gather_for
from pyro_jarzynski.ebm.learner import Learner
from pyro_jarzynski.ebm.startable import StartableEnergy
from pyro_jarzynski.ebm.updates import Advance
from pyro_jarzynski.errors import ArgumentError, count


class PersistentContrastiveDivergence(Learner):
    """Trains a model with unweighted walkers that start at the data and persist.

    The gradient is `E_data[∂_θ U_θ] - mean_i ∂_θ U_θ(X_i)`.

    Arguments are those of `JarzynskiLearner`, of which `ess_threshold` and `resampler`
    serve only the audit.

    Source:
        Tieleman (2008), ICML.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        >>> learner = pj.PersistentContrastiveDivergence(model, optimizer, seed=1)
        >>> history = learner.fit(pj.toy("moons", 100), 4, eval_every=2)
        >>> learner.training_log_normalizer  # its own walkers know none; the audit does
        nan
    """

    weighted = False

    def begin(self, batches: Batches) -> None:
        """Put the walkers at data."""
        _start_at_data(self.cloud, batches)

    def advance(self, batches: Batches) -> Advance:
        """Move the walkers under the new parameters, without weights."""
        gather = gather_for(self.parameters, self.cloud.team, weighted=False)
        info = self.cloud.follow(gather)
        gradient = self.gradient_from(gather)
        self.cloud.forget_weights()
        return Advance(gradient, float(info.acceptance_rate))


class ContrastiveDivergence(Learner):
    """Trains a model with unweighted walkers that start at the data again and again.

    Args:
        model: As of `JarzynskiLearner`.
        optimizer: As of `JarzynskiLearner`.
        restart_every: Updates between two starts at the data.
        **settings: The other arguments of `JarzynskiLearner`.

    Source:
        Hinton (2002), Neural Computation 14(8).

    Raises:
        ArgumentError: A number is out of its range, or `walker_batch_size` is given.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        >>> learner = pj.ContrastiveDivergence(model, optimizer, restart_every=4, seed=1)
        >>> history = learner.fit(pj.toy("moons", 100), 4, eval_every=2)
        >>> history["step"]
        [2, 4]
    """

    weighted = False
    settings = ("restart_every",)

    def __init__(
        self,
        model: StartableEnergy,
        optimizer: Optimizer,
        *,
        restart_every: int = 1,
        **settings: Any,
    ) -> None:
        """Draw the walkers as the other learners do."""
        self.restart_every = count("restart_every", restart_every)
        if settings.get("walker_batch_size") is not None:
            raise ArgumentError(
                "`walker_batch_size` has no meaning for walkers that start at the data "
                "again and again: use as many `num_walkers`."
            )
        super().__init__(model, optimizer, **settings)

    def begin(self, batches: Batches) -> None:
        """Put the walkers at data and move them."""
        _start_at_data(self.cloud, batches)
        self.cloud.relax()
        self.cloud.forget_weights()

    def advance(self, batches: Batches) -> Advance:
        """Start at the data again if it is time, and move under the new parameters."""
        if (self.num_steps + 1) % self.restart_every == 0:
            _start_at_data(self.cloud, batches)
            rate = self.cloud.relax()
        else:
            rate = self.cloud.follow().acceptance_rate
        self.cloud.forget_weights()
        # The gradient is that of the walkers after their moves: at the data it is zero.
        return Advance(self.gradient_now(), float(rate))


def _start_at_data(cloud: Cloud, batches: Batches) -> None:
    cloud.restart(batches.draw(cloud.num_walkers))
