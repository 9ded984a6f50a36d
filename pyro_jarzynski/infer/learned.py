"""A base that has been learned: walkers that have seen the posterior show where to start.

A path from the prior can lead through laws that no walker follows: where a scale and what
it scales are uncertain by orders of magnitude, say. A scout that went that way, well or
badly, ends near the posterior. The walkers that count then start from

    q(u) = ε p(u) + (1 - ε) N(u; m, s Σ)

with `p` the first base, and mean `m` and covariance `Σ` of the scout's walkers. The scout
is independent of them, so their evidence is unbiased, whatever it found; the share of `p`
bounds their weights by the likelihood over `ε`.
"""

import math

import torch
from torch import Tensor

from pyro_jarzynski.core.gradients import GradedTerms, Term, TermsFn, grade
from pyro_jarzynski.core.metric import metric, shrunk
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.infer.bases import WIDENING, GaussianBase
from pyro_jarzynski.infer.posterior import Posterior

# Share ε of the first base.
FIRST_SHARE = 0.1


class LearnedPosterior:
    """A posterior that is approached from a learned base.

    Args:
        posterior: The posterior, with its first base.
        scout: Weighted walkers at or near the posterior, whose position is `(N, D)`.
        terms: Energies of the first base and the posterior, if not by `posterior` itself:
            its compiled ones, say.
    """

    def __init__(
        self,
        posterior: Posterior,
        scout: Walkers,
        terms: TermsFn | GradedTerms | None = None,
    ) -> None:
        """Fit the Gaussian."""
        self.posterior = posterior
        self.size, self.method = posterior.size, posterior.method
        self.chunk_size = posterior.chunk_size
        self.device = posterior.device
        self.gaussian = _fit(scout)
        self.terms = Mixture(terms or posterior.terms, self.gaussian)

    def draw(self, num: int, *, seed: int, purpose: str) -> Tensor:
        """Draw walkers from the mixture, `(num, D)`."""
        generator = stream(seed, f"{purpose}, learned", self.device)
        drawn = self.gaussian.draw(num, generator)
        first = torch.rand(num, generator=generator, device=self.device) < FIRST_SHARE
        few = int(first.sum())
        if few:
            drawn[first] = self.posterior.draw(few, seed=seed, purpose=purpose)
        return drawn

    def constrain(
        self, walkers: Tensor, *, deterministic: bool = False
    ) -> dict[str, Tensor]:
        """Return values by site, each `(N, *shape)`."""
        return self.posterior.constrain(walkers, deterministic=deterministic)

    def confirm(self, walkers: Walkers, *, compiled: bool) -> None:
        """Raise if walkers that were evaluated at once have other energies alone."""
        self.posterior.confirm(walkers, compiled=compiled)

    def explain(self, walker: Tensor) -> str:
        """Tell which parts of the model are not finite at one walker."""
        return self.posterior.explain(walker)


class Mixture:
    """The energies of mixture and posterior.

    With `p` the first base, `g` the Gaussian and `r = ε p / q`, the gradient of the mixture
    is `r ∇log p + (1 - r) ∇log g`, so that only the model need be differentiated.

    Args:
        terms: Energies of the first base and the posterior.
        gaussian: The Gaussian.
    """

    def __init__(self, terms: TermsFn | GradedTerms, gaussian: GaussianBase) -> None:
        """Keep the parts."""
        self.parts, self.gaussian = terms, gaussian

    def __call__(self, walkers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energies, each `(N,)`."""
        first, goal = self.parts(walkers)
        far, near = _shares(first, self.gaussian.log_prob(walkers))
        return -torch.logaddexp(far, near), goal

    def graded(self, walkers: Tensor) -> tuple[Term, Term]:
        """Return the energies with their gradients."""
        first, goal = grade(self.parts, walkers)
        assert isinstance(first.grad, Tensor)
        log_prob, slope = self.gaussian.log_prob_and_slope(walkers)
        far, near = _shares(first.energy, log_prob)
        mixture = torch.logaddexp(far, near)
        share = (far - mixture).exp()[:, None]
        return Term(-mixture, share * first.grad - (1 - share) * slope), goal


def _shares(first: Tensor, log_gaussian: Tensor) -> tuple[Tensor, Tensor]:
    """Return `log ε p` and `log (1 - ε) g` from the energy of `p` and `log g`."""
    return math.log(FIRST_SHARE) - first, math.log(1 - FIRST_SHARE) + log_gaussian


def _fit(scout: Walkers) -> GaussianBase:
    """Fit a Gaussian, widened, and shrunk in the coordinates of the scout's metric."""
    position = scout.position
    assert isinstance(position, Tensor)
    weight = scout.weight.flatten()
    values = position.to(torch.float64)
    mean = weight @ values
    scale = torch.linalg.cholesky(metric(scout))
    centred = torch.linalg.solve_triangular(scale, (values - mean).mT, upper=False)
    covariance = shrunk((centred * weight) @ centred.mT, float(1 / weight.square().sum()))
    lower = scale @ torch.linalg.cholesky(WIDENING * covariance)
    return GaussianBase(mean.to(position.dtype), lower.to(position.dtype))
