"""Where walkers start if not at the prior: Gaussians in unconstrained space.

The density of a base is part of the weights, so any base gives the right evidence and the
right posterior. One that is close to the posterior, and wider, needs fewer temperatures.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_jarzynski.core.noise import normal_like
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, ModelError
from pyro_jarzynski.infer.model import PyroModel, quiet_pyro
from pyro_jarzynski.infer.sites import seeded

# A Gaussian narrower than the posterior has weights of large variance.
WIDENING = 1.5
NUM_GUIDE_DRAWS = 1000


class Base(Protocol):
    """A law that can be drawn and whose normalised density is known."""

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw walkers, `(num, D)`."""

    def log_prob(self, walkers: Tensor) -> Tensor:
        """Return the log-density, `(N,)`."""


class GaussianBase:
    """A Gaussian of mean `(D,)` and covariance `L Lᵀ`, `L` lower triangular `(D, D)`."""

    def __init__(self, mean: Tensor, lower: Tensor) -> None:
        """Keep the moments."""
        self.mean, self.lower = mean, lower

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw walkers, `(num, D)`."""
        noise = normal_like(self.mean.expand(num, -1), generator)
        assert isinstance(noise, Tensor)
        return self.mean + noise @ self.lower.mT

    def log_prob(self, walkers: Tensor) -> Tensor:
        """Return the log-density, `(N,)`."""
        return self._log_prob_of(self._whitened(walkers))

    def log_prob_and_slope(self, walkers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-density, `(N,)`, and its gradient, `(N, D)`."""
        white = self._whitened(walkers)
        slope = torch.linalg.solve_triangular(self.lower.mT, -white, upper=True)
        return self._log_prob_of(white), slope.mT

    def _whitened(self, walkers: Tensor) -> Tensor:
        """Return `L⁻¹ (x - m)`, `(D, N)`."""
        centred = (walkers - self.mean).mT
        return torch.linalg.solve_triangular(self.lower, centred, upper=False)

    def _log_prob_of(self, white: Tensor) -> Tensor:
        log_norm = self.lower.diagonal().log().sum()
        constant = len(self.mean) / 2 * math.log(2 * math.pi)
        return -white.square().sum(0) / 2 - log_norm - constant


def make_base(base: Any, model: PyroModel, seed: int) -> GaussianBase | None:
    """Return the base that a user asked for; `None` is the prior.

    Args:
        base: `"prior"`; `"normal"`, the standard normal law in unconstrained space; a
            guide, of which a Gaussian is fitted to draws; or earlier draws by site, each
            `(n, *shape)`, to which a Gaussian is fitted.
        model: The model.
        seed: Seed of the draws of a guide.
    """
    if isinstance(base, str):
        if base not in ("prior", "normal"):
            raise ArgumentError(
                "`base` must be 'prior', 'normal', a guide, or a dictionary of draws; got "
                f"{base!r}."
            )
        if base == "prior" or model.size == 0:
            return None
        mean = torch.zeros_like(model.first_coordinates)
        return GaussianBase(mean, torch.ones_like(mean).diag())
    if isinstance(base, Mapping):
        return _fit(base, model)
    if callable(base):
        return _fit(_guide_draws(base, model, seed), model)
    raise ArgumentTypeError(
        "`base` must be 'prior', 'normal', a guide, or a dictionary of draws; got "
        f"{type(base).__name__}."
    )


def _fit(draws: Mapping[str, Tensor], model: PyroModel) -> GaussianBase:
    """Fit a Gaussian, somewhat widened, to draws of all latents."""
    parts = []
    for latent in model.latents:
        if latent.name not in draws:
            raise ArgumentError(
                f"`base` has no draws of the latent {latent.name!r}; it has "
                f"{', '.join(sorted(draws)) or 'none'}."
            )
        values = draws[latent.name]
        if not isinstance(values, Tensor):
            raise ArgumentTypeError(
                f"`base` must have draws of {latent.name!r} as a tensor, got "
                f"{type(values).__name__}."
            )
        if values.shape[1:] != latent.shape:
            raise ArgumentError(
                f"`base` must have draws of {latent.name!r} of shape (n, "
                f"{', '.join(map(str, latent.shape))}); got {tuple(values.shape)}."
            )
        values = values.detach().to(model.device, latent.dtype)
        unconstrained = latent.transform.inv(values)
        spread = unconstrained.to(torch.float64).std(0)
        if (spread <= 1e-6 * unconstrained.abs().amax(0).clamp(min=1)).any():
            raise ArgumentError(
                f"`base` has draws of {latent.name!r} that do not vary; a base must be "
                "wider than the posterior."
            )
        parts.append(unconstrained.reshape(len(values), -1))
    sizes = {len(part) for part in parts}
    if len(sizes) != 1:
        raise ArgumentError(
            "`base` must have equally many draws of all latents, got "
            f"{' and '.join(map(str, sorted(sizes)))}."
        )
    walkers = torch.cat(parts, 1)
    if len(walkers) < 2 * model.size + 2:
        raise ArgumentError(
            f"`base` needs at least {2 * model.size + 2} draws to fit a Gaussian in "
            f"{model.size} dimensions, got {len(walkers)}."
        )
    if not torch.isfinite(walkers).all():
        raise ArgumentError(
            "`base` has draws outside the supports of the model, or on their edges; leave "
            "them out, and give latents as the model names them, constrained."
        )
    covariance = torch.atleast_2d(torch.cov(walkers.to(torch.float64).mT))
    ridge = 1e-6 * covariance.diagonal().clamp(min=1e-12).diag()
    lower = torch.linalg.cholesky(WIDENING * covariance + ridge)
    return GaussianBase(walkers.mean(0), lower.to(walkers.dtype))


def _guide_draws(guide: Any, model: PyroModel, seed: int) -> dict[str, Tensor]:
    names = [latent.name for latent in model.latents]
    rows: list[dict[str, Any]] = []
    with seeded(seed, "guide"), quiet_pyro(), torch.no_grad():
        for _ in range(max(NUM_GUIDE_DRAWS, 10 * model.size)):
            with poutine.trace() as recorder:
                guide(*model.args, **model.kwargs)
            rows.append(dict(recorder.trace.nodes))
    missing = [name for name in names if name not in rows[0]]
    if missing:
        raise ModelError(
            f"`base` is a guide without the latent {missing[0]!r} of the model."
        )
    return {name: torch.stack([row[name]["value"] for row in rows]) for name in names}
