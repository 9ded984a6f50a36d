"""The likelihood of data whose latents have a learned prior.

`p(x) = ∫ p(x | z) p(z) dz` is what priors are to be compared by. The walkers of an
energy-based prior are weighted draws of it, so that no normaliser is needed:

    p(x) ≈ Σ_i W_i p(x | Z_i).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.weights import log_mean_exp, log_sum_exp, normalise, shares
from pyro_jarzynski.diagnostics.inference_data import Coords, Dims, Group, build
from pyro_jarzynski.diagnostics.storable import as_array
from pyro_jarzynski.ebm.distribution import EnergyDistribution
from pyro_jarzynski.ebm.export import NUM_DRAWS, draw_exponential
from pyro_jarzynski.ebm.tracker import Likelihood
from pyro_jarzynski.errors import ArgumentError, count


class LatentLikelihood:
    """The likelihood `p(x) = ∫ p(x | z) p(z) dz` of data, by weighted draws of the prior.

        seen = lambda z: dist.Normal(z, 0.5).to_event(1)
        energy = pj.LatentLikelihood(model.distribution(), seen)
        normal = pj.LatentLikelihood(dist.Normal(mean, sd).to_event(1), seen)
        az.compare({"energy": energy.to_arviz(data=x), "normal": normal.to_arviz(data=x)})

    The points of an energy-based prior are its audit walkers as they are now, with their
    weights; those of another distribution are drawn from it. The estimate is good where
    many points `Z_i` could have given a datum: for latents of few dimensions, whose prior
    is not much wider than the noise. Each estimate of `p(x)` knows its error: draws of
    what is uncertain of it give every family of walkers a random weight.

    Args:
        prior: Law of the latents, with batch shape `()`.
        likelihood: Takes latents `(N, 1, *latent)` to the law of data given them, whose
            batch shape broadcasts with `(N, n)`.
        num_points: Draws of a prior that is no energy.
        seed: Seed of these draws.

    Raises:
        ArgumentError: The prior has a batch shape.

    Example:
        >>> prior = dist.Normal(torch.zeros(1), 1.0).to_event(1)
        >>> known = pj.LatentLikelihood(
        ...     prior, lambda z: dist.Normal(z, 1.0).to_event(1), num_points=200_000
        ... )
        >>> round(known.log_prob(torch.zeros(1, 1)).item(), 2)  # that of N(0, 2): -½ log 4π
        -1.27
    """

    @standard_modes()
    def __init__(
        self,
        prior: Distribution,
        likelihood: Callable[[Tensor], Distribution],
        *,
        num_points: int = 4096,
        seed: int = 0,
    ) -> None:
        """Take the walkers, or draw points."""
        if prior.batch_shape:
            raise ArgumentError(
                f"`prior` must have batch shape (), got {tuple(prior.batch_shape)}; call "
                f"its `to_event({len(prior.batch_shape)})`."
            )
        self.likelihood = likelihood
        count("num_points", num_points)
        with torch.no_grad():
            if isinstance(prior, EnergyDistribution):
                walkers = prior.audit.walkers
                self.points, log_weight = prior.audit.position, walkers.log_weight
                _, self.family = walkers.ancestor.unique(return_inverse=True)
            else:
                self.points = _drawn(prior, num_points, seed)
                log_weight = self.points.new_zeros(num_points, dtype=torch.float64)
                self.family = torch.arange(num_points, device=self.points.device)
        self.weight = normalise(log_weight)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return `log p(x)` of data `(n, *event)`, `(n,)`, float64, nats."""
        return log_sum_exp(self._joint(x).mT)

    def nll(self, x: Tensor) -> Likelihood:
        """Return the mean of `-log p(x)` over data `(n, *event)`, in nats.

        Its `log_normalizer_error` is here the error that the points leave, in nats.
        """
        values = self.log_prob(x)
        spread = values.std() / len(values) ** 0.5 if len(values) > 1 else math.inf
        error = self.draw_log_prob(x).mean(1).std()
        return Likelihood(-float(values.mean()), float(error), float(spread))

    def draw_log_prob(
        self, x: Tensor, num_draws: int = NUM_DRAWS, *, seed: int = 0
    ) -> Tensor:
        """Draw from what the points leave open of `log p(x)`, `(num_draws, n)`, nats.

        Families of points, those of one ancestor, are given weights uniform on the simplex.
        The draws are shifted so that the mean of `p(x)` is its estimate.

        Source:
            Rubin (1981), Ann. Stat. 9(1).
        """
        count("num_draws", num_draws)
        joint = self._joint(x)
        num_families = int(self.family.max()) + 1
        parts = shares(joint, self.family, num_families)
        share = joint.new_zeros(num_families)
        share.index_add_(0, self.family, self.weight)
        generator = stream(seed, "families", joint.device)
        given = draw_exponential(num_draws, num_families, generator)
        log_ratio = (given @ parts).log() - (given @ share).log()[:, None]
        shift = log_sum_exp(joint.mT) - log_mean_exp(log_ratio.mT)
        return log_ratio + shift

    def to_arviz(
        self,
        *,
        data: Tensor,
        dims: Dims | None = None,
        coords: Coords | None = None,
        attrs: Mapping[str, Any] | None = None,
        num_draws: int = NUM_DRAWS,
        seed: int = 0,
    ) -> Any:
        """Return the likelihood of data for ArviZ: for `az.loo` and `az.compare`.

        Parameters of the prior are a point, and know nothing of what is left out of the
        data that they were learned from: give others. `posterior` has draws `z` of the
        prior, and the draws of `log_likelihood` differ by what the points leave open.

        Args:
            data: Held-out data, `(n, *event)`.
            dims: Names of the dimensions of variables.
            coords: Labels along dimensions.
            attrs: Further attributes: strings, numbers, or lists of these.
            num_draws: Draws, in one chain.
            seed: Seed of the draws.

        Returns:
            `arviz.InferenceData` with ArviZ 0.2x, `xarray.DataTree` from its version 1 on.
        """
        rows = self.draw_log_prob(data, num_draws, seed=seed)
        generator = stream(seed, "latents", self.points.device)
        chosen = torch.multinomial(
            self.weight, num_draws, replacement=True, generator=generator
        )
        groups = {
            "posterior": Group({"z": as_array(self.points[chosen][None])}),
            "log_likelihood": Group(
                {"x": as_array(rows[None])}, leading=["datum"], partial=True
            ),
            "observed_data": Group(
                {"x": as_array(data)},
                sampled=False,
                dims={"x": [f"x_dim_{i}" for i in range(data.ndim - 1)]},
                leading=["datum"],
            ),
        }
        return build(groups, dims=dims, coords=coords, attrs=attrs)

    @standard_modes()
    @torch.no_grad()
    def _joint(self, x: Tensor) -> Tensor:
        """Return `log W_i + log p(x_n | Z_i)`, `(N, n)`, float64."""
        values = self.likelihood(self.points[:, None]).log_prob(x)
        expected = (len(self.points), len(x))
        if values.shape != expected:
            raise ArgumentError(
                "`likelihood` must give one log-density per point and datum: expected "
                f"shape {expected}, got {tuple(values.shape)}; call `to_event` on its law, "
                "and let it take latents `(N, 1, *latent)`."
            )
        joint = self.weight.log()[:, None] + values.to(torch.float64)
        bad = (~torch.isfinite(joint.amax(0))).nonzero()
        if len(bad):
            raise ArgumentError(
                f"`x` has a datum, number {int(bad[0])}, whose likelihood is zero or not a "
                "number at all points of the prior. Look for NaN there, or use a "
                "likelihood that is positive everywhere."
            )
        return joint


def _drawn(prior: Distribution, num: int, seed: int) -> Tensor:
    # Distributions draw from the global generator: it is put back afterwards.
    with global_stream(seed):
        return prior.sample(torch.Size([num]))
