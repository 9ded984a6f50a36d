"""Regressions, random effects and eight schools, for the comparison with rivals.

Evidences that no formula gives are those of `inference_truths.py`.
"""

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from inference_problem import Problem, array, normal, standard_normal
from torch import Tensor

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
        logits = z @ array(xp, x.T, z)
        return logits @ array(xp, y, z) - xp.logaddexp(0.0 * logits, logits).sum(-1)

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
        log_prior=lambda xp, z: normal(z),
        log_likelihood=log_likelihood,
        draw=standard_normal(x.shape[1]),
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
        return tau + normal(z[..., 1:5], 10.0) + normal(z[..., 5:])

    def log_likelihood(xp: Any, z: Any) -> Any:
        effects = z[..., 5:] * xp.exp(-z[..., :1] / 2)
        logits = z[..., 1:5] @ array(xp, DESIGN.T, z) + effects
        cost = array(xp, n, z) * xp.logaddexp(0.0 * logits, logits)
        return (array(xp, r, z) * logits - cost).sum(-1) + ways

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
        return normal(z[..., :1], 5.0) + cauchy + normal(z[..., 2:])

    def log_likelihood(xp: Any, z: Any) -> Any:
        mean = z[..., :1] + xp.exp(z[..., 1:2]) * z[..., 2:]
        residual = (array(xp, EFFECT, z) - mean) / array(xp, SIGMA, z)
        return normal(residual) - float(np.log(SIGMA).sum())

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
