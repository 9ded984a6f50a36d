"""The mixture experiment of the paper: two distant modes in 50 dimensions.

Contrastive divergence cannot learn the masses of modes between which no walker moves;
weights can. Everything is known in closed form, so the exact KL divergence of the model
from the truth stands beside the estimated one.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core.kernels import ULA
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.ebm.contrastive import (
    ContrastiveDivergence,
    PersistentContrastiveDivergence,
)
from pyro_jarzynski.ebm.jarzynski import JarzynskiLearner
from pyro_jarzynski.ebm.learner import Learner
from pyro_jarzynski.ebm.networks import GaussianMixtureEnergy
from pyro_jarzynski.errors import one_of

LEARNERS: dict[str, type[Learner]] = {
    "jarzynski": JarzynskiLearner,
    "pcd": PersistentContrastiveDivergence,
    "cd": ContrastiveDivergence,
}
STEP_SIZE = 0.1


@dataclass(frozen=True)
class Mixture:
    """The data and their law.

    Attributes:
        truth: The law, as an energy.
        data: Draws of it, `(n, 50)`, float64, with the exact share of each mode.
    """

    truth: GaussianMixtureEnergy
    data: Tensor

    @classmethod
    def draw(cls, num: int, *, dimension: int = 50, seed: int = 0) -> "Mixture":
        """Draw data with modes at -10 and +6 on the first axis, masses ¼ and ¾."""
        means = torch.zeros(2, dimension, dtype=torch.float64)
        means[:, 0] = torch.tensor([-10.0, 6.0])
        truth = GaussianMixtureEnergy(means, torch.tensor([0.0, -math.log(3)]).double())
        return cls(truth, truth.draw(num, stream(seed, "mixture data")))

    @property
    def mass(self) -> float:
        """Share of the data in the first mode."""
        return float((self.data[:, 0] < 0).double().mean())

    @torch.no_grad()
    def divergence(self, model: GaussianMixtureEnergy, log_normalizer: float) -> float:
        """Return the KL divergence from the truth on the data, for a given `log Z`."""
        surplus = (model(self.data) - self.truth(self.data)).mean()
        return float(surplus) + log_normalizer - float(self.truth.log_normalizer())


class MixtureCurves:
    """The curves that the paper plots: a callback of `Learner.fit`."""

    def __init__(self, mixture: Mixture) -> None:
        """Start without rows."""
        self.mixture = mixture
        self.rows: list[dict[str, float]] = []

    def __call__(self, learner: Learner, row: dict[str, float]) -> None:
        """Add the row of the present parameters."""
        self.rows.append({"step": row["step"], **self.now(learner)})

    def now(self, learner: Learner) -> dict[str, float]:
        """Return mass, divergences and log Z at the present parameters."""
        model = learner.model
        assert isinstance(model, GaussianMixtureEnergy)
        exact, audited = float(model.log_normalizer()), learner.log_normalizer
        return {
            "mass": float(model.masses()[0]),
            "exact_kl": self.mixture.divergence(model, exact),
            "estimated_kl": self.mixture.divergence(model, audited),
            "log_z_exact": exact,
            "log_z": audited,
            "log_z_error": learner.log_normalizer_error,
            "training_log_z": learner.training_log_normalizer,
        }

    def columns(self) -> dict[str, list[float]]:
        """Return the rows as columns; without rows, no columns."""
        names = self.rows[0] if self.rows else {}
        return {name: [row[name] for row in self.rows] for name in names}


def mixture_learner(
    algorithm: str = "jarzynski",
    *,
    dimension: int = 50,
    num_walkers: int = 10_000,
    audit_walkers: int = 10_000,
    ess_threshold: float = 0.5,
    resampler: str = "systematic",
    seed: int = 0,
) -> Learner:
    """Return a learner with the published settings.

    Unadjusted Langevin of step 0.1; learning rates 0.1 times 0.2/8 for the means and 1/8
    for the log-masses; contrastive divergence takes ten times those and starts at the
    data again every fourth update; the first log-mass is fixed and the means start near
    zero.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), arXiv:2305.19414, section 4.1 and the
        code published with it.
    """
    learner = LEARNERS[one_of("algorithm", algorithm, LEARNERS)]
    generator = stream(seed, "means")
    means = 0.01 * torch.randn(2, dimension, dtype=torch.float64, generator=generator)
    means[:, 0] = torch.tensor([-0.1, 0.1])
    model = GaussianMixtureEnergy(means, torch.zeros(2, dtype=torch.float64))
    gain = 10 if algorithm == "cd" else 1
    optimizer = torch.optim.SGD(
        [
            {"params": [model.means], "lr": gain * STEP_SIZE * 0.2 / 8},
            {"params": [model.free_z], "lr": gain * STEP_SIZE / 8},
        ]
    )
    settings: dict[str, Any] = {"restart_every": 4} if algorithm == "cd" else {}
    return learner(
        model,
        optimizer,
        num_walkers=num_walkers,
        audit_walkers=audit_walkers,
        kernel=ULA(STEP_SIZE),
        ess_threshold=ess_threshold,
        resampler=resampler,
        seed=seed,
        **settings,
    )
