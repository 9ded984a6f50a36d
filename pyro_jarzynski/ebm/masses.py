"""How much of a model each class of its draws holds, by weights and by a classifier."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.special import ndtri
from torch import Tensor

from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.diagnostics.genealogy import (
    check_labels,
    family_concentration,
    family_errors,
)
from pyro_jarzynski.errors import ArgumentError, count

# The most by which a share can err as a standard deviation: that of a fair coin.
COIN = 0.5


class ClassMasses(NamedTuple):
    """Masses of classes, and their standard errors.

    Attributes:
        mass: Mass of each class, `(classes,)`, float64; they sum to one.
        error: Standard error of each, at most ½.

    Example:
        >>> masses = pj.ClassMasses(torch.tensor([0.2, 0.8]), torch.tensor([0.04, 0.04]))
        >>> masses.interval().round(decimals=2)
        tensor([[0.1300, 0.2900],
                [0.7100, 0.8700]])
    """

    mass: Tensor
    error: Tensor

    def interval(self, level: float = 0.95) -> Tensor:
        """Return an interval of each mass at a level of confidence, `(classes, 2)`.

        Wilson's, at as many independent draws as would have the same error; of a class
        that was not found it begins at 0.
        """
        if not isinstance(level, float) or not 0 < level < 1:
            raise ArgumentError(f"`level` must be a float between 0 and 1, got {level!r}.")
        z = float(ndtri((1 + level) / 2))
        spread = self.mass * (1 - self.mass)
        # A class of mass 0 or 1 has no error of its own: that of the others counts.
        draws = (spread.sum() / self.error.square().sum()).clamp(min=1)
        own = torch.where(spread > 0, spread / self.error.square(), draws).clamp(min=1)
        middle = (self.mass + z**2 / (2 * own)) / (1 + z**2 / own)
        half = z / (1 + z**2 / own) * (spread / own + z**2 / (4 * own**2)).sqrt()
        return torch.stack([middle - half, middle + half], 1).clamp(0, 1)


def class_masses(
    draws: Tensor | Walkers,
    classify: Callable[[Tensor], Tensor],
    *,
    num_classes: int | None = None,
) -> ClassMasses:
    """Return the mass of each class of a model's draws, with errors.

    Walkers count by their weights. Relatives say the same, so that errors are those
    between families of a common ancestor, `√ (Σ_e W_e² (p_e - p)² / (1 - Σ_e W_e²))`; if
    all descend from one walker, the error is ½.

    Args:
        draws: Weighted walkers, such as `learner.audit.cloud.walkers`, or independent
            draws of equal weight, `(n, *event)`.
        classify: Takes positions `(n, *event)` to the class of each, `(n,)`: integers
            from 0, or booleans for two classes.
        num_classes: Number of classes; `None` is that of the largest label.

    Raises:
        ArgumentError: Classes are of another shape, negative or too large.
        ArgumentTypeError: `classify` does not return a tensor of integers.

    Example:
        >>> draws = torch.tensor([[-1.0], [1.0], [2.0], [3.0]])
        >>> pj.class_masses(draws, lambda x: x[:, 0] > 0).mass
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    walkers = draws if isinstance(draws, Walkers) else _alike(draws)
    position = walkers.position
    if not isinstance(position, Tensor):
        raise ArgumentError(
            "`draws` must be walkers with one tensor of positions each, got "
            f"{type(position).__name__}; pass the part that `classify` takes."
        )
    labels = check_labels("classify", classify(position), len(position))
    most = int(labels.max())
    num = most + 1 if num_classes is None else count("num_classes", num_classes)
    if most >= num:
        raise ArgumentError(
            f"`classify` must return classes below `num_classes` {num}, got {most}."
        )
    inside = torch.nn.functional.one_hot(labels, num).double()
    weight = walkers.weight.flatten() / walkers.log_banked.numel()
    return ClassMasses(weight @ inside, _errors(walkers, inside))


def _errors(walkers: Walkers, inside: Tensor) -> Tensor:
    concentration = family_concentration(walkers)
    if math.isclose(concentration, 1, rel_tol=1e-9):
        return torch.full_like(inside[0], COIN)
    between = family_errors(walkers, inside) / (1 - concentration) ** 0.5
    return between.clamp(max=COIN)


def _alike(draws: Tensor) -> Walkers:
    """Return draws as walkers of equal weight that are no relatives of each other."""
    if draws.ndim < 1 or not len(draws):
        raise ArgumentError(
            f"`draws` must hold draws, got shape {tuple(draws.shape)}; pass `(n, *event)`."
        )
    size, device = len(draws), draws.device
    zero = torch.zeros(size, dtype=torch.float64, device=device)
    return Walkers(
        position=draws,
        evaluation=None,  # type: ignore[arg-type]
        log_weight=zero,
        log_banked=zero[0],
        ancestor=torch.arange(size, device=device),
        steps=torch.zeros((), dtype=torch.int64, device=device),
    )
