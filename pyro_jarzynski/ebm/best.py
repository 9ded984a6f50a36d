"""The best model of a call of `fit`, by its validation NLL."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pyro_jarzynski.core.slices import apart
from pyro_jarzynski.ebm.blocks import Place
from pyro_jarzynski.ebm.followers import Followers


class Snapshot(NamedTuple):
    """All that the next update reads, but for random numbers and data, after an update.

    Attributes:
        step: Updates so far.
        validation_nll: Validation NLL, nats.
        model: State of the model.
        optimizer: State of the optimiser.
        lr_scheduler: State of the scheduler; `None` without one.
        step_scale: Factor of the optimiser's steps; see `StepControl`.
        step_size: Step size of the walkers' moves.
        places: Walkers that train the model, and those of the audit.
    """

    step: int
    validation_nll: float
    model: dict[str, Any]
    optimizer: dict[str, Any]
    lr_scheduler: dict[str, Any] | None
    step_scale: float
    step_size: float
    places: tuple[Place, Place]

    def state_dict(self, followers: Followers) -> dict[str, Any]:
        """Return the snapshot as a state."""
        return self._asdict() | {
            "model": apart(self.model),
            "optimizer": apart(self.optimizer),
            "places": followers.places_state(self.places),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], followers: Followers) -> "Snapshot":
        """Return the snapshot of a state."""
        return cls(**(dict(state) | {"places": followers.places_from(state["places"])}))
