"""Walkers that follow the parameters of a model: those that train it, and its audit."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core.adaptation import adapted
from pyro_jarzynski.core.kernels import MALA, Kernel
from pyro_jarzynski.core.resampling import Resampler
from pyro_jarzynski.core.smc import StepInfo
from pyro_jarzynski.core.states import Resumable, copied
from pyro_jarzynski.core.transitions import Visit
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.ebm.blocks import Place
from pyro_jarzynski.ebm.cloud import Cloud
from pyro_jarzynski.ebm.module_modes import ModuleModes, as_checked
from pyro_jarzynski.ebm.renewal import Renewal, Renewed, plan_for, renew, renew_next_block
from pyro_jarzynski.ebm.startable import StartableEnergy
from pyro_jarzynski.ebm.tracker import LikelihoodTracker
from pyro_jarzynski.ebm.wrapped import settled
from pyro_jarzynski.errors import count


class Followers:
    """Two clouds that are carried along with the parameters of a model.

    The one gives the gradient of `log Z`; the other, the audit, gives its value, because an
    optimiser exploits the walkers that it takes the gradient from. From then on
    `model.distribution()` knows its normaliser.

    Args:
        model: Energy that can be drawn exactly at its present parameters.
        num_walkers: Walkers that give the gradient.
        audit_walkers: Walkers that give `log Z`, likelihoods and draws.
        kernel: How walkers move; the step size of MALA and HMC is adapted.
        moves_per_update: Moves of every walker per update.
        ess_threshold: Resample when `ESS < ess_threshold N`, in [0, 1].
        resampler: A name or function of `core.resampling`.
        weighted: Whether walkers of the first cloud are ever resampled by their weights.
        walker_batch_size: Walkers of the first cloud that follow each update: independent
            blocks that take turns. The weights of the others telescope, and are evaluated
            when they are needed. `None` moves all.
        audit_every: Updates that the audit follows at once; `None` is as many as there are
            blocks, so that the walkers of both clouds move equally often.
        seed: Seed of both clouds.
        chunk_size: Walkers per call of the model; `"auto"` takes as many as a cache holds,
            or a part of the memory of a GPU; `None` takes all at once.
        jit_compile: Whether to compile the moves of ULA and MALA.
        start_temperatures: Steps of the inverse temperature by which the first walkers of
            both clouds are annealed from the base to a model that is trained already;
            `None` draws them, which needs a model that can be drawn.

    Raises:
        ArgumentError: A number is out of its range.
        EnergyError: The energy couples walkers, is random, or has a wrong shape.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> followers = pj.Followers(model, num_walkers=64, audit_walkers=64)
        >>> with torch.no_grad():
        ...     model.net.layers[-1].bias += 0.1  # U is 0.1 higher everywhere
        >>> info = followers.update()
        >>> round(followers.audit.log_normalizer, 4)
        -0.1
    """

    def __init__(
        self,
        model: StartableEnergy,
        *,
        num_walkers: int = 1024,
        audit_walkers: int = 512,
        kernel: Kernel = MALA(),  # noqa: B008
        moves_per_update: int = 1,
        ess_threshold: float = 0.5,
        resampler: str | Resampler = "systematic",
        weighted: bool = True,
        walker_batch_size: int | None = None,
        audit_every: int | None = None,
        seed: int = 0,
        chunk_size: int | str | None = None,
        jit_compile: bool = False,
        start_temperatures: int | None = None,
    ) -> None:
        """Draw the walkers of both clouds at the model's present parameters."""
        count("audit_walkers", audit_walkers)
        shared: dict[str, Any] = {
            "kernel": kernel,
            "resampler": resampler,
            "seed": seed,
            "chunk_size": chunk_size,
            "jit_compile": jit_compile,
            "start_temperatures": start_temperatures,
        }
        self.model = model = settled(model)
        self.audit = LikelihoodTracker(
            model,
            num_walkers=audit_walkers,
            moves_per_update=moves_per_update,
            ess_threshold=ess_threshold,
            **shared,
        )
        self.cloud = Cloud(
            model,
            num_walkers=num_walkers,
            num_moves=moves_per_update,
            ess_threshold=ess_threshold if weighted else 0.0,
            purpose="training walkers",
            block_size=walker_batch_size,
            **shared,
        )
        blocks = self.cloud.num_blocks
        self.audit_every = (
            blocks if audit_every is None else count("audit_every", audit_every)
        )
        model.followers = self

    @as_checked
    def update(self, visit: Visit | None = None) -> StepInfo:
        """Carry both clouds to the present parameters; call after each change of them.

        If that fails, both are where they were.

        Returns:
            What happened to the cloud that gives the gradient.
        """
        with all_or_nothing([self]):
            info = self.cloud.follow(visit)
            self.update_audit()
        self.adapt(float(info.acceptance_rate))
        return info

    def update_audit(self) -> None:
        """Let the audit follow if it is its turn, and else take note of the update."""
        if self.audit_cloud.place.behind[0] + 1 >= self.audit_every:
            self.audit.update()
        else:
            self.audit_cloud.wait()

    @as_checked
    def renew(self, renewal: Renewal) -> Renewed:
        """Replace the audit, and the next of several training blocks, by fresh walkers.

        Both are annealed along one plan, but apart: the audit owes nothing to the walkers
        that train the model. If that fails, all walkers are where they were.
        """
        audit = self.audit_cloud
        with all_or_nothing([self]):
            plan = plan_for(
                audit,
                num_temperatures=renewal.num_temperatures,
                num_moves=renewal.num_moves,
            )
            renew_next_block(self.cloud, plan)
            return renew(audit, plan, audit.num_walkers)

    @property
    def module_modes(self) -> ModuleModes:
        """Train or eval mode of the modules of the model when it was checked."""
        return self.cloud.module_modes

    @property
    def audit_waits(self) -> bool:
        """Whether the audit has not followed the last update."""
        return self.audit_cloud.place.behind[0] > 0

    @property
    def audit_cloud(self) -> Cloud:
        """The audit walkers."""
        return self.audit.cloud

    def adapt(self, acceptance_rate: float) -> None:
        """Adapt the step size of both clouds to the acceptance rate of the first."""
        # The audit takes its step size from here, never from its own walkers.
        self.set_step_size(adapted(self.cloud.kernel, acceptance_rate).step_size)

    def set_step_size(self, step_size: float) -> None:
        """Use another step size in both clouds from now on."""
        self.cloud.set_step_size(step_size)
        self.audit_cloud.set_step_size(step_size)

    def mark(self) -> Any:
        """Return what `undo` needs to come back here."""
        return self.cloud.mark(), self.audit_cloud.mark()

    def undo(self, mark: Any) -> None:
        """Put both clouds back to where they were at the last mark."""
        self.cloud.undo(mark[0])
        self.audit_cloud.undo(mark[1])

    @property
    def walkers(self) -> tuple[Walkers, Walkers]:
        """The walkers of both clouds; all ranks must ask."""
        return self.cloud.walkers, self.audit_cloud.walkers

    @property
    def places(self) -> tuple[Place, Place]:
        """Where both clouds stand, which is never changed in place."""
        return self.cloud.place, self.audit_cloud.place

    @places.setter
    def places(self, places: tuple[Place, Place]) -> None:
        self.cloud.place, self.audit_cloud.place = places

    def places_state(self, places: tuple[Place, Place]) -> dict[str, Any]:
        """Return places of both clouds as a state."""
        cloud, audit = self.cloud, self.audit_cloud
        return {"cloud": places[0].state(cloud.team), "audit": places[1].state(audit.team)}

    def places_from(self, state: Mapping[str, Any]) -> tuple[Place, Place]:
        """Return the places of a state."""
        cloud, audit = self.cloud, self.audit_cloud
        return (
            cloud.place.restored(state["cloud"], cloud.team),
            audit.place.restored(state["audit"], audit.team),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that a continuation needs beside the parameters, by cloud."""
        return {"cloud": self.cloud.state_dict(), "audit": self.audit_cloud.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore walkers that belong to the present parameters."""
        self.cloud.load_state_dict(state["cloud"])
        self.audit_cloud.load_state_dict(state["audit"])

    def whole(self, places: tuple[Place, Place]) -> tuple[Place, Place]:
        """Return places of both clouds with all walkers; all ranks must ask."""
        cloud, audit = self.cloud, self.audit_cloud
        return places[0].whole(cloud.team), places[1].whole(audit.team)

    def gather(self) -> None:
        """Give every rank all walkers of both clouds, to go on alone; all must ask."""
        self.cloud.gather()
        self.audit_cloud.gather()

    def are_current(self) -> bool:
        """Tell whether the walkers are weighted for the present parameters."""
        return self.cloud.is_current()


@contextmanager
def all_or_nothing(
    followers: Sequence[Followers],
    parameters: Iterable[Tensor] = (),
    stateful: Sequence[Resumable] = (),
) -> Iterator[None]:
    """Restore walkers, parameters and states if the block raises.

    Args:
        followers: Walkers that the block moves.
        parameters: Tensors that it changes in place.
        stateful: Objects with `state_dict` and `load_state_dict` that it changes, such as
            an optimiser and its scheduler.
    """
    kept = [(parameter, parameter.detach().clone()) for parameter in parameters]
    states = [copied(each.state_dict()) for each in stateful]
    marks = [each.mark() for each in followers]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)
        for clouds, mark in zip(followers, marks, strict=True):
            clouds.undo(mark)
        for each, state in zip(stateful, states, strict=True):
            each.load_state_dict(state)
        raise
