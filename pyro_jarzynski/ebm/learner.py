"""The training loop of energy-based models, whatever their walkers do.

The gradient of the cross-entropy of a model `e^{-U_θ}/Z_θ` is

    ∂_θ H = E_data[∂_θ U_θ] - E_ρθ[∂_θ U_θ],

and the second term is the hard one. The learners differ in the walkers from which they
take it: weighted ones in `jarzynski.py`, others in `contrastive.py`. All of them report
the likelihood from an audit cloud that feeds nothing.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_jarzynski.core.curvature import warn_if_unstable
from pyro_jarzynski.core.digests import described, versions
from pyro_jarzynski.core.interrupt import Interrupt, deferred_interrupt
from pyro_jarzynski.core.kernels import MALA, Kernel
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import Resampler
from pyro_jarzynski.core.states import Checkpointing, Keep, keeping
from pyro_jarzynski.ebm.alarms import Alarms
from pyro_jarzynski.ebm.best import better, validation_nll
from pyro_jarzynski.ebm.course import Course, check_course
from pyro_jarzynski.ebm.cross_entropy import CrossEntropy
from pyro_jarzynski.ebm.data import Batches, check_data
from pyro_jarzynski.ebm.followers import Followers, all_or_nothing
from pyro_jarzynski.ebm.history import History
from pyro_jarzynski.ebm.parameters import check_alike, check_followed, trainable
from pyro_jarzynski.ebm.renewal import Renewal, check_renewal
from pyro_jarzynski.ebm.startable import StartableEnergy
from pyro_jarzynski.ebm.step_control import StepControl
from pyro_jarzynski.ebm.updates import Advance, Update
from pyro_jarzynski.ebm.wrapped import settled, take_sums
from pyro_jarzynski.errors import ArgumentError

Callback = Callable[["Learner", dict[str, float]], None]


class Learner(CrossEntropy, ABC):
    """The training loop that all learners share; see `JarzynskiLearner`."""

    def __init__(
        self,
        model: StartableEnergy,
        optimizer: Optimizer,
        *,
        num_walkers: int = 1024,
        audit_walkers: int = 512,
        kernel: Kernel = MALA(),  # noqa: B008
        moves_per_update: int = 1,
        walker_batch_size: int | None = None,
        audit_every: int | None = None,
        conditional_ess: float | None = 0.9,
        renewal: Renewal | None = None,
        ess_threshold: float = 0.5,
        resampler: str | Resampler = "systematic",
        lr_scheduler: LRScheduler | None = None,
        seed: int = 0,
        chunk_size: int | str | None = None,
        jit_compile: bool = False,
    ) -> None:
        """Draw the walkers at the model's present parameters."""
        self.model = model = settled(model)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.seed = seed
        self.parameters = trainable(model, optimizer)
        self.followers = Followers(
            model,
            num_walkers=num_walkers,
            audit_walkers=audit_walkers,
            kernel=kernel,
            moves_per_update=moves_per_update,
            ess_threshold=ess_threshold,
            resampler=resampler,
            weighted=self.weighted,
            walker_batch_size=walker_batch_size,
            audit_every=audit_every,
            seed=seed,
            chunk_size=chunk_size,
            jit_compile=jit_compile,
        )
        take_sums(model)
        self.alarms = Alarms(self.followers, weighted=self.weighted)
        self.step_control = StepControl(conditional_ess if self.weighted else None, kernel)
        self.renewal = check_renewal(model, renewal)
        self.data_generator = stream(seed, "data")
        self.history = History()
        self.num_steps = 0
        self.best = None
        self.course = None
        self._negative = []

    @abstractmethod
    def begin(self, batches: Batches) -> None:
        """Place the walkers before the first update."""

    @abstractmethod
    def advance(self, batches: Batches) -> Advance:
        """Carry the walkers to the new parameters."""

    @torch.inference_mode(mode=False)
    @torch.enable_grad()
    def fit(
        self,
        data: Tensor | Iterable,
        num_steps: int,
        *,
        validation: Tensor | None = None,
        batch_size: int | None = 256,
        eval_every: int = 20,
        patience: int | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoints: Checkpointing | None = None,
    ) -> History:
        """Train for a number of updates, or until the validation NLL stops falling.

        With validation data the best parameters are kept, together with walkers that fit
        them, and are put back at the end. After Ctrl-C, at a step boundary, everything is
        as after the last whole update, and `restore_best` brings back the best.

        Args:
            data: Tensor `(n, *event)`, or an iterable of batches (a DataLoader).
            num_steps: Updates of the parameters.
            validation: Data of the validation NLL, `(m, *event)`.
            batch_size: Rows per update of a tensor; `None` takes all.
            eval_every: Updates per row of the history.
            patience: Stop when the validation NLL has not fallen for so many updates.
            callbacks: Called as `callback(learner, row)` with every row of the history. One
                with `state_dict` and `load_state_dict` has its state in checkpoints.
            checkpoints: Where to keep the state of the training, such as `Checkpoints`.
                With `resume=True` the same call in a new process goes on where the last
                one ended: `num_steps` are those of both.

        Returns:
            The history, one row every `eval_every` updates.

        Raises:
            DataError: Data are empty, not finite or of the wrong shape.
            NonFiniteEnergyError: Training diverged. Parameters and walkers are those before
                the update that failed.
            WeightCollapseError: All weights are zero; as above.
            CheckpointError: Checkpoints cannot be used, or are of another training.
            RankError: A rank has failed, or has other settings, data or parameters.
            KeyboardInterrupt: Ctrl-C was pressed.
            SystemExit: The process was told to end (SIGTERM), and has checkpoints.
        """
        check_course(num_steps, batch_size, eval_every, patience, validation)
        walkers, support = self.cloud.example, self.model.support
        if validation is not None:
            check_data("validation", validation, walkers, support)
        check_followed(self.followers)
        course = self.course = Course(
            Batches(data, batch_size, walkers, self.data_generator, support),
            done=self.num_steps,
            num_steps=num_steps,
            eval_every=eval_every,
            patience=patience,
            seconds=(self.history["seconds"] or [0.0])[-1],
            callbacks=callbacks,
        )
        if self.cloud.team.ranks.size > 1:
            known = {"data": described(data)} if isinstance(data, Tensor) else {}
            self.cloud.team.ranks.agree(self._settings() | versions() | known)
        try:
            with (
                keeping(checkpoints, self) as keep,
                deferred_interrupt(terminate=checkpoints is not None) as interrupt,
            ):
                self._follow(course, validation, keep, interrupt)
        finally:
            self.course = None
        self.restore_best()
        return self.history

    def _follow(
        self, course: Course, validation: Tensor | None, keep: Keep, interrupt: Interrupt
    ) -> None:
        """Make the updates of a course that are left."""
        if not self._negative:
            self.begin(course.batches)
            self._negative = self.gradient_now()
        while course.goes_on(self.num_steps, self.best.step if self.best else None):
            ends_row = course.ends_row(self.num_steps + 1)
            update = self._update(next(course.batches), course.batches, ends_row=ends_row)
            if not math.isnan(update.nll):
                course.nlls.append(update.nll)
            if ends_row:
                row = self._record(update, course.take_nll(), course.seconds, validation)
                for callback in course.callbacks:
                    callback(self, row)
            interrupt.share(self.cloud.team.ranks)
            keep(self.num_steps, now=interrupt.pending)
            interrupt()
        keep(self.num_steps, now=True)
        interrupt()

    def restore_best(self) -> None:
        """Put back the parameters of the lowest validation NLL, if any were scored."""
        if self.best is None:
            return
        self.best.put_back(self.model, self.followers)
        self._negative = self.gradient_now()
        if self.cloud.team.ranks.size > 1:
            # So that any rank may ask for the likelihood without the others.
            self.followers.audit_cloud.look()

    def gather(self) -> None:
        """Give every rank all walkers, of the best parameters as well, to go on alone.

        All ranks must ask. From then on none of them needs the others.

        Raises:
            ArgumentError: They have slices of the network, so that they always do.
        """
        if self.cloud.fully_sharded:
            raise ArgumentError(
                "`gather` is for a network that every rank has: one that `fully_shard` has "
                "sliced can only be evaluated by all ranks together."
            )
        if self.best is not None:
            self.best = self.best._replace(places=self.followers.whole(self.best.places))
        self.followers.gather()

    def _update(self, batch: Tensor, batches: Batches, *, ends_row: bool) -> Update:
        energy, norm = self._differentiate(batch)
        # Where the audit waits, log Z would cost an evaluation of its walkers.
        known = ends_row or not self.followers.audit_waits
        nll = energy + self.log_normalizer if known else math.nan
        with all_or_nothing([self.followers], self.parameters):
            with self.step_control.shortened(self.parameters):
                self.optimizer.step()
            walkers = self.advance(batches)
            self.followers.update_audit()
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        self.step_control.learn(walkers.conditional_ess)
        self._negative = walkers.slopes
        self.num_steps += 1
        self.followers.adapt(walkers.acceptance_rate)
        if self.renewal is not None and self.num_steps % self.renewal.every == 0:
            self.followers.renew(self.renewal)
        return Update(nll, norm, walkers)

    def _record(
        self, update: Update, train_nll: float, seconds: float, validation: Tensor | None
    ) -> dict[str, float]:
        check_alike(self.parameters, self.cloud.team.ranks, self.num_steps)
        if len(self.history) % 50 == 0:
            warn_if_unstable(self.cloud.kernel, self.model, self.cloud.shown)
        self.alarms.look(self.num_steps, update.walkers.ess)
        score = validation_nll(self.followers, validation)
        if validation is not None:
            self.best = better(self.best, self.num_steps, score, self.followers)
        return self.history.append(
            step=self.num_steps,
            seconds=seconds,
            train_nll=train_nll,
            validation_nll=score,
            log_z=self.log_normalizer,
            log_z_error=self.log_normalizer_error,
            training_log_z=self.training_log_normalizer,
            ess=update.walkers.ess,
            audit_ess=self.audit.ess / self.audit.cloud.num_walkers,
            resamplings=self.cloud.num_resamplings,
            audit_resamplings=self.audit.cloud.num_resamplings,
            acceptance_rate=update.walkers.acceptance_rate,
            step_size=self.step_size,
            learning_rate=self.optimizer.param_groups[0]["lr"] * self.step_control.scale,
            grad_norm=update.grad_norm,
        )
