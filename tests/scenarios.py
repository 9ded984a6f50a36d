"""Targets with closed forms: the truths that estimators are compared with."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

FLOAT = torch.float64


@dataclass(frozen=True)
class GaussianPath:
    """Energies `U_k(x) = ½ Σ_j λ_kj (x_j - m_kj)²`, a path by itself.

    Attributes:
        precisions: `λ`, `(K + 1, d)`.
        means: `m`, `(K + 1, d)`.
        temperature: The walkers' laws are `e^{-U/T}`.
    """

    precisions: Tensor
    means: Tensor
    temperature: float = 1.0

    def __len__(self) -> int:
        return len(self.precisions)

    def __getitem__(self, index: int) -> Callable[[Tensor], Tensor]:
        precision, mean = self.precisions[index], self.means[index]
        return lambda x: ((x - mean).square() * precision).sum(-1) / 2

    @property
    def log_ratio(self) -> float:
        """`log Z_K / Z_0`; the temperature drops out of it."""
        return (self.precisions[0] / self.precisions[-1]).log().sum().item() / 2

    @property
    def variance(self) -> Tensor:
        """Variances of the last law, `(d,)`."""
        return self.temperature / self.precisions[-1]

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Exact draws of the first law, `(num, d)`."""
        spread = (self.temperature / self.precisions[0]).sqrt()
        size = (num, len(spread))
        noise = torch.randn(size, dtype=spread.dtype, generator=generator)
        return self.means[0] + spread * noise

    def reversed(self) -> "GaussianPath":
        return GaussianPath(self.precisions.flip(0), self.means.flip(0), self.temperature)

    def there_and_back(self) -> "GaussianPath":
        precisions = torch.cat([self.precisions, self.precisions.flip(0)[1:]])
        means = torch.cat([self.means, self.means.flip(0)[1:]])
        return GaussianPath(precisions, means, self.temperature)


def gaussian_path(
    precisions: tuple[float, ...],
    means: tuple[float, ...],
    num_steps: int,
    temperature: float = 1.0,
) -> GaussianPath:
    """Path from `N(0, 1)` in every dimension to given precisions and means."""
    end, mean = (torch.tensor(x, dtype=FLOAT) for x in (precisions, means))
    share = torch.linspace(0, 1, num_steps + 1, dtype=FLOAT)[:, None]
    return GaussianPath(1 + share * (end - 1), share * mean, temperature)


def steep_path() -> GaussianPath:
    """The path on which the power of the checks against known bugs was measured."""
    return gaussian_path((4.0, 4.0), (1.0, 1.0), num_steps=20)


def mild_path(temperature: float = 1.0) -> GaussianPath:
    """A path with light-tailed weights, also for steps near the stability limit."""
    return gaussian_path((2.0, 1.4), (0.3, -0.3), 10, temperature)


def log_moment(power: float, path: GaussianPath, step_size: float) -> float:
    """Exact `log E[e^{power A}]` of unadjusted Langevin, infinite if it diverges.

    The density of a trajectory `(x_0, …, x_K)` times `e^{power A}` is `e^{-Q}` with a
    quadratic `Q`, in each dimension: a sum of weighted squares of affine functions.
    """
    dims = zip(path.precisions.T, path.means.T, strict=True)
    return sum(_log_moment_1d(power, p, m, step_size) for p, m in dims)


def _log_moment_1d(power: float, precision: Tensor, mean: Tensor, step: float) -> float:
    size = len(precision)
    unit = torch.eye(size, dtype=FLOAT)
    log_scale = precision[0].log().item() / 2 - (size - 1) * math.log(2 * step) / 2
    # The terms of -2 log density: (weight, direction, offset) of weight (a·x + s)².
    terms = [
        ((1 - power) * precision[0], unit[0], -mean[0]),
        (power * precision[-1], unit[-1], -mean[-1]),
    ]
    for k in range(size - 1):
        for share, at, to in ((1 - power, k, k + 1), (power, k + 1, k)):
            pull = step * precision[at]
            direction = unit[to] - (1 - pull) * unit[at]
            terms.append((share / (2 * step), direction, -pull * mean[at]))
    matrix = sum(w * torch.outer(a, a) for w, a, _ in terms)
    linear = sum(-w * s * a for w, a, s in terms)
    constant = sum((w * s * s).item() for w, _, s in terms)
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        return math.inf
    peak = torch.linalg.solve_triangular(lower, linear[:, None], upper=False)
    log_det = 2 * lower.diagonal().log().sum().item()
    return log_scale + (peak.square().sum().item() - constant - log_det) / 2


