"""The annealing as a kernel of `pyro.infer.MCMC`, in place of NUTS."""

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor
from torch.distributions import Transform

from pyro_jarzynski.core import smc
from pyro_jarzynski.core.kernels import MALA, Kernel, Tools
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import systematic
from pyro_jarzynski.core.walkers import resample
from pyro_jarzynski.errors import ArgumentError, ModelError, count
from pyro_jarzynski.infer.annealing import Reached, Settings, anneal, make_legs
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.schedules import AdaptiveTempering, Schedule

# Share of the walkers that must have moved before they are given out again.
MOVED = 0.99


class JarzynskiKernel(MCMCKernel):
    """Annealed sequential Monte Carlo in place of NUTS: `MCMC(JarzynskiKernel(model))`.

    The warm-up anneals walkers from the prior to the posterior, one temperature a step;
    what does not fit into the given number of steps is done in the last of them, and
    steps that are left over move the walkers at the posterior. Then each draw is another
    walker; when all have been given out, they are moved until they are new.

    `MCMC.diagnostics()` has the evidence, its error, the acceptance rate, the effective
    sample sizes and the number of different draws. Draws have equal weight.

    Args:
        model: Pyro model.
        num_walkers: Walkers of a chain.
        kernel: How walkers move.
        schedule: `AdaptiveTempering(ess)` or inverse temperatures from 0 to 1.
        base: Where walkers start; see `AnnealedSMC`.
        adapt: `"pilot"`, `"online"` or `"off"`; see `AnnealedSMC`.
        preconditioner: `"dense"`, `"diagonal"` or `"none"`.
        max_moves: At most so many moves per temperature.
        seed: Seed of the walkers; `None` draws one from torch's global generator, so that
            `pyro.set_rng_seed` determines it and chains differ.
        chunk_size: Walkers per call of the model; `None` takes all at once.
    """

    def __init__(
        self,
        model: Any,
        *,
        num_walkers: int = 1024,
        kernel: Kernel = MALA(),  # noqa: B008
        schedule: Schedule = AdaptiveTempering(),  # noqa: B008
        base: Any = "prior",
        adapt: str = "pilot",
        preconditioner: str = "dense",
        max_moves: int = 25,
        seed: int | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.model = model
        self.seed = seed
        self.options: dict[str, Any] = {
            "num_walkers": num_walkers,
            "kernel": kernel,
            "schedule": schedule,
            "base": base,
            "adapt": adapt,
            "preconditioner": preconditioner,
            "max_moves": max_moves,
            "chunk_size": chunk_size,
        }
        Settings(**self.options, num_chains=1, seed=seed or 0)
        self.transforms: dict[str, Transform] | None = None
        self._initial_params: dict[str, Tensor] | None = None
        self._forget()

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Analyse the model; the annealing begins with the first sample."""
        self._forget()
        count("warmup_steps", warmup_steps, 0)
        self._warmup_steps = warmup_steps
        seed = self.seed
        if seed is None:
            seed = int(torch.randint(2**31, ()))
        options = dict(self.options)
        improper = options["base"] != "prior" or self._has_cloud()
        model = PyroModel(self.model, args, kwargs, seed=seed, improper=improper)
        _check_static(model)
        self.transforms = {x.name: x.transform.inv for x in model.latents}
        self._unconstrained = {
            x.name: x.transform.inv(model.traces[0].nodes[x.name]["value"]).detach()
            for x in model.latents
        }
        if hasattr(self, "save_params"):
            # Pyro writes values in this order and reads them sorted.
            self.save_params = sorted(self.save_params)
        cloud = self._checked_initial_params(model)
        if cloud is not None:
            options["base"] = cloud
        self._settings = Settings(**options, num_chains=1, seed=seed)
        self._arguments = args, kwargs

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Unconstrained values of one draw, by which MCMC knows names and shapes."""
        return self._unconstrained

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._initial_params = params

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        """Anneal by a step, or return the next draw, in unconstrained coordinates."""
        if self._warmup_steps == 0:
            raise ArgumentError(
                "`warmup_steps` must be at least 1: the walkers are annealed from the prior "
                "to the posterior during the warm-up."
            )
        if self._step < self._warmup_steps:
            self._step += 1
            self._warm_up(last=self._step == self._warmup_steps)
            assert self._reached is not None
            return self._named(self._positions()[0])
        if not len(self._pending):
            self._refill()
        draw, self._pending = self._pending[0], self._pending[1:]
        self._given.append(draw)
        return self._named(draw)

    def logging(self) -> OrderedDict:
        """Return the progress of the annealing, for MCMC's bar."""
        if self._reached is None:
            return OrderedDict()
        info = self._reached.info
        share = float(info.ess[0]) / self.options["num_walkers"]
        return OrderedDict(
            [
                ("β", f"{self._reached.beta:.3g}"),
                ("ESS", f"{share:.0%}"),
                ("log Z", f"{float(info.log_normalizer[0]):.2f}"),
            ]
        )

    def diagnostics(self) -> dict[str, Any]:
        """Return evidence, acceptance and numbers of different draws, in plain types."""
        if self._reached is None:
            return {"divergences": []}
        walkers = self._annealed.walkers if self._annealed else self._reached.walkers
        given = torch.stack(self._given) if self._given else self._positions()[:0]
        return {
            "divergences": [],
            "acceptance rate": float(self._reached.info.acceptance_rate[0]),
            "log evidence": float(walkers.log_normalizer[0]),
            "log evidence error": float(walkers.log_normalizer_error[0]),
            "betas": self._betas,
            "ess": self._ess,
            "unique draws": len(given.unique(dim=0)),
            "unique ancestors": len(walkers.ancestor.unique()),
        }

    def cleanup(self) -> None:
        """Forget a run."""
        self._forget()
        self._initial_params = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what a run holds, which cannot be pickled."""
        state = dict(self.__dict__)
        state.update(_Run().__dict__)
        return state

    def _forget(self) -> None:
        self.__dict__.update(_Run().__dict__)

    def _warm_up(self, *, last: bool) -> None:
        if self._stages is None:
            assert self._settings is not None
            args, kwargs = self._arguments
            legs = make_legs(self.model, args, kwargs, self._settings)
            self._stages = anneal(legs, self._settings)
            self._tools = Tools(
                stream(self._settings.seed, "draws"), self._settings.chunk_size
            )
        while True:
            reached = next(self._stages, None)
            if reached is None:
                self._move(1)
                return
            self._reached = reached
            self._betas.append(reached.beta)
            self._ess.append(float(reached.info.ess[0]))
            if reached.beta == 1:
                self._annealed = reached
            if not last:
                return

    def _move(self, num_moves: int) -> None:
        """Move the walkers at the posterior."""
        assert self._reached is not None
        stage = self._reached.stage
        walkers, info = smc.step(
            self._reached.walkers,
            stage.energy,
            stage.kernel,
            num_moves=num_moves,
            tools=self._tools,
        )
        self._reached = self._reached._replace(walkers=walkers, info=info)

    def _refill(self) -> None:
        """Draw walkers by their weights, after moves if they were given out before."""
        assert self._reached is not None
        if self._given:
            before = self._positions()
            for _ in range(self.options["max_moves"]):
                self._move(self._reached.stage.num_moves)
                if float((self._positions() != before).any(1).double().mean()) >= MOVED:
                    break
        walkers = self._reached.walkers
        generator = self._tools.generator
        size = walkers.num_walkers
        if float(walkers.log_weight.max() - walkers.log_weight.min()) > 0:
            log_weight = walkers.by_island(walkers.log_weight)
            walkers = resample(walkers, systematic(log_weight, size, generator))
            self._reached = self._reached._replace(walkers=walkers)
        order = torch.randperm(size, generator=generator)
        self._pending = self._positions()[order]

    def _positions(self) -> Tensor:
        assert self._reached is not None
        position = self._reached.walkers.position
        assert isinstance(position, Tensor)
        return position

    def _named(self, draw: Tensor) -> dict[str, Tensor]:
        parts = draw.split([value.numel() for value in self._unconstrained.values()])
        items = zip(self._unconstrained.items(), parts, strict=True)
        return {name: part.reshape(value.shape) for (name, value), part in items}

    def _has_cloud(self) -> bool:
        given = self._initial_params or {}
        return any(v.ndim > 0 and len(v) > 1 for v in given.values())

    def _checked_initial_params(self, model: PyroModel) -> dict[str, Tensor] | None:
        """Return earlier draws, constrained, if the user gave any."""
        given = self._initial_params
        if given is None:
            return None
        names = [latent.name for latent in model.latents]
        if sorted(given) != sorted(names):
            raise ArgumentError(
                f"`initial_params` must have the latents {', '.join(sorted(names))}, got "
                f"{', '.join(sorted(given)) or 'none'}."
            )
        shapes = {x.name: x.unconstrained_shape for x in model.latents}
        if all(given[name].shape == shapes[name] for name in names):
            warnings.warn(
                "`initial_params` is not used: the walkers start from the prior. Give "
                "earlier draws, (n, *shape) each, to start from a Gaussian fitted to them.",
                UserWarning,
                stacklevel=3,
            )
            return None
        for name in names:
            if given[name].shape[1:] != shapes[name]:
                raise ArgumentError(
                    f"`initial_params` must have {name!r} in the unconstrained shape "
                    f"{tuple(shapes[name])}, or draws of it; got "
                    f"{tuple(given[name].shape)}."
                )
        return {x.name: x.transform(given[x.name]) for x in model.latents}


class _Run:
    """What a kernel holds during a run."""

    def __init__(self) -> None:
        self._step = 0
        self._warmup_steps = 0
        self._settings: Settings | None = None
        self._arguments: tuple[tuple, dict[str, Any]] = (), {}
        self._unconstrained: dict[str, Tensor] = {}
        self._stages: Iterator[Reached] | None = None
        self._reached: Reached | None = None
        self._annealed: Reached | None = None
        self._tools = Tools()
        self._pending = torch.empty(0)
        self._given: list[Tensor] = []
        self._betas: list[float] = []
        self._ess: list[float] = []


def _check_static(model: PyroModel) -> None:
    """Raise if a support depends on other latents, which MCMC's transforms cannot follow."""
    for latent in model.latents:
        value = model.traces[0].nodes[latent.name]["value"]
        here = latent.transform.inv(value)
        for trace in model.traces[1:]:
            other = PyroModel.transform_of(trace, latent.name)
            if not torch.allclose(here, other.inv(value), equal_nan=True):
                raise ModelError(
                    f"The support of {latent.name!r} depends on other latents, which "
                    "`MCMC` cannot follow; use `AnnealedSMC`, or reparametrise."
                )
