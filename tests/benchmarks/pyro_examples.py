"""Models of Pyro's folder `examples`, on simulated data of the same shape."""

import math
from functools import partial
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.epidemiology.models import SimpleSIRModel
from pyro.contrib.timeseries import IndependentMaternGP
from pyro.infer import config_enumerate
from pyro.nn import PyroSample
from pyro.ops.indexing import Vindex
from pyro.ops.special import safe_log
from pyro_example import Example
from torch import Tensor

# --- baseball.py


def fully_pooled(at_bats: Tensor, hits: Tensor) -> None:
    phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
    with pyro.plate("players", len(hits)):
        pyro.sample("hits", dist.Binomial(at_bats, phi), obs=hits)


def not_pooled(at_bats: Tensor, hits: Tensor) -> None:
    with pyro.plate("players", len(hits)):
        phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
        pyro.sample("hits", dist.Binomial(at_bats, phi), obs=hits)


def partially_pooled(at_bats: Tensor, hits: Tensor) -> None:
    m = pyro.sample("m", dist.Uniform(0.0, 1.0))
    kappa = pyro.sample("kappa", dist.Pareto(1.0, 1.5))
    with pyro.plate("players", len(hits)):
        phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
        pyro.sample("hits", dist.Binomial(at_bats, phi), obs=hits)


def partially_pooled_logit(at_bats: Tensor, hits: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(-1.0, 1.0))
    scale = pyro.sample("scale", dist.HalfCauchy(1.0))
    with pyro.plate("players", len(hits)):
        alpha = pyro.sample("alpha", dist.Normal(loc, scale))
        pyro.sample("hits", dist.Binomial(at_bats, logits=alpha), obs=hits)


def baseball(model: Any) -> tuple[Any, tuple]:
    at_bats = torch.full((18,), 45.0)
    skill = dist.Beta(26.0, 72.0).sample((18,))
    return model, (at_bats, dist.Binomial(at_bats, skill).sample())


# --- eight_schools

SCHOOLS_Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SCHOOLS_SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(y: Tensor, sigma: Tensor) -> None:
    eta = pyro.sample("eta", dist.Normal(torch.zeros(8), torch.ones(8)))
    mu = pyro.sample("mu", dist.Normal(torch.zeros(1), 10 * torch.ones(1)))
    tau = pyro.sample("tau", dist.HalfCauchy(25 * torch.ones(1)))
    pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)


def eight_schools_in_plate(y: Tensor, sigma: Tensor) -> None:
    with pyro.plate("schools", 8):
        eight_schools(y, sigma)


# --- capture_recapture/cjs.py


def _survey(captures: Tensor, phi: Any, rho: Tensor) -> None:
    """Observe captures of animals that survive a year with probability `phi(year)`."""
    num, years = captures.shape
    alive, seen = torch.ones(num), torch.zeros(num).bool()
    animals = pyro.plate("animals", num, dim=-1)
    for year in pyro.markov(range(years)):
        survival = phi(year)
        with animals, poutine.mask(mask=seen):
            alive = pyro.sample(
                f"alive_{year}",
                dist.Bernoulli(torch.where(seen, survival * alive, 1.0)),
                infer={"enumerate": "parallel"},
            )
            pyro.sample(
                f"capture_{year}", dist.Bernoulli(rho * alive), obs=captures[:, year]
            )
        seen = seen | captures[:, year].bool()


def capture_recapture(captures: Tensor) -> None:
    phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    _survey(captures, lambda year: phi, rho)


def capture_recapture_by_year(captures: Tensor) -> None:
    mean = pyro.sample("phi_mean", dist.Uniform(0.0, 1.0))
    sigma = pyro.sample("phi_sigma", dist.Uniform(0.0, 10.0))
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))

    def phi(year: int) -> Tensor:
        if year == 0:
            return torch.tensor(0.5)
        logit = torch.log(mean) - torch.log1p(-mean)
        return torch.sigmoid(pyro.sample(f"phi_logit_{year}", dist.Normal(logit, sigma)))

    _survey(captures, phi, rho)


