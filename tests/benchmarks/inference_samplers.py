"""Samplers that estimate an evidence, behind one interface.

A sampler is prepared for a problem once and then run for many seeds; what a library
compiles is compiled in the first run. `Estimate.evaluations` counts the points at which a
log-density, with its gradient where the sampler uses gradients, was evaluated.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
import torch
from inference_problem import Problem

import pyro_jarzynski as pj


class Estimate(NamedTuple):
    """What one run gave: `log Ẑ` in nats, points evaluated, and temperatures."""

    log_evidence: float
    evaluations: int
    stages: int


Run = Callable[[int], Estimate]


@dataclass(frozen=True)
class Sampler:
    """A way to estimate an evidence.

    Attributes:
        name: Short name.
        package: Package that it needs.
        settings: Its settings, as the table tells them.
        prepare: Returns what runs a problem with a seed.
        slow: Whether it gets few seeds.
    """

    name: str
    package: str
    settings: str
    prepare: Callable[[Problem], Run]
    slow: bool = False

    @property
    def version(self) -> str | None:
        """Version of the package, or `None` if it is not installed."""
        if self.package == "pyro-jarzynski":
            return "this one"
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


def told(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items()) or "defaults"


# This package -------------------------------------------------------------------------


def annealed(name: str, *, slow: bool = False, **options: Any) -> Sampler:
    """Return `AnnealedSMC` with some options."""

    def prepare(problem: Problem) -> Run:
        torch.set_default_dtype(torch.float64 if problem.double else torch.float32)

        def run(seed: int) -> Estimate:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                smc = pj.AnnealedSMC(problem.model, seed=seed, progress=False, **options)
                result = smc.run(*problem.args)
            stages = len(result.history["beta"])
            return Estimate(result.log_evidence, result.num_gradients, stages)

        return run

    return Sampler(name, "pyro-jarzynski", told(options), prepare, slow)


# blackjax -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Tempered:
    """Settings of blackjax's adaptive tempered SMC with Hamiltonian moves.

    With `covariance` the inverse mass matrix is that of the weighted particles at each
    temperature, otherwise the identity.
    """

    particles: int = 1000
    step: float = 0.1
    leapfrog: int = 10
    moves: int = 2
    ess: float = 0.5
    covariance: bool = False

    def __str__(self) -> str:
        """Tell the settings."""
        mass = "covariance of particles" if self.covariance else "identity"
        return (
            f"{self.particles} particles, step {self.step}, {self.leapfrog} leapfrog, "
            f"{self.moves} moves, ESS {self.ess}, inverse mass {mass}"
        )


def blackjax_smc(name: str, settings: dict[str, Tempered]) -> Sampler:
    """Return the sampler with settings by problem; `""` has those of all others."""

    def prepare(problem: Problem) -> Run:
        return _blackjax(problem, settings.get(problem.name, settings[""]))

    text = "; ".join(f"{name or 'else'}: {s}" for name, s in settings.items())
    return Sampler(name, "blackjax", text.removeprefix("else: "), prepare)


def _blackjax(problem: Problem, how: Tempered) -> Run:
    import blackjax
    import jax
    import jax.numpy as jnp
    from blackjax.smc import adaptive_tempered, extend_params
    from blackjax.smc.resampling import systematic

    jax.config.update("jax_enable_x64", problem.double)
    kernel = adaptive_tempered.build_kernel(
        lambda z: problem.log_prior(jnp, z),
        lambda z: problem.log_likelihood(jnp, z),
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        systematic,
        how.ess,
    )

    def inverse_mass(state: Any) -> Any:
        if not how.covariance:
            return jnp.ones(problem.size)
        return jnp.cov(state.particles, rowvar=False, aweights=state.weights)

    def advance(carry: Any) -> Any:
        key, state, log_evidence, stages = carry
        key, here = jax.random.split(key)
        parameters = extend_params(
            {
                "step_size": how.step,
                "inverse_mass_matrix": inverse_mass(state),
                "num_integration_steps": how.leapfrog,
            }
        )
        state, info = kernel(here, state, how.moves, parameters)
        return key, state, log_evidence + info.log_likelihood_increment, stages + 1

    @jax.jit
    def anneal(key: Any, particles: Any) -> Any:
        state = adaptive_tempered.init(particles)
        state = state._replace(tempering_param=jnp.zeros((), particles.dtype))
        start = key, state, jnp.zeros((), particles.dtype), 0
        return jax.lax.while_loop(
            lambda c: (c[1].tempering_param < 1) & (c[3] < 500), advance, start
        )

    def run(seed: int) -> Estimate:
        particles = problem.draw(np.random.default_rng(seed), how.particles)
        particles = jnp.asarray(particles, float if problem.double else np.float32)
        _, _, found, stages = anneal(jax.random.key(seed), particles)
        each = how.particles * (how.leapfrog * how.moves + 1)
        return Estimate(float(found), int(stages) * each, int(stages))

    return run


# PyMC ---------------------------------------------------------------------------------


def pymc_smc(draws: int = 2000) -> Sampler:
    """Return `pymc.sample_smc` with its defaults, one chain a run, compiled once."""

    def prepare(problem: Problem) -> Run:
        import pymc as pm
        from pymc.smc.kernels import IMH

        kept: list[Any] = []

        def run(seed: int) -> Estimate:
            if not kept:
                with pm.Model() as model:
                    problem.pymc(pm)
                    kept.extend([model, IMH(draws=draws, model=model, random_seed=seed)])
            model, kernel = kept
            with model, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # As `sample_smc` has it for each of its chains.
                kernel.initialize(None, np.random.default_rng(seed))
                stages, evaluations = 0, draws
                while kernel.beta < 1:
                    kernel.update_beta_and_weights()
                    kernel.step()
                    stages += 1
                    evaluations += draws * kernel.n_steps
            return Estimate(float(kernel.log_marginal_likelihood), evaluations, stages)

        return run

    text = f"{draws} draws, IMH, threshold 0.5, correlation 0.01; one chain a run"
    return Sampler("pymc", "pymc", text, prepare, slow=True)


# particles ----------------------------------------------------------------------------


def particles_smc(ancestors: int = 200, chain: int = 50) -> Sampler:
    """Return waste-free adaptive tempering by random walks, of the package `particles`."""

    def prepare(problem: Problem) -> Run:
        import particles
        from particles import distributions, smc_samplers

        class Prior(distributions.ProbDist):
            dim = problem.size
            dtype = np.dtype("float64")

            def rvs(self, size: int | None = None) -> np.ndarray:
                # The package draws from NumPy's global generator.
                return problem.draw(np.random.default_rng(np.random.randint(2**31)), size)  # noqa: NPY002

            def logpdf(self, x: np.ndarray) -> np.ndarray:
                return problem.log_prior(np, x)

        points = [0]

        class Model(smc_samplers.StaticModel):
            def loglik(self, theta: np.ndarray, t: int | None = None) -> np.ndarray:
                points[0] += len(theta)
                with np.errstate(over="ignore", invalid="ignore"):
                    return problem.log_likelihood(np, theta["z"].astype(float))

        law = Model(prior=distributions.StructDist({"z": Prior()}))

        def run(seed: int) -> Estimate:
            np.random.seed(seed)  # noqa: NPY002
            points[0] = 0
            path = smc_samplers.AdaptiveTempering(model=law, len_chain=chain)
            smc = particles.SMC(fk=path, N=ancestors, verbose=False)
            smc.run()
            return Estimate(float(smc.logLt), points[0], smc.t)

        return run

    text = f"{ancestors} ancestors x {chain} points, random walk, waste-free, ESS 0.5"
    return Sampler("particles", "particles", text, prepare, slow=True)
