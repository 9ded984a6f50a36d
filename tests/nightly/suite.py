"""The statistical checks of the suite, each as a function that returns a p-value.

Checks return a statistic divided by its limit, whose false-alarm rate is declared; the law
behind the limit turns it back into a p-value. The p-value of an exact check is 0 or 1.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial

from scipy.stats import binom, norm

from pyro_jarzynski.core.hamiltonian import HMC
from pyro_jarzynski.core.kernels import MALA, ULA
from pyro_jarzynski.core.resampling import RESAMPLERS
from tests import resampling_checks
from tests.checks import CHECKS
from tests.identities import FALSE_ALARM, Z_ONE, Z_SIX
from tests.infer import simulated
from tests.infer.test_calibration import Effects, Poisson, Scale, scores, smallest_p_value
from tests.infer.test_zoo_evidence import EVIDENCE, result_of
from tests.nightly import posteriors

Law = Callable[[float], float]
Check = Callable[[], float]

LEVEL = 0.9
# Intervals of 90 % may miss this often: their law is Student's, of eight islands with
# skewed and slightly biased estimates, so that 0.1 itself is no promise.
MISSES = 0.2
SBC_SIZE, SBC_WALKERS = 200, 128
PYRO_SIZE = 20


def largest_z(limit: float, number: int, ratio: float) -> float:
    """Return the p-value of the largest of some |z|, as a share of their limit."""
    return min(1.0, 2 * number * float(norm.sf(limit * ratio)))


def hoeffding(ratio: float) -> float:
    """Return the p-value of a bounded mean, as a share of Hoeffding's limit."""
    return min(1.0, 2 * (FALSE_ALARM / 2) ** (ratio**2))


def exact(ratio: float) -> float:
    """Return 0 for an error beyond its tolerance, and 1 otherwise."""
    return float(ratio < 1)


# By the first word of a check's name. The numbers are those of statistics per check.
LAWS: dict[str, Law] = {
    "evidence": partial(largest_z, Z_ONE, 1),
    "moments": partial(largest_z, Z_SIX, 6),
    "crooks": hoeffding,
    "coin": partial(largest_z, Z_ONE, 1),
    "offspring": partial(largest_z, Z_SIX, 5),
    "resampled": partial(largest_z, 4.2, 2),
}


def law_of(name: str) -> Law:
    """Return the law of a check in `tests.checks`, by its name."""
    return LAWS.get(name.replace(":", "").split()[0], exact)


def is_exact(name: str) -> bool:
    """Tell whether a check must never fail, whatever the seed."""
    return name in CHECKS and law_of(name) is exact


def p_value(name: str, check: Callable[[], float]) -> float:
    """Run a check, and return its p-value; a check that returns NaN has failed."""
    ratio = check()
    return 0.0 if math.isnan(ratio) else law_of(name)(ratio)


def coverage() -> float:
    """Return the p-value of the evidence intervals that miss known evidence.

    The chance of that many misses, or more, if intervals of 90 % missed in `MISSES`.
    """
    missed = 0
    for name, truth in EVIDENCE.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            low, high = result_of(name).log_evidence_interval(LEVEL)
        missed += not low <= truth <= high
    return float(binom.sf(missed - 1, len(EVIDENCE), MISSES))


def calibration(model: type[Poisson]) -> float:
    """Return the p-value of simulation-based calibration in a small size."""
    found = scores(model(), size=SBC_SIZE, num_walkers=SBC_WALKERS)
    return min(1.0, smallest_p_value(found))


def calibration_in_pyro(name: str) -> float:
    """Return the p-value of the same for a Pyro model, whose runs take their turns."""
    found = simulated.scores(simulated.CASES[name], size=PYRO_SIZE)
    return min(1.0, smallest_p_value(found))


def suite() -> dict[str, Check]:
    """Return all checks by name; each call draws with the seed of the environment."""
    found = {name: partial(p_value, name, check) for name, check in CHECKS.items()}
    evidence = resampling_checks.resampled_evidence
    unbiased = {
        **{f"resampled: {s}, 4 walkers": partial(evidence, s, num=4) for s in RESAMPLERS},
        "resampled: in every step": partial(evidence, "systematic", threshold=1.0),
        "resampled: never": partial(evidence, "systematic", threshold=0.0),
        "resampled: MALA": partial(evidence, "systematic", MALA(0.6)),
        "resampled: HMC": partial(evidence, "systematic", HMC(0.8, num_leapfrog=2)),
        "resampled: fine ULA": partial(evidence, "systematic", ULA(0.1)),
    }
    found |= {name: partial(p_value, name, check) for name, check in unbiased.items()}
    for model in (Poisson, Scale, Effects):
        found[f"calibration: {model.__name__}"] = partial(calibration, model)
    for name in ("coin", "mixed"):
        found[f"calibration: {name}, in Pyro"] = partial(calibration_in_pyro, name)
    found["coverage of the evidence"] = coverage
    if posteriors.TRUTH.exists():
        found["evidence of posteriordb"] = posteriors.evidence
    return found
