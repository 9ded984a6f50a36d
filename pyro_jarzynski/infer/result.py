"""The result of an annealing: draws, evidence, and whether to trust them."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from pyro.infer.importance import LogWeightsMixin
from scipy.special import ndtri, stdtrit
from torch import Tensor

from pyro_jarzynski.core import weights
from pyro_jarzynski.core.kernels import Kernel
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import systematic
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.diagnostics.inference_data import Coords, Dims, build
from pyro_jarzynski.diagnostics.psis import pareto_k
from pyro_jarzynski.errors import ArgumentError, EvidenceWarning, count, fraction
from pyro_jarzynski.infer.doubts import find_doubts
from pyro_jarzynski.infer.export.attributes import attributes
from pyro_jarzynski.infer.export.content import content_of
from pyro_jarzynski.infer.export.groups import Wanted, result_groups
from pyro_jarzynski.infer.posterior import Posterior
from pyro_jarzynski.infer.run_warnings import kind_of, warn
from pyro_jarzynski.infer.settings import Settings
from pyro_jarzynski.infer.summary import Summary, summarise


class SMCResult(LogWeightsMixin):
    """Draws, evidence and history of a run of `AnnealedSMC`.

    `get_log_normalizer()`, `get_normalized_weights()` and `get_ESS()` are Pyro's.

    Attributes:
        posterior: The law that was approached.
        walkers: The walkers at the end, in unconstrained coordinates.
        history: One tensor per column, `(stages,)` or `(stages, chains)`, on the CPU:
            beta, ess, conditional_ess, acceptance_rate, log_evidence, resampled,
            num_ancestors (first walkers that still have descendants), step_size, num_moves,
            num_leapfrog (leapfrog steps of a move; 1 for Langevin kernels), repeated
            (share of walkers where another is), seconds.
        settings: Settings of the run, as they were given.
        kernel: Kernel of the last stage, with step size, preconditioner and length of
            trajectories as they were adapted.
        complete: Whether the posterior was reached.
        num_gradients: Energies and gradients evaluated, the pilot's included.
        seconds: Time of the run.
        stage_log_weights: Log-weights of all walkers before the resampling of each stage,
            `(N C,)`, normalised on each island.
        num_undecorrelated: Stages whose moves ended before the walkers had decorrelated.
        run_warnings: Warnings that were given in the course of the run, one of each kind.

    Example:
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> y = torch.tensor([0.5, 1.5])
        >>> result = pj.AnnealedSMC(model, num_walkers=256, progress=False).run(y)
        >>> result.status, result.complete
        ('ok', True)
        >>> low, high = result.log_evidence_interval(0.9)
        >>> low < result.log_evidence < high
        True
        >>> list(result.summary().table.columns)
        ['mean', 'sd', '5%', '50%', '95%', 'mcse', 'r_hat']
        >>> float(result.history["beta"][-1])
        1.0
    """

    def __init__(
        self,
        *,
        posterior: Posterior,
        walkers: Walkers,
        history: dict[str, Tensor],
        settings: Settings,
        complete: bool,
        num_gradients: int,
        seconds: float,
        stage_log_weights: list[Tensor],
        num_undecorrelated: int,
        run_warnings: list[str],
        kernel: Kernel,
    ) -> None:
        """Keep what a run left."""
        self.posterior = posterior
        self.walkers = walkers
        self.history = history
        self.settings = settings
        self.complete = complete
        self.num_gradients = num_gradients
        self.seconds = seconds
        self.stage_log_weights = stage_log_weights
        self.num_undecorrelated = num_undecorrelated
        self.run_warnings = run_warnings
        self.kernel = kernel

    @property
    def log_evidence(self) -> float:
        """`log Ẑ` in nats, of the mean of `Ẑ` over the islands."""
        return float(weights.log_mean_exp(self.log_evidence_per_chain))

    @property
    def log_evidence_per_chain(self) -> Tensor:
        """`log Ẑ` of each island, `(chains,)`, float64."""
        return self.walkers.log_normalizer

    @property
    def log_evidence_error(self) -> float:
        """Standard error of `log_evidence`, in nats.

        From the spread of the islands, `sd(log Ẑ) / √C`; of a single island from the
        genealogy of its walkers.
        """
        islands = self.log_evidence_per_chain
        if len(islands) == 1:
            return float(self.walkers.log_normalizer_error[0])
        return float(islands.std()) / math.sqrt(len(islands))

    def log_evidence_interval(self, probability: float = 0.9) -> tuple[float, float]:
        """Return an interval for the log evidence: Student's over the islands.

        Args:
            probability: Share of runs whose interval covers the truth, in (0, 1).
        """
        level = (1 + fraction("probability", probability)) / 2
        freedom = len(self.log_evidence_per_chain) - 1
        quantile = float(stdtrit(freedom, level) if freedom else ndtri(level))
        half = quantile * self.log_evidence_error
        return self.log_evidence - half, self.log_evidence + half

    @property
    def log_weights(self) -> Tensor:  # type: ignore[override]
        """Log-weights of all walkers, `(N C,)`, of which the mean is `Ẑ` on each island.

        Islands count alike, as in everything that is told of the posterior: with weights
        `W_ci` that sum to one on island `c`, they are `log (N Ẑ W_ci)`.
        """
        log_weight = self.walkers.by_island(self.walkers.log_weight)
        level = self.log_evidence - weights.log_mean_exp(log_weight)
        return (log_weight + level[:, None]).flatten()

    @cached_property
    def pareto_k(self) -> Tensor:
        """Shape of the largest weights at each stage, `(stages,)`; see `pareto_k`."""
        shapes = [pareto_k(weight) for weight in self.stage_log_weights]
        return torch.tensor(shapes, device="cpu")

    def weighted_samples(self) -> tuple[dict[str, Tensor], Tensor]:
        """Return the walkers by site, each `(N C, *shape)`, and their log-weights.

        Islands count alike: the estimate of `E f` is the mean over the islands of
        `Σ_i W_ci f(x_ci)`, as in `get_samples`, `summary`, `mode_masses` and `to_arviz`,
        whose chains they are, and its error is of order `1/N`. An estimate in which island
        `c` counts by its evidence, `Σ_c Ẑ_c Σ_i W_ci f(x_ci) / Σ_c Ẑ_c`, has the weights
        `log_weights + (log_evidence_per_chain - log_evidence).repeat_interleave(N)`: then
        the numerator is unbiased for every `N`. `doubts` tells where the two differ.
        """
        return dict(self._latent_values), self.log_weights

    def get_samples(
        self,
        num_samples: int | None = None,
        *,
        group_by_chain: bool = False,
        deterministic: bool = False,
    ) -> dict[str, Tensor]:
        """Return draws of equal weight, constrained, as `MCMC.get_samples` does.

        There are as many of each island: these count alike, as in `weighted_samples`.

        Args:
            num_samples: Draws per island if grouped, or in all; `None` is one for every
                walker.
            group_by_chain: Whether to keep the islands apart.
            deterministic: Whether to add the deterministic sites, and draws of the
                discrete latents, which are there in any case if there are no others.

        Returns:
            Draws by site, `(num_samples, *shape)` or `(chains, num_samples, *shape)`.

        Raises:
            ArgumentError: There are fewer walkers than that; draws are never repeated.
        """
        chains, size = self.draw_index.shape
        per_chain = size
        if num_samples is not None:
            most = size if group_by_chain else size * chains
            if count("num_samples", num_samples) > most:
                raise ArgumentError(
                    f"`num_samples` must be at most {most}, the number of walkers, got "
                    f"{num_samples}; run with more walkers."
                )
            per_chain = num_samples if group_by_chain else -(-num_samples // chains)
        index = self.draw_index[:, :per_chain]
        values = self.values if deterministic else self._latent_values
        grouped = {name: value[index] for name, value in values.items()}
        if group_by_chain:
            return grouped
        # The first draws of all islands, so that a part of them is of all.
        flat = {name: v.transpose(0, 1).flatten(0, 1) for name, v in grouped.items()}
        if num_samples is None:
            return {name: v.flatten(0, 1) for name, v in grouped.items()}
        return {name: v[:num_samples] for name, v in flat.items()}

    @cached_property
    @standard_modes()
    def draw_index(self) -> Tensor:
        """Walkers that were drawn by their weights, in random order, `(chains, N)`."""
        generator = stream(self.settings.seed, "draws", self.walkers.log_weight.device)
        log_weight = self.walkers.by_island(self.walkers.log_weight)
        chains, size = log_weight.shape
        drawn = systematic(log_weight, size, generator)
        first = size * torch.arange(chains, device=drawn.device)
        order = torch.rand(
            chains, size, generator=generator, device=drawn.device, dtype=torch.float64
        ).argsort(1)
        return drawn.gather(1, order) + first[:, None]

    @standard_modes()
    def to_arviz(
        self,
        *,
        dims: Dims | None = None,
        coords: Coords | None = None,
        attrs: Mapping[str, Any] | None = None,
        weighted: bool = False,
        log_likelihood: bool | None = None,
        posterior_predictive: bool = False,
        prior_predictive: bool = False,
        partial: bool = False,
    ) -> Any:
        """Return the run for ArviZ: islands are its chains, walkers its draws.

        The draws of `posterior` are of equal weight, all islands alike: every function of
        ArviZ takes them for that. `weighted_posterior` has the walkers as they are, with
        `log_weight`. `warmup_sample_stats` is the annealing path, with one draw per stage.
        Dimensions are called as the plates of the model. ArviZ takes walkers for
        independent, and those of one ancestor are not: its Monte Carlo errors are too small
        where few ancestors are left, and those of `summary` are right.

        Args:
            dims: Names of the dimensions of variables, in place of plates'.
            coords: Labels along dimensions.
            attrs: Further attributes: strings, numbers, or lists of these.
            weighted: Whether `posterior` has the walkers as they are, with their weights in
                `sample_stats`: for `pj.weighted_summary` and its like alone.
            log_likelihood: Whether to evaluate the log-likelihood of each datum, one number
                for every draw, with the scales and masks of the model: masked data have 0.
                Where discrete latents tie data together it is that of one given the rest.
                `None` does if that takes no more than 1 GB, and a part of the memory.
            posterior_predictive: Whether to draw new data, one set for each draw; runs the
                model once per draw.
            prior_predictive: The same for draws of the prior.
            partial: Whether to export the law that an interrupted run has reached.

        Returns:
            `arviz.InferenceData` with ArviZ 0.2x, `xarray.DataTree` from its version 1 on.

        Raises:
            ArgumentError: The run was interrupted; there are no latents; a name, a label or
                an attribute cannot be used.
            MissingDependencyError: ArviZ cannot be imported.

        Warns:
            ExportWarning: An argument of the model, or something else that was not asked
                for, cannot be stored in a file and is left out; or the log-likelihood is,
                which would not fit into memory.
        """
        if not self.complete and not partial:
            raise ArgumentError(
                "The run was interrupted: its draws are not of the posterior. Run it to "
                "the end, or pass `partial=True` for draws of the distribution that it has "
                "reached, at the last inverse temperature."
            )
        wanted = Wanted(log_likelihood, posterior_predictive, prior_predictive)
        groups = result_groups(self, wanted, weighted=weighted)
        described = attributes(self) | {"weighted": weighted}
        return build(groups, dims=dims, coords=coords, attrs=attrs, described=described)

    @standard_modes()
    def log_likelihood(self) -> dict[str, Tensor]:
        """Return the log-likelihood of each datum by site, each `(N C, *batch)`, nats.

        In the order of `weighted_samples`, for `pj.weighted_loo`.
        """
        assert isinstance(self.walkers.position, Tensor)
        content = content_of(self.posterior, self.settings.walkers_per_call)
        return content.log_likelihood(self.walkers.position)

    @standard_modes()
    def summary(self, probability: float = 0.9) -> Summary:
        """Return mean, sd, quantiles, Monte Carlo error and r_hat of every latent.

        All islands count alike.

        Args:
            probability: Share of the draws between the outer quantiles.
        """
        draws = self.get_samples(group_by_chain=True)
        values, _ = self.weighted_samples()
        fraction("probability", probability)
        walkers = self.walkers
        headline = (
            f"log evidence {self.log_evidence:.3f} ± {self.log_evidence_error:.3f}; "
            f"{len(walkers.log_weight)} walkers on {len(walkers.log_banked)} islands, "
            f"descending from {int(walkers.num_ancestors.sum())} of the first"
        )
        return Summary(summarise(draws, values, walkers, probability), headline)

    @cached_property
    def nonfinite_latents(self) -> list[str]:
        """Latents of which some draws are not finite."""
        values = self._latent_values.items()
        return [name for name, value in values if not torch.isfinite(value).all()]

    @property
    def doubts(self) -> list[str]:
        """Reasons not to trust the result: warnings of the run, and what it looks like."""
        return [*self.run_warnings, *self.new_doubts]

    @cached_property
    def new_doubts(self) -> list[str]:
        """Doubts that the run has not warned of."""
        known = tuple(kind_of(text) for text in self.run_warnings)
        found = ((text, kind_of(text)) for text in find_doubts(self))
        # The run adds how often it has warned.
        return [text for text, kind in found if not any(k.startswith(kind) for k in known)]

    @property
    def status(self) -> str:
        """`"ok"`, `"doubtful"` (see `doubts`), or `"partial"` if not complete."""
        if not self.complete:
            return "partial"
        return "doubtful" if self.doubts else "ok"

    def warn(self) -> None:
        """Warn of the doubts that the run has not warned of, if there are any."""
        told = self.new_doubts
        if len(told) > 1:
            told = [f"There are {len(told)} doubts.", *(f"- {doubt}" for doubt in told)]
        if told:
            warn("\n".join(told), EvidenceWarning)

    @property
    def has_draws(self) -> bool:
        """Whether the model has latents, of which there are draws."""
        return bool(self._latent_values)

    @cached_property
    @standard_modes()
    def _latent_values(self) -> dict[str, Tensor]:
        """Latents of all walkers: the model runs once for samples, summary and doubts."""
        assert isinstance(self.walkers.position, Tensor)
        return self.posterior.constrain(self.walkers.position)

    @cached_property
    @standard_modes()
    def values(self) -> dict[str, Tensor]:
        """All sites of all walkers but data: latents, discrete ones drawn, and computed."""
        assert isinstance(self.walkers.position, Tensor)
        return self.posterior.constrain(self.walkers.position, deterministic=True)

    def __repr__(self) -> str:
        """Return status, evidence and size, and how the walkers moved in the end."""
        chains = len(self.log_evidence_per_chain)
        return (
            f"SMCResult({self.status}, log_evidence={self.log_evidence:.3f} ± "
            f"{self.log_evidence_error:.3f}, {chains} chains of "
            f"{self.settings.num_walkers} walkers, {len(self.stage_log_weights)} stages, "
            f"{self._last_moves}{self.seconds:.1f} s)"
        )

    @property
    def _last_moves(self) -> str:
        """The moves of the last stage in short, if there were any."""
        if not self.history:
            return ""
        size, moves, steps = (
            float(self.history[name][-1])
            for name in ("step_size", "num_moves", "num_leapfrog")
        )
        leapfrog = f" and {steps:.0f} leapfrog steps" if steps > 1 else ""
        name = type(self.kernel).__name__
        return f"at last {moves:.0f} moves of {name} with step size {size:.3g}{leapfrog}, "
