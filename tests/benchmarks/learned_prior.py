"""A prior over latents learned by SVI: an energy-based one against a Gaussian one.

    python tests/benchmarks/learned_prior.py [--problem line] [--seeds 5] [--particles 16]

Latents of a known law with two modes are seen through a linear decoder and noise,
`x_n = W z_n + σ ε_n`. Their prior is learned with an amortised normal guide and an
importance-weighted bound of 16 particles, because a plain ELBO charges the prior for every
posterior that is not normal (`--particles 1` shows by how much). Beside it stand a Gaussian
prior, learned in the same way, the truth, and the same network trained by the exact
gradient of the marginal likelihood, which is what quadrature gives in one and two
dimensions.

Masses, places, divergences and the column `test` are by quadrature. `elpd` is `az.loo` of
the marginal likelihood `p(x_n)` of held-out data: parameters are a point, so that on the
data that they were learned from nothing would be left out. The likelihood of `x_n` given
its own latent would be no alternative: to leave `x_n` out of that is to take the harmonic
mean of the likelihood over the posterior, and `bad k` is the share of 200 data for which
its Pareto shape is above 0.7, with exact draws of the posterior.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.optim import ClippedAdam, PyroOptim
from torch import Tensor, nn

import pyro_jarzynski as pj
from pyro_jarzynski.diagnostics.arviz_library import import_arviz
from pyro_jarzynski.diagnostics.psis import MAX_PARETO_K

NUM_DATA, BATCH = 1000, 256


@dataclass(frozen=True)
class Problem:
    """A prior of two modes, and how its latents are seen.

    Attributes:
        means: Centres of the modes, `(2, d)`.
        sds: Standard deviations of the modes, `(2, d)`.
        decoder: Matrix `W`, `(D, d)`.
        noise: Standard deviation `σ`.
        grids: Points per axis, over [-10, 10], of a quadrature that reports and of one that
            trains.
        mass: Mass of the first mode.
    """

    means: Tensor
    sds: Tensor
    decoder: Tensor
    noise: float
    grids: tuple[int, int]
    mass: float = 0.3

    @property
    def truth(self) -> dist.MixtureSameFamily:
        """The law of the latents."""
        modes = dist.Normal(self.means, self.sds).to_event(1)
        masses = torch.tensor([self.mass, 1 - self.mass])
        return dist.MixtureSameFamily(dist.Categorical(masses), modes)

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw data, `(num, D)`."""
        second = torch.rand(num, generator=generator) >= self.mass
        which = second.long()
        z = self.means[which] + self.sds[which] * torch.randn(
            num, self.means.shape[1], generator=generator
        )
        noise = torch.randn(num, len(self.decoder), generator=generator)
        return z @ self.decoder.T + self.noise * noise

    def likelihood(self, z: Tensor) -> dist.Distribution:
        """Return the law of data given latents `(*, d)`."""
        return dist.Normal(z @ self.decoder.T, self.noise).to_event(1)


PROBLEMS = {
    "line": Problem(
        torch.tensor([[-2.0], [1.5]]),
        torch.tensor([[0.5], [0.7]]),
        torch.eye(1),
        0.5,
        (2001, 401),
    ),
    "plane": Problem(
        torch.tensor([[-2.0, 1.0], [1.5, -0.5]]),
        torch.tensor([[0.5, 0.7], [0.8, 0.5]]),
        torch.tensor([[1.0, 0.3], [-0.4, 1.0], [0.6, 0.6]]),
        0.5,
        (141, 81),
    ),
}


