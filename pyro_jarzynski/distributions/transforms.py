"""Chains of transforms, with the Jacobians that torch has wrong put right."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from pyro.distributions import transforms
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.transforms import _InverseTransform


def exact(link: Any) -> Transform:
    """Return a transform with the right Jacobian, which torch has wrong for two of its own.

    Of an affine transform with a tensor of fewer numbers than an event it counts each once;
    of a power, as in the inverse Gamma distribution, it loses its logarithm to underflow.
    """
    if isinstance(link, transforms.ComposeTransform):
        parts = [exact(part) for part in link.parts]
        changed = any(a is not b for a, b in zip(parts, link.parts, strict=True))
        return transforms.ComposeTransform(parts, link._cache_size) if changed else link
    if isinstance(link, transforms.IndependentTransform):
        base = exact(link.base_transform)
        if base is link.base_transform:
            return link
        return transforms.IndependentTransform(base, link.reinterpreted_batch_ndims)
    if isinstance(link, _InverseTransform):
        inverse = exact(link.inv)
        return link if inverse is link.inv else inverse.inv
    if type(link) is transforms.PowerTransform:
        return _Power(link.exponent, link._cache_size)
    if type(link) is not transforms.AffineTransform or not link.event_dim:
        return link
    if not isinstance(link.scale, Tensor):
        return link
    return _Affine(link.loc, link.scale, link.event_dim, link._cache_size)


class _Affine(transforms.AffineTransform):
    """An affine transform that counts its scale for each number of an event."""

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        scale = self.scale
        assert isinstance(scale, Tensor)
        log_scale = scale.abs().log().expand(torch.broadcast_shapes(x.shape, scale.shape))
        for _ in range(self.event_dim):
            log_scale = log_scale.sum(-1)
        return log_scale

    def with_cache(self, cache_size: int = 1) -> Transform:
        if self._cache_size == cache_size:
            return self
        return _Affine(self.loc, self.scale, self.event_dim, cache_size)


class _Power(transforms.PowerTransform):
    """A power whose Jacobian is finite wherever its logarithm is."""

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        slope = (self.exponent * y / x).abs()
        is_normal = (slope > 0) & (slope < math.inf)
        by_parts = self.exponent.abs().log() + y.abs().log() - x.abs().log()
        return torch.where(is_normal, torch.where(is_normal, slope, 1.0).log(), by_parts)

    def with_cache(self, cache_size: int = 1) -> Transform:
        if self._cache_size == cache_size:
            return self
        return _Power(self.exponent, cache_size)


def flattened(links: Iterable[Transform]) -> Iterator[Transform]:
    """Yield the parts of composed transforms."""
    for link in links:
        if isinstance(link, transforms.ComposeTransform):
            yield from flattened(link.parts)
        elif isinstance(link, transforms.IndependentTransform):
            event_dim = link.reinterpreted_batch_ndims
            for part in flattened([link.base_transform]):
                yield transforms.IndependentTransform(part, event_dim)
        else:
            yield link
