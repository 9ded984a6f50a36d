"""The evidences that `inference_models.py` states and no formula gives.

    python tests/benchmarks/inference_truths.py [--ionosphere FILE] [--draws 400000]

Importance sampling from Student's t fitted to earlier rounds of it: in all coordinates for
the logistic regressions; for the random effects in the five others, with the effects,
independent given those, integrated out by Gauss-Hermite quadrature. Prints `log Z`, its
standard error and the effective sample size of each round; the last one counts.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from inference_models import DESIGN, GERMINATED, SOWN, sonar_file
from inference_problem import Problem
from inference_problems import problems
from scipy.special import gammaln, logsumexp

LogDensity = Callable[[np.ndarray], np.ndarray]
BATCH = 10_000
NUM_NODES = 48


class Round(NamedTuple):
    """What a round of importance sampling gave."""

    log_evidence: float
    error: float
    effective: float
    mean: np.ndarray
    covariance: np.ndarray


def importance(
    density: LogDensity,
    mean: np.ndarray,
    covariance: np.ndarray,
    draws: int,
    freedom: int,
    seed: int,
) -> Round:
    """Sample from Student's t and weigh by a log-density, `(n, d) -> (n,)`.

    Rounds need seeds of their own: the next is fitted to the draws of the last.
    """
    rng, size = np.random.default_rng(seed), len(mean)
    lower = np.linalg.cholesky(covariance)
    constant = gammaln((freedom + size) / 2) - gammaln(freedom / 2)
    constant -= size / 2 * math.log(freedom * math.pi) + np.log(np.diag(lower)).sum()
    points, log_weights = [], []
    for _ in range(draws // BATCH):
        stretch = np.sqrt(rng.chisquare(freedom, (BATCH, 1)) / freedom)
        white = rng.standard_normal((BATCH, size)) / stretch
        points.append(mean + white @ lower.T)
        tail = (freedom + size) / 2 * np.log1p((white**2).sum(1) / freedom)
        log_weights.append(density(points[-1]) - constant + tail)
    log_weight, z = np.concatenate(log_weights), np.concatenate(points)
    weight = np.exp(log_weight - log_weight.max())
    error = weight.std() / weight.mean() / math.sqrt(len(weight))
    weight /= weight.sum()
    centre = weight @ z
    return Round(
        float(logsumexp(log_weight)) - math.log(len(weight)),
        float(error),
        float(1 / (weight**2).sum()),
        centre,
        (weight[:, None] * (z - centre)).T @ (z - centre),
    )


def regression_rounds(problem: Problem, draws: int) -> list[Round]:
    """Return the rounds for a logistic regression, from its Laplace approximation."""
    x, y = (value.double().numpy() for value in problem.args)
    beta = np.zeros(problem.size)
    for _ in range(50):
        share = 1 / (1 + np.exp(-x @ beta))
        hessian = (x * (share * (1 - share))[:, None]).T @ x + np.eye(problem.size)
        beta = beta - np.linalg.solve(hessian, x.T @ (share - y) + beta)

    def density(z: np.ndarray) -> np.ndarray:
        return problem.log_prior(np, z) + problem.log_likelihood(np, z)

    mean, covariance = beta, 1.1 * np.linalg.inv(hessian)
    rounds = []
    for seed, number in enumerate((40_000, 40_000, 40_000, draws)):
        rounds.append(importance(density, mean, covariance, number, 30, seed))
        if rounds[-1].effective > 200:
            mean = rounds[-1].mean
        if rounds[-1].effective > 2000:
            covariance = 1.05 * rounds[-1].covariance
    return rounds


def effects_rounds(problem: Problem, draws: int) -> list[Round]:
    """Return the rounds for the random effects, in log tau and four coefficients."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
    log_weights = np.log(weights) - math.log(2 * math.pi) / 2
    r, n = np.array(GERMINATED, dtype=float), np.array(SOWN, dtype=float)
    ways = gammaln(n + 1) - gammaln(r + 1) - gammaln(n - r + 1)

    def density(theta: np.ndarray) -> np.ndarray:
        none = np.zeros((len(theta), 21))
        prior = problem.log_prior(np, np.concatenate([theta, none], 1))
        total = prior + 21 / 2 * math.log(2 * math.pi)
        fixed, scale = theta[:, 1:] @ DESIGN.T, np.exp(-theta[:, :1] / 2)
        for plate in range(21):
            logits = fixed[:, plate, None] + scale * nodes
            value = r[plate] * logits - n[plate] * np.logaddexp(0, logits) + ways[plate]
            total = total + logsumexp(value + log_weights, axis=1)
        return total

    mean = np.array([2.5, -0.55, 0.08, 1.35, -0.8])
    covariance = np.diag([1.5, 0.19, 0.3, 0.26, 0.42]) ** 2
    rounds = []
    for seed, number in enumerate((10_000, 20_000, draws // 4)):
        rounds.append(importance(density, mean, covariance, number, 4, seed))
        mean, covariance = rounds[-1].mean, 1.2 * rounds[-1].covariance
    return rounds


def main() -> None:
    """Print the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ionosphere", type=Path)
    parser.add_argument("--draws", type=int, default=400_000)
    arguments = parser.parse_args()
    for problem in problems(sonar_file(), arguments.ionosphere):
        if problem.name == "seeds":
            rounds = effects_rounds(problem, arguments.draws)
        elif problem.name in ("sonar", "ionosphere"):
            rounds = regression_rounds(problem, arguments.draws)
        else:
            continue
        for one in rounds:
            print(
                f"{problem.name}: log Z = {one.log_evidence:.4f} ± {one.error:.4f}, "
                f"effective draws {one.effective:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
