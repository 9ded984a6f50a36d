"""Draws of distributions whose own samplers, in torch or Pyro, draw another distribution.

Found by comparing draws with densities, of all distributions of both. A straight-through
estimator rounds its draws on purpose; here its density is wanted.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_jarzynski.distributions.parts import rebuilt


def with_exact_draws(fn: Any) -> Any:
    """Return a distribution with the same density, whose draws are of it.

    So are those of distributions that it is made of. It is the argument itself where its
    own draws are right.
    """
    exact = rebuilt(fn, with_exact_draws)
    for kind, sampler in _SAMPLERS.items():
        if isinstance(fn, kind):
            exact = copy.copy(exact)
            exact.sample = exact.rsample = partial(sampler, fn)
    return exact


def _lkj(fn: Any, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
    """Draw Cholesky factors of correlation matrices, `(*sample, *batch, D, D)`.

    Row `i` of the factor has its strictly lower part in a direction that is uniform, at a
    squared distance `Beta(i / 2, η + (D - 1 - i) / 2)` from zero. Torch's own sampler has
    `i - 1/2` as the first of the two parameters.

    Source:
        Lewandowski, Kurowicka, Joe (2009), J. Multivar. Anal. 100(9), section 3.2.
    """
    η = fn.concentration.unsqueeze(-1)
    row = torch.arange(fn.dim, dtype=η.dtype, device=η.device).clamp(min=1)
    other = η + (fn.dim - 1 - row) / 2
    radius = dist.Beta((row / 2).expand_as(other), other).sample(sample_shape)
    normal = torch.randn(
        (*radius.shape, fn.dim), dtype=radius.dtype, device=radius.device
    ).tril(-1)
    tiny = torch.finfo(radius.dtype).tiny
    length = normal.norm(dim=-1, keepdim=True).clamp(min=tiny)
    strict = radius.sqrt().unsqueeze(-1) * normal / length
    diagonal = (1 - strict.square().sum(-1)).clamp(min=tiny).sqrt()
    return strict + diagonal.diag_embed()


def _sine_bivariate(fn: Any, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
    """Draw pairs of angles, `(*sample, *batch, 2)`.

    The first angle by rejection from an angular central Gaussian, the second given the
    first from its von Mises distribution. The sampler of Pyro (1.9.2) takes proposals of
    one dimension for those of the other.

    Source:
        Kent, Ganeiber, Mardia (2018), J. Comput. Graph. Stat. 27(2).
    """
    κ, λ, ρ = fn.phi_concentration, fn.psi_concentration, fn.correlation
    shape = torch.Size(sample_shape) + fn.batch_shape
    curvature = (κ - ρ.square() / λ) / 2
    lowest = curvature.clamp(max=0)
    spread = torch.stack([-lowest, curvature - lowest])
    b = fn._bfind(spread)

    def log_i0(x: Tensor) -> Tensor:
        return torch.special.i0e(x).log() + x

    def propose() -> tuple[Tensor, Tensor]:
        x = torch.randn((2, *shape), dtype=κ.dtype, device=κ.device)
        x = x * (1 + 2 * spread / b).rsqrt().reshape(
            (2,) + (1,) * len(sample_shape) + fn.batch_shape
        )
        cos, sin = x / x.norm(dim=0)
        rest = spread[0] * cos.square() + spread[1] * sin.square()
        log_ratio = (
            κ * (cos - 1) + lowest + log_i0((λ.square() + (ρ * sin).square()).sqrt())
        )
        log_ratio = log_ratio - log_i0(λ) + 1 - b / 2 + (b / 2 + rest).log()
        return torch.atan2(sin, cos), torch.rand_like(cos).log() < log_ratio

    first = _accepted(propose)
    centre = torch.atan(ρ / λ * first.sin())
    second = dist.VonMises(
        centre, (λ.square() + (ρ * first.sin()).square()).sqrt()
    ).sample()
    angles = torch.stack([first + fn.phi_loc, second + fn.psi_loc], -1)
    return (angles + math.pi) % (2 * math.pi) - math.pi


def _polya_gamma(fn: Any, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
    """Draw from the Pólya-Gamma distribution PG(1, 0) below its truncation.

    A sum of exponentials, of which Pyro takes 8 terms; here 200, and the mean of those
    left out, whose standard deviation is 1e-5.

    Source:
        Polson, Scott, Windle (2013), J. Am. Stat. Assoc. 108(504), equation 2.
    """
    like = fn.prototype
    halves = torch.arange(0.5, 200, dtype=like.dtype, device=like.device)
    weight = 1 / (2 * (math.pi * halves).square())
    # Expanded, it has its batch shape as a list.
    shape = torch.Size(sample_shape) + torch.Size(fn.batch_shape)

    def propose() -> tuple[Tensor, Tensor]:
        terms = torch.empty(shape + weight.shape, dtype=like.dtype, device=like.device)
        x = (terms.exponential_() * weight).sum(-1) + 0.25 - weight.sum()
        return x, x < fn.truncation_point

    return _accepted(propose)


def _accepted(propose: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
    """Return proposals that were accepted, one for each place, by as many as it takes."""
    found, done = propose()
    while not done.all():
        again, accepted = propose()
        found = torch.where(done, found, again)
        done = done | accepted
    return found


_SAMPLERS: dict[type, Callable[..., Tensor]] = {
    torch.distributions.LKJCholesky: _lkj,
    dist.SineBivariateVonMises: _sine_bivariate,
    dist.TruncatedPolyaGamma: _polya_gamma,
    dist.RelaxedBernoulliStraightThrough: dist.RelaxedBernoulli.rsample,
    dist.RelaxedOneHotCategoricalStraightThrough: dist.RelaxedOneHotCategorical.rsample,
}
