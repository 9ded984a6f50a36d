"""The annealing as a kernel of `pyro.infer.MCMC`, in place of NUTS."""

import sys
import warnings
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import torch
from pyro.infer.mcmc import api
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor
from torch.distributions import Transform

from pyro_jarzynski.core.alone import ALONE
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.core.shortage import shortage_told
from pyro_jarzynski.distributions.supports import bijection
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, ModelError, count
from pyro_jarzynski.infer.chain import Chain
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.posterior import Target
from pyro_jarzynski.infer.result import SMCResult
from pyro_jarzynski.infer.run_warnings import RunWarnings
from pyro_jarzynski.infer.settings import Settings, shows_settings


class JarzynskiKernel(MCMCKernel):
    """Annealed sequential Monte Carlo in place of NUTS: `MCMC(JarzynskiKernel(model))`.

    The warm-up anneals walkers from the prior to the posterior, one temperature a step;
    what does not fit into the given number of steps is done in the last of them, and
    steps that are left over move the walkers at the posterior, until they have
    decorrelated. Then each draw is another walker; when all have been given out, they are
    moved until they have decorrelated again.

    `MCMC.diagnostics()` has of each chain the `"log evidence"`, the `"log evidence error"`,
    the `"betas"` and the `"ess"` at each, the `"acceptance rate"`, `"step size"`, `"moves"`
    and `"leapfrog steps"` of the last of them, the number of `"unique draws"` and of
    `"unique ancestors"`, and `"warnings"` and `"status"`, as `doubts` and `status` of
    `SMCResult`. Draws have equal weight, and so have chains.

    Draws are of the continuous latents, as with NUTS, and of a model whose latents are all
    discrete of these, as floating-point numbers. They are exact then.

    Masks and scales are those of `AnnealedSMC`: masked latents keep their distributions.

    Draws are on the device of the model's latents, on which the data must be.

    For ArviZ take `pj.to_arviz(mcmc)`. Its own `from_pyro` works up to version 0.2x, but
    takes deterministic and factor sites for data, leaves out most log-likelihoods, and has
    wrong ones where there are as many draws as data.

    Args:
        model: Pyro model.
        seed: Seed of the walkers; each chain of `MCMC` has randomness of its own that
            follows from it. `None` draws a seed from torch's global generator, so that
            `pyro.set_rng_seed` determines it.
        **settings: Those of `AnnealedSMC`, for each chain: `num_walkers`, `kernel`,
            `schedule`, `base`, `learn_base`, `adapt`, `preconditioner`, `num_moves`,
            `max_moves`, `resampler`, `ess_threshold`, `waste_free`, `max_seconds` (of the
            annealing), `chunk_size` and `jit_compile`. The number of chains is told to
            `MCMC`.

    Raises:
        ArgumentError: A setting is out of its range.
        ArgumentTypeError: The model is a `Target`.
        ModelError: The model cannot be used, once it is run; the message names the site.

    Warns:
        EvidenceWarning: Something suggests not to trust the draws of a chain, or that
            chains differ, as far as they run in one process.

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

    @shows_settings("num_chains")
    def __init__(self, model: Any, *, seed: int | None = None, **settings: Any) -> None:
        """Check the settings."""
        if "num_chains" in settings:
            raise ArgumentError(
                "`num_chains` is an argument of `MCMC`: `MCMC(JarzynskiKernel(model), "
                "num_samples, num_chains=4)`."
            )
        if isinstance(model, Target):
            raise ArgumentTypeError(
                "`model` must be a Pyro model, whose latents `MCMC` names, got a `Target`: "
                "use `AnnealedSMC`."
            )
        self.model, self.seed = model, seed
        self.settings = Settings(**settings, num_chains=1, seed=0 if seed is None else seed)
        self.transforms: dict[str, Transform] | None = None
        self._initial_params: dict[int, dict[str, Tensor]] = {}
        self._chain: Chain | None = None
        self._finished: list[SMCResult] = []

    @standard_modes()
    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Analyse the model; the annealing begins with the first sample."""
        self._warmup_steps = count("warmup_steps", warmup_steps, 0)
        self._step, self._chain = 0, None
        chain = _chain_of_mcmc()
        given = self._initial_params.get(chain or 0)
        if not chain:
            self._finished = []
        self._warnings = RunWarnings("" if chain is None else f"Chain {chain}: ")
        cloud, base = None, self.settings.base
        with ALONE, self._warnings.deduplicated():
            seed = self._seed_of(chain or 0)
            improper = base != "prior" or given is not None
            model = PyroModel(self.model, args, kwargs, seed=seed, improper=improper)
            _check_static(model)
            values = model.unflatten(model.first_coordinates) or model.first_discrete
            if given is not None:
                cloud = _checked_cloud(given, model)
        self._analysed = model
        self._of_chain = replace(self.settings, seed=seed, base=cloud or base)
        self.transforms = {x.name: x.transform.inv for x in model.latents}
        self._unconstrained = {name: value.clone() for name, value in values.items()}
        if hasattr(self, "save_params"):
            # Pyro writes values in this order and reads them sorted.
            self.save_params = sorted(getattr(self, "save_params"))  # noqa: B009

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Unconstrained values of one draw, by which MCMC knows names and shapes."""
        return self._unconstrained

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._initial_params[_chain_of_mcmc() or 0] = params

    @standard_modes()
    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Anneal by a step, or return the next draw, in unconstrained coordinates."""
        del params  # the walkers know where they are
        if self._warmup_steps == 0:
            raise ArgumentError(
                "`warmup_steps` must be at least 1: walkers are annealed from the prior "
                "to the posterior during the warm-up."
            )
        guard = shortage_told(self.settings.num_walkers)
        with ALONE, guard, self._warnings.deduplicated():
            return self._named(self._next())

    def _next(self) -> Tensor:
        if self._chain is None:
            self._chain = Chain(
                self._analysed, self._of_chain, self._warnings, self._finished
            )
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
        self._chain, self._initial_params = None, {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the walkers, which cannot be pickled."""
        return {**self.__dict__, "_chain": None, "_finished": []}

    def _seed_of(self, chain: int) -> int:
        """Return the seed of a chain."""
        if self.seed is None:
            # Ranks that were not seeded alike take one seed nevertheless.
            return ranks_now().largest(int(torch.randint(2**31, (), device="cpu")))[0]
        if chain == 0:
            return self.seed
        return stream(self.seed, f"chain {chain}").initial_seed()

    def _named(self, draw: Tensor) -> dict[str, Tensor]:
        parts = draw.split([value.numel() for value in self._unconstrained.values()])
        items = zip(self._unconstrained.items(), parts, strict=True)
        return {name: part.reshape(value.shape) for (name, value), part in items}


def _chain_of_mcmc() -> int | None:
    """Return the chain for which `MCMC` calls its kernel; `None` if it runs one alone.

    `MCMC` does not pass this number to the kernel, so it is read from the calling frames:
    of a chain that runs in turn, of a process, and of the start of a process, where the
    initial parameters of all chains are set on one kernel.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        known = frame.f_locals
        if frame.f_code is api._Worker.__init__.__code__:
            return int(known["chain_id"])
        if frame.f_code is api._Worker.run.__code__:
            return int(known["self"].chain_id)
        if frame.f_code is api._UnarySampler.run.__code__:
            return int(known["i"]) if known["self"].num_chains > 1 else None
    return None


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
            alike = torch.allclose(here, other.inv(value), equal_nan=True)
            # The inverse of a value near an end can be lost by rounding.
            back = torch.allclose(latent.transform(here), other(here), atol=0)
            if not (alike or back):
                raise ModelError(
                    f"The support of {latent.name!r} depends on other latents, which "
                    "`MCMC` cannot follow; use `AnnealedSMC`, or reparametrise."
                )
