"""Where an annealing stands: all that its next stage reads, to be kept and put back."""

from collections.abc import Mapping
from typing import Any

import torch

from pyro_jarzynski.core.gradients import TermsFn
from pyro_jarzynski.core.kernels import Kernel
from pyro_jarzynski.core.noise import set_state, stream
from pyro_jarzynski.core.pilot import Found
from pyro_jarzynski.core.sharing import team_for
from pyro_jarzynski.core.states import kernel_from, kernel_state
from pyro_jarzynski.core.team import WHOLE, Team
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.infer.nonfinite import NonFiniteCounts
from pyro_jarzynski.infer.settings import Settings

CLOUDS = ("scout", "pilot", "walkers")


class Standing:
    """Where the clouds of an annealing stand.

    Attributes:
        kernel: How the cloud that goes ahead moves.
        beta: Its inverse temperature on this leg of the path.
        leg: Number of the leg.
        num_scouted: Stages of the scout.
        sparse: Whether few draws of the first base had a density.
        scout: Where the scout is, or where it ended.
        pilot: Where the pilot is; `None` where there is none.
        walkers: Where the walkers that count are; `None` before they set out.
        device: Where they are.
        generators: Randomness of each cloud.
        team: Who has the walkers that count; every rank has scout and pilot as a whole.
        counts: Where the density is not finite for the walkers that count, and before they
            set out for the scout.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        """Begin at the base."""
        self.settings, self.device = settings, device
        self.kernel: Kernel = settings.kernel
        self.beta, self.leg, self.num_scouted, self.scouted = 0.0, 0, 0, 0.0
        self.sparse = False
        self.scout: Walkers | None = None
        self.pilot: Walkers | None = None
        self.walkers: Walkers | None = None
        self.generators = {name: stream(settings.seed, name, device) for name in CLOUDS}
        self.team = team_for(seed=settings.seed, purpose="walkers", device=device)
        self.counts = NonFiniteCounts(settings)
        self.teams: dict[str, Team] = dict.fromkeys(CLOUDS, WHOLE) | {"walkers": self.team}
        self._note()

    @property
    def ahead(self) -> Walkers:
        """The cloud that goes ahead, once walkers have set out."""
        ahead = self.walkers if self.pilot is None else self.pilot
        assert ahead is not None
        return ahead

    def has_scouted(self, short: int) -> bool:
        """Tell whether a scout got to the posterior, by more than a short path.

        From a few draws of the base alone the path is long, however few its stages are.
        """
        return self.scouted == 1 and (self.sparse or self.num_scouted > short)

    def set_out(
        self, walkers: Walkers, pilot: Walkers | None, counts: NonFiniteCounts
    ) -> None:
        """Put the walkers that count, and the pilot, at the base."""
        self.walkers, self.pilot, self.counts = walkers, pilot, counts
        self.kernel, self.beta, self.leg = self.settings.kernel, 0.0, 0

    def take_scout(self, found: Found) -> None:
        """Take note of a stage of the scout."""
        self.scout, self.kernel = found.walkers, found.stage.kernel
        self.beta = self.scouted = found.beta
        self.num_scouted += 1
        self._note()

    def take(self, found: Found, walkers: Walkers, leg: int) -> None:
        """Take note of a stage of the cloud ahead, and of the walkers that followed it."""
        self.kernel, self.beta, self.leg = found.stage.kernel, found.beta, leg
        self.walkers = walkers
        self.pilot = None if self.pilot is None else found.walkers
        self._note()

    def know_terms(self, terms: TermsFn, *names: str) -> None:
        """Say by which terms clouds were evaluated, if they were put back."""
        for name in names:
            cloud = getattr(self, name)
            if cloud is not None and cloud.evaluation.source is None:
                evaluation = cloud.evaluation._replace(source=terms)
                setattr(self, name, cloud._replace(evaluation=evaluation))

    def state_dict(self) -> dict[str, Any]:
        """Return all that the stage reads that follows the last finished one."""
        noted = dict(self._noted)
        for name in CLOUDS:
            cloud = noted[name]
            noted[name] = None if cloud is None else self.teams[name].state(cloud)
        return noted | {"kernel": kernel_state(noted["kernel"])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for name in CLOUDS:
            cloud, team = state[name], self.teams[name]
            restored = None if cloud is None else team.restored(cloud, self.device)
            setattr(self, name, restored)
            set_state(self.generators[name], state["generators"][name])
        self.team.set_generators(state["team"])
        self.counts.load_state_dict(state["counts"])
        self.kernel = kernel_from(state["kernel"], self.settings.kernel, self.device)
        self.beta, self.scouted = float(state["beta"]), float(state["scouted"])
        self.sparse = bool(state["sparse"])
        self.leg, self.num_scouted = int(state["leg"]), int(state["num_scouted"])
        self._note()

    def _note(self) -> None:
        """Note where a finished stage has led to, which no later one changes."""
        named = (*CLOUDS, "kernel", "beta", "leg", "num_scouted", "scouted", "sparse")
        self._noted: dict[str, Any] = {name: getattr(self, name) for name in named} | {
            "generators": {n: g.get_state() for n, g in self.generators.items()},
            "team": self.team.generators_state(),
            "counts": self.counts.state_dict(),
        }
