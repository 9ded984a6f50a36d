"""Posteriors of known evidence, once for every rival: Pyro, array code, PyMC.

`log_prior` and `log_likelihood` are written for one point `(d,)` or many, `(n, d)`, of
unconstrained coordinates, and for any library `xp` with the interface of NumPy. All rivals
see the same coordinates: scales by their logarithm, random effects non-centred.
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_jarzynski as pj

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


def _normal(z: Any, scale: float = 1.0) -> Any:
    constant = z.shape[-1] * (math.log(scale) + LOG_2PI / 2)
    return -0.5 * ((z / scale) ** 2).sum(-1) - constant


def _array(xp: Any, values: np.ndarray, z: Any) -> Any:
    return xp.asarray(values, dtype=z.dtype)


def _standard_normal(size: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda rng, n: rng.standard_normal((n, size))


# Logistic regression -------------------------------------------------------------------


def regression_model(x: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    pyro.sample("y", dist.Bernoulli(logits=x @ beta).to_event(1), obs=y)


def regression(
    name: str, table: Path, positive: str, truth: float, error: float
) -> Problem:
    """Return a regression on standardised columns and an intercept, prior N(0, 1)."""
    rows = [line.split(",") for line in table.read_text().split()]
    x = np.array([[float(cell) for cell in row[:-1]] for row in rows])
    spread = x.std(0)
    x = (x - x.mean(0)) / np.where(spread == 0, 1.0, spread)
    x = np.concatenate([np.ones((len(x), 1)), x], 1)
    y = np.array([float(row[-1] == positive) for row in rows])

    def log_likelihood(xp: Any, z: Any) -> Any:
        logits = z @ _array(xp, x.T, z)
        return logits @ _array(xp, y, z) - xp.logaddexp(0.0 * logits, logits).sum(-1)

    def in_pymc(pm: Any) -> None:
        beta = pm.Normal("beta", 0.0, 1.0, shape=x.shape[1])
        pm.Bernoulli("y", logit_p=x @ beta, observed=y)

    return Problem(
        name=name,
        size=x.shape[1],
        log_evidence=truth,
        evidence_error=error,
        model=regression_model,
        args=(torch.tensor(x).float(), torch.tensor(y).float()),
        log_prior=lambda xp, z: _normal(z),
        log_likelihood=log_likelihood,
        draw=_standard_normal(x.shape[1]),
        pymc=in_pymc,
    )


def sonar_file() -> Path | None:
    """Return the file that the package `particles` has, if it is installed."""
    spec = importlib.util.find_spec("particles")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "datasets" / "sonar.all-data"
    return path if path.exists() else None


# Seeds: random effects of 21 plates, Crowder (1978), Appl. Stat. 27(1) ------------------

GERMINATED = [10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3]
SOWN = [39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7]
SEED = np.array([0.0] * 11 + [1.0] * 10)
EXTRACT = np.array([0.0] * 5 + [1.0] * 6 + [0.0] * 5 + [1.0] * 5)
DESIGN = np.stack([np.ones(21), SEED, EXTRACT, SEED * EXTRACT], 1)
GAMMA = 0.01


def seeds_model(design: Tensor, sown: Tensor, germinated: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(GAMMA, GAMMA))
    fixed = pyro.sample("fixed", dist.Normal(0.0, 10.0).expand([4]).to_event(1))
    raw = pyro.sample("raw", dist.Normal(0.0, 1.0).expand([21]).to_event(1))
    law = dist.Binomial(sown, logits=design @ fixed + raw / tau.sqrt())
    pyro.sample("germinated", law.to_event(1), obs=germinated)


def seeds() -> Problem:
    """Return the random-effects model; coordinates are log tau, 4 fixed, 21 effects."""
    r, n = np.array(GERMINATED, dtype=float), np.array(SOWN, dtype=float)
    ways = sum(
        math.lgamma(b + 1) - math.lgamma(a + 1) - math.lgamma(b - a + 1)
        for a, b in zip(r, n, strict=True)
    )
    gamma = GAMMA * math.log(GAMMA) - math.lgamma(GAMMA)

    def log_prior(xp: Any, z: Any) -> Any:
        tau = GAMMA * (z[..., 0] - xp.exp(z[..., 0])) + gamma
        return tau + _normal(z[..., 1:5], 10.0) + _normal(z[..., 5:])

    def log_likelihood(xp: Any, z: Any) -> Any:
        effects = z[..., 5:] * xp.exp(-z[..., :1] / 2)
        logits = z[..., 1:5] @ _array(xp, DESIGN.T, z) + effects
        cost = _array(xp, n, z) * xp.logaddexp(0.0 * logits, logits)
        return (_array(xp, r, z) * logits - cost).sum(-1) + ways

    def draw(rng: np.random.Generator, num: int) -> np.ndarray:
        # Gamma(a) is Gamma(a + 1) U^{1/a}, which in logarithms does not underflow.
        log_tau = np.log(rng.gamma(GAMMA + 1, size=num) / GAMMA)
        log_tau = log_tau + np.log(rng.random(num)) / GAMMA
        rest = rng.standard_normal((num, 25)) * np.array([10.0] * 4 + [1.0] * 21)
        return np.concatenate([log_tau[:, None], rest], 1)

    def in_pymc(pm: Any) -> None:
        tau = pm.Gamma("tau", GAMMA, GAMMA)
        fixed = pm.Normal("fixed", 0.0, 10.0, shape=4)
        raw = pm.Normal("raw", 0.0, 1.0, shape=21)
        logits = DESIGN @ fixed + raw / tau**0.5
        pm.Binomial("r", n=n.astype(int), logit_p=logits, observed=r.astype(int))

    return Problem(
        name="seeds",
        size=26,
        log_evidence=-73.4058,
        evidence_error=0.0025,
        model=seeds_model,
        args=(torch.tensor(DESIGN), torch.tensor(n), torch.tensor(r)),
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        draw=draw,
        pymc=in_pymc,
        double=True,
    )


# Eight schools, non-centred -------------------------------------------------------------

EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools_model(effect: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    raw = pyro.sample("raw", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
    pyro.sample("y", dist.Normal(mu + tau * raw, sigma).to_event(1), obs=effect)


def schools() -> Problem:
    """Return eight schools; coordinates are mu, log tau and 8 effects."""

    def log_prior(xp: Any, z: Any) -> Any:
        cauchy = math.log(2 / (5 * math.pi)) + z[..., 1]
        cauchy = cauchy - xp.log1p((xp.exp(z[..., 1]) / 5) ** 2)
        return _normal(z[..., :1], 5.0) + cauchy + _normal(z[..., 2:])

    def log_likelihood(xp: Any, z: Any) -> Any:
        mean = z[..., :1] + xp.exp(z[..., 1:2]) * z[..., 2:]
        residual = (_array(xp, EFFECT, z) - mean) / _array(xp, SIGMA, z)
        return _normal(residual) - float(np.log(SIGMA).sum())

    def draw(rng: np.random.Generator, num: int) -> np.ndarray:
        mu = 5 * rng.standard_normal((num, 1))
        tau = 5 * np.abs(rng.standard_cauchy((num, 1)))
        return np.concatenate([mu, np.log(tau), rng.standard_normal((num, 8))], 1)

    def in_pymc(pm: Any) -> None:
        mu = pm.Normal("mu", 0.0, 5.0)
        tau = pm.HalfCauchy("tau", 5.0)
        raw = pm.Normal("raw", 0.0, 1.0, shape=8)
        pm.Normal("y", mu + tau * raw, SIGMA, observed=EFFECT)

    return Problem(
        name="eight schools",
        size=10,
        log_evidence=-31.3113,
        evidence_error=0.0,
        model=schools_model,
        args=(torch.tensor(EFFECT).float(), torch.tensor(SIGMA).float()),
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        draw=draw,
        pymc=in_pymc,
    )


# Laws whose evidence is known in closed form --------------------------------------------


def mixture() -> Problem:
    """Return two Gaussians in the plane, masses 0.3 and 0.7, 11 apart, of sd 0.5."""
    scale, narrow, centre = 5.0, 0.5, 4.0

    def log_prior(xp: Any, z: Any) -> Any:
        return _normal(z, scale)

    def log_likelihood(xp: Any, z: Any) -> Any:
        low = _normal(z + centre, narrow) + math.log(0.3)
        high = _normal(z - centre, narrow) + math.log(0.7)
        return xp.logaddexp(low, high) - _normal(z, scale)

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
        shift = z - _array(xp, centre, z)
        return -0.5 * ((shift @ _array(xp, precision, z)) * shift).sum(-1)

    def in_pymc(pm: Any) -> None:
        z = pm.Normal("z", 0.0, 1.0, shape=size)
        shift = z - centre
        pm.Potential("likelihood", -0.5 * ((shift @ precision) * shift).sum())

    def log_prior(xp: Any, z: Any) -> Any:
        return _normal(z)

    return Problem(
        name="gaussian",
        size=size,
        log_evidence=truth,
        evidence_error=0.0,
        model=_target(log_prior, log_likelihood, size, 1.0),
        args=(),
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        draw=_standard_normal(size),
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
