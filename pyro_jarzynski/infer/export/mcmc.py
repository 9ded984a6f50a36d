"""Runs of `pyro.infer.MCMC` for ArviZ, which from its version 1 on reads none of Pyro."""

from dataclasses import replace
from typing import Any

import torch
from pyro.infer import MCMC
from torch import Tensor

from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.diagnostics.inference_data import Coords, Dims, Group, build
from pyro_jarzynski.errors import ArgumentError
from pyro_jarzynski.infer.doubts import disagreements
from pyro_jarzynski.infer.export.content import Content, ModelContent
from pyro_jarzynski.infer.export.groups import Wanted, draw_groups, sampled
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.posterior import ModelPosterior
from pyro_jarzynski.infer.run_warnings import kind_of

STATISTICS = {
    "lp": "log-density of prior and data in unconstrained coordinates, nats",
    "diverging": "whether the trajectory to the draw diverged",
}


@standard_modes()
def mcmc_to_arviz(
    mcmc: MCMC,
    *,
    dims: Dims | None = None,
    coords: Coords | None = None,
    attrs: dict[str, Any] | None = None,
    log_likelihood: bool | None = None,
    posterior_predictive: bool = False,
    prior_predictive: bool = False,
    seed: int = 0,
) -> Any:
    """Return what `pyro.infer.MCMC` has drawn, with any kernel, for ArviZ.

    Args:
        mcmc: It has run a Pyro model.
        dims: Names of the dimensions of variables, in place of plates'.
        coords: Labels along dimensions.
        attrs: Further attributes: strings, numbers, or lists of these.
        log_likelihood: Whether to evaluate the log-likelihood of each datum; `None` does
            if it fits into memory.
        posterior_predictive: Whether to draw new data, one set for each draw.
        prior_predictive: The same for draws of the prior.
        seed: Seed of such draws, and of discrete latents.

    Returns:
        `arviz.InferenceData` with ArviZ 0.2x, `xarray.DataTree` from its version 1 on.

    Raises:
        ArgumentError: It has not run, or not a model, or not all latents were kept.
    """
    draws = _draws(mcmc)
    args, kwargs = mcmc._args or (), mcmc._kwargs or {}
    model = PyroModel(mcmc.kernel.model, args, kwargs, seed=seed, improper=True)
    shapes = [values.shape[:2] for values in draws.values()]
    # Kernels of Pyro draw no discrete latents, but these may be all that there are.
    chains, size = shapes[0] if shapes else (mcmc.num_chains, mcmc.num_samples)
    walkers = _coordinates(model, draws, chains * size)
    posterior = ModelPosterior(model, None, len(walkers), seed)
    content = ModelContent(posterior, None)
    drawn = {name: values.flatten(0, 1) for name, values in draws.items()}
    for name, value in model.first_discrete.items():
        if name in drawn:
            drawn[name] = drawn[name].to(value.dtype)
    discrete = {name: drawn[name] for name in model.discrete if name in drawn}
    values = posterior.constrain(walkers, deterministic=True, discrete=discrete or None)
    # As they were drawn, to the last bit.
    values |= drawn
    index = torch.arange(chains * size, device=walkers.device).view(chains, size)
    wanted = Wanted(log_likelihood, posterior_predictive, prior_predictive)
    groups = draw_groups(content, walkers, values, index, seed, wanted)
    groups["sample_stats"] = _statistics(mcmc, posterior, walkers, index, content)
    described = {"kernel": type(mcmc.kernel).__name__, **_evidence(mcmc, draws)}
    return build(groups, dims=dims, coords=coords, attrs=attrs, described=described)


def _draws(mcmc: MCMC) -> dict[str, Tensor]:
    if getattr(mcmc.kernel, "model", None) is None:
        raise ArgumentError(
            "`run` must have run a Pyro model; this `MCMC` has a potential function, of "
            "which neither data nor prior are known."
        )
    if getattr(mcmc, "_samples", None) is None:
        raise ArgumentError("`run` has no draws: call its `run` first.")
    return mcmc.get_samples(group_by_chain=True)


def _coordinates(model: PyroModel, draws: dict[str, Tensor], num: int) -> Tensor:
    """Return draws in unconstrained coordinates, `(C N, D)`."""
    parts = []
    for latent in model.latents:
        if latent.name not in draws:
            raise ArgumentError(
                f"`run` has no draws of the latent {latent.name!r}; run it without "
                "`save_params`."
            )
        plain = latent.transform.inv(draws[latent.name].flatten(0, 1))
        parts.append(plain.reshape(len(plain), -1))
    if not (model.latents or model.discrete):
        raise ArgumentError("The model has no latents: there are no draws to export.")
    return torch.cat(parts, 1) if parts else torch.empty(num, 0, device=model.device)


def _statistics(
    mcmc: MCMC,
    posterior: ModelPosterior,
    walkers: Tensor,
    index: Tensor,
    content: Content,
) -> Group:
    diverging = torch.zeros_like(index, dtype=torch.bool)
    for chain, found in enumerate(_diagnostics(mcmc)):
        diverging[chain, found.get("divergences", [])] = True
    with torch.no_grad():
        parts = walkers.split(posterior.chunk_size or len(walkers))
        lp = -torch.cat([posterior.joint_energy(part) for part in parts])
    values = {"lp": lp, "diverging": diverging.flatten()}
    return replace(sampled(values, index, content), meanings=STATISTICS)


def _evidence(mcmc: MCMC, draws: dict[str, Tensor]) -> dict[str, Any]:
    """Return log evidences, status and doubts of the chains, if the kernel has them."""
    rows = _diagnostics(mcmc)
    if not all("log evidence" in row for row in rows):
        return {}
    evidences = [row["log evidence"] for row in rows]
    doubts = [text for row in rows for text in row["warnings"]]
    # Chains in processes of their own are compared here first.
    doubts += disagreements(torch.tensor(evidences, device="cpu"), draws, "chains")
    status = {row["status"] for row in rows} | ({"doubtful"} if doubts else set())
    worst = next(s for s in ("partial", "doubtful", "ok") if s in status)
    # One line for each kind of warning: that of the last chain.
    lines = {kind_of(text): text for text in doubts}.values()
    return {
        "log_marginal_likelihood": evidences,
        "status": worst,
        "doubts": "\n".join(lines),
    }


def _diagnostics(mcmc: MCMC) -> list[dict[str, Any]]:
    """Return what the kernel of each chain has told."""
    # Not `mcmc.diagnostics()`: that of Pyro takes memory that grows as the draws squared.
    rows: list[Any] = mcmc._diagnostics
    return rows
