"""Evidence of models whose prior draws overflow or underflow, in both precisions.

    python tests/benchmarks/heavy_tails.py [--seeds 8] [--walkers 1024] [--only NAME ...]

Ordinary models of the literature whose log-density is not finite at some draws of the
prior in single precision, and at times in double: Gamma priors of small shape, half-Cauchy
scales of log-normals, wide abilities, an ODE, Gaussian processes, ordered cutpoints, topic
models. All run with the default settings, but for the wide abilities in single precision:
their likelihood is zero at all draws of the prior, and the error names `base="normal"`.

The reference is quadrature, or, where there is none, the mean over the runs in the other
precision, with its standard error. A row passes if the mean error of the log evidence over
the seeds is within three standard errors, from their spread, and no run raised an error.
Three columns count the runs that are beyond three of the errors that they report
themselves, those that warn, and those that raised an error.
"""

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from one_core import one_core

one_core()
import pyro  # noqa: E402
import pyro.distributions as dist  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn.functional import logsigmoid  # noqa: E402

import pyro_jarzynski as pj  # noqa: E402

DTYPES = (torch.float32, torch.float64)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.get_default_dtype())


def grid(low: float, high: float, size: int) -> Tensor:
    """Return midpoints of `size` equal cells."""
    cell = (high - low) / size
    return low + cell * (torch.arange(size, dtype=torch.float64) + 0.5)


def log_integral(log_density: Tensor, *grids: Tensor) -> float:
    """Return the logarithm of an integral over a grid of midpoints."""
    cells = sum(math.log(float(x[1] - x[0])) for x in grids)
    return float(log_density.flatten().logsumexp(0)) + cells


COUNTS = torch.tensor([0.0, 3.0, 0.0, 0.0, 7.0, 1.0, 0.0, 0.0])


def sparse_gamma(y: Tensor) -> None:
    """Gamma latents of small shape, as in Pyro's sparse gamma deep exponential family."""
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Gamma(number(0.1), number(0.1)))
        pyro.sample("y", dist.Poisson(z + 1e-3), obs=y)


def sparse_gamma_evidence(y: Tensor) -> float:
    u = grid(-400, 8, 400_000)
    prior = dist.Gamma(number(0.1), number(0.1)).log_prob(u.exp()) + u
    return sum(log_integral(prior + dist.Poisson(u.exp() + 1e-3).log_prob(k), u) for k in y)


MEASURED = torch.tensor([0.5, 1.2, -0.3, 0.8])


def vague_precision(y: Tensor) -> None:
    """The vague precision of the BUGS books."""
    tau = pyro.sample("tau", dist.Gamma(number(0.001), number(0.001)))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(number(0.0), tau.rsqrt()), obs=y)


def vague_precision_evidence(y: Tensor) -> float:
    a, half, size = 0.001, float(y.square().sum()) / 2, len(y)
    gammas = math.lgamma(a + size / 2) - math.lgamma(a) + a * math.log(a)
    return gammas - (a + size / 2) * math.log(a + half) - size / 2 * math.log(2 * math.pi)


def answers() -> tuple[Tensor]:
    """Return the answers of 25 people to 10 items."""
    generator = torch.Generator().manual_seed(0)
    share = torch.full((10, 25), 0.6, dtype=torch.float64)
    return (torch.bernoulli(share, generator=generator),)


def two_parameter_logistic(y: Tensor) -> None:
    """Discriminations of log-normal distribution with a half-Cauchy scale."""
    scale = pyro.sample("scale", dist.HalfCauchy(number(2.0)))
    items, people = pyro.plate("items", len(y), dim=-2), pyro.plate("people", y.shape[1])
    with items:
        slope = pyro.sample("slope", dist.LogNormal(number(0.0), scale))
    with people:
        ability = pyro.sample("ability", dist.Normal(number(0.0), number(1.0)))
    with items, people:
        pyro.sample("y", dist.Bernoulli(logits=slope * ability), obs=y)


def stages() -> tuple[Tensor, Tensor, Tensor]:
    """Return stages of 13 children, with slopes and thresholds of 30 items."""
    generator = torch.Generator().manual_seed(0)
    slope, threshold, ability, level = (
        torch.rand(shape, generator=generator, dtype=torch.float64)
        for shape in ((30,), (30,), (13, 1), (13, 30))
    )
    slope, threshold = 1 + 4 * slope, 8 * threshold
    right = level < torch.sigmoid(slope * (8 * ability - threshold))
    return right.double(), slope, threshold


