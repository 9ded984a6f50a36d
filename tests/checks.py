"""All checks by name; each is a number that is below one where it passes."""

from collections.abc import Callable
from functools import partial

from pyro_jarzynski.core.hamiltonian import UnderdampedLangevin
from pyro_jarzynski.core.resampling import RESAMPLERS
from tests import identities, resampling_checks
from tests.identities import DENSE, DIAGONAL, KERNELS

MAIN_KERNELS = ("ULA", "MALA", "HMC", "underdamped", "frictionless")

CHECKS: dict[str, Callable[[], float]] = {
    "golden value": identities.golden_value,
    "densities": identities.densities_of_moves,
    "diagonal densities": partial(identities.densities_of_moves, DIAGONAL),
    "dense densities": partial(identities.densities_of_moves, DENSE),
    "proposal": identities.density_of_proposal,
    "diagonal proposal": partial(identities.density_of_proposal, DIAGONAL),
    "dense proposal": partial(identities.density_of_proposal, DENSE),
    "infinite friction": identities.infinite_friction,
    "evidence of known variance": identities.evidence_of_known_variance,
}
for _kernel in KERNELS:
    CHECKS[f"moments: {_kernel}"] = partial(identities.evidence_and_moments, _kernel)
for _kernel in MAIN_KERNELS:
    CHECKS[f"crooks: {_kernel}"] = partial(identities.crooks, _kernel)
    CHECKS[f"coin: {_kernel}"] = partial(identities.coin, _kernel)
    CHECKS[f"carried evaluation: {_kernel}"] = partial(
        identities.carried_evaluation, _kernel
    )
for _scheme in RESAMPLERS:
    CHECKS[f"offspring: {_scheme}"] = partial(resampling_checks.offspring, _scheme)
    CHECKS[f"extremes: {_scheme}"] = partial(resampling_checks.extreme_uniforms, _scheme)
    CHECKS[f"resampled evidence: {_scheme}"] = partial(
        resampling_checks.resampled_evidence, _scheme
    )
# With little friction the momenta remember, so that they must follow their walkers.
CHECKS["resampled momenta"] = partial(
    resampling_checks.resampled_evidence,
    "systematic",
    UnderdampedLangevin(0.6, friction=0.1),
)


def passes(name: str) -> bool:
    """Tell whether a check passes."""
    return CHECKS[name]() < 1
