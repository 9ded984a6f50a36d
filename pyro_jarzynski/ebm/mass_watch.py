"""The masses of classes in the course of a training, and an alarm when they drift."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.ebm.learner import Learner
from pyro_jarzynski.ebm.masses import ClassMasses, class_masses
from pyro_jarzynski.errors import ExploitationWarning, count

# Standard errors, and mass, by which the two clouds must not differ.
MAX_Z, MIN_DRIFT = 5.0, 0.1


class MassWatch:
    """A callback of `Learner.fit` that follows the masses of classes of a model.

        watch = pj.MassWatch(lambda x: x[:, 0] > 0, num_classes=2)
        learner.fit(data, 1000, callbacks=[watch])
        watch.rows[-1]["audit"]         # mass of each class at the last row

    Walkers do not go between distant modes, so that masses are known by weights alone. It
    warns once if the walkers that train the model give a class another mass than those of
    the audit, by more than 0.1 and five standard errors: one of the two has lost walkers
    of it, or the optimiser has been led by them.

    Args:
        classify: As of `class_masses`.
        num_classes: Number of classes.

    Attributes:
        rows: One for each row of the history: `step`, and the masses, `(classes,)`, by the
            `audit` and by the `training` walkers, with `audit_error` and `training_error`.

    Raises:
        ArgumentError: There are fewer than two classes.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        >>> watch = pj.MassWatch(lambda x: x[:, 0] > 0, num_classes=2)
        >>> learner = pj.JarzynskiLearner(model, optimizer)
        >>> history = learner.fit(pj.toy("moons", 100), 4, eval_every=2, callbacks=[watch])
        >>> [row["step"] for row in watch.rows], len(watch.rows[0]["audit"])
        ([2, 4], 2)
    """

    def __init__(self, classify: Callable[[Tensor], Tensor], num_classes: int) -> None:
        """Start without rows."""
        self.classify = classify
        self.num_classes = count("num_classes", num_classes, 2)
        self.rows: list[dict[str, int | list[float]]] = []
        self._told = False

    def __call__(self, learner: Learner, row: dict[str, float]) -> None:
        """Take the masses of the present walkers."""
        audit, training = (
            class_masses(cloud.walkers, self.classify, num_classes=self.num_classes)
            for cloud in (learner.audit.cloud, learner.cloud)
        )
        self.rows.append(
            {
                "step": int(row["step"]),
                "audit": audit.mass.tolist(),
                "audit_error": audit.error.tolist(),
                "training": training.mass.tolist(),
                "training_error": training.error.tolist(),
            }
        )
        if learner.weighted:
            self._warn_if_apart(int(row["step"]), audit, training)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, for checkpoints."""
        return {"rows": [dict(row) for row in self.rows], "told": self._told}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back the rows of a state."""
        self.rows = [dict(row) for row in state["rows"]]
        self._told = bool(state["told"])

    def _warn_if_apart(self, step: int, audit: ClassMasses, training: ClassMasses) -> None:
        drift = (training.mass - audit.mass).abs()
        surplus = drift - MIN_DRIFT - MAX_Z * torch.hypot(audit.error, training.error)
        if self._told or not (surplus > 0).any():
            return
        self._told = True
        worst = int(surplus.argmax())
        warnings.warn(
            f"At update {step} class {worst} has mass {float(training.mass[worst]):.2f} by "
            f"the walkers that train the model and {float(audit.mass[worst]):.2f} by those "
            "of the audit: its mass has drifted away from the model's. Use more walkers, a "
            "smaller learning rate, or `renewal`.",
            ExploitationWarning,
            stacklevel=3,
        )
