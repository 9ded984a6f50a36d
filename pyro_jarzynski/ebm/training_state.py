"""The whole state of a training, to be taken and put back bit by bit.

Everything that an update reads is in it: parameters, optimiser and scheduler, walkers
with their energies, gradients, weights and momenta, the gradient that waits for the next
update, step sizes, generators, the place in the data, the best parameters, the history.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from pyro_jarzynski.core.noise import set_state
from pyro_jarzynski.core.slices import apart, is_sliced, together
from pyro_jarzynski.core.states import check_settings, copied, settings_of
from pyro_jarzynski.ebm.alarms import Alarms
from pyro_jarzynski.ebm.best import Snapshot
from pyro_jarzynski.ebm.blocks import Place
from pyro_jarzynski.ebm.course import Course
from pyro_jarzynski.ebm.hyperparameters import (
    check_functions,
    check_hyperparameters,
    function_values,
    hyperparameters,
)
from pyro_jarzynski.ebm.renewal import Renewal
from pyro_jarzynski.ebm.startable import StartableEnergy
from pyro_jarzynski.ebm.step_control import StepControl
from pyro_jarzynski.ebm.trained import Trained
from pyro_jarzynski.ebm.wrapped import own_class
from pyro_jarzynski.errors import ArgumentError

# Entries of a state, and of its best model, with tensors in the shapes of parameters.
SLICED = {"model", "optimizer", "negative"}
# Settings that belong to a call of `fit`.
OF_FIT = ("data", "validation", "batch_size", "patience", "eval_every")


class TrainingState(Trained):
    """A training whose state can be taken and put back.

    Attributes:
        model: The energy under training.
        lr_scheduler: What changes the learning rate.
        alarms: Warnings about its walkers.
        step_control: What shortens the steps of the optimiser.
        renewal: How often walkers are renewed.
        data_generator: Shuffles the data.
        best: The best parameters so far, if any were scored.
        course: The call of `fit` that is under way.
    """

    seed: int
    model: StartableEnergy
    lr_scheduler: LRScheduler | None
    alarms: Alarms
    step_control: StepControl
    renewal: Renewal | None
    data_generator: torch.Generator
    parameters: list[nn.Parameter]
    best: Snapshot | None
    course: Course | None
    # Hyperparameters when the learner was built, and when a call of `fit` began.
    _hyperparameters: list[dict[str, Any]]
    # Those that the last call of a method left.
    _left: dict[str, Any]
    _base: dict[str, Any] | None
    # The gradient of the walkers for the next update, and where they were for it.
    _negative: list[Tensor]
    _negative_place: Place | None
    # Further numbers of a kind of learner that must not change within a run.
    settings: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, in tensors and plain values; nothing of it is code.

        As with torch, parameters and the optimiser's tensors are those of the learner:
        `deepcopy` it to keep it beside a training that goes on.

        Raises:
            ArgumentError: The data are shuffled in a way that cannot be repeated.
        """
        scheduler, best, course = self.lr_scheduler, self.best, self.course
        return {
            "settings": self._settings(),
            "hyperparameters": [*self._hyperparameters, self._hyperparameters_now()],
            "schedule": {} if course is None else function_values(scheduler, course.last),
            "num_steps": self.num_steps,
            "model": apart(dict(self.model.state_dict())),
            "optimizer": apart(self.optimizer.state_dict()),
            "lr_scheduler": None if scheduler is None else scheduler.state_dict(),
            "followers": self.followers.state_dict(),
            "negative": apart(list(self._negative)),
            "step_scale": self.step_control.scale,
            "data_generator": self.data_generator.get_state(),
            "alarms": sorted(self.alarms.told),
            "history": self.history.state_dict(),
            "best": None if best is None else best.state_dict(self.followers),
            "course": None if course is None else course.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; walkers are put where they were, and not evaluated again.

        Args:
            state: From `state_dict` of a learner with the same settings.

        Raises:
            ArgumentError: It is of another training, or its walkers of another shape.
                Names the settings, hyperparameters or data that differ.
        """
        self._check_settings(state["settings"])
        now = self._hyperparameters_now()
        here = self._hyperparameters[0] if now == self._left else now
        check_hyperparameters(here, state["hyperparameters"])
        check_functions(self.lr_scheduler, state["schedule"])
        device = self.cloud.example.device
        state = self._together(state)
        self.model.load_state_dict(state["model"])
        # torch keeps the tensors that it is given: two learners must not share them.
        self.optimizer.load_state_dict(deepcopy(state["optimizer"]))
        if self.lr_scheduler is not None:
            self.lr_scheduler.load_state_dict(deepcopy(state["lr_scheduler"]))
        self.followers.load_state_dict(state["followers"])
        self._set_negative([slope.to(device) for slope in state["negative"]])
        self.step_control.scale = float(state["step_scale"])
        set_state(self.data_generator, state["data_generator"])
        self.alarms.told = set(state["alarms"])
        self.history.load_state_dict(state["history"])
        best = state["best"]
        self.best = None if best is None else Snapshot.from_state(best, self.followers)
        self.num_steps = int(state["num_steps"])
        self._hyperparameters = list(state["hyperparameters"][:-1])
        self._left = self._hyperparameters_now()
        if not self.followers.are_current():
            raise ArgumentError(
                "The state is of another model: with its parameters, the energies of its "
                "walkers are others. The network (a layer, an activation) or the energy "
                "besides it has changed; use that of the run, or begin anew."
            )
        if self.course is not None and state["course"] is not None:
            self.course.load_state_dict(state["course"])

    def _hyperparameters_now(self) -> dict[str, Any]:
        return hyperparameters(self.model, self.optimizer, self.lr_scheduler)

    @property
    def _stateful(self) -> list[Any]:
        """What changes the parameters, and has a state: optimiser and scheduler."""
        known = (self.optimizer, self.lr_scheduler)
        return [each for each in known if each is not None]

    def _set_negative(self, slopes: list[Tensor]) -> None:
        """Keep the gradient of the walkers, `E_ρ[∂_θ U]`, for the next update."""
        self._negative, self._negative_place = slopes, self.cloud.place

    def _take_best(self, validation_nll: float) -> bool:
        """Keep the model as the best if its score is the lowest; return whether it is.

        A score that is infinite or NaN is never the lowest.
        """
        known = math.inf if self.best is None else self.best.validation_nll
        if not validation_nll < known:
            return False
        scheduler = self.lr_scheduler
        self.best = Snapshot(
            step=self.num_steps,
            validation_nll=validation_nll,
            model=deepcopy(self.model.state_dict()),
            optimizer=copied(self.optimizer.state_dict()),
            lr_scheduler=None if scheduler is None else copied(scheduler.state_dict()),
            step_scale=self.step_control.scale,
            step_size=self.step_size,
            places=self.followers.places,
        )
        return True

    def _together(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a state with the parameters that are sliced as they are sliced now."""
        like = next(filter(is_sliced, self.parameters), None)
        if like is None:
            return state

        def joined(part: Mapping[str, Any]) -> dict[str, Any]:
            known = SLICED & part.keys()
            return {**part, **{key: together(part[key], like) for key in known}}

        best = state["best"]
        return {**joined(state), "best": None if best is None else joined(best)}

    def _settings(self) -> dict[str, Any]:
        """Return what must not change within a run."""
        cloud, scheduler, course = self.cloud, self.lr_scheduler, self.course
        renewal = None if self.renewal is None else self.renewal._asdict()
        return {
            "algorithm": type(self).__name__,
            "model": own_class(self.model).__name__,
            "dtype": str(cloud.example.dtype),
            "parameters": [
                name for name, p in self.model.named_parameters() if p.requires_grad
            ],
            "optimizer": type(self.optimizer).__name__,
            "lr_scheduler": None if scheduler is None else type(scheduler).__name__,
            "kernel": settings_of(cloud.kernel),
            "num_walkers": cloud.num_walkers,
            "walker_batch_size": cloud.block_size,
            "moves_per_update": cloud.num_moves,
            "ess_threshold": cloud.ess_threshold,
            "resampler": getattr(cloud.resampler, "__name__", "of one's own"),
            "audit_every": self.followers.audit_every,
            "conditional_ess": self.step_control.target,
            "renewal": renewal,
            "seed": self.seed,
            "base": self._base,
            "audit_walkers": self.followers.audit_cloud.num_walkers,
            "num_shards": cloud.team.num_shards,
            "local_resampling": cloud.team.local_resampling,
            **({} if course is None else course.settings),
        } | self._further_settings()

    def _further_settings(self) -> dict[str, Any]:
        """Return those that only some trainings have."""
        sliced = {"fully_sharded": True} if self.cloud.fully_sharded else {}
        return sliced | {name: getattr(self, name) for name in self.settings}

    def _check_settings(self, saved: Mapping[str, Any]) -> None:
        here = self._settings()
        if here.keys() != saved.keys():
            here, saved = (_without_fit(each) for each in (here, saved))
        check_settings(here, saved)


def _without_fit(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in OF_FIT}