class Quadrature:
    """Exact figures of a prior, on a grid of latents."""

    def __init__(self, problem: Problem, *, fine: bool = True) -> None:
        """Make the grid."""
        self.problem = problem
        number = problem.grids[0 if fine else 1]
        axis = torch.linspace(-10, 10, number)
        dimension = problem.means.shape[1]
        self.points = torch.cartesian_prod(*[axis] * dimension).reshape(-1, dimension)
        self.log_cell = dimension * math.log(20 / (number - 1))
        self.truth = self.normalised(problem.truth.log_prob(self.points))

    def normalised(self, log_density: Tensor) -> Tensor:
        """Return the log-masses of the cells, float64."""
        return log_density.double().log_softmax(0)

    def prior(self, density: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the log-masses of the cells under an unnormalised log-density."""
        return self.normalised(density(self.points)).detach()

    def log_normalizer(self, energy: Callable[[Tensor], Tensor]) -> float:
        """Return `log Z` of an energy."""
        with torch.no_grad():
            total = (-energy(self.points)).double().logsumexp(0)
        return float(total) + self.log_cell

    def marginal(self, prior: Tensor, x: Tensor) -> Tensor:
        """Return the log-likelihood of data `(n, D)`, `(n,)`, nats."""
        # In parts, since all pairs of data and points are many.
        parts = [(prior + self.seen(part)).logsumexp(1) for part in x.split(100)]
        return torch.cat(parts)

    def seen(self, x: Tensor) -> Tensor:
        """Return the log-likelihood of data given each point, `(n, points)`."""
        return self.problem.likelihood(self.points).log_prob(x[:, None]).double()

    def divergence(self, prior: Tensor) -> float:
        """Return `KL(truth | prior)`, nats."""
        return float((self.truth.exp() * (self.truth - prior)).sum())

    def first_mode(self) -> Tensor:
        """Tell which points are nearer to the first mode, on the line through both."""
        first, second = self.problem.means
        return (self.points - (first + second) / 2) @ (second - first) < 0

    def mass(self, prior: Tensor) -> float:
        """Return the mass on the side of the first mode."""
        return float(prior.exp()[self.first_mode()].sum())

    def location_error(self, prior: Tensor) -> float:
        """Return the largest distance of a mean of one side from the truth."""
        worst = 0.0
        for side in (self.first_mode(), ~self.first_mode()):
            here = prior[side].softmax(0) @ self.points[side].double()
            there = self.truth[side].softmax(0) @ self.points[side].double()
            worst = max(worst, float((here - there).norm()))
        return worst


class Guide(nn.Module):
    """An amortised normal law of the latent of a datum."""

    def __init__(self, problem: Problem, width: int = 32) -> None:
        """Make the layers."""
        super().__init__()
        size, latent = problem.decoder.shape
        self.layers = nn.Sequential(
            nn.Linear(size, width), nn.Tanh(), nn.Linear(width, 2 * latent)
        )

    def forward(self, x: Tensor) -> dist.Distribution:
        """Return the law."""
        mean, log_sd = self.layers(x).chunk(2, -1)
        return dist.Normal(mean, log_sd.clamp(-4, 2).exp()).to_event(1)


class GaussianPrior(nn.Module):
    """The rival: a Gaussian with learned mean and covariance."""

    def __init__(self, dimension: int) -> None:
        """Start at a standard normal."""
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dimension))
        self.lower = nn.Parameter(2 * torch.eye(dimension))

    def distribution(self) -> dist.Distribution:
        """Return the law."""
        return dist.MultivariateNormal(self.mean, scale_tril=self.lower.tril())


def energy_prior(problem: Problem) -> pj.EnergyModel:
    dimension = problem.means.shape[1]
    base = dist.Normal(torch.zeros(dimension), 2.5).to_event(1)
    return pj.EnergyModel(pj.MLP([dimension, 32, 32]), base)


def learn(
    problem: Problem,
    prior: Any,
    x: Tensor,
    optim: PyroOptim,
    *,
    steps: int,
    particles: int = 16,
) -> None:
    """Learn a prior by SVI, from the global generator."""
    amortised = Guide(problem)

    def program(x: Tensor) -> None:
        pyro.module("prior", prior)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior.distribution())
            pyro.sample("x", problem.likelihood(z), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("guide", amortised)
        with pyro.plate("data", len(x)):
            pyro.sample("z", amortised(x))

    bound = Trace_ELBO()
    if particles > 1:
        bound = RenyiELBO(
            0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1
        )
    svi = SVI(program, guide, optim, bound)
    for _ in range(steps):
        svi.step(x[torch.randint(len(x), (BATCH,))])


def exact_fit(problem: Problem, x: Tensor, steps: int, rate: float) -> pj.EnergyModel:
    """Train the same network by the exact gradient of the marginal likelihood."""
    quadrature, model = Quadrature(problem, fine=False), energy_prior(problem)
    seen = quadrature.seen(x)
    scaled = (seen - seen.amax(1, keepdim=True)).exp()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / steps))
    for _ in range(steps):
        optimizer.zero_grad()
        prior = quadrature.normalised(-model(quadrature.points))
        # A product of matrices, which the sum over all pairs of logarithms is not.
        (-(scaled @ prior.exp()).log().mean()).backward()
        optimizer.step()
        decay.step()
    return model


def decaying(steps: int, rate: float = 1e-2) -> PyroOptim:
    """Return an optimiser whose rate falls to a tenth."""
    return ClippedAdam({"lr": rate, "lrd": 0.1 ** (1 / steps)})


def bad_shapes(
    quadrature: Quadrature, prior: Tensor, x: Tensor, draws: int = 1000
) -> float:
    """Return the share of data whose own latent cannot be integrated by leave-one-out."""
    seen = quadrature.seen(x)
    cells = torch.multinomial((prior + seen).softmax(1), draws, replacement=True)
    rows = seen.gather(1, cells).mT
    loo = pj.weighted_loo(rows, rows.new_zeros(draws))
    return float((loo.pareto_k > MAX_PARETO_K).double().mean())


def leave_one_out(priors: dict[str, Any], problem: Problem, x: Tensor) -> dict[str, Any]:
    """Return `az.loo` of held-out data by prior, and how `az.compare` ranks them."""
    arviz: Any = import_arviz()
    trees = {
        name: pj.to_arviz(pj.LatentLikelihood(law, problem.likelihood), data=x)
        for name, law in priors.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {name: arviz.loo(tree) for name, tree in trees.items()}
        table = arviz.compare(trees)
    elpd = {n: getattr(f, "elpd_loo", getattr(f, "elpd", None)) for n, f in found.items()}
    worse = table.index[1]
    return elpd | {
        "first": table.index[0],
        # Its sign is another in ArviZ 1.
        "difference": abs(float(table.loc[worse, "elpd_diff"])),
        "difference_error": float(table.loc[worse, "dse"]),
    }


def run(name: str, seed: int, steps: int, particles: int) -> list[str]:
    """Learn all priors of one seed, and return rows of the table."""
    problem, generator = PROBLEMS[name], torch.Generator().manual_seed(seed)
    quadrature = Quadrature(problem)
    x, held_out = (problem.draw(NUM_DATA, generator) for _ in range(2))
    torch.manual_seed(seed)
    energy, normal = energy_prior(problem), GaussianPrior(problem.means.shape[1])
    following = pj.JarzynskiOptim(
        decaying(steps), energy, audit_walkers=2048, moves_per_update=2, seed=seed
    )
    seconds = {}
    for label, prior, optim in (
        ("energy", energy, following),
        ("Gaussian", normal, decaying(steps)),
    ):
        pyro.clear_param_store()
        start = time.process_time()
        learn(problem, prior, x, optim, steps=steps, particles=particles)
        seconds[label] = time.process_time() - start
    exact = exact_fit(problem, x, 400, 1e-2)
    laws = {"energy": energy.distribution(), "Gaussian": normal.distribution()}
    loo = leave_one_out(laws, problem, held_out)
    priors = {
        "truth": quadrature.truth,
        "exact gradient": quadrature.prior(lambda z: -exact(z)),
        "energy": quadrature.prior(lambda z: -energy(z)),
        "Gaussian": quadrature.prior(normal.distribution().log_prob),
    }
    rows = [
        f"| {seed} | {label} | {figures(quadrature, prior, x, held_out)} "
        f"| {loo.get(label, math.nan):.1f} | {seconds.get(label, math.nan):.1f} |"
        for label, prior in priors.items()
    ]
    audit = energy.followers.audit
    rows.append(
        f"seed {seed}: az.compare puts {loo['first']} first, by {loo['difference']:.1f} ± "
        f"{loo['difference_error']:.1f}; log Z {audit.log_normalizer:.3f} ± "
        f"{audit.log_normalizer_error:.3f}, by quadrature "
        f"{quadrature.log_normalizer(energy):.3f}"
    )
    return rows


def figures(quadrature: Quadrature, prior: Tensor, x: Tensor, held_out: Tensor) -> str:
    """Return what quadrature says of a prior, as cells of the table."""
    train, test = (float(quadrature.marginal(prior, data).sum()) for data in (x, held_out))
    return (
        f"{quadrature.mass(prior):.3f} | {quadrature.location_error(prior):.3f} "
        f"| {quadrature.divergence(prior):.4f} | {train:.1f} | {test:.1f} "
        f"| {bad_shapes(quadrature, prior, held_out[:200]):.2f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=PROBLEMS, default="line")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--particles", type=int, default=16)
    arguments = parser.parse_args()
    print(
        "| seed | prior | mass of the first mode | error of a mode's mean "
        "| KL from the truth | train | test | bad k | elpd | CPU, s |"
    )
    print("|" + "---|" * 10)
    for seed in range(arguments.seeds):
        for row in run(arguments.problem, seed, arguments.steps, arguments.particles):
            print(row, flush=True)


if __name__ == "__main__":
    main()
