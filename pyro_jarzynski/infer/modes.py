"""How much of the posterior each of its modes holds."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_jarzynski.diagnostics.genealogy import check_labels, family_errors
from pyro_jarzynski.errors import ArgumentError, count
from pyro_jarzynski.infer.result import SMCResult


def mode_masses(
    result: SMCResult,
    assign: Callable[[dict[str, Tensor]], Tensor],
    *,
    num_modes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the mass of each mode and its standard error.

    Masses are shares of the weight of an island, averaged over the islands. Errors are the
    spread of the islands, `sd / √C`; of a single island that between the families of
    walkers with a common ancestor.

    Args:
        result: A run.
        assign: Takes values by site, each `(n, *shape)`, to the mode of each, `(n,)`:
            integers from 0, or booleans for two modes.
        num_modes: Number of modes; `None` is two for booleans, or else up to the largest
            label. A mode that no walker found has mass 0 and error 0, which is not to be
            trusted.

    Returns:
        Masses and standard errors, each `(modes,)`, float64.

    Raises:
        ArgumentError: The model has no latents, or `assign` returns another shape, or a
            label that is negative or too large.
        ArgumentTypeError: `assign` does not return a tensor of integers.

    Example:
        >>> target = pj.Target(
        ...     log_prior=lambda x: dist.Normal(0.0, 2.0).log_prob(x).sum(1),
        ...     log_likelihood=lambda x: -(x.square() - 1).square().sum(1) * 4,
        ...     prior_sample=lambda n, g: 2 * torch.randn(n, 1, generator=g),
        ... )
        >>> result = pj.AnnealedSMC(target, num_walkers=256, progress=False).run()
        >>> masses, errors = pj.mode_masses(result, lambda sites: sites["x"][:, 0] > 0)
        >>> bool((masses - 0.5).abs().max() < 0.1)  # wells at -1 and 1, alike
        True
    """
    if not result.has_draws:
        raise ArgumentError(
            "`result` has no walkers to assign: its model has no latents, so that there "
            "are no modes."
        )
    size = len(result.walkers.log_weight)
    assigned = assign(result.weighted_samples()[0])
    labels = check_labels("assign", assigned, size)
    found = 2 if assigned.dtype == torch.bool else int(labels.max()) + 1
    num = found if num_modes is None else count("num_modes", num_modes)
    if int(labels.max()) >= num:
        raise ArgumentError(
            f"`assign` must return modes below `num_modes` {num}, got {int(labels.max())}."
        )
    walkers = result.walkers
    inside = torch.nn.functional.one_hot(labels, num).to(walkers.weight)
    islands = inside.reshape(*walkers.weight.shape, num)
    shares = (walkers.weight[..., None] * islands).sum(1)
    if len(shares) == 1:
        return shares[0], family_errors(walkers, inside)
    return shares.mean(0), shares.std(0) / len(shares) ** 0.5
