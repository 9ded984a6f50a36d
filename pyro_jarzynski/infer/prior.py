"""Draws of the prior of a Pyro model, in unconstrained coordinates.

All walkers are drawn by one run of the model inside a plate of particles, which is left
after the last latent, before the likelihood. Models that a plate would change are drawn
one walker at a time; three walkers tell which they are.
"""

import warnings
from collections import Counter
from typing import Any, TypeAlias

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_jarzynski.core.watching import look
from pyro_jarzynski.distributions.coordinates import Coordinate
from pyro_jarzynski.errors import EvidenceWarning, ModelError
from pyro_jarzynski.infer.enumeration import Site, is_density
from pyro_jarzynski.infer.model import PyroModel, quiet_pyro
from pyro_jarzynski.infer.singular import SingularAsNaN
from pyro_jarzynski.infer.site_errors import named_errors
from pyro_jarzynski.infer.sites import ExactDraws, Unmask, seeded

# A value of a latent, and its coordinate if it has one.
Known: TypeAlias = tuple[Tensor, Tensor | None]

# What a model raises inside a plate that it was not written for.
PLATE_ERRORS = (
    RuntimeError,
    ValueError,
    LookupError,
    AssertionError,
    TypeError,
    NotImplementedError,
)
NUM_CHECKED = 3
NUM_FIRST = 7
# Share of draws at the edge of a support from which on to warn.
MAX_AT_EDGE = 1e-3


def draw_prior(model: PyroModel, num: int, *, seed: int, purpose: str) -> Tensor:
    """Draw walkers from the prior, `(num, D)`.

    Args:
        model: The model.
        num: Number of walkers.
        seed: Seed of the run.
        purpose: What the draws are for; draws for different purposes are independent.
    """
    if model.size == 0:
        return torch.empty(num, 0, device=model.device)
    try:
        # A few walkers first: a plate can need memory that grows as their square.
        if _fits_a_plate(model, NUM_FIRST, seed=seed):
            with seeded(seed, purpose):
                walkers = _draw_all(model, num, model.walkers_per_run, seed=seed)
            if walkers is not None:
                return walkers
    except ModelError:
        raise
    except PLATE_ERRORS:
        pass
    with seeded(seed, purpose), named_errors():
        walkers = _draw_all(model, num, None, seed=seed)
    assert walkers is not None
    return walkers


class _LastLatent(Exception):
    """Leaves a model after its last latent."""


class _Draw(Messenger):
    """Collects the latents of a run, until the last.

    Args:
        model: The model.
        num_particles: Walkers that are drawn in a plate; `None` is one without a plate.
        known: Latents that are given, with the coordinates of those that have any.
    """

    def __init__(
        self, model: PyroModel, num_particles: int | None, known: dict[str, Known]
    ) -> None:
        super().__init__()
        self.model, self.num, self.known = model, num_particles, known
        self.names = {latent.name for latent in model.latents}
        self.latents: dict[str, Coordinate] = {}
        self.values: dict[str, Tensor] = {}
        self.unconstrained: dict[str, Tensor] = {}
        self.log_probs: dict[str, Tensor] = {}
        self.at_edge: dict[str, Tensor] = {}

    @property
    def coordinates(self) -> Tensor:
        """The drawn walkers, `(num, D)`."""
        return torch.cat([self.unconstrained[x.name] for x in self.model.latents], 1)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or not is_density(msg):
            return
        name = msg["name"]
        if name in self.names:
            latent = self.latents[name] = Coordinate(msg["fn"])
            msg["fn"] = latent.fn
        if name in self.known:
            (msg["value"], coordinate), msg["done"] = self.known[name], True
            if coordinate is not None and self.latents[name].exact:
                msg["value"] = self.latents[name].constrain(coordinate)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or not is_density(msg):
            return
        name, rows = msg["name"], self.num or 1
        if name in self.names:
            latent = self.latents[name]
            coordinate, msg["value"] = latent.unconstrain(msg["value"])
            self.unconstrained[name] = coordinate.reshape(rows, -1)
            if not latent.exact:
                # Where rounding alone moves the coordinate, the value is at an edge.
                inner = latent.innermost
                nudged = inner(coordinate)
                nudged = nudged * (1 - 4 * torch.finfo(nudged.dtype).eps)
                shift = (inner.inv(nudged) - coordinate).abs().reshape(rows, -1)
                size = coordinate.abs().reshape(rows, -1)
                self.at_edge[name] = ~(shift <= 0.5 + size / 1000).all(1)
        self.values[name] = msg["value"]
        self.log_probs[name] = msg["fn"].log_prob(msg["value"]).reshape(rows, -1)
        if name == self.model.last_latent:
            raise _LastLatent


