"""The annealing as a kernel of `pyro.infer.MCMC`, in place of NUTS."""

import warnings
from collections import OrderedDict
from typing import Any

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor
from torch.distributions import Transform

from pyro_jarzynski.core.kernels import MALA, Kernel
from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.errors import ArgumentError, ModelError, count
from pyro_jarzynski.infer.chain import Chain
from pyro_jarzynski.infer.legs import prepare
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.schedules import AdaptiveTempering, Schedule
from pyro_jarzynski.infer.settings import Settings
from pyro_jarzynski.infer.sites import bijection


class JarzynskiKernel(MCMCKernel):
    """Annealed sequential Monte Carlo in place of NUTS: `MCMC(JarzynskiKernel(model))`.

    The warm-up anneals walkers from the prior to the posterior, one temperature a step;
    what does not fit into the given number of steps is done in the last of them, and
    steps that are left over move the walkers at the posterior. Then each draw is another
    walker; when all have been given out, they are moved until they are new.

    `MCMC.diagnostics()` has of each chain the `"log evidence"`, the `"log evidence error"`,
    the `"acceptance rate"`, the `"betas"`, the `"ess"` at each, the number of
    `"unique draws"` and of `"unique ancestors"`. Draws have equal weight.

    Masks and scales are those of `AnnealedSMC`: masked latents keep their distributions.

    Draws are on the device of the model's latents, on which the data must be.

    For ArviZ take `pj.to_arviz(mcmc)`. Its own `from_pyro` works up to version 0.2x, but
    takes deterministic and factor sites for data, leaves out most log-likelihoods, and has
    wrong ones where there are as many draws as data.

    Args:
        model: Pyro model.
        num_walkers: Walkers of a chain.
        kernel: How walkers move.
        schedule: `AdaptiveTempering(ess)` or inverse temperatures from 0 to 1.
        base: Where walkers start; see `AnnealedSMC`.
        learn_base: Whether a scout goes first; see `AnnealedSMC`.
        adapt: `"pilot"`, `"online"` or `"off"`; see `AnnealedSMC`.
        preconditioner: `"dense"`, `"diagonal"` or `"none"`.
        max_moves: At most so many moves per temperature.
        seed: Seed of the walkers; `None` draws one from torch's global generator, so that
            `pyro.set_rng_seed` determines it and chains differ.
        chunk_size: Walkers per call of the model; see `AnnealedSMC`.
        jit_compile: Whether to compile the model; see `AnnealedSMC`.

    Raises:
        ArgumentError: A setting is out of its range.
        ModelError: The model cannot be used, once it is run; the message names the site.

    Source:
        Del Moral, Doucet, Jasra (2006), J. R. Stat. Soc. B 68(3).

    Example:
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> y = torch.tensor([0.5, 1.5])
        >>> kernel = pj.JarzynskiKernel(model, num_walkers=256, seed=0)
        >>> mcmc = pyro.infer.MCMC(kernel, 100, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run(y)
        >>> mcmc.get_samples()["mu"].shape
        torch.Size([100])
        >>> list(mcmc.diagnostics()["log evidence"])
        ['chain 0']
    """

    def __init__(
        self,
        model: Any,
        *,
        num_walkers: int = 1024,
        kernel: Kernel = MALA(),  # noqa: B008
        schedule: Schedule = AdaptiveTempering(),  # noqa: B008
        base: Any = "prior",
        learn_base: bool = True,
        adapt: str = "pilot",
        preconditioner: str = "dense",
        max_moves: int = 25,
        seed: int | None = None,
        chunk_size: int | str | None = "auto",
        jit_compile: bool = False,
    ) -> None:
        """Check the settings."""
        self.model = model
        self.seed = seed
        self.options: dict[str, Any] = {
            "num_walkers": num_walkers,
            "kernel": kernel,
            "schedule": schedule,
            "base": base,
            "learn_base": learn_base,
            "adapt": adapt,
            "preconditioner": preconditioner,
            "max_moves": max_moves,
            "chunk_size": chunk_size,
            "jit_compile": jit_compile,
        }
        Settings(**self.options, num_chains=1, seed=seed or 0)
        self.transforms: dict[str, Transform] | None = None
        self._initial_params: dict[str, Tensor] | None = None
        self._chain: Chain | None = None

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Analyse the model; the annealing begins with the first sample."""
        self._warmup_steps = count("warmup_steps", warmup_steps, 0)
        self._step, self._chain = 0, None
        self._arguments = args, kwargs
        drawn = self.seed
        if drawn is None:
            drawn = int(torch.randint(2**31, (), device="cpu"))
        # Ranks that were not seeded alike take one seed nevertheless.
        self._seed = ranks_now().largest(drawn)[0] if self.seed is None else drawn
        improper = self.options["base"] != "prior" or self._initial_params is not None
        model = PyroModel(self.model, args, kwargs, seed=self._seed, improper=improper)
        _check_static(model)
        self.transforms = {x.name: x.transform.inv for x in model.latents}
        values = model.unflatten(model.first_coordinates)
        self._unconstrained = {name: value.clone() for name, value in values.items()}
        self._base = self.options["base"]
        if self._initial_params is not None:
            cloud = _checked_cloud(self._initial_params, model)
            self._base = cloud or self._base
        if hasattr(self, "save_params"):
            # Pyro writes values in this order and reads them sorted.
            self.save_params = sorted(getattr(self, "save_params"))  # noqa: B009

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Unconstrained values of one draw, by which MCMC knows names and shapes."""
        return self._unconstrained

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._initial_params = params

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Anneal by a step, or return the next draw, in unconstrained coordinates."""
        del params  # the walkers know where they are
        if self._warmup_steps == 0:
            raise ArgumentError(
                "`warmup_steps` must be at least 1: walkers are annealed from the prior "
                "to the posterior during the warm-up."
            )
        with torch.inference_mode(mode=False):
            return self._named(self._next())

    def _next(self) -> Tensor:
        if self._chain is None:
            self._chain = self._begin()
        if self._step < self._warmup_steps:
            self._step += 1
            last = self._step == self._warmup_steps
            return self._chain.advance(to_the_end=last)
        return self._chain.draw()

    def logging(self) -> OrderedDict[str, str]:
        """Return the progress of the annealing, for MCMC's bar."""
        return OrderedDict() if self._chain is None else self._chain.logging()

    def diagnostics(self) -> dict[str, Any]:
        """Return evidence, acceptance and numbers of different draws, in plain types."""
        return {"divergences": []} if self._chain is None else self._chain.diagnostics()

    def cleanup(self) -> None:
        """Forget the walkers."""
        self._chain = None
        self._initial_params = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the walkers, which cannot be pickled."""
        return {**self.__dict__, "_chain": None}

    def _begin(self) -> Chain:
        options = {**self.options, "base": self._base}
        settings = Settings(**options, num_chains=1, seed=self._seed)
        args, kwargs = self._arguments
        return Chain(*prepare(self.model, args, kwargs, settings))

    def _named(self, draw: Tensor) -> dict[str, Tensor]:
        parts = draw.split([value.numel() for value in self._unconstrained.values()])
        items = zip(self._unconstrained.items(), parts, strict=True)
        return {name: part.reshape(value.shape) for (name, value), part in items}


def _checked_cloud(given: dict[str, Tensor], model: PyroModel) -> dict[str, Tensor] | None:
    """Return earlier draws, constrained, if `initial_params` holds any."""
    shapes = {latent.name: latent.unconstrained_shape for latent in model.latents}
    if sorted(given) != sorted(shapes):
        raise ArgumentError(
            f"`initial_params` must have the latents {', '.join(sorted(shapes))}, got "
            f"{', '.join(sorted(given)) or 'none'}."
        )
    if all(given[name].shape == shape for name, shape in shapes.items()):
        warnings.warn(
            "`initial_params` is not used: the walkers start from the prior. Give "
            "earlier draws, (n, *shape) each, to start from a Gaussian fitted to them.",
            UserWarning,
            stacklevel=3,
        )
        return None
    for name, shape in shapes.items():
        if given[name].shape[1:] != shape:
            raise ArgumentError(
                f"`initial_params` must have {name!r} in the unconstrained shape "
                f"{tuple(shape)}, or draws of it; got {tuple(given[name].shape)}."
            )
    return {x.name: x.transform(given[x.name]) for x in model.latents}


def _check_static(model: PyroModel) -> None:
    """Raise if a support depends on latents, which MCMC's transforms cannot follow."""
    for latent in model.latents:
        value = model.traces[0].nodes[latent.name]["value"]
        here = latent.transform.inv(value)
        for trace in model.traces[1:]:
            other = bijection(trace.nodes[latent.name]["fn"])
            if not torch.allclose(here, other.inv(value), equal_nan=True):
                raise ModelError(
                    f"The support of {latent.name!r} depends on other latents, which "
                    "`MCMC` cannot follow; use `AnnealedSMC`, or reparametrise."
                )
