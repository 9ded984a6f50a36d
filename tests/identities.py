"""Checks of exact identities of the moves, as functions that also run on mutants.

A statistical check returns a statistic divided by its limit, an exact check an error
divided by its tolerance: it passes below one. NaN does not pass.
"""

import math
from collections.abc import Iterator
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_jarzynski.core import kernels, langevin, smc
from pyro_jarzynski.core.evaluation import Evaluation, evaluate
from pyro_jarzynski.core.hamiltonian import HMC, UnderdampedLangevin
from pyro_jarzynski.core.kernels import MALA, ULA, Kernel
from pyro_jarzynski.core.preconditioner import factorise, scale_transposed
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.trees import inner
from pyro_jarzynski.core.walkers import Walkers, init
from tests.scenarios import FLOAT, GaussianPath, log_moment, mild_path, steep_path
from tests.seeds import seeded

# Limits of |z| with a two-sided false-alarm rate of 1e-4, for one statistic, for the
# largest of three, and for the largest of six.
Z_ONE, Z_THREE, Z_SIX = 3.89, 4.15, 4.31
FALSE_ALARM = 1e-4

DIAGONAL = torch.tensor([0.5, 1.5], dtype=FLOAT)
DENSE = torch.tensor([[1.0, 0.5], [0.5, 0.8]], dtype=FLOAT)

# Steps are coarse on purpose: a term missing from a weight is of the order of the step.
KERNELS: dict[str, Kernel] = {
    "ULA": ULA(0.2),
    "coarse ULA": ULA(0.6),
    "diagonal ULA": ULA(0.4, preconditioner=DIAGONAL),
    "dense ULA": ULA(0.3, preconditioner=DENSE),
    "hot ULA": ULA(0.2, temperature=2.0),
    "cold ULA": ULA(0.3, temperature=0.5),
    "MALA": MALA(0.9),
    "dense MALA": MALA(0.6, preconditioner=DENSE),
    "HMC": HMC(1.0, num_leapfrog=2),
    "diagonal HMC": HMC(0.9, num_leapfrog=3, preconditioner=DIAGONAL),
    "dense HMC": HMC(0.8, num_leapfrog=2, preconditioner=DENSE),
    "frictionless": UnderdampedLangevin(0.5, friction=0.0),
    "underdamped": UnderdampedLangevin(0.6, friction=1.0),
    "dense underdamped": UnderdampedLangevin(0.6, preconditioner=DENSE),
    "overdamped": UnderdampedLangevin(0.6, friction=math.inf),
}


def carry(
    path: GaussianPath, kernel: Kernel, num: int, seed: int = 0, **settings: object
) -> Iterator[tuple[Walkers, bool]]:
    """Carry exact draws of the first law along a path; yield the walkers of each step."""
    generator = seeded(seed)
    settings = {"ess_threshold": 0.0, "tools": Tools(generator), **settings}
    walkers = init(path.draw(num, generator), path[0])
    for index in range(1, len(path)):
        walkers, info = smc.step(walkers, path[index], kernel, **settings)
        yield walkers, info.resampled


def final(path: GaussianPath, kernel: Kernel, num: int, seed: int = 0) -> Walkers:
    """Return the walkers at the end of a path, without resampling."""
    return list(carry(path, kernel, num, seed))[-1][0]


def z_score(sample: Tensor, mean: float) -> float:
    """Return the z of a sample's mean, with the variance of the sample."""
    error = sample.std() / math.sqrt(len(sample))
    return ((sample.mean() - mean) / error).item()


def evidence_of_known_variance(num: int = 20_000) -> float:
    """`E[e^A] = Z_K / Z_0` for ULA, against its exact variance.

    False alarms: 1e-4, times 1.2 by the exact skewness of 3.2 (Edgeworth).
    """
    path, kernel = steep_path(), ULA(0.2)
    variance = math.expm1(log_moment(2, path, kernel.step_size) - 2 * path.log_ratio)
    ratio = (final(path, kernel, num).log_weight - path.log_ratio).exp()
    return abs(ratio.mean().item() - 1) / math.sqrt(variance / num) / Z_ONE


def evidence_and_moments(name: str, num: int = 20_000) -> float:
    """`E[e^A f(X)] = (Z_K / Z_0) E f` for 1, both coordinates and all their products.

    False alarms: 1e-4 for the largest of six.
    """
    kernel = KERNELS[name]
    path = mild_path(getattr(kernel, "temperature", 1.0))
    walkers = final(path, kernel, num, seed=1)
    ratio = (walkers.log_weight - path.log_ratio).exp()
    x, y = (walkers.position - path.means[-1]).T
    vx, vy = path.variance.tolist()
    tests = ((x, 0.0), (y, 0.0), (x * x, vx), (y * y, vy), (x * y, 0.0))
    scores = [z_score(ratio * (f - mean), 0) for f, mean in tests]
    return max(map(abs, [*scores, z_score(ratio, 1)])) / Z_SIX


def crooks(name: str, num: int = 20_000) -> float:
    """Crooks's relation `P_R(a) = P_F(a) e^{a - c}` between a path and its reverse.

    In the form `E_F[1 / (1 + e^{c-A})] = E_R[1 / (1 + e^{A-c})]`, with both sides in
    [0, 1], so that Hoeffding's bound holds whatever the tails: at most 1e-4.
    """
    path, kernel = steep_path(), KERNELS[name]
    forward = final(path, kernel, num, seed=2).log_weight
    backward = -final(path.reversed(), kernel, num, seed=3).log_weight
    ahead = (forward - path.log_ratio).sigmoid().mean()
    behind = (path.log_ratio - backward).sigmoid().mean()
    limit = math.sqrt(math.log(2 / FALSE_ALARM) / num)
    return (ahead - behind).abs().item() / limit