def _run(
    model: PyroModel, num_particles: int | None, known: dict[str, Known] | None = None
) -> _Draw:
    look()
    draw = _Draw(model, num_particles, known or {})
    try:
        with (
            quiet_pyro(),
            SingularAsNaN(),
            draw,
            ExactDraws(),
            Unmask(),
            model.plate(num_particles),
            torch.no_grad(),
        ):
            model.model(*model.args, **model.kwargs)
    except _LastLatent:
        return draw
    raise ModelError("The model did not reach its last latent in a draw of the prior.")


def _draw_all(model: PyroModel, num: int, most: int | None, *, seed: int) -> Tensor | None:
    """Draw walkers, `(num, D)`, and return `None` where a plate draws them wrongly.

    Args:
        model: The model.
        num: Number of walkers.
        most: Walkers per run of the model, in a plate; `None` is one without a plate.
        seed: Seed of the run.
    """
    walkers, at_edge = torch.empty(0, device=model.device), Counter[str]()
    for start in range(0, num, most or 1):
        size = None if most is None else min(most, num - start)
        part = _run(model, size)
        if size is not None and not _agrees_at(model, part, seed=seed):
            return None
        if start == 0:
            # At once, so that memory which is too small is noticed before time is spent.
            walkers = part.coordinates.new_empty(num, model.size)
        walkers[start : start + (size or 1)] = part.coordinates
        at_edge.update({name: int(edge.sum()) for name, edge in part.at_edge.items()})
    _warn_of_edges(at_edge, num, walkers.dtype)
    return walkers


def _warn_of_edges(at_edge: Counter[str], num: int, dtype: torch.dtype) -> None:
    """Warn of draws that rounding has put on the edge of a support."""
    remedy = "`torch.set_default_dtype(torch.float64)`, and data of it"
    if dtype == torch.float64:
        remedy = '`base="normal"`, which starts walkers elsewhere than at the prior'
    for name, found in at_edge.items():
        if found > MAX_AT_EDGE * num:
            warnings.warn(
                f"{found} of {num} draws of the latent {name!r} were rounded to the edge "
                "of its support, where its density is another: the evidence is biased. Use "
                f"{remedy}.",
                EvidenceWarning,
                stacklevel=4,
            )


def _fits_a_plate(model: PyroModel, num: int, *, seed: int) -> bool:
    """Tell whether so many walkers can be drawn in a plate, which is tried once."""
    if num in model.plates:
        return True
    with seeded(seed, "plate"):
        drawn = _run(model, num)
    return _agrees_at(model, drawn, seed=seed)


def _agrees_at(model: PyroModel, drawn: _Draw, *, seed: int) -> bool:
    """Tell whether draws of their number are right, which is looked at once."""
    num = drawn.num
    if num not in model.plates:
        if not _agrees(model, drawn, seed=seed):
            return False
        assert num is not None
        model.plates.add(num)
    return True


def _agrees(model: PyroModel, drawn: _Draw, *, seed: int) -> bool:
    """Tell whether some walkers have the density that they have by themselves."""
    sites: dict[str, Site] = dict(model.traces[0].nodes)
    shapes = {name: sites[name]["value"].shape for name in drawn.values}
    if any(v.shape[0] != drawn.num for v in drawn.values.values()):
        return False
    sizes = [latent.size for latent in model.latents]
    if [drawn.unconstrained[x.name].shape[1] for x in model.latents] != sizes:
        return False
    places = {latent.name: latent.unconstrained_shape for latent in model.latents}
    for row in range(min(NUM_CHECKED, drawn.num or 1)):
        coordinates = {
            name: drawn.unconstrained[name][row].reshape(place)
            for name, place in places.items()
        }
        given: dict[str, Known] = {
            name: (value[row].reshape(shapes[name]), coordinates.get(name))
            for name, value in drawn.values.items()
        }
        with seeded(seed, "alone"):
            alone = _run(model, None, given)
        here = alone.coordinates[0], drawn.coordinates[row]
        if not torch.allclose(*here, equal_nan=True):
            return False
        # Site by site, so that a small one is not hidden by the numbers of a large one.
        for name, log_prob in drawn.log_probs.items():
            known = alone.log_probs[name][0]
            if known.shape != log_prob[row].shape:
                return False
            if not torch.allclose(known, log_prob[row], 1e-4, 1e-4, equal_nan=True):
                return False
    return True
