"""The registry of the zoo, and the data that its models share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Walkers at which the tests look; two models have as many data or latents.
NUM_WALKERS = 17


class Case(NamedTuple):
    """A model and what is expected of it.

    Attributes:
        model: The model.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        method: How many walkers are evaluated at once.
        no_potential: Why Pyro's own potential is no reference; empty if it is one.
    """

    model: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    method: str
    no_potential: str


ZOO: dict[str, Case] = {}


def case(
    *args: Any, method: str = "vmap", no_potential: str = "", **kwargs: Any
) -> Callable[[Callable], Callable]:
    """Add a model with its arguments to the zoo."""

    def add(model: Callable) -> Callable:
        ZOO[model.__name__] = Case(model, args, kwargs, method, no_potential)
        return model

    return add


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Y = noise(12) + 0.5
LINE = noise(12, seed=1)
X = noise(12, 3, seed=2)
LABEL = (X.sum(1) > 0).float()
COUNT = torch.tensor([2.0, 0.0, 3.0, 5.0, 1.0, 2.0, 4.0, 1.0])
KIND = torch.tensor([0, 2, 1, 1, 0, 1, 2, 1, 0, 1, 1, 2])
GROUP = torch.arange(12) % 4
TWO_HUMPS = torch.cat([noise(6, seed=3) - 2, noise(6, seed=4) + 2])
PATH = torch.cat([noise(3, seed=5), noise(3, seed=6) + 2])
SCHOOLS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SCHOOLS_ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