def wide_abilities(y: Tensor, slope: Tensor, threshold: Tensor) -> None:
    """Abilities of a wide prior, under which likelihoods underflow to zero."""
    with pyro.plate("children", len(y)):
        ability = pyro.sample("ability", dist.Normal(number(0.0), number(36.0)))
    p = torch.sigmoid(slope * (ability[:, None] - threshold))
    pyro.factor("y", torch.log(torch.where(y > 0, p, 1 - p)).sum())


def wide_abilities_evidence(y: Tensor, slope: Tensor, threshold: Tensor) -> float:
    ability = grid(-200, 200, 400_000)
    logits = slope * (ability[:, None] - threshold)
    prior, right, wrong = (
        dist.Normal(number(0.0), number(36.0)).log_prob(ability),
        logsigmoid(logits),
        logsigmoid(-logits),
    )
    rows = (prior + torch.where(row > 0, right, wrong).sum(1) for row in y)
    return sum(log_integral(row, ability) for row in rows)


AGES = """1 1.5 1.5 1.5 2.5 4 5 5 7 8 8.5 9 9.5 9.5 10 12 12 13 13 14.5 15.5 15.5 16.5 17
22.5 29 31.5"""
LENGTHS = """1.80 1.85 1.87 1.77 2.02 2.27 2.15 2.26 2.47 2.19 2.26 2.40 2.39 2.41 2.50 2.32
2.32 2.43 2.47 2.56 2.65 2.47 2.64 2.56 2.70 2.72 2.57"""


def read(text: str) -> Tensor:
    return torch.tensor([float(word) for word in text.split()], dtype=torch.float64)


def dugongs(x: Tensor, y: Tensor) -> None:
    """Growth curves of the BUGS books, with a vague precision."""
    alpha = pyro.sample("alpha", dist.Normal(number(0.0), number(1000.0)))
    beta = pyro.sample("beta", dist.Normal(number(0.0), number(1000.0)))
    base = pyro.sample("lambda", dist.Uniform(number(0.5), number(1.0)))
    tau = pyro.sample("tau", dist.Gamma(number(1e-4), number(1e-4)))
    pyro.sample("y", dist.Normal(alpha - beta * base**x, tau.rsqrt()).to_event(1), obs=y)


def dugongs_evidence(x: Tensor, y: Tensor) -> float:
    """The coefficients are integrated in closed form, the others on a grid."""
    base, log_tau = grid(0.5, 1.0, 1000), grid(-6, 12, 1000)
    tau, size = log_tau.exp()[:, None, None], len(x)
    design = torch.stack([torch.ones(1000, size), base[:, None] ** x], -1)
    # Woodbury: the covariance of the data is `I / τ + 10⁶ X Xᵀ`.
    gram = design.mT @ design
    inner = 1e-6 * torch.eye(2) + tau[..., None] * gram
    moment = tau * (design.mT @ y)
    weight = (moment * torch.linalg.solve(inner, moment)).sum(-1)
    square = tau[..., 0] * y.square().sum() - weight
    log_det = torch.logdet(inner) + 2 * math.log(1e6) - size * log_tau[:, None]
    likelihood = -(square + log_det + size * math.log(2 * math.pi)) / 2
    gamma = dist.Gamma(number(1e-4), number(1e-4)).log_prob(log_tau.exp()) + log_tau
    return log_integral(likelihood + gamma[:, None] + math.log(2), base, log_tau)


OPERATIONS = read("47 148 119 810 211 196 148 215 207 97 256 360")
DEATHS = read("0 18 8 46 8 13 9 31 14 8 29 24")


def surgical(operations: Tensor, deaths: Tensor) -> None:
    """Death rates of hospitals of the BUGS books, with a vague variance."""
    mean = pyro.sample("mean", dist.Normal(number(0.0), number(1000.0)))
    variance = pyro.sample("variance", dist.InverseGamma(number(0.001), number(0.001)))
    with pyro.plate("hospitals", len(deaths)):
        logits = pyro.sample("logits", dist.Normal(mean, variance.sqrt()))
        pyro.sample("deaths", dist.Binomial(operations, logits=logits), obs=deaths)