def captures(model: Any) -> tuple[Any, tuple]:
    """Return captures of 294 animals in 7 years, as many as of the dippers."""
    num, years = 294, 7
    first = torch.randint(years - 1, (num,))
    alive, table = torch.ones(num), torch.zeros(num, years)
    for year in range(years):
        alive = torch.where(
            year > first, alive * torch.bernoulli(torch.full((num,), 0.56)), 1
        )
        found = torch.bernoulli(torch.full((num,), 0.9)) * alive
        table[:, year] = torch.where(year > first, found, (year == first).float())
    return model, (table,)


# --- lda.py


def topics(words: Tensor, num_topics: int, num_words: int) -> None:
    with pyro.plate("topics", num_topics):
        weights = pyro.sample("weights", dist.Gamma(1.0 / num_topics, 1.0))
        law = dist.Dirichlet(torch.ones(num_words) / num_words)
        vocabulary = pyro.sample("vocabulary", law)
    length, documents = words.shape
    with pyro.plate("documents", documents):
        mixture = pyro.sample("mixture", dist.Dirichlet(weights))
        with pyro.plate("words", length):
            topic = pyro.sample(
                "topic", dist.Categorical(mixture), infer={"enumerate": "parallel"}
            )
            pyro.sample("word", dist.Categorical(vocabulary[topic]), obs=words)


def documents() -> tuple[Any, tuple]:
    num_topics, num_words, length, number = 3, 16, 24, 10
    vocabulary = dist.Dirichlet(torch.full((num_words,), 0.3)).sample((num_topics,))
    mixture = dist.Dirichlet(torch.full((num_topics,), 0.5)).sample((number,))
    topic = dist.Categorical(mixture).sample((length,))
    words = dist.Categorical(vocabulary[topic]).sample()
    return topics, (words, num_topics, num_words)


# --- sparse_gamma_def.py


def sparse_gamma(counts: Tensor, widths: tuple[int, int, int]) -> None:
    top, middle, bottom = widths
    num, pixels = counts.shape
    shapes = {"top": (top, middle), "middle": (middle, bottom), "bottom": (bottom, pixels)}
    w = {}
    for name, shape in shapes.items():
        with pyro.plate(f"w_{name}_plate", math.prod(shape)):
            w[name] = pyro.sample(f"w_{name}", dist.Gamma(0.1, 0.3)).reshape(shape)
    with pyro.plate("data", num):
        z = pyro.sample("z_top", dist.Gamma(0.1, 0.1).expand([top]).to_event(1))
        z = pyro.sample("z_middle", dist.Gamma(0.1, 0.1 / (z @ w["top"])).to_event(1))
        z = pyro.sample("z_bottom", dist.Gamma(0.1, 0.1 / (z @ w["middle"])).to_event(1))
        pyro.sample("counts", dist.Poisson(z @ w["bottom"]).to_event(1), obs=counts)


def faces() -> tuple[Any, tuple]:
    return sparse_gamma, (torch.poisson(torch.full((4, 6), 3.0)), (3, 2, 2))


# --- lkj.py


def lkj(y: Tensor) -> None:
    size = y.shape[1]
    options = {"dtype": y.dtype}
    theta = pyro.sample("theta", dist.HalfCauchy(torch.ones(size, **options)))
    factor = pyro.sample("factor", dist.LKJCholesky(size, torch.ones((), **options)))
    scale_tril = torch.mm(torch.diag(theta.sqrt()), factor)
    with pyro.plate("observations", len(y)):
        law = dist.MultivariateNormal(torch.zeros(size, **options), scale_tril=scale_tril)
        pyro.sample("y", law, obs=y)


def uncorrelated(num: int, size: int, dtype: torch.dtype) -> tuple[Any, tuple]:
    return lkj, (torch.randn(num, size, dtype=dtype),)


# --- toy_mixture_model_discrete_enumeration.py


