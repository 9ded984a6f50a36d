"""Sets of counts, matchings, trees and times, with a point of each.

Pyro's own checks of them cannot be mapped, or accept what is outside.
"""

import torch
from torch import Tensor

from pyro_jarzynski.distributions.constraints import NamedConstraint


class Structure(NamedConstraint):
    """A set with a method that returns one of its points."""

    def point(self, value: Tensor) -> Tensor:
        """Return a point of the set, with the shape of a value or one event of it."""
        raise NotImplementedError


class Counts(Structure):
    """Vectors of counts, of any total."""

    is_discrete = True
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Tell which vectors are counts."""
        return ((value >= 0) & (value % 1 == 0)).all(-1)

    def point(self, value: Tensor) -> Tensor:
        """Return no counts."""
        return torch.zeros_like(value)


class Matchings(Structure):
    """Destinations of sources, each as often as any other.

    Args:
        num_destins: Number of destinations.
        times: Sources of each.
    """

    is_discrete = True
    event_dim = 1

    def __init__(self, num_destins: int, times: int) -> None:
        """Keep both."""
        self.num_destins, self.times = num_destins, times

    def check(self, value: Tensor) -> Tensor:
        """Tell in which vectors each destination has its sources."""
        destins = torch.arange(self.num_destins, device=value.device)
        found = (value.unsqueeze(-1) == destins).sum(-2)
        return (found == self.times).all(-1)

    def point(self, value: Tensor) -> Tensor:
        """Return the matching in order."""
        sources = torch.arange(value.shape[-1], device=value.device)
        return (sources // self.times).to(value.dtype)


class Trees(Structure):
    """Edges `(N - 1, 2)` of trees that span `N` vertices, in the order of Pyro.

    Each from a smaller to a larger vertex, sorted by the larger and then by the smaller.
    """

    is_discrete = True
    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        """Tell which edges are trees: their incidence matrix has determinant 1 or -1."""
        num = value.shape[-2] + 1
        vertices = torch.arange(num, device=value.device)
        ends = (value.unsqueeze(-1) == vertices).to(torch.float64)
        incidence = ends[..., 0, 1:] - ends[..., 1, 1:]
        is_known = (ends.sum(-1) == 1).flatten(-2).all(-1)
        place = value[..., 0] + num * value[..., 1]
        in_order = (value[..., 0] < value[..., 1]).all(-1)
        in_order = in_order & (place[..., :-1] < place[..., 1:]).all(-1)
        return is_known & in_order & (torch.linalg.det(incidence).abs() > 0.5)

    def point(self, value: Tensor) -> Tensor:
        """Return the star around the first vertex."""
        others = torch.arange(1, value.shape[-2] + 1, device=value.device)
        return torch.stack([torch.zeros_like(others), others], -1).to(value.dtype)


class Coalescences(Structure):
    """Times in order at which lineages join, backwards from leaves until one is left.

    Args:
        leaf_times: When lineages begin, `(*batch, N)`.
    """

    event_dim = 1

    def __init__(self, leaf_times: Tensor) -> None:
        """Keep the times."""
        self.leaf_times = leaf_times

    def check(self, value: Tensor) -> Tensor:
        """Tell which times are in order, with two lineages at least at each of them."""
        leaves = self.leaf_times.unsqueeze(-2) >= value.unsqueeze(-1)
        joined = torch.arange(value.shape[-1] - 1, -1, -1, device=value.device)
        in_order = (value[..., :-1] <= value[..., 1:]).all(-1)
        return in_order & (leaves.sum(-1) - joined >= 2).all(-1)

    def point(self, value: Tensor) -> Tensor:
        """Return some times before all leaves."""
        steps = torch.arange(-value.shape[-1], 0, dtype=value.dtype, device=value.device)
        return self.leaf_times.amin(-1, keepdim=True) + steps