@dataclass(frozen=True)
class GaussianBernoulliRBM:
    """`U(x) = ½|x|² - b·x - Σ_j softplus(c_j + (Wᵀx)_j)`, summed over `h` exactly.

    Given the hidden states, `x | h ~ N(b + W h, 1)`.
    """

    weight: Tensor
    bias: Tensor
    hidden_bias: Tensor

    def energy(self, x: Tensor) -> Tensor:
        hidden = softplus(self.hidden_bias + x @ self.weight).sum(-1)
        return x.square().sum(-1) / 2 - x @ self.bias - hidden

    @property
    def hidden_states(self) -> Tensor:
        num = len(self.hidden_bias)
        code = torch.arange(2**num)[:, None] >> torch.arange(num)
        return (code & 1).to(FLOAT)

    @property
    def centres(self) -> Tensor:
        """Means of `x` given each hidden state."""
        return self.bias + self.hidden_states @ self.weight.T

    @property
    def state_scores(self) -> Tensor:
        """Logarithms of the unnormalised masses of the hidden states."""
        mass = self.hidden_states @ self.hidden_bias + self.centres.square().sum(-1) / 2
        return mass + len(self.bias) / 2 * math.log(2 * math.pi)

    @property
    def log_normalizer(self) -> Tensor:
        return self.state_scores.logsumexp(0)

    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """`∂ log Z` by `W`, `b` and `c`: `E[x hᵀ]`, `E[x]` and `E[h]`."""
        chance, states = self.state_scores.softmax(0), self.hidden_states
        joint = torch.einsum("s,si,sj->ij", chance, self.centres, states)
        return joint, chance @ self.centres, chance @ states

    def gradient_terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`-∂U` by `W`, `b` and `c` at each `x`."""
        active = (self.hidden_bias + x @ self.weight).sigmoid()
        return torch.einsum("ni,nj->nij", x, active), x, active


def gaussian_bernoulli_rbm() -> GaussianBernoulliRBM:
    """A machine of 10 visible and 6 hidden units, written by formula."""
    i, j = torch.arange(10, dtype=FLOAT), torch.arange(6, dtype=FLOAT)
    weight = 0.6 * (1 + i[:, None] + 2 * j).sin()
    return GaussianBernoulliRBM(weight, 0.2 * i.cos(), -0.5 + 0.3 * (3 * j).sin())


@dataclass(frozen=True)
class PlaneTarget:
    """A law on the plane with its evidence and second moments."""

    energy: Callable[[Tensor], Tensor]
    log_normalizer: float
    second_moment: tuple[float, float]


def _double_well(x: Tensor) -> Tensor:
    return (x[:, 0] ** 2 - 4) ** 2 / 4 + x[:, 1] ** 2 / 2 + 0.3 * x[:, 0]


def _banana(x: Tensor) -> Tensor:
    return x[:, 0] ** 2 / 8 + 2 * (x[:, 1] - (x[:, 0] ** 2 - 4) / 4) ** 2


def _ring(x: Tensor) -> Tensor:
    return 2 * (x.square().sum(-1).sqrt() - 3) ** 2


# Values by quadrature; the banana's are also exact, log 2π, 4 and 9/4.
PLANE_TARGETS = {
    "double_well": PlaneTarget(
        _double_well, 1.7159866897116265, (2.75566837077748 + 1.0023390639740726**2, 1.0)
    ),
    "banana": PlaneTarget(_banana, math.log(2 * math.pi), (4.0, 2.25)),
    "ring": PlaneTarget(_ring, 3.162280707748199, (4.875, 4.875)),
}
