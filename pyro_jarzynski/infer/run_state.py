"""The whole state of an annealing, to be taken and put back bit by bit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core.states import check_settings
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.errors import ArgumentError
from pyro_jarzynski.infer.legs import Leg
from pyro_jarzynski.infer.recorder import Recorder
from pyro_jarzynski.infer.settings import Settings
from pyro_jarzynski.infer.standing import Standing

# Walkers of a state whose energies are computed again, and how well they must agree: to
# this power of the rounding error.
NUM_COMPARED, AGREEMENT = 8, 0.5


class RunState:
    """Where a run stands, and what it has recorded.

    Args:
        settings: Its settings.
        legs: Its path.
        recorder: What records it.
    """

    def __init__(self, settings: Settings, legs: Sequence[Leg], recorder: Recorder) -> None:
        """Begin at the base."""
        self.settings, self.legs, self.recorder = settings, legs, recorder
        self.standing = Standing(settings, legs[0].posterior.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, in tensors and plain values; nothing of it is code."""
        return {
            "settings": self._settings(),
            "standing": self.standing.state_dict(),
            "recorder": self.recorder.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ArgumentError: It is of another run, or of another model or other data.
        """
        check_settings(self._settings(), state["settings"])
        self.standing.load_state_dict(state["standing"])
        at = self.standing
        for cloud, leg in ((at.scout, self.legs[0]), (at.walkers, self.legs[at.leg])):
            if cloud is not None:
                _check_energies(cloud, leg)
        self.recorder.load_state_dict(state["recorder"])

    def _settings(self) -> dict[str, Any]:
        """Return what must not change within a run."""
        return self.settings.described | {
            "sizes": [leg.posterior.size for leg in self.legs],
            "method": self.legs[-1].posterior.method,
        }


def _check_energies(cloud: Walkers, leg: Leg) -> None:
    """Raise if a model has other energies than the walkers of a state bring along."""
    position = cloud.position
    assert isinstance(position, Tensor)
    known = cloud.evaluation.terms[1].energy[:NUM_COMPARED]
    with torch.no_grad():
        found = leg.posterior.terms(position[:NUM_COMPARED])[1]
    near = torch.finfo(known.dtype).eps ** AGREEMENT * (1 + known.abs())
    # Those of walkers that were given up are infinite, or zero as they were left.
    kept = torch.isfinite(known) & (known != 0)
    differs = kept & ~((found - known).abs() <= near)
    if differs.any():
        first = int(differs.nonzero()[0])
        raise ArgumentError(
            "The state is of another model or other data: the log-density of walker "
            f"{first} was {-float(known[first]):.6g} and is {-float(found[first]):.6g}. "
            "Use the same model and data, or begin anew."
        )
