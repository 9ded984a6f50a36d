"""Dimensions of supports, by which sets of measure zero are found."""

import torch
from pyro.distributions import constraints as pyro_constraints
from torch.distributions.constraints import Constraint

from pyro_jarzynski.distributions.bijections import biject_to
from pyro_jarzynski.distributions.constraints import Image, LogSimplex, stripped


def dimension(support: Constraint, shape: torch.Size) -> int:
    """Return the dimension of a set of tensors of real numbers, of the given shape.

    It is less than the number of entries where these depend on each other: vectors that
    sum to one, symmetric matrices.
    """
    support = stripped(support)
    if isinstance(support, Image):
        for link in reversed(support.links):
            shape = link.inverse_shape(shape)
        return dimension(support.base, shape)
    if isinstance(support, LogSimplex | type(pyro_constraints.sphere)):
        return shape[:-1].numel() * (shape[-1] - 1)
    try:
        return biject_to(support).inverse_shape(shape).numel()
    except NotImplementedError:
        return shape.numel()
