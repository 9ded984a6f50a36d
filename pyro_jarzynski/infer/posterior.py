"""What is annealed: a base that can be drawn, and the posterior, as a pair of energies.

Everything above this file works on coordinates `(N, D)` and asks a `Posterior` for draws
of the base, for the energies of both ends, and for values by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_jarzynski.core.evaluation import CombinedEnergy
from pyro_jarzynski.core.gradients import TermsFn
from pyro_jarzynski.core.memory import MORE, chunk_size_for
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.errors import ArgumentError, EnergyError
from pyro_jarzynski.infer.bases import Base, make_base
from pyro_jarzynski.infer.batching import Guarded, batch, map_walkers, repeated
from pyro_jarzynski.infer.discrete import draw_discrete
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.prior import draw_prior
from pyro_jarzynski.infer.singular import SingularAsNaN
from pyro_jarzynski.infer.sites import check_dtype

# Different walkers at which the ways of evaluating a model are compared.
NUM_TRIED = 16


class Posterior(Protocol):
    """The law at the end of an annealing, and the one at its start.

    Attributes:
        size: Number `D` of unconstrained coordinates.
        method: How many walkers are evaluated at once: vmap, plate, loop or torch.
        chunk_size: Walkers per call of the model; `None` is all at once.
        device: Where the walkers are.
    """

    size: int
    method: str
    chunk_size: int | None
    device: torch.device

    def draw(self, num: int, *, seed: int, purpose: str) -> Tensor:
        """Draw walkers from the base, `(num, D)`."""

    def terms(self, walkers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energies of base and posterior, each `(N,)`."""

    def constrain(
        self, walkers: Tensor, *, deterministic: bool = False
    ) -> dict[str, Tensor]:
        """Return values by site, each `(N, *shape)`."""

    def confirm(self, walkers: Walkers, *, compiled: bool) -> None:
        """Raise if walkers that were evaluated at once have other energies alone."""

    def explain(self, walker: Tensor) -> str:
        """Tell which parts of the model are not finite at one walker, `(D,)`."""


@dataclass(frozen=True)
class Target:
    """A posterior in plain torch, for `AnnealedSMC` in place of a Pyro model.

    `Z = ∫ e^{log_prior(x) + log_likelihood(x)} dx`.

    Args:
        log_prior: Normalised log-density of the prior, `(N, *event) -> (N,)`, on
            unconstrained space.
        log_likelihood: Log-likelihood, `(N, *event) -> (N,)`.
        prior_sample: `prior_sample(num, generator)` draws from the prior,
            `(num, *event)`. Walkers are where these draws are.
        device: Device of `generator`; `None` is torch's default device.

    Draws are called `x` in samples and summaries.

    Example:
        >>> target = pj.Target(
        ...     log_prior=lambda x: dist.Normal(0.0, 2.0).log_prob(x).sum(1),
        ...     log_likelihood=lambda x: -(x.square() - 1).square().sum(1) * 4,
        ...     prior_sample=lambda n, g: 2 * torch.randn(n, 1, generator=g),
        ... )
        >>> result = pj.AnnealedSMC(target, num_walkers=256, progress=False).run()
        >>> result.get_samples()["x"].shape
        torch.Size([1024, 1])
    """

    log_prior: Callable[[Tensor], Tensor]
    log_likelihood: Callable[[Tensor], Tensor]
    prior_sample: Callable[[int, torch.Generator], Tensor]
    device: torch.device | str | None = None


