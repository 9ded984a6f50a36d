"""The best parameters of a run so far, and walkers that fit them."""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_jarzynski.core.states import walkers_from, walkers_state
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.ebm.followers import Followers
from pyro_jarzynski.errors import NonFiniteEnergyError


class Snapshot(NamedTuple):
    """What the best model so far consists of: parameters, and walkers that fit them."""

    step: int
    validation_nll: float
    parameters: dict[str, Any]
    walkers: tuple[Walkers, Walkers]

    def put_back(self, model: nn.Module, followers: Followers) -> None:
        """Give the model these parameters, and its followers these walkers."""
        model.load_state_dict(self.parameters)
        followers.walkers = self.walkers

    def state_dict(self) -> dict[str, Any]:
        """Return the snapshot as a state."""
        walkers = tuple(walkers_state(each) for each in self.walkers)
        return self._asdict() | {"walkers": walkers}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> "Snapshot":
        """Return the snapshot of a state, its walkers on a device."""
        cloud, audit = (walkers_from(each, device) for each in state["walkers"])
        return cls(**(dict(state) | {"walkers": (cloud, audit)}))


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
    return Snapshot(step, nll, parameters, followers.walkers)


def validation_nll(followers: Followers, validation: Tensor | None) -> float:
    """Return the NLL of validation data by the audit, nats; NaN without any."""
    return math.nan if validation is None else followers.audit.nll(validation).nll
