"""A Pyro model with its data, as log-densities of unconstrained coordinates.

One walker is a vector `u` of `D` numbers: the unconstrained values of all continuous
latents, one after the other. The model is run with each latent set to `x = T(u)`, `T` the
bijection of its support; with `J` the log-Jacobians of all `T`,

    log prior = Σ_latents log p(x) + J        unscaled, hence normalised
    log joint = Σ_all sites s log p + J       with the scales s, discrete latents summed out

and the likelihood is their difference, so that factors and scales need no cases. Masks
leave out data; latents keep their distribution under them.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Transform

from pyro_jarzynski.core.alone import ALONE
from pyro_jarzynski.core.watching import look
from pyro_jarzynski.distributions.supports import bijection
from pyro_jarzynski.distributions.validation import unvalidated
from pyro_jarzynski.errors import ModelError
from pyro_jarzynski.infer.devices import device_of
from pyro_jarzynski.infer.enumeration import EnumeratedModel, Site, is_density
from pyro_jarzynski.infer.mappable import mappable
from pyro_jarzynski.infer.probe import latent_sites, probe
from pyro_jarzynski.infer.singular import SingularAsNaN
from pyro_jarzynski.infer.site_checks import check_enumerated
from pyro_jarzynski.infer.site_errors import site_of
from pyro_jarzynski.infer.sites import (
    Given,
    Unconstrain,
    Unmask,
    check_dtype,
    compute_log_prob,
    is_deterministic,
    is_scaled,
    seeded,
)

# What a model raises whose discrete latents are enumerated if it was not written for that.
ENUMERATION_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AssertionError,
    NotImplementedError,
)

# Numbers that the sites of the walkers of one run of a model may hold, where no call is
# bounded by the `chunk_size` of the energies.
MAX_NUMBERS = 2**24


class Latent(NamedTuple):
    """A continuous latent of a model.

    Attributes:
        name: Name of the site.
        shape: Shape of its value.
        unconstrained_shape: Shape of its unconstrained value.
        dtype: Type of its value.
        transform: Bijection from unconstrained to constrained values.
    """

    name: str
    shape: torch.Size
    unconstrained_shape: torch.Size
    dtype: torch.dtype
    transform: Transform

    @property
    def size(self) -> int:
        """Unconstrained coordinates."""
        return math.prod(self.unconstrained_shape)


class PyroModel:
    """A model with its arguments, analysed and ready to be evaluated.

    Args:
        model: Pyro model.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        seed: Seed of the draws by which the model is analysed.
        improper: Whether latents may have improper priors.

    Raises:
        ModelError: The model cannot be used; the message names the site.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple,
        kwargs: dict[str, Any],
        *,
        seed: int = 0,
        improper: bool = False,
    ) -> None:
        """Run the model a few times and look at its sites."""
        self.args, self.kwargs = args, kwargs
        self.model = model
        self.traces, self.num_failed = probe(
            model, args, kwargs, seed=seed, improper=improper
        )
        first = self.traces[0]
        self.device = device_of(first)
        self.max_plate_nesting = _max_plate_nesting(first)
        continuous, discrete = latent_sites(first)
        self.latents = [_latent(name, first.nodes[name]) for name in continuous]
        self.size = sum(latent.size for latent in self.latents)
        self.discrete = discrete
        # Numbers of walkers whose draws in a plate are those of one walker at a time.
        self.plates: set[int] = set()
        self.last_latent = continuous[-1] if continuous else None
        self.enumerated = (
            EnumeratedModel(model, self.max_plate_nesting) if discrete else None
        )
        if self.enumerated is not None:
            with seeded(seed, "enumeration"):
                self._check_enumerated()

    @property
    def walkers_per_run(self) -> int:
        """Walkers of whose sites one run of the model holds all values, at most."""
        sites: list[Site] = [s for s in self.traces[0].nodes.values() if is_density(s)]
        numbers = sum(
            math.prod((*site["fn"].batch_shape, *site["fn"].event_shape)) for site in sites
        )
        return max(1, MAX_NUMBERS // max(1, numbers))

    def unflatten(self, coordinates: Tensor) -> dict[str, Tensor]:
        """Return coordinates `(..., D)` as unconstrained values by site."""
        if not self.latents:
            return {}
        parts = coordinates.split([latent.size for latent in self.latents], -1)
        lead = coordinates.shape[:-1]
        return {
            latent.name: part.reshape(lead + latent.unconstrained_shape).to(latent.dtype)
            for latent, part in zip(self.latents, parts, strict=True)
        }

    def log_densities(
        self, coordinates: Tensor, num_particles: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return log prior and log joint.

        Args:
            coordinates: One walker, `(D,)`; or with particles `(num_particles, D)`.
            num_particles: Size of a plate in which the model runs; `None` is no plate.

        Returns:
            Both of them, each `()` or `(num_particles,)`.
        """
        trace, feed = self.run(coordinates, num_particles)
        total = _sum_over(num_particles, self.max_plate_nesting)
        sites: dict[str, Site] = {n: s for n, s in trace.nodes.items() if is_density(s)}
        # In the order of the model: a set's would differ from one process to the next.
        names = list(feed.constrained)
        if self.enumerated is None:
            prior: Any = sum(total(sites[name]["unscaled_log_prob"]) for name in names)
            joint: Any = sum(total(site["log_prob"]) for site in sites.values())
        else:
            prior, joint = self._summed_out(trace, sites, names)
        jacobian: Any = sum(total(j) for j in feed.log_jacobians)
        prior, joint = (
            torch.as_tensor(d, device=self.device) + jacobian for d in (prior, joint)
        )
        return torch.broadcast_tensors(prior, joint)

    def values(
        self, coordinates: Tensor, discrete: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return latents and deterministic sites of one walker.

        Those of a model with discrete latents are known only if these are given.
        """
        trace, feed = self.run(coordinates, discrete=discrete, densities=False)
        found = dict(feed.constrained) | (discrete or {})
        if self.enumerated is None or discrete is not None:
            sites: dict[str, Site] = dict(trace.nodes)
            for name, site in sites.items():
                value = site["value"]
                if is_deterministic(site) and isinstance(value, Tensor):
                    # Walkers are chosen by an index, which sparse tensors do not have.
                    strided = value.layout == torch.strided
                    found[name] = value if strided else value.to_dense()
        return found

    def run(
        self,
        coordinates: Tensor,
        num_particles: int | None = None,
        discrete: dict[str, Tensor] | None = None,
        *,
        densities: bool = True,
    ) -> tuple[Trace, Unconstrain]:
        """Run the model at some coordinates.

        Args:
            coordinates: One walker, `(D,)`; or with particles `(num_particles, D)`.
            num_particles: Size of a plate in which the model runs; `None` is no plate.
            discrete: Values of the discrete latents; `None` enumerates them.
            densities: Whether to compute the log-densities of all sites.
        """
        look()
        values = self.unflatten(coordinates)
        summed = self.enumerated is not None and discrete is None
        model = self.enumerated.model if self.enumerated and summed else self.model
        feed = Unconstrain(values, self._padding(num_particles))
        given, plate = Given(discrete or {}), self.plate(num_particles)
        with quiet_pyro():
            with poutine.trace() as recorder, feed, given, Unmask(), plate:
                model(*self.args, **self.kwargs)
            if densities:
                compute_log_prob(recorder.trace)
        missing = values.keys() - feed.constrained.keys()
        if missing:
            raise ModelError(
                f"The model does not always reach the latent {sorted(missing)[0]!r}: the "
                "sites of a model must not depend on the values of its latents."
            )
        return recorder.trace, feed

    def broken_sites(self, coordinates: Tensor) -> dict[str, str]:
        """Return what the densities are, by site, that are not finite at one walker."""
        with SingularAsNaN():
            trace, _ = self.run(coordinates)
        sites: dict[str, Site] = dict(trace.nodes)
        found = {}
        for name, site in sites.items():
            if is_density(site) and not torch.isfinite(site["log_prob"]).all():
                zero = bool((site["log_prob"] < math.inf).all())
                found[name] = "zero" if zero else "not finite"
        return found

    def site_without_gradient(self, coordinates: Tensor) -> Site | None:
        """Return the first site whose log-density autograd cannot differentiate."""
        point = coordinates.detach().clone().requires_grad_()
        trace, _ = self.run(point)
        for site in dict[str, Site](trace.nodes).values():
            if is_density(site) and site["log_prob"].requires_grad:
                try:
                    total = site["log_prob"].sum()
                    torch.autograd.grad(total, point, retain_graph=True, allow_unused=True)
                except RuntimeError:
                    return site
        return None

    @property
    def scaled_latents(self) -> list[str]:
        """Names of the latents whose densities are raised to a power, discrete included."""
        nodes: dict[str, Site] = dict(self.traces[0].nodes)
        names = [latent.name for latent in self.latents] + self.discrete
        return [name for name in names if is_scaled(nodes[name])]

    @property
    def first_coordinates(self) -> Tensor:
        """Coordinates of the latents in the first run of the model, `(D,)`."""
        nodes: dict[str, Site] = dict(self.traces[0].nodes)
        values = [
            latent.transform.inv(nodes[latent.name]["value"]).detach().flatten()
            for latent in self.latents
        ]
        return torch.cat(values) if values else torch.empty(0, device=self.device)

    @property
    def first_discrete(self) -> dict[str, Tensor]:
        """Values of the discrete latents in the first run of the model, by site."""
        nodes: dict[str, Site] = dict(self.traces[0].nodes)
        return {name: nodes[name]["value"] for name in self.discrete}

    def plate(self, num_particles: int | None) -> Any:
        """Return the plate of particles, to the left of all plates of the model."""
        if num_particles is None:
            return _nothing()
        dim = -1 - self.max_plate_nesting
        return pyro.plate("_pyro_jarzynski_walkers", num_particles, dim=dim)

    def _check_enumerated(self) -> None:
        """Raise if the model cannot be run with all values of its discrete latents."""
        coordinates = self.first_coordinates
        try:
            with SingularAsNaN():
                trace, _ = self.run(coordinates)
                check_enumerated(trace, self.max_plate_nesting)
                self.log_densities(coordinates)
        except ModelError:
            raise
        except ENUMERATION_ERRORS as error:
            told = " ".join(str(error).split()) or type(error).__name__
            site = site_of(error)
            told += f" at the site {site['name']!r}" if site else ""
            raise ModelError(
                "The model cannot be run with all values of its discrete latents at once, "
                f"which is how they are enumerated ({told}). Index tensors by them, and do "
                "not use them as Python numbers; in `pyro.markov`, let `history` be the "
                "number of states before that one depends on."
            ) from error

    def _padding(self, num_particles: int | None) -> dict[str, int] | None:
        if num_particles is None:
            return None
        nodes: dict[str, Site] = dict(self.traces[0].nodes)
        return {
            latent.name: self.max_plate_nesting - len(nodes[latent.name]["fn"].batch_shape)
            for latent in self.latents
        }

    def _summed_out(
        self, trace: Trace, sites: dict[str, Site], names: list[str]
    ) -> tuple[Any, Any]:
        assert self.enumerated is not None
        trace.pack_tensors()
        joint = self.enumerated.log_sum(trace, None, "log_prob")
        dims = set(trace.symbol_to_dim) - set(trace.plate_to_symbol.values())
        packed = [sites[name]["packed"]["log_prob"] for name in names]
        if any(dims & set(tensor._pyro_dims) for tensor in packed):
            return self.enumerated.log_sum(trace, names, "unscaled_log_prob"), joint
        return sum(sites[name]["unscaled_log_prob"].sum() for name in names), joint


@contextmanager
def quiet_pyro() -> Iterator[None]:
    """Run as `vmap` can map it, without validation, and out of sight of other handlers."""
    with ALONE, unvalidated(), mappable(), poutine.block():
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _latent(name: str, site: Site) -> Latent:
    transform, value = bijection(site["fn"]), site["value"]
    check_dtype(f"The latent {name!r}", value.dtype)
    unconstrained = transform.inverse_shape(value.shape)
    return Latent(name, value.shape, unconstrained, value.dtype, transform)


def _max_plate_nesting(trace: Trace) -> int:
    sites: list[Site] = [s for s in trace.nodes.values() if s["type"] == "sample"]
    frames = [frame for site in sites for frame in site["cond_indep_stack"]]
    return max((-frame.dim for frame in frames if frame.vectorized), default=0)


def _sum_over(
    num_particles: int | None, max_plate_nesting: int
) -> Callable[[Tensor], Tensor]:
    """Return the function that sums a log-density, over all but the particles."""
    if num_particles is None:
        return Tensor.sum

    def total(values: Tensor) -> Tensor:
        if values.dim() < 1 + max_plate_nesting or values.shape[0] != num_particles:
            raise ValueError(
                f"a log-density of shape {tuple(values.shape)} does not follow the plate"
            )
        return values.reshape(num_particles, -1).sum(-1)

    return total