@config_enumerate
def toy_mixture(a: Tensor, c: Tensor) -> None:
    p_a = pyro.sample("p_a", dist.Beta(1.0, 1.0))
    p_b = pyro.sample("p_b", dist.Beta(torch.ones(2), torch.ones(2)).to_event(1))
    p_c = pyro.sample("p_c", dist.Beta(torch.ones(2), torch.ones(2)).to_event(1))
    with pyro.plate("data", len(a)):
        pyro.sample("a", dist.Bernoulli(p_a.expand(len(a))), obs=a)
        b = pyro.sample("b", dist.Bernoulli(Vindex(p_b)[a.long()]))
        pyro.sample("c", dist.Bernoulli(Vindex(p_c)[b.long()]), obs=c)


def toy_data() -> tuple[Any, tuple]:
    a = torch.bernoulli(torch.full((200,), 0.3))
    b = torch.bernoulli(torch.tensor([0.8, 0.1])[a.long()])
    return toy_mixture, (a, torch.bernoulli(torch.tensor([0.85, 0.15])[b.long()]))


# --- mixed_hmm


@config_enumerate
def mixed_hmm(steps: Tensor, turns: Tensor) -> None:
    """Three states of animals; effects of group and animal on the transitions."""
    animals, groups, times = steps.shape
    concentration = torch.tensor([1.0, 2.0, 4.0])
    effect = dist.Normal(torch.zeros(9), 1.0).to_event(1)
    with pyro.plate("group", groups, dim=-1):
        logits = pyro.sample("group_effect", effect)
        with pyro.plate("animal", animals, dim=-2):
            logits = logits + pyro.sample("animal_effect", effect)
            matrix = logits.reshape(*logits.shape[:-1], 3, 3)
            state = torch.tensor(0)
            for t in pyro.markov(range(times)):
                row = Vindex(matrix)[..., state, :]
                state = pyro.sample(f"state_{t}", dist.Categorical(logits=row))
                shape = Vindex(concentration)[state]
                pyro.sample(f"step_{t}", dist.Gamma(shape, 1.0), obs=steps[..., t])
                pyro.sample(f"turn_{t}", dist.VonMises(0.0, shape), obs=turns[..., t])


def seals() -> tuple[Any, tuple]:
    shape = (3, 2, 10)
    return mixed_hmm, (dist.Gamma(2.0, 1.0).sample(shape), 0.7 * torch.randn(shape))


# --- sparse_regression.py


def sparse_regression(x: Tensor, y: Tensor, sparsity: float = 2.0) -> None:
    num, size = x.shape
    sigma = pyro.sample("sigma", dist.HalfNormal(3.0))
    phi = sigma * (sparsity / math.sqrt(num)) / (size - sparsity)
    eta1 = pyro.sample("eta1", dist.HalfCauchy(phi))
    msq = pyro.sample("msq", dist.InverseGamma(3.0, 1.0))
    xisq = pyro.sample("xisq", dist.InverseGamma(3.0, 1.0))
    eta2 = eta1**2 * xisq.sqrt() / msq
    lam = pyro.sample("lambda", dist.HalfCauchy(torch.ones(size)).to_event(1))
    kx = msq.sqrt() * lam / (msq + (eta1 * lam) ** 2).sqrt() * x
    inner, squares = kx @ kx.t(), kx**2 @ (kx**2).t()
    kernel = 0.5 * eta2**2 * (1 + inner) ** 2 - 0.5 * eta2**2 * squares
    kernel = kernel + (eta1**2 - eta2**2) * inner + 1 - 0.5 * eta2**2
    covariance = kernel + (sigma**2 + 1e-4) * torch.eye(num)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(num), covariance), obs=y)


def sparse_data() -> tuple[Any, tuple]:
    x = torch.randn(60, 8)
    return sparse_regression, (
        x,
        x[:, 0] - x[:, 1] + x[:, 0] * x[:, 1] + torch.randn(60) / 3,
    )


# --- inclined_plane.py