def coin(name: str, num: int = 20_000) -> float:
    """There and back, `P(A = a | |A| = a) = 1 / (1 + e^a)`: a biased coin.

    False alarms: 1e-4, of a sum of bounded terms with known variance.
    """
    walkers = final(steep_path().there_and_back(), KERNELS[name], num, seed=4)
    chance = (-walkers.log_weight.abs()).sigmoid()
    heads = (walkers.log_weight > 0).to(FLOAT)
    spread = (chance * (1 - chance)).sum().sqrt()
    return ((heads - chance).sum() / spread).abs().item() / Z_ONE


def golden_value() -> float:
    """The log-weight of three steps of ULA, worked out by hand.

    `U_k = ½ λ_k x²` with `λ = 1, 2, 3, 4`, `h = 0.1`. The only check that sees a
    backward move with the gradient of the old energy, which keeps `E[e^A]` exact.
    """
    precisions, noises, points = (1.0, 2.0, 3.0, 4.0), (1.0, -0.5, 2.0), [0.5]
    log_weight = 0.0
    for old, new, noise in zip(precisions, precisions[1:], noises, strict=False):
        x = points[-1]
        y = x - 0.1 * old * x + math.sqrt(0.2) * noise
        ahead = old * x * x / 2 + (y - x) * old * x / 2 + 0.1 * (old * x) ** 2 / 4
        behind = new * y * y / 2 + (x - y) * new * y / 2 + 0.1 * (new * y) ** 2 / 4
        log_weight += ahead - behind
        points.append(y)
    path = [partial(_spring, p) for p in precisions]
    walkers = _steer(path, ULA(0.1), torch.tensor([0.5], dtype=FLOAT), noises)
    errors = (walkers.log_weight - log_weight, walkers.position - points[-1])
    literal = (walkers.log_weight - GOLDEN_LOG_WEIGHT, walkers.position - GOLDEN_POSITION)
    return max(e.abs().max().item() for e in (*errors, *literal)) / 1e-12


GOLDEN_LOG_WEIGHT, GOLDEN_POSITION = -1.3615843624456803, 1.240342046054907


def _spring(precision: float, x: Tensor) -> Tensor:
    return precision * x * x / 2


def _steer(
    path: list, kernel: Kernel, position: Tensor, noises: tuple[float, ...]
) -> Walkers:
    """Carry walkers with prescribed noise."""
    script = iter(noises)
    with patch.object(
        kernels, "normal_like", lambda x, _: torch.full_like(x, next(script))
    ):
        walkers = init(position, path[0])
        for energy in path[1:]:
            walkers, _ = smc.step(walkers, energy, kernel, ess_threshold=0.0)
    return walkers


def densities_of_moves(covariance: Tensor | None = None) -> float:
    """The log-ratio is a difference of Gaussian log densities, to 1e-10."""
    generator = seeded(5)
    x, y, g, back = torch.randn((4, 50, 2), dtype=FLOAT, generator=generator)
    u, v = torch.randn((2, 50), dtype=FLOAT, generator=generator)
    matrix = torch.eye(2, dtype=FLOAT) if covariance is None else covariance
    matrix = torch.diag(matrix) if matrix.ndim == 1 else matrix
    step, factor = 0.3, factorise(covariance)
    ahead = MultivariateNormal(x - step * g @ matrix, 2 * step * matrix).log_prob(y)
    behind = MultivariateNormal(y - step * back @ matrix, 2 * step * matrix).log_prob(x)
    here, there = (Evaluation(*at, inner(at[1], at[1])) for at in ((u, g), (v, back)))
    found = langevin.log_ratio(x, here, y, there, step, factor)
    return (found - (behind - v - ahead + u)).abs().max().item() / 1e-10


def density_of_proposal(covariance: Tensor | None = None) -> float:
    """Noise is carried to the proposal as its Gaussian density demands, to 1e-10."""
    generator = seeded(6)
    x, g, noise = torch.randn((3, 50, 2), dtype=FLOAT, generator=generator)
    matrix = torch.eye(2, dtype=FLOAT) if covariance is None else covariance
    matrix = torch.diag(matrix) if matrix.ndim == 1 else matrix
    step = 0.3
    factor = factorise(covariance)
    slope = scale_transposed(factor, g)
    moved = langevin.propose(x, slope, noise.clone(), step, factor)
    found = MultivariateNormal(x - step * g @ matrix, 2 * step * matrix).log_prob(moved)
    standard = MultivariateNormal(torch.zeros_like(x), torch.eye(2, dtype=FLOAT))
    expected = standard.log_prob(noise) - torch.logdet(2 * step * matrix) / 2
    return (found - expected).abs().max().item() / 1e-10


def infinite_friction() -> float:
    """Underdamped Langevin of infinite friction is ULA of step `ε²/2`, to 1e-12."""
    path = mild_path()
    expected = final(path, ULA(0.18), 100)
    found = final(path, UnderdampedLangevin(0.6, friction=math.inf), 100)
    errors = (
        found.log_weight - expected.log_weight,
        (found.position - expected.position).flatten(),
    )
    return torch.cat(errors).abs().max().item() / 1e-12


def carried_evaluation(name: str) -> float:
    """Walkers carry the energy and gradient of where they are, to 1e-12.

    Also after every step has resampled.
    """
    path = steep_path()
    for index, (walkers, _) in enumerate(
        carry(path, KERNELS[name], 50, ess_threshold=1.0), 1
    ):
        true, found = evaluate(path[index], walkers.position), walkers.evaluation
        for part in ("energy", "grad", "grad_sq"):
            wrong = getattr(true, part) - getattr(found, part)
            if wrong.abs().max() > 1e-12:
                return math.inf
    return 0.0
