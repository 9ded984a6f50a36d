"""The audit: walkers that follow the parameters, feed nothing, and know the likelihood.

Walkers whose weighted gradient trains a model are exploited by it: the optimiser finds
parameters that look good to these very walkers, and their `log Z` drifts. Walkers that
only follow are not, so all likelihoods are reported from them. They work beside any
torch training loop:

    tracker = LikelihoodTracker(model, num_walkers=1024)
    for batch in loader:
        ...                     # any loss, any optimiser
        optimizer.step()
        tracker.update()
    tracker.nll(test_data)
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.core.curvature import warn_if_unstable
from pyro_jarzynski.core.kernels import MALA, Kernel
from pyro_jarzynski.core.resampling import Resampler
from pyro_jarzynski.core.smc import StepInfo
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.diagnostics.inference_data import Coords, Dims, build
from pyro_jarzynski.ebm.cloud import Cloud
from pyro_jarzynski.ebm.data import ON_THE_EDGE, NonFinite, check_data, find_nonfinite
from pyro_jarzynski.ebm.export import audit_groups
from pyro_jarzynski.ebm.module_modes import ModuleModes, as_checked
from pyro_jarzynski.ebm.renewal import Renewed, plan_for, renew
from pyro_jarzynski.ebm.soundness import check_walkers_are_independent
from pyro_jarzynski.ebm.startable import StartableEnergy
from pyro_jarzynski.ebm.wrapped import settled
from pyro_jarzynski.errors import NonFiniteEnergyError, NonFiniteEnergyWarning, count


class Likelihood(NamedTuple):
    """A mean negative log-likelihood in nats per datum, and its two standard errors.

    Attributes:
        nll: `mean U(x) + log Z`.
        log_normalizer_error: Standard error from `log Z`.
        data_error: Standard error of the mean over the data, as a sample.

    Example:
        >>> base = dist.Normal(torch.zeros(1), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([1, 8]), base)
        >>> found = pj.LikelihoodTracker(model).nll(torch.zeros(2, 1))
        >>> round(found.nll, 4)  # ½ log 2π
        0.9189
    """

    nll: float
    log_normalizer_error: float
    data_error: float


class LikelihoodTracker:
    """Audits the likelihood of a model while any training loop changes it.

    `log Z = log Z_0 + log mean_i e^{A_i}`. An update from `U_k` to `U_{k+1}` adds
    `U_k(X) - U_{k+1}(X)` to the log-weight `A` of a walker, which then moves under
    `U_{k+1}`; unadjusted kernels have a term of their own.

    Args:
        model: Energy that can be drawn exactly at its present parameters.
        num_walkers: Audit walkers.
        kernel: How they move. The step size stays as it is given: `update` returns the
            acceptance rate, by which to choose it.
        moves_per_update: Moves per call of `update`.
        ess_threshold: Resample when `ESS < ess_threshold N`, in [0, 1].
        resampler: A name or function of `core.resampling`.
        seed: Seed of the audit walkers.
        chunk_size: Walkers per call of the model; `"auto"` takes as many as a cache holds,
            or a part of the memory of a GPU; `None` takes all at once.
        jit_compile: Whether to compile the moves of ULA and MALA.
        start_temperatures: Steps of the inverse temperature by which the first walkers are
            annealed from the base to a model that is trained already; `None` draws them,
            which needs a model that can be drawn.

    Raises:
        EnergyError: The energy couples walkers, is random, or has a wrong shape.

    Warns:
        StepSizeWarning: The weights of an unadjusted kernel have infinite variance.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), arXiv:2305.19414, for the weights.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> tracker = pj.LikelihoodTracker(model, num_walkers=64)
        >>> with torch.no_grad():  # any training step
        ...     model.net.layers[-1].bias += 0.1
        >>> info = tracker.update()
        >>> round(tracker.log_normalizer, 4)
        -0.1
    """

    def __init__(
        self,
        model: StartableEnergy,
        *,
        num_walkers: int = 1024,
        kernel: Kernel = MALA(),  # noqa: B008
        moves_per_update: int = 1,
        ess_threshold: float = 0.5,
        resampler: str | Resampler = "systematic",
        seed: int = 0,
        chunk_size: int | str | None = None,
        jit_compile: bool = False,
        start_temperatures: int | None = None,
    ) -> None:
        """Draw the audit walkers at the model's present parameters."""
        self.model = model = settled(model)
        self.cloud = Cloud(
            model,
            num_walkers=num_walkers,
            kernel=kernel,
            num_moves=moves_per_update,
            ess_threshold=ess_threshold,
            resampler=resampler,
            seed=seed,
            purpose="audit walkers",
            chunk_size=chunk_size,
            jit_compile=jit_compile,
            start_temperatures=start_temperatures,
        )
        check_walkers_are_independent(model, self.cloud.shard)
        # Curvature that is unbounded at a wall shows at few walkers.
        warn_if_unstable(kernel, model, self.cloud.shown, num_walkers=256)

    def update(self) -> StepInfo:
        """Carry the audit walkers to the present parameters; call after each update."""
        return self.cloud.follow()

    @as_checked
    def renew(
        self,
        *,
        num_walkers: int | None = None,
        num_temperatures: int = 100,
        num_moves: int = 5,
    ) -> Renewed:
        """Replace the audit walkers by fresh ones, annealed from the base to the model.

        From then on the likelihood is that of the fresh walkers, to which no error of the
        way here clings.

        Args:
            num_walkers: Walkers from now on; `None` is as many as there are.
            num_temperatures: Steps of the inverse temperature from 0 to 1.
            num_moves: Moves of every walker per temperature.

        Returns:
            `log Z` before and after, with errors. A warning tells if they do not agree.

        Raises:
            ArgumentError: A number is out of its range, or the model cannot be annealed.
        """
        size = self.cloud.num_walkers if num_walkers is None else num_walkers
        plan = plan_for(self.cloud, num_temperatures=num_temperatures, num_moves=num_moves)
        return renew(self.cloud, plan, count("num_walkers", size))

    @property
    def log_normalizer(self) -> float:
        """Estimate of `log Z` at the parameters of the last update.

        This and all else that is read from the walkers raises `ArgumentError` if the
        parameters have changed since the last update.
        """
        return float(self._walkers.log_normalizer)

    @property
    def log_normalizer_error(self) -> float:
        """Standard error of `log_normalizer`, from the genealogy of the walkers."""
        return float(self._walkers.log_normalizer_error)

    @property
    def ess(self) -> float:
        """Effective sample size of the audit walkers, between 1 and their number."""
        return float(self._walkers.ess)

    @property
    def _walkers(self) -> Walkers:
        """The walkers, of which those of this rank have positions, if they are current."""
        self.cloud.check_current()
        return self.cloud.here

    def log_prob(self, x: Tensor) -> Tensor:
        """Return `-U(x) - log Z` for data `(n, *event)`, `(n,)`, in nats.

        Raises:
            NonFiniteEnergyError: An energy of the data is NaN or minus infinity.
        """
        return -self._scored(x)[0] - self.log_normalizer

    def nll(self, x: Tensor) -> Likelihood:
        """Return the mean negative log-likelihood of data `(n, *event)`, in nats.

        Raises:
            NonFiniteEnergyError: An energy of the data is NaN or minus infinity.

        Warns:
            NonFiniteEnergyWarning: The model has density zero at some data, and the
                result is infinite; names the rows.
        """
        self.cloud.check_current()
        energies, outside = self._scored(x)
        if outside is not None:
            warnings.warn(
                f"The NLL is infinite: the model has density zero at `x` in "
                f"{outside.rows}. {ON_THE_EDGE}",
                NonFiniteEnergyWarning,
                stacklevel=2,
            )
        return self.likelihood(energies)

    def _scored(self, x: Tensor) -> tuple[Tensor, NonFinite | None]:
        """Return the energies of data, and those of density zero, if there are any."""
        energies = self.energies("`x`", x)
        found = find_nonfinite(energies)
        if found is not None and not found.has_density_zero:
            raise NonFiniteEnergyError(
                f"The energy of `x` is {found.value} at {found.rows}. Check these rows, "
                "and the network there."
            )
        return energies, found

    def likelihood(self, energies: Tensor) -> Likelihood:
        """Return the likelihood of data by their energies `(n,)`; nothing is checked."""
        here, known = self.cloud.here, energies.to(torch.float64)
        spread = known.std() / len(known) ** 0.5 if len(known) > 1 else torch.inf
        return Likelihood(
            float(known.mean() + here.log_normalizer),
            float(here.log_normalizer_error),
            float(spread) if torch.isfinite(known).all() else math.inf,
        )

    @as_checked
    def sample(self, num: int, *, seed: int | None = None) -> Tensor:
        """Draw `num` of the audit walkers by their weights, `(num, *event)`.

        Args:
            num: Number of draws.
            seed: Seed of the draws. `None` draws others at every call, by a generator that
                the seed of the walkers determines.
        """
        self.cloud.check_current()
        return self.cloud.sample(num, seed)

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
        """Return the audit walkers for ArviZ as one chain; see `JarzynskiLearner.to_arviz`.

        Args:
            data: Data of the pointwise log-likelihood, `(n, *event)`.
            dims: Names of the dimensions of variables.
            coords: Labels along dimensions.
            attrs: Further attributes: strings, numbers, or lists of these.
            num_draws: Draws; `None` is one for every walker, up to 1000.
            seed: Seed of the draws.

        Returns:
            `arviz.InferenceData` with ArviZ 0.2x, `xarray.DataTree` from its version 1 on.
        """
        groups = audit_groups(self, [self.cloud], data=data, num_draws=num_draws, seed=seed)
        described = self.attributes()
        return build(groups, dims=dims, coords=coords, attrs=attrs, described=described)

    def attributes(self) -> dict[str, Any]:
        """Return the state of the audit as attributes of an export."""
        return {
            "log_normalizer": self.log_normalizer,
            "log_normalizer_error": self.log_normalizer_error,
            "audit_ess": self.ess,
            "audit_walkers": self.cloud.num_walkers,
        }

    @as_checked
    def energies(self, name: str, x: Tensor) -> Tensor:
        """Return the energies of data `(n, *event)`, `(n,)`, or raise and name the data."""
        check_data(name, x, self.cloud.example, self.model.support)
        step = self.cloud.tools.chunk_size or len(x)
        # Data that were made in inference mode can be seen, but not kept for a gradient.
        with torch.no_grad():
            return torch.cat([self.model(part) for part in x.split(step)])

    @property
    def module_modes(self) -> ModuleModes:
        """Train or eval mode of the modules of the model when it was checked."""
        return self.cloud.module_modes
