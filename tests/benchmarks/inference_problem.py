"""A posterior of known evidence, written once for every rival: Pyro, array code, PyMC.

`log_prior` and `log_likelihood` are written for one point `(d,)` or many, `(n, d)`, of
unconstrained coordinates, and for any library `xp` with the interface of NumPy. All rivals
see the same coordinates: scales by their logarithm, random effects non-centred.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Problem:
    """A posterior and its evidence.

    Attributes:
        name: Short name.
        size: Unconstrained coordinates `d`.
        log_evidence: True log evidence, nats, and `evidence_error` its standard error.
        model: Pyro model, or `Target`, of the arguments `args`.
        log_prior: `(xp, z) -> (...)`, normalised, with Jacobians.
        log_likelihood: `(xp, z) -> (...)`.
        draw: `(rng, n) -> (n, d)`, draws of the prior.
        pymc: Makes the model of PyMC, inside its context, from the module.
        double: Whether it needs 64-bit floats.
    """

    name: str
    size: int
    log_evidence: float
    evidence_error: float
    model: Any
    args: tuple
    log_prior: Callable[[Any, Any], Any]
    log_likelihood: Callable[[Any, Any], Any]
    draw: Callable[[np.random.Generator, int], np.ndarray]
    pymc: Callable[[Any], None]
    double: bool = False


def normal(z: Any, scale: float = 1.0) -> Any:
    constant = z.shape[-1] * (math.log(scale) + LOG_2PI / 2)
    return -0.5 * ((z / scale) ** 2).sum(-1) - constant


def array(xp: Any, values: np.ndarray, z: Any) -> Any:
    return xp.asarray(values, dtype=z.dtype)


def standard_normal(size: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda rng, n: rng.standard_normal((n, size))
