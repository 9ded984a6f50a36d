"""What a posterior knows beside draws: data, likelihoods, priors, predictions."""

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_jarzynski.diagnostics.storable import Stored, storable_values
from pyro_jarzynski.errors import ArgumentError, EvidenceWarning
from pyro_jarzynski.infer.enumeration import Site
from pyro_jarzynski.infer.export.dims import site_dims
from pyro_jarzynski.infer.learned import LearnedPosterior
from pyro_jarzynski.infer.pointwise import log_likelihood, log_prior
from pyro_jarzynski.infer.posterior import ModelPosterior, Posterior, TorchPosterior
from pyro_jarzynski.infer.predictive import draw_predictive
from pyro_jarzynski.infer.prior import draw_prior
from pyro_jarzynski.infer.sites import innermost, is_observation

Values = dict[str, Tensor]


class Content(Protocol):
    """What a posterior knows, by site.

    Attributes:
        dims: Names of the dimensions of each site.
        latents: Names of the sites that are drawn, continuous and discrete.
        data: Names of the observed sites.
    """

    dims: dict[str, list[str]]
    latents: list[str]
    data: list[str]

    @property
    def likelihood_bytes(self) -> int:
        """Bytes of the log-likelihoods of all data at one draw."""

    def log_likelihood(self, walkers: Tensor) -> Values:
        """Return the log-likelihood of each datum, each `(N, *batch)`."""

    def log_prior(self, walkers: Tensor, values: Values) -> Values:
        """Return the log-prior of each latent, each `(N, *batch)`."""

    def observed(self) -> Stored:
        """Return the data."""

    def constant(self) -> Stored:
        """Return the arguments that are not data."""

    def prior(self, num: int, seed: int) -> Values:
        """Return draws of the prior, each `(num, *shape)`; nothing if it is improper."""

    def predictive(self, values: Values, seed: int, purpose: str) -> Values:
        """Return data drawn from the model at some values of its latents."""


def content_of(posterior: Posterior, chunk_size: int | None) -> Content:
    """Return what a posterior knows, whichever base it is approached from."""
    if isinstance(posterior, LearnedPosterior):
        posterior = posterior.posterior
    if isinstance(posterior, ModelPosterior):
        return ModelContent(posterior, chunk_size)
    assert isinstance(posterior, TorchPosterior)
    return TargetContent(posterior)


class ModelContent:
    """What the posterior of a Pyro model knows."""

    def __init__(self, posterior: ModelPosterior, chunk_size: int | None) -> None:
        """Look at the plates of the model."""
        self.posterior, self.model = posterior, posterior.model
        self.chunk_size = chunk_size
        self.dims = site_dims(posterior.model)
        continuous = [latent.name for latent in posterior.model.latents]
        self.latents = continuous + posterior.model.discrete
        self.data = [name for name, site in self._sites() if is_observation(site)]

    @property
    def likelihood_bytes(self) -> int:
        """Bytes of the log-likelihoods of all data at one draw."""
        sites = [site for name, site in self._sites() if name in self.data]
        numbers = sum(math.prod(site["fn"].batch_shape) for site in sites)
        return numbers * torch.get_default_dtype().itemsize

    def log_likelihood(self, walkers: Tensor) -> Values:
        """Return the log-likelihood of each datum, each `(N, *batch)`."""
        return log_likelihood(
            self.model, walkers, by_loop=self.posterior.by_loop, chunk_size=self.chunk_size
        )

    def log_prior(self, walkers: Tensor, values: Values) -> Values:
        """Return the log-prior of each continuous latent, each `(N, *batch)`."""
        discrete = {name: values[name] for name in self.model.discrete}
        return log_prior(
            self.model, walkers, discrete or None, by_loop=self.posterior.by_loop
        )

    def observed(self) -> Stored:
        """Return the values of all observed sites."""
        return storable_values(
            (n, s["value"]) for n, s in self._sites() if is_observation(s)
        )

    def constant(self) -> Stored:
        """Return the arguments of the model that no observed site holds."""
        model = self.model
        found = storable_values(_arguments(model.model, model.args, model.kwargs))
        data = list(self.observed().arrays.values())
        arrays = {
            name: value
            for name, value in found.arrays.items()
            if not any(_same(value, datum) for datum in data)
        }
        return replace(found, arrays=arrays)

    def prior(self, num: int, seed: int) -> Values:
        """Return draws of the prior: the first walkers, if they started from it."""
        if any(
            isinstance(innermost(s["fn"]), dist.ImproperUniform) for s in self._latent()
        ):
            return {}
        with warnings.catch_warnings():
            # The run has told of the same draws.
            warnings.simplefilter("ignore", EvidenceWarning)
            drawn = draw_prior(self.model, num, seed=seed, purpose="base of the walkers")
        return self.posterior.prior_values(drawn)

    def predictive(self, values: Values, seed: int, purpose: str) -> Values:
        """Return data drawn from the model at some values of its latents."""
        given = {name: values[name] for name in self.latents if name in values}
        return draw_predictive(self.model, given, seed=seed, purpose=purpose)

    def _sites(self) -> Iterator[tuple[str, Site]]:
        sites: dict[str, Site] = dict(self.model.traces[0].nodes)
        yield from sites.items()

    def _latent(self) -> list[Site]:
        names = {latent.name for latent in self.model.latents}
        return [site for name, site in self._sites() if name in names]


