"""The mixture experiment of the paper: distant modes in 50 dimensions.

Contrastive divergence cannot learn the masses of modes between which no walker moves;
weights can. Everything is known in closed form, so the exact KL divergence of the model
from the truth stands beside the estimated one. The paper has two modes; more of them are
this package's own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core.kernels import ULA
from pyro_jarzynski.core.noise import standard_normal, stream
from pyro_jarzynski.ebm.contrastive import (
    ContrastiveDivergence,
    PersistentContrastiveDivergence,
)
from pyro_jarzynski.ebm.jarzynski import JarzynskiLearner
from pyro_jarzynski.ebm.learner import Learner
from pyro_jarzynski.ebm.networks import GaussianMixtureEnergy
from pyro_jarzynski.errors import ArgumentError, count, fraction, one_of

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
    def draw(
        cls, num: int, *, num_modes: int = 2, dimension: int = 50, seed: int = 0
    ) -> "Mixture":
        """Draw data of a known law, which are the same on any default device of torch.

        Modes are pairs at -10 and +6, each pair on an axis of its own, and their masses
        are in proportion to 1, 3, 5, ...: for the two modes of the paper ¼ and ¾.

        Args:
            num: Number of data.
            num_modes: Number of modes, even.
            dimension: Dimension of the data, at least half the number of modes.
            seed: Seed of the data.

        Raises:
            ArgumentError: The number of modes is odd, or the dimension too small.
        """
        pairs, odd = divmod(count("num_modes", num_modes, 2), 2)
        if odd:
            raise ArgumentError(f"`num_modes` must be even, got {num_modes}.")
        if count("dimension", dimension) < pairs:
            raise ArgumentError(
                f"`dimension` must be at least {pairs}, half of `num_modes`, got "
                f"{dimension}."
            )
        means = torch.zeros(num_modes, dimension, dtype=torch.float64, device="cpu")
        for pair in range(pairs):
            means[2 * pair : 2 * pair + 2, pair] = means.new_tensor([-10.0, 6.0])
        z = [-math.log(2 * mode + 1) for mode in range(num_modes)]
        truth = GaussianMixtureEnergy(means, means.new_tensor(z))
        data = truth.draw(num, stream(seed, "mixture data"))
        device = torch.get_default_device()
        return cls(truth.to(device), data.to(device))

    @property
    def mass(self) -> float:
        """Share of the data in the first mode."""
        return self.masses[0]

    @property
    def masses(self) -> list[float]:
        """Share of the data in each mode."""
        shares = self._mode_of(self.data).bincount(minlength=len(self.truth.means))
        return (shares / len(self.data)).tolist()

    def learned_masses(self, model: GaussianMixtureEnergy) -> list[float]:
        """Return the mass of the model near each mode: that of its own nearest to it."""
        nearest = self._mode_of(model.means.detach())
        masses = torch.zeros_like(model.masses()).index_add_(0, nearest, model.masses())
        return masses.tolist()

    def _mode_of(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.truth.means.detach()).argmin(1)

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

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, for checkpoints."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back the rows of a state."""
        self.rows = [dict(row) for row in state["rows"]]

    def now(self, learner: Learner) -> dict[str, float]:
        """Return mass, divergences and log Z at the present parameters."""
        model = learner.model
        assert isinstance(model, GaussianMixtureEnergy)
        exact, audited = float(model.log_normalizer()), learner.log_normalizer
        masses = {"mass": float(model.masses()[0])}
        if len(model.means) > 2:
            learned = self.mixture.learned_masses(model)
            masses = {"mass": learned[0]}
            masses |= {f"mass_{mode}": mass for mode, mass in enumerate(learned)}
        return masses | {
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
    mixture: Mixture | None = None,
    dimension: int = 50,
    num_walkers: int = 10_000,
    audit_walkers: int = 10_000,
    ess_threshold: float = 0.5,
    resampler: str = "systematic",
    lean: float = 0.01,
    seed: int = 0,
) -> Learner:
    """Return a learner with the published settings, which are those of two modes.

    Unadjusted Langevin of step 0.1; learning rates 0.1 times 0.2/8 for the means and 1/8
    for the log-masses; contrastive divergence takes ten times those and starts at the
    data again every fourth update; the first log-mass is fixed and the means start near
    zero, with equal masses.

    A mode of mass `p` learns at a rate in proportion to `p`, so that for more than two
    modes the rates are larger by how much the smallest mode is smaller than ¼. The two
    means of the paper start at a hundredth of the way to their modes; those of more modes
    do as well, towards the centres that k-means finds in the data.

    Args:
        algorithm: `jarzynski`, `pcd` or `cd`.
        mixture: Data of more than two modes; `None` and two modes are the paper's.
        dimension: Dimension of the data, if there is no `mixture`.
        num_walkers: Walkers that train the model.
        audit_walkers: Walkers that only follow.
        ess_threshold: As of `JarzynskiLearner`.
        resampler: As of `JarzynskiLearner`.
        lean: Where more than two means start, as a share of the way from zero to the
            centres, in [0, 1].
        seed: Seed of start, walkers and noise.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), arXiv:2305.19414, section 4.1 and the
        code published with it.
    """
    learner = LEARNERS[one_of("algorithm", algorithm, LEARNERS)]
    means = _first_means(mixture, dimension, lean, seed)
    model = GaussianMixtureEnergy(means, means.new_zeros(len(means)))
    # The smallest mass is 1 / modes², ¼ in the paper.
    gain = (10 if algorithm == "cd" else 1) * len(means) ** 2 / 4
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


def _first_means(mixture: Mixture | None, dimension: int, lean: float, seed: int) -> Tensor:
    """Return means near zero, `(modes, d)`, of which each leans towards a mode."""
    shape = (2, dimension) if mixture is None else tuple(mixture.truth.means.shape)
    generator = stream(seed, "means")
    means = 0.01 * standard_normal(*shape, generator=generator, dtype=torch.float64)
    device = torch.get_default_device() if mixture is None else mixture.data.device
    if mixture is None or len(means) == 2:
        means[:, 0] = means.new_tensor([-0.1, 0.1])
        return means.to(device)
    # The axes are the data's to find: only the paper's two modes have theirs given.
    from sklearn.cluster import KMeans

    found = KMeans(len(means), n_init=10, random_state=seed).fit(mixture.data.cpu().numpy())
    centres = torch.from_numpy(found.cluster_centers_)
    return (means + fraction("lean", lean) * centres).to(device)