def surgical_evidence(operations: Tensor, deaths: Tensor) -> float:
    mean, log_variance, z = grid(-4, -1, 150), grid(-16, 4, 200), grid(-8, 8, 400)
    scale, prior = (log_variance / 2).exp(), -z.square() / 2 - math.log(2 * math.pi) / 2
    logits = mean[:, None, None] + scale[:, None] * z
    likelihood = torch.zeros(len(mean), len(scale))
    for n, k in zip(operations, deaths, strict=True):
        data = dist.Binomial(n, logits=logits).log_prob(k)
        likelihood += (data + prior).logsumexp(-1) + math.log(float(z[1] - z[0]))
    vague = dist.InverseGamma(number(0.001), number(0.001))
    priors = dist.Normal(number(0.0), number(1000.0)).log_prob(mean)[:, None]
    priors = priors + vague.log_prob(log_variance.exp()) + log_variance
    return log_integral(likelihood + priors, mean, log_variance)


TIMES, STEPS, DOSE, VOLUME = 20, 40, 30.0, 2.0


def concentrations(k_a: Tensor, k_m: Tensor, v_m: Tensor) -> Tensor:
    """Solve the kinetics of Michaelis and Menten by the method of Runge and Kutta."""
    width, c, found = 10 / STEPS, 0 * k_a, []

    def rate(time: float, c: Tensor) -> Tensor:
        c = c.clamp(min=0)
        absorbed = DOSE * k_a / VOLUME * torch.exp(-k_a * time)
        return absorbed - v_m / VOLUME * c / (k_m + c)

    for step in range(STEPS):
        time = width * step
        first = rate(time, c)
        second = rate(time + width / 2, c + width / 2 * first)
        third = rate(time + width / 2, c + width / 2 * second)
        fourth = rate(time + width, c + width * third)
        c = c + width / 6 * (first + 2 * second + 2 * third + fourth)
        if step % (STEPS // TIMES) == 1:
            found.append(c)
    return torch.stack(found, -1)


def concentration_data() -> tuple[Tensor]:
    noise = torch.randn(TIMES, generator=torch.Generator().manual_seed(4)).double()
    truth = (torch.tensor(x, dtype=torch.float64) for x in (0.75, 0.25, 1.0))
    return (concentrations(*truth) * torch.exp(0.25 * noise),)


def elimination(y: Tensor) -> None:
    """One compartment with saturated elimination, half-Cauchy rates, an ODE."""
    names = ("k_a", "k_m", "v_m", "sigma")
    *rates, sigma = (pyro.sample(name, dist.HalfCauchy(number(1.0))) for name in names)
    curve = torch.log(concentrations(*rates))
    pyro.sample("y", dist.LogNormal(curve, sigma).to_event(1), obs=y)


def elimination_evidence(y: Tensor) -> float:
    """The noise is integrated for each sum of squares, the rates on a grid."""
    cauchy, size = dist.HalfCauchy(number(1.0)), len(y)
    log_sigma, log_sum = grid(-3, 1.5, 400), grid(math.log(1e-2), math.log(1e4), 2000)
    density = cauchy.log_prob(log_sigma.exp()) + (1 - size) * log_sigma
    square = log_sum.exp()[:, None] / (2 * (2 * log_sigma).exp())
    inner = (density - square).logsumexp(1) + math.log(float(log_sigma[1] - log_sigma[0]))
    inner -= size / 2 * math.log(2 * math.pi) + y.log().sum()
    k_a, k_m, ratio = grid(-2.5, 2.5, 60), grid(-7, 10, 200), grid(-5, 2, 100)
    found = []
    for row in k_a:
        a, m, r = torch.meshgrid(row[None], k_m, ratio, indexing="ij")
        v = r + torch.log(m.exp() + 5)
        curve = concentrations(a.exp(), m.exp(), v.exp()).clamp(min=1e-30)
        total = (curve.log() - y.log()).square().sum(-1).log()
        place = (total - log_sum[0]) / (log_sum[1] - log_sum[0])
        left = place.clamp(0, 1998.999).long()
        value = torch.lerp(inner[left], inner[left + 1], place - left)
        priors = sum(cauchy.log_prob(x.exp()) + x for x in (a, m, v))
        found.append(torch.where(total < math.log(1e4), value, -math.inf) + priors)
    return log_integral(torch.stack(found), k_a, k_m, ratio)


def curve_data() -> tuple[Tensor, Tensor]:
    x = torch.linspace(0, 1, 10, dtype=torch.float64)
    noise = torch.randn(10, generator=torch.Generator().manual_seed(0)).double()
    return x, torch.sin(6 * x) + 0.3 * noise


def covariance(x: Tensor, length: Tensor, size: Tensor) -> Tensor:
    """Return a smooth covariance with a jitter that single precision hardly has."""
    gap = (x[:, None] - x) / length[..., None, None]
    jitter = 1e-6 * torch.eye(len(x), dtype=x.dtype)
    return size[..., None, None] ** 2 * torch.exp(-(gap**2) / 2) + jitter


def gaussian_process(x: Tensor, y: Tensor) -> None:
    """A Gaussian process by the factor of its covariance, which some draws have not."""
    length = pyro.sample("length", dist.Gamma(number(2.0), number(4.0)))
    size = pyro.sample("size", dist.HalfNormal(number(2.0)))
    noise = pyro.sample("noise", dist.HalfNormal(number(1.0)))
    white = dist.Normal(number(0.0), number(1.0)).expand([len(x)]).to_event(1)
    z = pyro.sample("z", white)
    f = torch.linalg.cholesky(covariance(x, length, size)) @ z
    pyro.sample("y", dist.Normal(f, noise).to_event(1), obs=y)


def gaussian_process_evidence(x: Tensor, y: Tensor) -> float:
    length, size, noise = grid(-5, 2.5, 120), grid(-6, 2.5, 100), grid(-9, 2, 120)
    values, vectors = torch.linalg.eigh(
        covariance(x, length.exp()[:, None], size.exp()[None].expand(120, 100))
    )
    spread = values.clamp(min=0)[..., None, :] + (2 * noise).exp()[:, None]
    square = (vectors.mT @ y).square()[..., None, :] / spread
    data = -(square + spread.log() + math.log(2 * math.pi)).sum(-1) / 2
    priors = (
        dist.Gamma(number(2.0), number(4.0)).log_prob(length.exp()) + length,
        dist.HalfNormal(number(2.0)).log_prob(size.exp()) + size,
        dist.HalfNormal(number(1.0)).log_prob(noise.exp()) + noise,
    )
    total = data + priors[0][:, None, None] + priors[1][:, None] + priors[2]
    return log_integral(total, length, size, noise)


def ordered(size: int, scale: float) -> Any:
    link = dist.transforms.OrderedTransform()
    base = dist.Normal(number(0.0), number(scale)).expand([size]).to_event(1)
    return dist.TransformedDistribution(base, link)


def cutpoints(y: Tensor) -> None:
    """Ordered cutpoints, of which differences overflow."""
    x = pyro.sample("x", ordered(3, 5.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.OrderedLogistic(number(0.3), x), obs=y)


def cutpoints_evidence(y: Tensor) -> float:
    u = grid(-35, 35, 280)
    first, second, third = (
        u[:, None, None],
        u[:, None, None] + u.exp()[:, None],
        u[:, None, None] + u.exp()[:, None] + u.exp(),
    )
    bounds = [x - 0.3 for x in (first, second, third)]
    prior = dist.Normal(number(0.0), number(5.0)).log_prob(u)
    total = prior[:, None, None] + prior[:, None] + prior

    def log_between(low: Tensor, high: Tensor) -> Tensor:
        """Return `log(σ(h) - σ(l))` without cancellation."""
        return logsigmoid(high) + logsigmoid(-low) + torch.log(-torch.expm1(low - high))

    shares = [
        logsigmoid(bounds[0]),
        log_between(bounds[0], bounds[1]),
        log_between(bounds[1], bounds[2]),
        logsigmoid(-bounds[2]),
    ]
    for level, share in enumerate(shares):
        total = total + int((y == level).sum()) * share
    return log_integral(total.nan_to_num(-math.inf, math.inf, -math.inf), u, u, u)


def words() -> tuple[Tensor]:
    """Return 20 words in each of 6 documents, of a vocabulary of 8."""
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(0, 5, (3, 20), generator=generator)
    return (torch.cat([low, low + 3]),)


def topics(data: Tensor) -> None:
    """Latent Dirichlet allocation, with the priors of Pyro's example."""
    weights = dist.Gamma(number(1 / 2), number(1.0)).expand([2]).to_event(1)
    weights = pyro.sample("weights", weights)
    with pyro.plate("topics", 2):
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(8) / 8))
    with pyro.plate("documents", len(data), dim=-2):
        mixed = pyro.sample("mixed", dist.Dirichlet(weights[..., None, :]))
        with pyro.plate("words", data.shape[1], dim=-1):
            topic = pyro.sample("topic", dist.Categorical(mixed))
            pyro.sample("data", dist.Categorical(shares[topic]), obs=data)