class TorchPosterior:
    """The posterior of a `Target`; its one site is called `x`."""

    method = "torch"

    def __init__(self, target: Target, chunk_size: int | str | None = "auto") -> None:
        """Look at the shape of the draws, and choose walkers per call."""
        self.target = target
        few = self._prior_draws(2, seed=0, purpose="shape")
        self.event, self.device = few.shape[1:], few.device
        self.size = self.event.numel()
        few = self.draw(MORE, seed=0, purpose="memory")
        energy = CombinedEnergy(self.terms, (0.5, 0.5))
        self.chunk_size = chunk_size_for(chunk_size, energy, few)

    def draw(self, num: int, *, seed: int, purpose: str) -> Tensor:
        """Draw walkers from the prior, `(num, D)`."""
        return self._prior_draws(num, seed=seed, purpose=purpose).reshape(num, -1)

    def terms(self, walkers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energies of prior and posterior, each `(N,)`."""
        prior, joint = Guarded(self._log_densities)(walkers)
        return -prior, -joint

    def _log_densities(self, walkers: Tensor) -> tuple[Tensor, Tensor]:
        x = walkers.reshape(-1, *self.event)
        prior, likelihood = self.target.log_prior(x), self.target.log_likelihood(x)
        for name, value in (("log_prior", prior), ("log_likelihood", likelihood)):
            if value.shape != (len(walkers),):
                raise EnergyError(
                    f"`{name}` must return one number per walker, shape "
                    f"({len(walkers)},); got {tuple(value.shape)}."
                )
        return prior, prior + likelihood

    def constrain(
        self,
        walkers: Tensor,
        *,
        deterministic: bool = False,
    ) -> dict[str, Tensor]:
        """Return the walkers in the shape of the draws, as `x`."""
        return {"x": walkers.reshape(-1, *self.event)}

    def confirm(self, walkers: Walkers, *, compiled: bool) -> None:
        """Do nothing: the functions take all walkers at once."""

    def explain(self, walker: Tensor) -> str:
        """Tell which of the two functions is not finite at one walker."""
        x = walker.reshape(1, *self.event)
        with SingularAsNaN():
            found = {
                "log_prior": self.target.log_prior(x),
                "log_likelihood": self.target.log_likelihood(x),
            }
        broken = [name for name, value in found.items() if not torch.isfinite(value).all()]
        return f"`{broken[0]}` is not finite there." if broken else ""

    def _prior_draws(self, num: int, *, seed: int, purpose: str) -> Tensor:
        device = self.target.device or torch.get_default_device()
        drawn = self.target.prior_sample(num, stream(seed, purpose, device))
        if not isinstance(drawn, Tensor) or drawn.ndim < 2 or len(drawn) != num:
            got = tuple(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
            raise ArgumentError(
                f"`prior_sample({num}, generator)` must return a tensor of shape "
                f"({num}, *event), got {got}."
            )
        check_dtype("`prior_sample`", drawn.dtype)
        return drawn


class ModelPosterior:
    """The posterior of a Pyro model.

    Args:
        model: The model and its arguments, analysed.
        base: Where walkers start; `None` is the prior.
        num_walkers: Walkers of the largest cloud that will be evaluated.
        seed: Seed of checks.
        chunk_size: Walkers per call of the model; `"auto"` chooses them by memory, and
            `None` takes all at once.
        cloud_sizes: Numbers of walkers of all clouds; `None` is the largest alone.
        walkers_of_run: Walkers of all clouds, for the expected time of a run.

    Attributes:
        chunk_size: Walkers per call of the model, as chosen.
    """

    def __init__(
        self,
        model: PyroModel,
        base: Base | None,
        num_walkers: int,
        seed: int,
        *,
        chunk_size: int | str | None = "auto",
        cloud_sizes: Sequence[int] | None = None,
        walkers_of_run: int | None = None,
    ) -> None:
        """Choose how to evaluate many walkers."""
        self.model, self.base, self.size = model, base, model.size
        self.seed, self.device = seed, model.device
        self.method, self.chunk_size = "exact", None
        if self.size:
            few = self.draw(NUM_TRIED, seed=seed, purpose="choice of a method")
            self._batched = batch(
                model,
                few,
                cloud_sizes or [num_walkers],
                chunk_size=chunk_size,
                walkers_of_run=walkers_of_run,
                seed=seed,
            )
            self.method = self._batched.method
            self.chunk_size = self._batched.chunk_size
            self._densities = self._batched.densities
        else:
            self._densities = self._exact
            walkers = torch.empty(1, 0, device=self.device)
            with torch.no_grad():
                repeated(model, lambda: [*self._exact(walkers)], walkers[0], seed=seed)

    def draw(self, num: int, *, seed: int, purpose: str) -> Tensor:
        """Draw walkers from the base, `(num, D)`."""
        if self.base is None:
            return draw_prior(self.model, num, seed=seed, purpose=purpose)
        return self.base.draw(num, stream(seed, purpose, self.device))

    def terms(self, walkers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energies of base and posterior, each `(N,)`."""
        prior, joint = self._densities(walkers)
        start = prior if self.base is None else self.base.log_prob(walkers)
        return -start, -joint

    def joint_energy(self, walkers: Tensor) -> Tensor:
        """Return the energy of the posterior, `(N,)`."""
        return -self._densities(walkers)[1]

    def constrain(
        self,
        walkers: Tensor,
        *,
        deterministic: bool = False,
        discrete: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return latents, each `(N, *shape)`.

        Args:
            walkers: Coordinates, `(N, D)`.
            deterministic: Whether to add deterministic sites, and draws of the discrete
                latents; the latter are there in any case if there are no others.
            discrete: Values of the discrete latents, each `(N, *shape)`; `None` draws them.
        """
        if not self.size and not deterministic:
            return self.discrete(walkers) if self.model.enumerated else {}
        given: tuple[dict[str, Tensor], ...] = ()
        if deterministic and self.model.enumerated:
            given = (discrete or self.discrete(walkers),)
        with torch.no_grad():
            values = map_walkers(
                self.model.values,
                walkers,
                *given,
                by_loop=self.by_loop,
                chunk_size=self.model.walkers_per_run,
            )
        if deterministic:
            return values
        return {latent.name: values[latent.name] for latent in self.model.latents}

    def discrete(
        self, walkers: Tensor, purpose: str = "discrete latents"
    ) -> dict[str, Tensor]:
        """Draw the discrete latents, each `(N, *shape)`; the same for the same purpose."""
        return draw_discrete(
            self.model, walkers, by_loop=self.by_loop, seed=self.seed, purpose=purpose
        )

    def prior_values(self, walkers: Tensor) -> dict[str, Tensor]:
        """Return all sites but data at draws of the prior, each `(N, *shape)`."""
        discrete = None
        if self.model.enumerated:
            discrete = draw_discrete(
                self.model,
                walkers,
                by_loop=self.by_loop,
                seed=self.seed,
                purpose="discrete latents of the prior",
                of_prior=True,
            )
        return self.constrain(walkers, deterministic=True, discrete=discrete)

    def _exact(self, walkers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the densities of walkers without coordinates, which are all the same."""
        prior, joint = self.model.log_densities(walkers.new_empty(0))
        return prior.to(joint).expand(len(walkers)), joint.expand(len(walkers))

    def confirm(self, walkers: Walkers, *, compiled: bool) -> None:
        """Raise if walkers that were evaluated at once have other energies alone.

        Args:
            walkers: Walkers of which the last term of the energy is that of the posterior.
            compiled: Whether their energies are those of compiled code.
        """
        goal = walkers.evaluation.terms[-1]
        assert isinstance(walkers.position, Tensor)
        assert isinstance(goal.grad, Tensor)
        self._batched.confirm(walkers.position, -goal.energy, -goal.grad, compiled=compiled)

    @property
    def by_loop(self) -> bool:
        """Whether the model can only be run for one walker at a time."""
        return self.method == "loop"

    def explain(self, walker: Tensor) -> str:
        """Tell which sites are not finite at one walker."""
        for name, density in self.model.broken_sites(walker).items():
            return f"The density of site {name!r} is {density} there."
        return ""


def make_posterior(
    model: Any,
    args: tuple,
    kwargs: dict[str, Any],
    *,
    analysed: PyroModel | None = None,
    base: Any,
    num_walkers: int,
    seed: int,
    chunk_size: int | str | None = "auto",
    cloud_sizes: Sequence[int] | None = None,
    walkers_of_run: int | None = None,
) -> ModelPosterior | TorchPosterior:
    """Return the posterior of a Pyro model with its data, or of a `Target`."""
    if isinstance(model, Target):
        if base != "prior" or args or kwargs:
            raise ArgumentError(
                "A `Target` takes neither arguments nor another base than its prior."
            )
        return TorchPosterior(model, chunk_size)
    if analysed is None:
        proper = isinstance(base, str) and base == "prior"
        analysed = PyroModel(model, args, kwargs, seed=seed, improper=not proper)
    first = make_base(base, analysed, seed)
    return ModelPosterior(
        analysed,
        first,
        num_walkers,
        seed,
        chunk_size=chunk_size,
        cloud_sizes=cloud_sizes,
        walkers_of_run=walkers_of_run,
    )


def between(first: ModelPosterior, second: ModelPosterior) -> TermsFn:
    """Return the energies of two posteriors over the same latents."""
    return lambda walkers: (first.joint_energy(walkers), second.joint_energy(walkers))
