"""The whole state of an annealing, to be taken and put back bit by bit."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyro_jarzynski.core.states import check_settings
from pyro_jarzynski.infer.legs import Leg
from pyro_jarzynski.infer.recorder import Recorder
from pyro_jarzynski.infer.settings import Settings
from pyro_jarzynski.infer.standing import Standing


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
        self.standing = Standing(settings)

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
            ArgumentError: It is of another run.
        """
        check_settings(self._settings(), state["settings"])
        self.standing.load_state_dict(state["standing"])
        self.recorder.load_state_dict(state["recorder"])

    def _settings(self) -> dict[str, Any]:
        """Return what must not change within a run."""
        return self.settings.described | {
            "sizes": [leg.posterior.size for leg in self.legs],
            "method": self.legs[-1].posterior.method,
        }