@dataclass(frozen=True)
class Case:
    """A model, its data in float64, and its log evidence, if that can be computed."""

    model: Callable[..., None]
    data: tuple[Tensor, ...]
    evidence: Callable[..., float] | None = None
    # What the error of a run in single precision without it names as a remedy.
    remedy: dict[str, Any] = field(default_factory=dict)


CASES = {
    "sparse Gamma": Case(sparse_gamma, (COUNTS,), sparse_gamma_evidence),
    "vague precision": Case(vague_precision, (MEASURED,), vague_precision_evidence),
    "two-parameter logistic": Case(two_parameter_logistic, answers()),
    "wide abilities": Case(
        wide_abilities, stages(), wide_abilities_evidence, {"base": "normal"}
    ),
    "dugongs": Case(dugongs, (read(AGES), read(LENGTHS)), dugongs_evidence),
    "surgical": Case(surgical, (OPERATIONS, DEATHS), surgical_evidence),
    "elimination (ODE)": Case(elimination, concentration_data(), elimination_evidence),
    "Gaussian process": Case(gaussian_process, curve_data(), gaussian_process_evidence),
    "ordered cutpoints": Case(
        cutpoints, (torch.tensor([0, 1, 1, 2, 2, 2, 3]),), cutpoints_evidence
    ),
    "topics": Case(topics, words()),
}


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Set the default dtype for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass
class Runs:
    """Log evidences of a model in one precision, their errors, and what else came."""

    evidences: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    doubtful: int = 0
    raised: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def mean(self) -> float:
        return statistics.fmean(self.evidences) if self.evidences else math.nan

    @property
    def error(self) -> float:
        """Return the standard error of the mean."""
        size = len(self.evidences)
        return statistics.stdev(self.evidences) / math.sqrt(size) if size > 1 else math.nan


