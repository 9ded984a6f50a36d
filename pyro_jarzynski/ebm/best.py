"""The best parameters of a run so far, and walkers that fit them."""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

from torch import Tensor, nn

from pyro_jarzynski.core.slices import apart
from pyro_jarzynski.ebm.blocks import Place
from pyro_jarzynski.ebm.followers import Followers
from pyro_jarzynski.errors import NonFiniteEnergyError


class Snapshot(NamedTuple):
    """What the best model so far consists of: parameters, and walkers that fit them."""

    step: int
    validation_nll: float
    parameters: dict[str, Any]
    places: tuple[Place, Place]

    def put_back(self, model: nn.Module, followers: Followers) -> None:
        """Give the model these parameters, and its followers these walkers."""
        model.load_state_dict(self.parameters)
        followers.places = self.places

    def state_dict(self, followers: Followers) -> dict[str, Any]:
        """Return the snapshot as a state."""
        places = followers.places_state(self.places)
        return self._asdict() | {"parameters": apart(self.parameters), "places": places}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], followers: Followers) -> "Snapshot":
        """Return the snapshot of a state."""
        return cls(**(dict(state) | {"places": followers.places_from(state["places"])}))


def better(
    best: Snapshot | None, step: int, nll: float, followers: Followers
) -> Snapshot | None:
    """Return the better of the best so far and of the model as it is now.

    Args:
        best: The best so far, if any were scored.
        step: Updates so far.
        nll: Validation NLL now, nats.
        followers: The walkers, with their model.

    Raises:
        NonFiniteEnergyError: The NLL is NaN.
    """
    if math.isnan(nll):
        raise NonFiniteEnergyError(
            f"The energy of the validation data is NaN after update {step}; check these "
            "data, or use a smaller learning rate."
        )
    if best is not None and nll >= best.validation_nll:
        return best
    parameters = deepcopy(followers.model.state_dict())
    return Snapshot(step, nll, parameters, followers.places)


def validation_nll(followers: Followers, validation: Tensor | None) -> float:
    """Return the NLL of validation data by the audit, nats; NaN without any.

    Every rank computes it, and that of rank 0 counts: processors may differ in its last
    bits, and ranks that disagreed about the best would not stop together.
    """
    if validation is None:
        return math.nan
    return followers.cloud.team.ranks.same(followers.audit.nll(validation).nll)
