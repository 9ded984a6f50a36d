"""All problems of the comparison with rivals, and those known in closed form."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference_models import regression, schools, seeds
from inference_problem import Problem, array, normal, standard_normal
from torch import Tensor

import pyro_jarzynski as pj


def mixture() -> Problem:
    """Return two Gaussians in the plane, masses 0.3 and 0.7, 11 apart, of sd 0.5."""
    scale, narrow, centre = 5.0, 0.5, 4.0

    def log_prior(xp: Any, z: Any) -> Any:
        return normal(z, scale)

    def log_likelihood(xp: Any, z: Any) -> Any:
        low = normal(z + centre, narrow) + math.log(0.3)
        high = normal(z - centre, narrow) + math.log(0.7)
        return xp.logaddexp(low, high) - normal(z, scale)

    def in_pymc(pm: Any) -> None:
        import pytensor.tensor as pt

        z = pm.Normal("z", 0.0, scale, shape=2)
        pm.Potential("likelihood", log_likelihood(pt, z))

    return Problem(
        name="mixture",
        size=2,
        log_evidence=0.0,
        evidence_error=0.0,
        model=_target(log_prior, log_likelihood, 2, scale),
        args=(),
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        draw=lambda rng, num: scale * rng.standard_normal((num, 2)),
        pymc=in_pymc,
    )


def gaussian(size: int = 50, condition: float = 1e4) -> Problem:
    """Return a Gaussian whose precision has eigenvalues from 1 to `condition`."""
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.standard_normal((size, size)))[0]
    added = np.geomspace(1.0, condition, size) - 1
    precision = (axes * added) @ axes.T
    centre = rng.standard_normal(size)
    shrunk = (axes.T @ centre) ** 2 * added / (1 + added)
    truth = -0.5 * float(np.log1p(added).sum() + shrunk.sum())

    def log_likelihood(xp: Any, z: Any) -> Any:
        shift = z - array(xp, centre, z)
        return -0.5 * ((shift @ array(xp, precision, z)) * shift).sum(-1)

    def in_pymc(pm: Any) -> None:
        z = pm.Normal("z", 0.0, 1.0, shape=size)
        shift = z - centre
        pm.Potential("likelihood", -0.5 * ((shift @ precision) * shift).sum())

    def log_prior(xp: Any, z: Any) -> Any:
        return normal(z)

    return Problem(
        name="gaussian",
        size=size,
        log_evidence=truth,
        evidence_error=0.0,
        model=_target(log_prior, log_likelihood, size, 1.0),
        args=(),
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        draw=standard_normal(size),
        pymc=in_pymc,
    )


def _target(log_prior: Any, log_likelihood: Any, size: int, scale: float) -> pj.Target:
    def draw(num: int, generator: torch.Generator) -> Tensor:
        return scale * torch.randn(num, size, generator=generator)

    return pj.Target(
        lambda z: log_prior(torch, z), lambda z: log_likelihood(torch, z), draw
    )


def problems(sonar: Path | None, ionosphere: Path | None) -> list[Problem]:
    """Return all problems whose data are here."""
    found = []
    if sonar is not None:
        found.append(regression("sonar", sonar, "M", -108.3833, 0.0038))
    if ionosphere is not None:
        found.append(regression("ionosphere", ionosphere, "g", -111.6150, 0.0022))
    return [*found, seeds(), schools(), mixture(), gaussian()]
