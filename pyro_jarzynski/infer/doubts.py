"""When not to trust a result, and what to do about it."""

from typing import Protocol

import torch
from torch import Tensor

from pyro_jarzynski.core.precision import coarseness
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.infer.settings import Settings
from pyro_jarzynski.infer.summary import largest_r_hat, largest_shift

# Below these, or above, a result is doubted.
MAX_ISLAND_SPREAD = 1.0
MAX_R_HAT = 1.1
# Posterior standard deviations by which a mean may depend on how islands are weighted.
MAX_SHIFT = 0.1
MIN_ACCEPTANCE = 0.1
# From this Pareto shape on the weights have infinite variance, and no error is known.
MIN_CONDITIONAL_ESS, MAX_SHAPE = 0.25, 0.5
MAX_STUCK = 0.05


class Doubted(Protocol):
    """What is looked at of a result."""

    complete: bool
    history: dict[str, Tensor]
    settings: Settings
    num_undecorrelated: int
    stage_log_weights: list[Tensor]
    walkers: Walkers

    @property
    def log_evidence_per_chain(self) -> Tensor:
        """`log Ẑ` of each island."""

    @property
    def log_evidence_error(self) -> float:
        """Standard error of the log evidence."""

    @property
    def pareto_k(self) -> Tensor:
        """Shape of the largest weights at each stage."""

    @property
    def nonfinite_latents(self) -> list[str]:
        """Latents of which some draws are not finite."""

    def get_samples(
        self, num_samples: int | None = None, *, group_by_chain: bool = False
    ) -> dict[str, Tensor]:
        """Draws by site."""


def find_doubts(result: Doubted) -> list[str]:
    """Return the reasons not to trust a result, each with a remedy."""
    found = []
    if not result.complete:
        found.append(
            f"The run ended {_where(result)}: draws and evidence are those of the law "
            "that was reached. Give it more time, or fewer walkers."
        )
    if not result.history:
        return found
    coarse = coarseness(result.walkers.evaluation.energy)
    if coarse:
        found.append(coarse)
    islands = result.log_evidence_per_chain
    # Values of latents take a run of the model, for which a run that ended has no time.
    draws = result.get_samples(group_by_chain=True) if result.complete else {}
    found += disagreements(islands, draws, "islands")
    if len(islands) == 1 and result.log_evidence_error > 0.5:
        found.append(
            "Almost all walkers descend from a few. Use more walkers or more moves."
        )
    acceptance = float(result.history["acceptance_rate"][-1].mean())
    if acceptance < MIN_ACCEPTANCE:
        found.append(
            f"Only {acceptance:.0%} of the last moves were accepted. Use another "
            "kernel, or reparametrise the model."
        )
    stuck = _stuck(result)
    if stuck > MAX_STUCK and not result.settings.waste_free:
        found.append(
            f"After the moves of a stage {stuck:.0%} of the walkers had not moved, more "
            "than the acceptance rate explains: steps are too long for narrow parts of the "
            "posterior, which may be missed. Allow more moves, or reparametrise the model "
            "(non-centred)."
        )
    lowest = _lowest_share(result)
    if lowest < MIN_CONDITIONAL_ESS and float(result.pareto_k.max()) > MAX_SHAPE:
        found.append(
            f"A step left {lowest:.1%} of the walkers, with weights of Pareto shape "
            f"{float(result.pareto_k.max()):.2f}. Use more temperatures."
        )
    stages = len(result.history["beta"])
    if result.num_undecorrelated > stages / 2:
        found.append(
            f"At {result.num_undecorrelated} of {stages} temperatures `max_moves` ended "
            "the moves before the walkers had decorrelated. Allow more moves."
        )
    found += [
        f"Some draws of the latent {name!r} are not finite, and so its mean and r_hat are "
        "no numbers. Use `torch.set_default_dtype(torch.float64)`, or reparametrise."
        for name in (result.nonfinite_latents if result.complete else [])
    ]
    return found


def disagreements(log_evidences: Tensor, draws: dict[str, Tensor], those: str) -> list[str]:
    """Return what independent runs of one posterior disagree about.

    Args:
        log_evidences: Log evidence of each, `(C,)`.
        draws: Draws of equal weight by site, `(C, N, *shape)`.
        those: The noun for the runs, such as `"islands"`.
    """
    found: list[str] = []
    if len(log_evidences) == 1:
        return found
    spread = float(log_evidences.std())
    if spread > MAX_ISLAND_SPREAD:
        found.append(
            f"The {those}' log evidences differ by {spread:.2g} (one standard deviation). "
            "Use more walkers, more moves, or a larger `ess` of the schedule."
        )
    # Latents with draws that are not finite have a doubt of their own.
    draws = {name: x for name, x in draws.items() if torch.isfinite(x).all()}
    latent, r_hat = largest_r_hat(draws)
    # Not by `>`: NaN is doubted as well, where squares of the draws are not finite.
    if not r_hat <= MAX_R_HAT:
        found.append(
            f"The {those} disagree about the latent {latent!r} (r_hat {r_hat:.2f}): there "
            "may be modes that some have missed. Use more walkers, or a wider base."
        )
    latent, shift = largest_shift(draws, log_evidences)
    if shift > MAX_SHIFT:
        found.append(
            f"The mean of the latent {latent!r} would be {shift:.2g} standard deviations "
            f"from where it is if the {those} counted by their evidences, and not alike. "
            "Use more walkers, or more moves."
        )
    return found


def _lowest_share(result: Doubted) -> float:
    """Return the smallest share of walkers that a step left, of those with a likelihood.

    No path keeps the others: they were lost as soon as it began.
    """
    weights = result.stage_log_weights
    dense = torch.stack([torch.isfinite(x).double().mean() for x in weights])
    share = result.history["conditional_ess"].amin(1) / result.settings.num_walkers
    return float((share / dense.to(share.device)).min())


def _stuck(result: Doubted) -> float:
    """Return the largest share of walkers that stayed though moves were accepted."""
    history = result.history
    refused = 1 - history["acceptance_rate"].mean(1)
    return float((history["repeated"] - refused ** history["num_moves"]).max())


def _where(result: Doubted) -> str:
    """Tell how far an incomplete run went."""
    where = f"at inverse temperature {float(result.history['beta'][-1]):.3g}"
    if "num_observations" not in result.history:
        return where
    return f"{where} of {int(result.history['num_observations'][-1])} observations"