def slide_time(mu: Tensor, length: float = 2.0, dt: float = 0.005) -> Tensor:
    acceleration = 9.8 * (math.sin(math.pi / 6) - math.cos(math.pi / 6) * mu)
    if acceleration.numpy() <= 0:
        return torch.tensor(1e5)
    time, velocity, way = torch.zeros(()), torch.zeros(()), torch.zeros(())
    while way.numpy() < length:
        way = way + velocity * dt
        velocity = velocity + acceleration * dt
        time = time + dt
    return time


def inclined_plane(times: Tensor) -> None:
    mu = pyro.sample("mu", dist.Uniform(0.0, 1.0))
    for i, time in enumerate(times):
        pyro.sample(f"time_{i}", dist.Normal(slide_time(mu), 0.02), obs=time)


def slides() -> tuple[Any, tuple]:
    return inclined_plane, (slide_time(torch.tensor(0.12)) + 0.02 * torch.randn(20),)


# --- sir_hmc.py and contrib/epidemiology

POPULATION, RECOVERY = 30, 7.0
INFECTED = torch.tensor([1.0, 1, 2, 2, 3, 3, 2, 2], dtype=torch.float64)


def _sir_parameters() -> tuple[Tensor, Tensor, float]:
    r0 = pyro.sample("R0", dist.LogNormal(0.0, 1.0))
    rho = pyro.sample("rho", dist.Uniform(0, 1))
    return -r0 / (RECOVERY * POPULATION), rho, 1 / (1 + RECOVERY)


def sir_discrete(infected: Tensor) -> None:
    rate, rho, recovery = _sir_parameters()
    s, i = torch.tensor(POPULATION - 1.0), torch.tensor(1.0)
    for t, datum in enumerate(infected):
        new = pyro.sample(f"new_{t}", dist.Binomial(s, -(rate * i).expm1()))
        gone = pyro.sample(f"gone_{t}", dist.Binomial(i, recovery))
        s, i = s - new, i + new - gone
        pyro.sample(f"seen_{t}", dist.ExtendedBinomial(new, rho), obs=datum)