def repeated(case: Case, dtype: torch.dtype, arguments: argparse.Namespace) -> Runs:
    """Run a model with each seed."""
    runs = Runs()
    with precision(dtype):
        data = [x.to(dtype) if x.is_floating_point() else x for x in case.data]
        for seed in range(arguments.seeds):
            start = time.process_time()
            sampler = pj.AnnealedSMC(
                case.model,
                num_walkers=arguments.walkers,
                seed=seed,
                progress=False,
                **(case.remedy if dtype == torch.float32 else {}),
            )
            try:
                result = sampler.run(*data)
            except pj.JarzynskiError as error:
                runs.raised.append(str(error))
                continue
            finally:
                runs.seconds += time.process_time() - start
            runs.evidences.append(result.log_evidence)
            runs.errors.append(result.log_evidence_error)
            runs.doubtful += result.status != "ok"
    return runs


def row(name: str, dtype: torch.dtype, runs: Runs, truth: float, error: float) -> str:
    """Return a row of the table."""
    pairs = zip(runs.evidences, runs.errors, strict=True)
    beyond = sum(abs(x - truth) > 3 * math.hypot(own, error) for x, own in pairs)
    z = (runs.mean - truth) / math.hypot(runs.error, error)
    passed = abs(z) < 3 and not runs.raised
    return (
        f"| {name} | {str(dtype)[6:]} | {truth:.3f} ± {error:.3f} "
        f"| {runs.mean - truth:+.3f} ± {runs.error:.3f} | {z:+.1f} "
        f"| {beyond} of {len(runs.evidences)} | {runs.doubtful} | {len(runs.raised)} "
        f"| {runs.seconds:.0f} | {'yes' if passed else 'NO'} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--walkers", type=int, default=1024, help="walkers per island")
    parser.add_argument("--only", nargs="+", help="parts of names")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        "| model | dtype | log Z | mean log Ẑ − log Z, ± s.e. | z | beyond 3 own errors "
        "| doubtful | errors | CPU s | passed |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, case in CASES.items():
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        found = {dtype: repeated(case, dtype, arguments) for dtype in DTYPES}
        for dtype, other in zip(DTYPES, DTYPES[::-1], strict=True):
            if case.evidence is None:
                truth, error = found[other].mean, found[other].error
            else:
                with precision(torch.float64):
                    truth, error = case.evidence(*(x.double() for x in case.data)), 0.0
            print(row(name, dtype, found[dtype], truth, error), flush=True)
        for message in {text for runs in found.values() for text in runs.raised}:
            print(f"{name}: {message}")


if __name__ == "__main__":
    main()
