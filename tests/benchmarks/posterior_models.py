"""A posterior whose evidence and moments are known, and where its truth is read.

Data and truths come from two files in the folder `shared/truth` beside the repository;
`posteriordb_models` and `analytic_models` have the models.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_jarzynski as pj

TRUTH = Path(__file__).parents[3] / "shared" / "truth"

Samples = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A posterior and what is known of it.

    Attributes:
        name: Short name.
        model: Pyro model, or `Target`.
        log_evidence: True log evidence, nats.
        evidence_error: Standard error of that truth.
        moments: True mean and standard deviation by parameter, `beta[1]` for an entry of
            a vector; `None` for a standard deviation that cannot be estimated.
        args: Arguments of the model.
        parameters: Makes the parameters of `moments` from the sites of the model.
        hard: Whether its evidence may be off by 0.1 nat rather than 0.05.
    """

    name: str
    model: Any
    log_evidence: float
    moments: dict[str, tuple[float, float | None]]
    args: tuple = ()
    evidence_error: float = 0.0
    parameters: Callable[[Samples], Samples] = field(default=lambda samples: samples)
    hard: bool = False

    def flat(self, samples: Samples) -> Samples:
        """Return draws of scalar parameters, `{"beta[1]": (n,), ...}`."""
        flat = {}
        for name, value in self.parameters(samples).items():
            rows = value.reshape(len(value), -1)
            if value.ndim == 1:
                flat[name] = value
            else:
                flat.update({f"{name}[{i + 1}]": rows[:, i] for i in range(rows.shape[1])})
        return {name: flat[name] for name in self.moments}


def load(name: str) -> dict[str, Any]:
    """Return a file of the folder of truths, or stop."""
    path = TRUTH / name
    if not path.exists():
        sys.exit(
            "This benchmark needs the truths that lie beside the repository, in the "
            f"folder shared/truth; there is no {name} in it."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.get_default_dtype())


def energy_target(energy: Callable[[Tensor], Tensor], scales: list[float]) -> pj.Target:
    """Return the target `e^{-U}` with a Gaussian base of given standard deviations."""
    scale = tensor(scales)
    base = dist.Normal(torch.zeros(len(scale)), scale).to_event(1)

    def draw(num: int, generator: torch.Generator) -> Tensor:
        return scale * torch.randn(num, len(scale), generator=generator)

    return pj.Target(base.log_prob, lambda x: -energy(x) - base.log_prob(x), draw)


def mixture_energy(masses: Tensor, centres: Tensor) -> Callable[[Tensor], Tensor]:
    """Return `-log Σ_i w_i e^{-|x - c_i e_1|² / 2}`."""

    def energy(x: Tensor) -> Tensor:
        first = (x[:, :1] - centres) ** 2 / 2
        rest = (x[:, 1:] ** 2).sum(1) / 2
        return rest - (masses.log() - first).logsumexp(1)

    return energy
