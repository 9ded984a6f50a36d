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

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_jarzynski.core.curvature import warn_if_unstable
from pyro_jarzynski.core.digests import described, versions
from pyro_jarzynski.core.interrupt import Interrupt, deferred_interrupt
from pyro_jarzynski.core.kernels import MALA, Kernel
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import Resampler
from pyro_jarzynski.core.states import Checkpointing, Keep, copied, keeping
from pyro_jarzynski.core.watching import Abandoned
from pyro_jarzynski.ebm.alarms import Alarms
from pyro_jarzynski.ebm.course import Course, check_course
from pyro_jarzynski.ebm.cross_entropy import CrossEntropy
from pyro_jarzynski.ebm.data import (
    ON_THE_EDGE,
    Batches,
    Position,
    collected,
    find_nonfinite,
)
from pyro_jarzynski.ebm.distribution_parts import digests_of
from pyro_jarzynski.ebm.followers import Followers, all_or_nothing
from pyro_jarzynski.ebm.history import History
from pyro_jarzynski.ebm.module_modes import as_checked
from pyro_jarzynski.ebm.optimizers import (
    check_optimizer,
    check_schedule_length,
    check_scheduler,
)
from pyro_jarzynski.ebm.parameters import check_alike, check_followed, trainable
from pyro_jarzynski.ebm.renewal import Renewal, check_renewal
from pyro_jarzynski.ebm.startable import StartableEnergy
from pyro_jarzynski.ebm.step_control import StepControl
from pyro_jarzynski.ebm.updates import Advance, Update
from pyro_jarzynski.ebm.wrapped import settled, take_sums
from pyro_jarzynski.errors import (
    ArgumentError,
    DataError,
    NonFiniteEnergyError,
    NonFiniteEnergyWarning,
    RankError,
)

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
        start_temperatures: int | None = None,
    ) -> None:
        """Draw the walkers at the model's present parameters."""
        self.model = model = settled(model)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        check_optimizer("optimizer", optimizer)
        check_scheduler(lr_scheduler, optimizer)
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
            start_temperatures=start_temperatures,
        )
        take_sums(model)
        self.alarms = Alarms(self.followers, weighted=self.weighted)
        self.step_control = StepControl(conditional_ess if self.weighted else None, kernel)
        self.renewal = check_renewal(model, renewal)
        self.data_generator = stream(seed, "data")
        self._base = digests_of(getattr(model, "base", None))
        self._left = self._hyperparameters_now()
        self._hyperparameters = [self._left]
        self.history = History()
        self.num_steps = 0
        self.best = None
        self.course = None
        self._negative = []
        self._negative_place = None

    @abstractmethod
    def begin(self, batches: Batches) -> None:
        """Place the walkers before the first update."""

    @abstractmethod
    def advance(self, batches: Batches) -> Advance:
        """Carry the walkers to the new parameters."""

    @standard_modes()
    def fit(
        self,
        data: Tensor | Iterable,
        num_steps: int,
        *,
        validation: Tensor | Iterable | None = None,
        batch_size: int | None = 256,
        eval_every: int = 20,
        patience: int | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoints: Checkpointing | None = None,
    ) -> History:
        """Train for a number of updates, or until the validation NLL stops falling.

        With `validation`, the best update of the call is restored at its end: the one with
        the lowest finite validation NLL. Parameters, buffers, optimiser, scheduler, step
        sizes and the walkers of both clouds are then those after that update, so that a
        further call continues from there. `num_steps`, the history, callbacks, the order of
        the data and random numbers are those after the last update. Scores of earlier
        calls do not count, nor do those before a renewal that contradicted the audit. If
        no score is left, nothing is restored.

        If the call is interrupted by Ctrl-C or fails, the state is that after the last
        complete update; call `restore_best` for the best.

        Parameters are those that require a gradient: layers may be frozen and unfrozen
        between calls, and by callbacks.

        Args:
            data: Tensor `(n, *event)`, or an iterable of batches (a DataLoader).
            num_steps: Updates of the parameters.
            validation: Data of the validation NLL, `(m, *event)`, or a loader of them, of
                which one epoch is taken.
            batch_size: Rows per update of a tensor; `None` takes all.
            eval_every: Updates per row of the history.
            patience: Stop when the validation NLL has not fallen for so many updates; they
                are counted from the first score of the call or after a renewal.
            callbacks: Called as `callback(learner, row)` with a copy of every row of the
                history. One with `state_dict` and `load_state_dict` has its state in
                checkpoints.
            checkpoints: Where to keep the state of the training, such as `Checkpoints`.
                With `resume=True` the same call in a new process goes on where the last
                one ended: `num_steps` are those of both, and more than at first are
                allowed. Batches of a loader are passed over up to the one that was next,
                with the random numbers of the first run, those of the global generators
                of torch, NumPy and Python included.

        Returns:
            The history, one row every `eval_every` updates.

        Raises:
            DataError: Data are empty, not finite or of the wrong shape, or the model has
                density zero there; names the rows.
            NonFiniteEnergyError: Training diverged. Parameters, optimiser, scheduler and
                walkers are those before the update that failed.
            WeightCollapseError: All weights are zero; as above.
            CheckpointError: Checkpoints cannot be used, or are of another training: names
                the settings, hyperparameters or data that differ.
            ArgumentError: A loader gives other batches when it is begun again, so that
                checkpoints are of no use.
            RankError: A rank has failed, or has other settings, data or parameters.
            KeyboardInterrupt: Ctrl-C was pressed.
            SystemExit: The process was told to end (SIGTERM), and has checkpoints.
        """
        if self.course is not None:
            raise ArgumentError(
                "`fit` was called by a callback of the same learner, within another call: "
                "call it after that has ended."
            )
        check_course(num_steps, batch_size, eval_every, patience, validation, callbacks)
        check_optimizer("optimizer", self.optimizer)
        check_scheduler(self.lr_scheduler, self.optimizer)
        check_schedule_length(self.lr_scheduler, num_steps)
        check_followed(self.followers)
        self._find_parameters()
        walkers, support = self.cloud.example, self.model.support
        if validation is not None:
            validation = collected("`validation`", validation, walkers, support)
            found = find_nonfinite(self.audit.energies("`validation`", validation))
            if found is not None:
                raise DataError(
                    f"The energy of `validation` is {found.value} at {found.rows}. "
                    f"{ON_THE_EDGE}"
                )
        self._hyperparameters = [self._hyperparameters[0], self._hyperparameters_now()]
        # A score is of one model under one audit, on the validation data of one call.
        self.best = None
        course = self.course = Course(
            Batches(
                data,
                batch_size,
                walkers,
                self.data_generator,
                support,
                rank=self.cloud.team.ranks.rank,
            ),
            done=self.num_steps,
            num_steps=num_steps,
            eval_every=eval_every,
            patience=patience,
            seconds=(self.history["seconds"] or [0.0])[-1],
            validation=validation,
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
            course.batches.close()
            self.course, self._left = None, self._hyperparameters_now()
        if self.best is not None and self.best.step < self.num_steps:
            self.restore_best()
        return self.history

    def _follow(
        self, course: Course, validation: Tensor | None, keep: Keep, interrupt: Interrupt
    ) -> None:
        """Make the updates of a course that are left."""
        ranks = self.cloud.team.ranks
        if not self._negative:
            self.begin(course.batches)
            self._set_negative(self.gradient_now())
        while course.goes_on(self.num_steps):
            if self.cloud.place is not self._negative_place:
                # Somebody else has moved the walkers, or other parameters are trained.
                self._set_negative(self.gradient_now())
            ends_row = course.ends_row(self.num_steps + 1)
            position, done = course.batches.position, self.num_steps
            batch = self._load(course, keep, interrupt)
            try:
                update = self._update(batch, course.batches, ends_row=ends_row)
            except Exception:
                # A signal may have ended processes that load data for the walkers.
                if interrupt.pending and ranks.size == 1 and self.num_steps == done:
                    self._stop(course, position, keep, interrupt)
                raise
            if not math.isnan(update.nll):
                course.nlls.append(update.nll)
            if ends_row:
                row = self._record(update, course.take_nll(), course.seconds, validation)
                self._call(course.callbacks, row)
            keep(self.num_steps)
        interrupt.share(ranks)
        keep(self.num_steps, now=True)
        interrupt()

    def _call(self, callbacks: Sequence[Callback], row: dict[str, float]) -> None:
        """Call callbacks with copies of a row; they may freeze and unfreeze layers."""
        what = f"the callbacks of update {self.num_steps}"
        with self.cloud.team.ranks.divergence.allowed(what):
            for callback in callbacks:
                callback(self, dict(row))
        if callbacks:
            self._find_parameters()

    def _load(self, course: Course, keep: Keep, interrupt: Interrupt) -> Tensor:
        """Return the next batch, or keep the state and end the call of `fit`.

        It ends if a signal came, or if the loader fails: its processes may have received
        the signal before this one does.
        """
        position, batch, error = course.batches.position, None, None
        try:
            batch = interrupt.load(lambda: next(course.batches))
        except (Exception, Abandoned) as caught:
            error = caught
        size = 0 if batch is None else len(batch)
        ranks, has_failed = self.cloud.team.ranks, error is not None
        failed = interrupt.share(ranks, failed=has_failed, batch_size=size)
        if batch is not None and not failed and not interrupt.pending:
            return batch
        self._stop(course, position, keep, interrupt)
        raise error or RankError(
            "The loader of `data` has failed on another rank, which says why."
        )

    def _stop(
        self, course: Course, position: Position, keep: Keep, interrupt: Interrupt
    ) -> None:
        """Keep the state before a batch that was not used, and raise for a signal."""
        course.batches.back_to(position)
        keep(self.num_steps, now=True)
        interrupt()

    @as_checked
    def restore_best(self) -> None:
        """Restore the update with the lowest validation NLL of the last call of `fit`.

        What is restored, and what is not, is listed in `fit`. Nothing changes if no finite
        validation NLL was found.
        """
        best = self.best
        if best is None:
            return
        self.model.load_state_dict(best.model)
        self.optimizer.load_state_dict(copied(best.optimizer))
        if self.lr_scheduler is not None:
            self.lr_scheduler.load_state_dict(copied(best.lr_scheduler))
        self._left = self._hyperparameters_now()
        self.step_control.scale = best.step_scale
        self.followers.places = best.places
        self.followers.set_step_size(best.step_size)
        self._set_negative(self.gradient_now())
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

    @as_checked
    def _update(self, batch: Tensor, batches: Batches, *, ends_row: bool) -> Update:
        energy, norm = self._differentiate(batch, batches)
        # Where the audit waits, log Z would cost an evaluation of its walkers.
        known = ends_row or not self.followers.audit_waits
        log_z = float(self.audit.cloud.here.log_normalizer) if known else math.nan
        nll = energy + log_z
        with all_or_nothing([self.followers], self.parameters, self._stateful):
            rate = float(self.optimizer.param_groups[0]["lr"]) * self.step_control.scale
            with self.step_control.shortened(self.parameters):
                self.optimizer.step()
            walkers = self.advance(batches)
            self.followers.update_audit()
            self.followers.adapt(walkers.acceptance_rate)
            self._step_scheduler()
        self.step_control.learn(walkers.conditional_ess)
        self.num_steps += 1
        if self.renewal is not None and self.num_steps % self.renewal.every == 0:
            self._renew(self.renewal)
        self._set_negative(walkers.slopes)
        return Update(nll, norm, rate, walkers)

    def _step_scheduler(self) -> None:
        if self.lr_scheduler is None:
            return
        try:
            self.lr_scheduler.step()
        except ValueError as error:
            raise ArgumentError(
                f"`lr_scheduler` has no step after update {self.num_steps + 1}: {error}"
            ) from error

    def _find_parameters(self) -> None:
        """Find which parameters are trained now: layers may be frozen and unfrozen."""
        found = trainable(self.model, self.optimizer)
        if list(map(id, found)) != list(map(id, self.parameters)):
            self.parameters, self._negative_place = found, None

    def _renew(self, renewal: Renewal) -> None:
        if not self.followers.renew(renewal).agrees:
            # Earlier scores are of an audit that had lost the model.
            self.best = None
            if self.course is not None:
                self.course.patient_since = None

    def _score(self, validation: Tensor) -> float:
        """Return the validation NLL, and take the model for the best if it is the lowest.

        Every rank computes it, and that of rank 0 counts: processors may differ in its last
        bits, and ranks that disagreed about the best would not stop together.
        """
        energies = self.audit.energies("`validation`", validation)
        found = find_nonfinite(energies)
        if found is not None and not found.has_density_zero:
            raise NonFiniteEnergyError(
                f"The energy of the validation data is {found.value} after update "
                f"{self.num_steps} at {found.rows}; check these data, or use a smaller "
                "learning rate."
            )
        if found is not None:
            self.alarms.tell(
                "validation",
                f"After update {self.num_steps} the model has density zero at `validation` "
                f"in {found.rows}: the score is infinite, and never the best. Use a "
                "smaller learning rate, or leave these rows out.",
                NonFiniteEnergyWarning,
            )
        nll = self.cloud.team.ranks.same(self.audit.likelihood(energies).nll)
        lowest = self._take_best(nll)
        if self.course is not None:
            self.course.score(self.num_steps, lowest=lowest)
        return nll

    @as_checked
    def _record(
        self, update: Update, train_nll: float, seconds: float, validation: Tensor | None
    ) -> dict[str, float]:
        check_alike(self.parameters, self.cloud.team.ranks, self.num_steps)
        if len(self.history) % 50 == 0:
            warn_if_unstable(self.cloud.kernel, self.model, self.cloud.shown)
        self.alarms.look(self.num_steps, update.walkers.ess)
        score = math.nan if validation is None else self._score(validation)
        audit = self.audit.cloud.here
        return self.history.append(
            step=self.num_steps,
            seconds=seconds,
            train_nll=train_nll,
            validation_nll=score,
            log_z=float(audit.log_normalizer),
            log_z_error=float(audit.log_normalizer_error),
            training_log_z=self._training_log_normalizer,
            ess=update.walkers.ess,
            audit_ess=float(audit.ess) / audit.num_walkers,
            resamplings=self.cloud.num_resamplings,
            audit_resamplings=self.audit.cloud.num_resamplings,
            acceptance_rate=update.walkers.acceptance_rate,
            step_size=self.step_size,
            learning_rate=update.learning_rate,
            grad_norm=update.grad_norm,
        )