class TargetContent:
    """What the posterior of a `Target` knows: prior and likelihood as a whole."""

    def __init__(self, posterior: TorchPosterior) -> None:
        """Keep the posterior."""
        self.posterior = posterior
        self.dims: dict[str, list[str]] = {}
        self.latents, self.data = ["x"], list[str]()

    @property
    def likelihood_bytes(self) -> int:
        """Bytes of the log-likelihood of all data together at one draw."""
        return torch.get_default_dtype().itemsize

    def log_likelihood(self, walkers: Tensor) -> Values:
        """Return the log-likelihood of all data, `(N,)`."""
        return {"likelihood": self._evaluate(self.posterior.target.log_likelihood, walkers)}

    def log_prior(self, walkers: Tensor, values: Values) -> Values:
        """Return the log-prior, `(N,)`."""
        return {"x": self._evaluate(self.posterior.target.log_prior, walkers)}

    def observed(self) -> Stored:
        """Return nothing: the functions of a `Target` hide their data."""
        return Stored({}, {})

    def constant(self) -> Stored:
        """Return nothing."""
        return Stored({}, {})

    def prior(self, num: int, seed: int) -> Values:
        """Return draws of the prior: the first walkers, if they started from it."""
        drawn = self.posterior.draw(num, seed=seed, purpose="base of the walkers")
        return self.posterior.constrain(drawn)

    def predictive(self, values: Values, seed: int, purpose: str) -> Values:
        """Raise: the distribution of the data is not known."""
        raise ArgumentError(
            "`posterior_predictive` and `prior_predictive` need a Pyro model: of a `Target`"
            " only the densities are known."
        )

    def _evaluate(self, function: Callable[[Tensor], Tensor], walkers: Tensor) -> Tensor:
        x = walkers.reshape(-1, *self.posterior.event)
        with torch.no_grad():
            return torch.cat([function(part) for part in x.split(self._per_call(x))])

    def _per_call(self, x: Tensor) -> int:
        return self.posterior.chunk_size or len(x)


def _arguments(model: Any, args: tuple, kwargs: dict) -> Iterator[tuple[str, Any]]:
    """Return the arguments of a model by name."""
    called = model.forward if isinstance(model, nn.Module) else model
    try:
        signature = inspect.signature(called)
        bound = signature.bind(*args, **kwargs)
    except (TypeError, ValueError):
        yield from ((f"argument_{index}", value) for index, value in enumerate(args))
        yield from kwargs.items()
        return
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((f"{name}_{index}", item) for index, item in enumerate(value))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value


def _same(value: np.ndarray, datum: np.ndarray) -> bool:
    numeric = value.dtype.kind == "f" and datum.dtype.kind == "f"
    return np.array_equal(value, datum, equal_nan=numeric)