def _spline(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the four integers around `x` and their probabilities."""
    floor = x.detach().floor()
    s = x - floor
    t = 1 - s
    probs = torch.stack(
        [t**3, 4 + s**2 * (3 * s - 6), 4 + t**2 * (3 * t - 6), s**3], dim=-1
    )
    return floor, probs / 6


def _inside(x: Tensor) -> Tensor:
    x = torch.max(x, -1 - x)
    return torch.min(x, 2 * POPULATION + 1 - x)


def _auxiliary(name: str, length: int) -> Tensor:
    law = dist.Uniform(-0.5, POPULATION + 0.5).mask(False)
    return pyro.sample(name, law.expand([length]).to_event(1))


def sir_vectorized(infected: Tensor) -> None:
    rate, rho, recovery = _sir_parameters()
    length = len(infected)

    def quantized(name: str) -> tuple[Tensor, Tensor]:
        floor, probs = _spline(_auxiliary(name, length))
        return _inside(floor[..., None] + torch.arange(-1.0, 3.0)), safe_log(probs)

    (s, s_logp), (i, i_logp) = quantized("S"), quantized("I")
    pad = torch.nn.functional.pad
    s_old = pad(s[:-1], (0, 0, 1, 0), value=POPULATION - 1).reshape(length, 4, 1, 1, 1)
    i_old = pad(i[:-1], (0, 0, 1, 0), value=1).reshape(length, 1, 4, 1, 1)
    s, s_logp = (x.reshape(length, 1, 1, 4, 1) for x in (s, s_logp))
    i, i_logp = (x.reshape(length, 1, 1, 1, 4) for x in (i, i_logp))
    new = s_old - s
    logp = (
        s_logp
        + i_logp
        + dist.ExtendedBinomial(new, rho).log_prob(infected.reshape(length, 1, 1, 1, 1))
        + dist.ExtendedBinomial(s_old, -(rate * i_old).expm1()).log_prob(new)
        + dist.ExtendedBinomial(i_old, recovery).log_prob(i_old - i + new)
    )
    logp = dist.hmm._sequential_logmatmulexp(logp.reshape(-1, 16, 16))
    pyro.factor("seen", logp.logsumexp((0, 1)) - math.log(4))


def epidemiology() -> tuple[Any, tuple]:
    model = SimpleSIRModel(POPULATION, RECOVERY, INFECTED)
    model.num_quant_bins = 4
    return model._quantized_model, ()


def feasible(*, stacked: bool) -> dict[str, Any]:
    """Return a base of draws around a history that is possible, as `sir_hmc` finds one.

    In most draws of the prior people are infected who have already recovered.
    """
    new = 1.35 * INFECTED
    susceptible = POPULATION - 1 - new.cumsum(0)
    new = new + torch.eye(len(new))[0]
    ago = torch.arange(len(new))[:, None] - torch.arange(len(new))
    infectious = torch.where(ago >= 0, torch.exp(-ago / RECOVERY), 0.0) @ new
    noise = 0.3 * torch.randn(2, 64, len(new))
    s, i = (torch.stack([susceptible, infectious])[:, None] + noise).clamp(0, POPULATION)
    histories = {"auxiliary": torch.stack([s, i], 1)} if stacked else {"S": s, "I": i}
    r0, rho = 2 * torch.exp(0.2 * torch.randn(64)), torch.sigmoid(0.3 * torch.randn(64))
    return {"base": {"R0": r0, "rho": rho, **histories}}


# --- contrib/timeseries and hmm.py


def matern() -> tuple[Any, tuple]:
    gp = IndependentMaternGP(nu=1.5, obs_dim=1)
    gp.kernel.length_scale = PyroSample(dist.LogNormal(torch.zeros(1), 1.0).to_event(1))

    def model(y: Tensor) -> None:
        pyro.factor("y", gp.log_prob(y).sum())

    return model, (torch.sin(torch.arange(20.0) / 3)[:, None] + 0.2 * torch.randn(20, 1),)


def gaussian_hmm(y: Tensor) -> None:
    scale = pyro.sample("scale", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
    factor = pyro.sample("factor", dist.LKJCholesky(2, 1.0))
    noise = pyro.sample("noise", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
    zero, one = torch.zeros(2), torch.eye(2)
    law = dist.GaussianHMM(
        dist.Normal(zero, 10.0).to_event(1),
        one,
        dist.MultivariateNormal(zero, scale_tril=scale[..., None] * factor),
        one,
        dist.Normal(zero, noise).to_event(1),
        duration=len(y),
    )
    pyro.sample("y", law, obs=y)


def walks() -> tuple[Any, tuple]:
    return gaussian_hmm, (torch.randn(20, 2).cumsum(0) + 0.3 * torch.randn(20, 2),)


def music_hmm(tones: Tensor, lengths: Tensor, states: int = 3) -> None:
    num, length, keys = tones.shape
    law = dist.Dirichlet(0.9 * torch.eye(states) + 0.1).to_event(1)
    probs_x = pyro.sample("probs_x", law)
    law = dist.Beta(0.1, 0.9).expand([states, keys]).to_event(2)
    probs_y = pyro.sample("probs_y", law)
    with pyro.plate("sequences", num, dim=-2):
        x = 0
        for t in pyro.markov(range(length)):
            with poutine.mask(mask=(t < lengths)[:, None]):
                x = pyro.sample(
                    f"x_{t}",
                    dist.Categorical(probs_x[x]),
                    infer={"enumerate": "parallel"},
                )
                with pyro.plate(f"tones_{t}", keys, dim=-1):
                    law = dist.Bernoulli(probs_y[x.squeeze(-1)])
                    pyro.sample(f"y_{t}", law, obs=tones[:, t])


def factorial_hmm(tones: Tensor, lengths: Tensor, states: int = 2) -> None:
    num, length, keys = tones.shape
    law = dist.Dirichlet(0.9 * torch.eye(states) + 0.1).to_event(1)
    probs_w, probs_x = pyro.sample("probs_w", law), pyro.sample("probs_x", law)
    law = dist.Beta(0.1, 0.9).expand([states, states, keys]).to_event(3)
    probs_y = pyro.sample("probs_y", law)
    plate = pyro.plate("tones", keys, dim=-1)
    enumerated = {"enumerate": "parallel"}
    with pyro.plate("sequences", num, dim=-2):
        w, x = 0, 0
        for t in pyro.markov(range(length)):
            with poutine.mask(mask=(t < lengths)[:, None]):
                w = pyro.sample(f"w_{t}", dist.Categorical(probs_w[w]), infer=enumerated)
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer=enumerated)
                with plate as index:
                    law = dist.Bernoulli(probs_y[w, x, index])
                    pyro.sample(f"y_{t}", law, obs=tones[:, t])


def music(model: Any) -> tuple[Any, tuple]:
    num, length, keys = 4, 8, 5
    chord = torch.randint(2, (num, length, 1)).float()
    probs = torch.where(torch.arange(keys) < 2, 0.1 + 0.7 * chord, 0.7 - 0.6 * chord)
    return model, (torch.bernoulli(probs), torch.tensor([8, 8, 6, 4]))


# --- neutra.py


class Banana(dist.TorchDistribution):
    """The law of `(u_0, u_1 + u_0² + 1)` for a Gaussian `u` of correlation 0.9."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = dist.constraints.real_vector

    def __init__(self) -> None:
        covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
        self.normal = dist.MultivariateNormal(torch.zeros(2), covariance)
        super().__init__(event_shape=(2,))

    def sample(self, sample_shape: tuple = ()) -> Tensor:
        u = self.normal.sample(sample_shape)
        return torch.stack([u[..., 0], u[..., 1] + u[..., 0] ** 2 + 1], -1)

    def log_prob(self, x: Tensor) -> Tensor:
        first, second = x.unbind(-1)
        return self.normal.log_prob(torch.stack([first, second - first**2 - 1], -1))


def banana() -> None:
    pyro.sample("x", Banana())


# --- subsampled plates


def subsampled(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y), subsample_size=10) as index:
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y[index])


