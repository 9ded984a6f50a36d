"""What is known of a model by the walkers that follow its training."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from pyro_jarzynski.diagnostics.inference_data import Coords, Dims, build
from pyro_jarzynski.ebm.cloud import Cloud
from pyro_jarzynski.ebm.export import audit_groups, training_group
from pyro_jarzynski.ebm.followers import Followers
from pyro_jarzynski.ebm.history import History
from pyro_jarzynski.ebm.module_modes import ModuleModes
from pyro_jarzynski.ebm.tracker import Likelihood, LikelihoodTracker
from pyro_jarzynski.errors import ArgumentError


class Trained:
    """A model in training: its likelihood by the audit, draws, and the export to ArviZ.

    Attributes:
        followers: The walkers of the model, those that train it and those of the audit.
        optimizer: What changes its parameters.
        history: The course of the training.
        num_steps: Updates so far.
        weighted: Whether the walkers that train the model carry weights.
    """

    weighted: ClassVar[bool] = True
    followers: Followers
    optimizer: Optimizer
    history: History
    num_steps: int

    @property
    def cloud(self) -> Cloud:
        """The walkers that train the model."""
        return self.followers.cloud

    @property
    def audit(self) -> LikelihoodTracker:
        """The walkers that only follow it, and give every likelihood reported."""
        return self.followers.audit

    @property
    def module_modes(self) -> ModuleModes:
        """Train or eval mode of the modules of the model when it was checked."""
        return self.cloud.module_modes

    @property
    def step_size(self) -> float:
        """Step size of the moves now."""
        return self.cloud.kernel.step_size

    @property
    def log_normalizer(self) -> float:
        """Estimate of `log Z` by the audit walkers, in nats."""
        return self.audit.log_normalizer

    @property
    def log_normalizer_error(self) -> float:
        """Standard error of `log_normalizer`, in nats."""
        return self.audit.log_normalizer_error

    @property
    def training_log_normalizer(self) -> float:
        """Estimate of `log Z` by the walkers of the last gradient: biased by that.

        NaN for walkers without weights, which have none.
        """
        self.cloud.check_current()
        return self._training_log_normalizer

    @property
    def _training_log_normalizer(self) -> float:
        return float(self.cloud.active.log_normalizer) if self.weighted else math.nan

    def nll(self, x: Tensor) -> Likelihood:
        """Return the mean negative log-likelihood of data `(n, *event)`, in nats."""
        return self.audit.nll(x)

    def sample(self, num: int, *, seed: int | None = None) -> Tensor:
        """Draw `num` of the audit walkers by their weights, `(num, *event)`.

        Args:
            num: Number of draws.
            seed: Seed of the draws. `None` draws others at every call, by a generator that
                the seed of the learner determines.
        """
        return self.audit.sample(num, seed=seed)

    def to_arviz(
        self,
        *,
        data: Tensor | None = None,
        dims: Dims | None = None,
        coords: Coords | None = None,
        attrs: Mapping[str, Any] | None = None,
        num_draws: int | None = None,
        seed: int = 0,
    ) -> Any:
        """Return the trained model for ArviZ.

        `posterior` has draws `x` of the model, of equal weight, in two chains: the audit
        walkers, and those that train the model. Between them `rhat` tells whether the
        optimiser has led its own walkers astray. `warmup_sample_stats` is the history, one
        draw per row. `log_likelihood` of `data` differs between draws by what is uncertain
        of `log Z`, so that `az.loo` and `az.compare` stand beside those of other densities
        of the same data.

        Args:
            data: Data of the pointwise log-likelihood, `(n, *event)`: held-out ones.
            dims: Names of the dimensions of variables.
            coords: Labels along dimensions.
            attrs: Further attributes: strings, numbers, or lists of these.
            num_draws: Draws per chain; `None` is as many as the smaller cloud has walkers,
                up to 1000.
            seed: Seed of the draws.

        Returns:
            `arviz.InferenceData` with ArviZ 0.2x, `xarray.DataTree` from its version 1 on.

        Raises:
            ArgumentError: The model was never trained; a name, a label, an attribute or the
                number of draws cannot be used.
            MissingDependencyError: ArviZ cannot be imported.
        """
        if not len(self.history):
            raise ArgumentError(
                "The learner has no history: it was never trained. Call `fit` first; for "
                "the walkers alone there is `learner.audit.to_arviz()`."
            )
        clouds = [self.audit.cloud, self.cloud]
        groups = audit_groups(self.audit, clouds, data=data, num_draws=num_draws, seed=seed)
        groups["warmup_sample_stats"] = training_group(self.history)
        described = self.audit.attributes() | {
            "algorithm": type(self).__name__,
            "chains": ["audit walkers", "training walkers"],
            "training_log_normalizer": self.training_log_normalizer,
            "kernel": repr(self.cloud.kernel),
            "moves_per_update": self.cloud.num_moves,
            "ess_threshold": self.cloud.ess_threshold,
            "num_walkers": self.cloud.num_walkers,
            "optimizer": type(self.optimizer).__name__,
            "num_steps": self.num_steps,
            "sampling_time": self.history["seconds"][-1],
        }
        return build(groups, dims=dims, coords=coords, attrs=attrs, described=described)
