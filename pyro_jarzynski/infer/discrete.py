"""Draws of the discrete latents, given the continuous ones and the data."""

from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.infer.batching import map_walkers
from pyro_jarzynski.infer.enumeration import Site, is_enumerated
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.sites import plate_frames, seeded


def draw_discrete(
    model: PyroModel,
    walkers: Tensor,
    *,
    by_loop: bool,
    seed: int,
    purpose: str = "discrete latents",
    of_prior: bool = False,
) -> dict[str, Tensor]:
    """Draw the discrete latents of each walker from `p(z | x, data)`, or `p(z | x)`.

    Args:
        model: A model of which the discrete latents are enumerated.
        walkers: Coordinates, `(N, D)`.
        by_loop: Whether walkers are evaluated one at a time.
        seed: Seed of the run.
        purpose: What the draws are for; draws for different purposes are independent.
        of_prior: Whether to draw them from the prior, without the data.

    Returns:
        Values by site, each `(N, *shape)`.
    """
    with seeded(seed, purpose), torch.no_grad():
        return map_walkers(
            lambda walker: _draw(model, walker, of_prior=of_prior),
            walkers,
            by_loop=by_loop,
            chunk_size=model.walkers_per_run,
            randomness=True,
        )


def _draw(model: PyroModel, walker: Tensor, *, of_prior: bool) -> dict[str, Tensor]:
    """Draw the discrete latents of one walker."""
    assert model.enumerated is not None
    enumerated = model.enumerated
    trace, _ = model.run(walker)
    trace.pack_tensors()
    sites: dict[str, Site] = dict(trace.nodes)
    key = "unscaled_log_prob" if of_prior else "log_prob"
    known = {n: s["packed"][key] for n, s in sites.items() if "packed" in s}
    beside = [latent.name for latent in model.latents] if of_prior else None

    def total(shift: dict[str, Tensor]) -> Tensor:
        for name, log_prob in known.items():
            # A new tensor for each, because contraction caches by identity.
            moved: Any = log_prob + shift[name] if name in shift else log_prob + 0
            moved._pyro_dims = log_prob._pyro_dims
            sites[name]["packed"]["drawn"] = moved
        return enumerated.log_sum(trace, beside, "drawn", drawn=True)

    names = [name for name in model.discrete if is_enumerated(sites[name])]
    shift = {name: torch.zeros_like(known[name]) for name in names}
    indicator = torch.func.grad(total)(shift)
    return {
        name: _value(model, name, sites[name], indicator[name], known[name]._pyro_dims)
        for name in names
    }


def _value(
    model: PyroModel, name: str, site: Site, indicator: Tensor, symbols: str
) -> Tensor:
    """Return the value of a site at which its indicator, by packed symbols, is one."""
    fn, first = site["fn"], model.traces[0].nodes[name]["value"]
    assert isinstance(first, Tensor)
    to_symbol = site["infer"]["_dim_to_symbol"]
    own = to_symbol[site["infer"]["_enumerate_dim"]]
    plates = [to_symbol[frame.dim] for frame in plate_frames(site)]
    support = fn.enumerate_support(expand=False)
    support = support.reshape(len(support), *first.shape[first.ndim - fn.event_dim :])
    if own not in symbols:
        # A single value, of which packing has squeezed the dimension away.
        return support[0].expand(first.shape)
    order = [symbols.index(s) for s in (*plates, own) if s in symbols]
    parents = [i for i in range(len(symbols)) if i not in order]
    # The parents' values are one each: the sum finds it.
    one_hot = indicator.permute([*parents, *order])
    one_hot = one_hot.sum(list(range(len(parents)))) if parents else one_hot
    return support[one_hot.argmax(-1)].reshape(first.shape)