def pyro_examples() -> list[Example]:
    """Return the models of the examples."""
    schools = (SCHOOLS_Y, SCHOOLS_SIGMA)
    return [
        Example("baseball, fully pooled", partial(baseball, fully_pooled)),
        Example(
            "baseball, not pooled", partial(baseball, not_pooled), log_evidence=-68.917
        ),
        Example(
            "baseball, partially pooled",
            partial(baseball, partially_pooled),
            log_evidence=-54.842,
        ),
        Example(
            "baseball, logit",
            partial(baseball, partially_pooled_logit),
            log_evidence=-50.152,
        ),
        Example("eight schools, mcmc", lambda: (eight_schools, schools)),
        Example("eight schools, svi", lambda: (eight_schools_in_plate, schools)),
        Example("cjs 1", partial(captures, capture_recapture)),
        Example("cjs 3", partial(captures, capture_recapture_by_year)),
        Example("lda", documents),
        Example("sparse gamma", faces),
        Example("lkj 5", partial(uncorrelated, 500, 5, torch.float64)),
        Example("lkj 3", partial(uncorrelated, 100, 3, torch.float32)),
        Example("toy mixture", toy_data),
        Example("mixed hmm", seals),
        Example("sparse regression", sparse_data),
        Example("inclined plane", slides, refusal="torch"),
        Example(
            "sir, discrete", lambda: (sir_discrete, (INFECTED,)), refusal="total count"
        ),
        Example(
            "sir, vectorized",
            lambda: (sir_vectorized, (INFECTED,)),
            hint=partial(feasible, stacked=False),
            dtype=torch.float64,
        ),
        Example(
            "epidemiology",
            epidemiology,
            hint=partial(feasible, stacked=True),
            dtype=torch.float64,
        ),
        Example("matern", matern),
        Example("gaussian hmm", walks),
        Example("hmm 1", partial(music, music_hmm)),
        Example("hmm 3", partial(music, factorial_hmm)),
        Example("neutra", lambda: (banana, ()), log_evidence=0.0),
        Example("subsampled", lambda: (subsampled, (torch.randn(50),)), refusal="subsampl"),
    ]
