"""Log-likelihood of each datum, and log-prior of each latent, for many walkers.

With the scales and masks of the model, so that for models without discrete latents

    log joint = Σ log-likelihoods + Σ log-priors + factors.

With discrete latents `z` summed out, that of a datum is what leaving it out takes away,

    log p(y_i | y_{-i}, x) = log Σ_z p(y, z | x) - log Σ_z p(y_{-i}, z | x),

which is `log p(y_i | x)` where data are independent given `x`, and the number that
leave-one-out cross-validation divides by in any case.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_jarzynski.infer.batching import map_walkers
from pyro_jarzynski.infer.enumeration import Site, is_density
from pyro_jarzynski.infer.log_einsum import product
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.sites import is_observation, plate_frames


def log_likelihood(
    model: PyroModel,
    walkers: Tensor,
    *,
    by_loop: bool = False,
    chunk_size: int | None = None,
) -> dict[str, Tensor]:
    """Return the log-likelihood of each datum at each walker.

    Args:
        model: The model.
        walkers: Coordinates, `(N, D)`.
        by_loop: Whether walkers are evaluated one at a time.
        chunk_size: Walkers evaluated at once; `None` is as many as memory allows.

    Returns:
        Log-likelihoods by observed site, each `(N, *batch)`, nats.
    """
    sites: dict[str, Site] = dict(model.traces[0].nodes)
    data = [name for name, site in sites.items() if is_observation(site)]
    most = model.walkers_per_run
    with torch.no_grad():
        return map_walkers(
            lambda walker: _of_one(model, walker, data),
            walkers,
            by_loop=by_loop,
            chunk_size=min(chunk_size or most, most),
        )


def log_prior(
    model: PyroModel,
    walkers: Tensor,
    discrete: dict[str, Tensor] | None = None,
    *,
    by_loop: bool = False,
) -> dict[str, Tensor]:
    """Return the log-prior of each continuous latent at each walker.

    Args:
        model: The model.
        walkers: Coordinates, `(N, D)`.
        discrete: Values of the discrete latents, each `(N, *shape)`; needed if there are
            any.
        by_loop: Whether walkers are evaluated one at a time.

    Returns:
        Log-densities of the constrained values by site, each `(N, *batch)`, nats.
    """

    def of_one(walker: Tensor, *values: dict[str, Tensor]) -> dict[str, Tensor]:
        trace, feed = model.run(walker, discrete=values[0] if values else None)
        sites: dict[str, Site] = dict(trace.nodes)
        return {name: sites[name]["log_prob"] for name in feed.constrained}

    given = () if discrete is None else (discrete,)
    with torch.no_grad():
        return map_walkers(
            of_one, walkers, *given, by_loop=by_loop, chunk_size=model.walkers_per_run
        )


class _Factor(NamedTuple):
    """A density over discrete variables, one symbol per dimension."""

    name: str
    log_prob: Tensor
    symbols: str
    plates: frozenset[str]


def _of_one(model: PyroModel, walker: Tensor, data: list[str]) -> dict[str, Tensor]:
    """Return the log-likelihoods of one walker."""
    trace, _ = model.run(walker)
    sites: dict[str, Site] = dict(trace.nodes)
    if model.enumerated is None:
        return {name: sites[name]["log_prob"] for name in data}
    trace.pack_tensors()
    plates = set(trace.plate_to_symbol.values())
    factors = [
        _factor(name, site, trace.plate_to_symbol)
        for name, site in sites.items()
        if is_density(site)
    ]
    found = {}
    for own in factors:
        if own.name not in data:
            continue
        linked = _linked(own, factors, plates)
        if all(other.plates == own.plates for other in linked):
            values, symbols = _difference(own, linked, plates)
        else:
            values, symbols = _left_out(model, trace, own, plates)
        first: Any = model.traces[0].nodes[own.name]
        found[own.name] = _unpacked(values, symbols, sites[own.name], first)
    return found


def _factor(name: str, site: Site, plate_to_symbol: dict[str, str]) -> _Factor:
    packed = site["packed"]["log_prob"]
    plates = frozenset(plate_to_symbol[frame.name] for frame in plate_frames(site))
    return _Factor(name, packed, packed._pyro_dims, plates)


def _linked(own: _Factor, factors: list[_Factor], plates: set[str]) -> list[_Factor]:
    """Return the factors that depend on the same discrete variables, directly or not."""
    reached, linked = set(own.symbols) - plates, [own]
    while True:
        more = [
            factor
            for factor in factors
            if not any(factor is known for known in linked)
            and reached & set(factor.symbols)
        ]
        if not more:
            return linked
        linked += more
        reached |= {s for factor in more for s in factor.symbols} - plates


def _difference(
    own: _Factor, linked: list[_Factor], plates: set[str]
) -> tuple[Tensor, str]:
    """Return what a factor adds to the sum over its discrete variables, place by place."""
    output = "".join(s for s in own.symbols if s in plates)
    whole = _log_sum(linked, output)
    others = linked[1:]
    return whole - _log_sum(others, output) if others else whole, output


def _log_sum(factors: list[_Factor], output: str) -> Tensor:
    inputs = ",".join(factor.symbols for factor in factors)
    every = sorted(set(inputs) - {","})
    operands = tuple(factor.log_prob for factor in factors)
    total, num_summed = product(inputs, output, every, operands)
    return torch.logsumexp(total.flatten(len(output)), -1) if num_summed else total


def _left_out(
    model: PyroModel, trace: Any, own: _Factor, plates: set[str]
) -> tuple[Tensor, str]:
    """Return what each place of a factor adds to the sum over all discrete variables."""
    assert model.enumerated is not None
    enumerated, packed = model.enumerated, trace.nodes[own.name]["packed"]
    output = "".join(s for s in own.symbols if s in plates)
    summed = "".join(s for s in own.symbols if s not in plates)
    factor = own.log_prob.permute([own.symbols.index(s) for s in output + summed])
    rows = factor.reshape(-1, *factor.shape[len(output) :])
    whole = enumerated.log_sum(trace, None, "log_prob")
    found = []
    for place in range(len(rows)):
        kept = torch.cat([rows[:place], torch.zeros_like(rows[:1]), rows[place + 1 :]])
        without: Any = kept.reshape(factor.shape)
        without._pyro_dims = output + summed
        packed["log_prob"] = without
        found.append(whole - enumerated.log_sum(trace, None, "log_prob"))
    packed["log_prob"] = own.log_prob
    return torch.stack(found).reshape(factor.shape[: len(output)]), output


def _unpacked(values: Tensor, symbols: str, site: Site, first: Site) -> Tensor:
    """Return values by packed symbols in the batch shape that the model gives them."""
    names = site["infer"]["_dim_to_symbol"]
    plates = [names[frame.dim] for frame in plate_frames(site)]
    order = [symbol for symbol in plates if symbol in symbols]
    batch = first["fn"].batch_shape
    return values.permute([symbols.index(s) for s in order]).reshape(batch)
