"""Annealed sequential Monte Carlo for Pyro models: draws, evidence, diagnostics."""

from contextlib import closing
from typing import Any

import torch
from tqdm.auto import tqdm

from pyro_jarzynski.core.alone import ALONE, global_stream
from pyro_jarzynski.core.evaluation import Evaluation
from pyro_jarzynski.core.gradients import Term
from pyro_jarzynski.core.interrupt import deferred_interrupt
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.shortage import shortage_told
from pyro_jarzynski.core.states import Checkpointing, keeping
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.infer.annealing import anneal
from pyro_jarzynski.infer.duration import DurationEstimate
from pyro_jarzynski.infer.legs import Leg, prepare
from pyro_jarzynski.infer.posterior import ModelPosterior
from pyro_jarzynski.infer.recorder import Recorder
from pyro_jarzynski.infer.result import SMCResult
from pyro_jarzynski.infer.run_state import RunState
from pyro_jarzynski.infer.run_warnings import RunWarnings, warn
from pyro_jarzynski.infer.settings import Settings, shows_settings
from pyro_jarzynski.infer.time_limit import TimeLimit


class AnnealedSMC:
    """Draws and evidence of a posterior, by weighted walkers annealed from the prior.

    Walkers start as draws of a base and are carried through the laws of density
    `base^{1-β} joint^β`, `β` from 0 to 1, with log-weights; `Ẑ` is their mean weight. A
    scout goes from the prior to the posterior, and a base is learned from where it
    arrives. A pilot chooses temperatures, step sizes, preconditioners and numbers of
    moves; the walkers that count follow its plan with fresh noise, so `E[Ẑ] = Z` exactly.

    Masks leave out data. A latent under a mask keeps its own distribution, so that padding
    changes neither the evidence nor the other latents. A scale raises the densities of its
    sites to a power, except where a mask leaves them out; that of discrete latents within
    the sum over their values, as in Pyro's NUTS, and not outside as in `TraceEnum_ELBO`:

        log joint = log Σ_z Π_sites p(site)^scale

    Densities are zero where data are outside of the support of their distribution, and
    where a parameter is invalid, whatever `validate_args` says. Angles are the same modulo
    2π as data, and between -π and π as latents. Counts of `Multinomial` and
    `DirichletMultinomial` may have any total, whatever their `total_count` is.

    All is computed on the device of the model's latents, random numbers included, and the
    data must be on it. `Normal(y.new_zeros(()), 1)` is where `y` is; `Normal(0, 1)` is on
    torch's default device, see `torch.set_default_device`.

    Inside a process group of `torch.distributed` all ranks run the same program. They share
    the walkers that count, in shards of which there must be a multiple of `num_chains`, and
    each goes with a scout and a pilot of its own that are all alike. The result has the
    same bits on any number of ranks, and is whole on each. A process group of one rank has
    no shards, and the bits of a process without one, except inside `pj.distributed`.

    Args:
        model: A Pyro model, or a `Target`.
        num_walkers: Walkers per island, `N`.
        num_chains: Independent islands, run as one batch; their spread is the error of
            the evidence.
        kernel: `MALA()`, `HMC()`, `ULA()` or `UnderdampedLangevin()`. Its step size is
            where the pilot begins its search, unless `target_acceptance=None` keeps it; a
            preconditioner, and a length of trajectories, that it has are kept.
        schedule: `AdaptiveTempering(ess)`, increasing inverse temperatures from 0 to 1,
            or `DataTempering(sizes)`.
        base: Where walkers start: `"prior"`, `"normal"` (standard normal in unconstrained
            space, for improper priors), a guide, or earlier draws by site.
        learn_base: Whether a scout goes first, and the walkers that count start from a
            mixture of `base` and a Gaussian fitted to it, which is nearer to the posterior,
            unless the scout got there in a few steps. Needs `adapt="pilot"` and
            `AdaptiveTempering`.
        adapt: `"pilot"`; `"online"` lets walkers choose for themselves, which saves the
            pilot and biases the evidence by `O(1/N)`; `"off"` takes kernel and schedule
            as they are.
        preconditioner: `"dense"` or `"diagonal"`, by the covariance of the pilot, or
            `"none"`, for a kernel that has none of its own.
        num_moves: Moves per temperature; `None` goes on until walkers decorrelate.
        max_moves: At most so many, if `num_moves` is `None`.
        resampler: `"systematic"`, `"stratified"`, `"residual"` or `"multinomial"`.
        ess_threshold: Resample when the effective sample size falls below this share, and
            always at the last temperature, so that an island ends with equal weights.
        waste_free: Keep all points that fewer walkers visit; MALA and HMC only, and not
            with `adapt="online"`.
        max_seconds: Time after which to stop with what has been reached.
        seed: Seed of all randomness; torch's global generator is left as it was.
        chunk_size: Walkers per call of the model; `"auto"` takes as many as a cache holds,
            or a part of the memory of a GPU; `None` takes all at once.
        jit_compile: Whether to compile the model with its gradients, which takes up to a
            minute for a model of new shapes, and seconds for one that was compiled before,
            and makes evaluations faster by large factors. Models that can only be
            evaluated one walker at a time are not compiled.
        progress: Whether to show a bar. A run that is expected to take more than a minute
            says so in any case.
        checkpoints: Where to keep the state of a run after stages, the scout's included,
            such as `Checkpoints`. With `resume=True` the same run in a new process goes on
            where the last one ended.

    Raises:
        ArgumentError: A setting is out of its range.

    Source:
        Del Moral, Doucet, Jasra (2006), J. R. Stat. Soc. B 68(3); for unadjusted kernels
        Carbone, Hua, Coste, Vanden-Eijnden (2023), arXiv:2305.19414.

    Example:
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> y = torch.tensor([0.5, 1.5])
        >>> result = pj.AnnealedSMC(model, num_walkers=256, progress=False).run(y)
        >>> covariance = torch.eye(2) + 1
        >>> truth = float(dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(y))
        >>> abs(result.log_evidence - truth) < 0.1
        True
        >>> result.get_samples(100)["mu"].shape
        torch.Size([100])
    """

    @shows_settings()
    def __init__(
        self,
        model: Any,
        *,
        progress: bool = True,
        checkpoints: Checkpointing | None = None,
        **settings: Any,
    ) -> None:
        """Check the settings."""
        self.model = model
        self.progress, self.checkpoints = progress, checkpoints
        self.settings = Settings(**settings)
        self.result: SMCResult | None = None

    def run(self, *args: Any, **kwargs: Any) -> SMCResult:
        """Anneal walkers to the posterior of the model given its arguments.

        Ctrl-C gives up the stage under way, as soon as the model returns from its present
        evaluation; what was reached is left in `result`, which is `None` before the walkers
        that count have finished a stage. `max_seconds` does the same two seconds after the
        time is up. Pyro can run one model at a time: runs in several threads of a process
        wait for each other.

        Returns:
            Draws, evidence and history.

        Raises:
            ModelError: The model cannot be used; the message names the site.
            NonFiniteEnergyError: The density is infinite at draws of the base, or no number
                where most moves end; the message names the site, and what can help.
            WalkerMemoryError: The walkers do not fit into memory.
            WeightCollapseError: The likelihood is zero, or no number, at all draws of the
                base; the message names the site, and what can help.
            TimeLimitError: `max_seconds` was up before the walkers had finished a stage.
            CheckpointError: Checkpoints cannot be used, or are of another run.
            RankError: Ranks have other settings, data, versions or processors than rank 0.
                An error on several ranks leaves no result.

        Warns:
            EvidenceWarning: Something suggests not to trust the result; it says what.
            NonFiniteEnergyWarning: The density was not finite at some draws of the base,
                which get weight zero, or where some moves ended, which are refused.
            CompilationWarning: The model could not be compiled; the result is as valid.
        """
        # Runs in other threads wait.
        num = self.settings.num_walkers * self.settings.num_chains
        # A model may draw numbers that are without effect, from torch's global generator.
        untouched = global_stream(self.settings.seed)
        with ALONE, untouched, standard_modes(), shortage_told(num):
            return self._run(args, kwargs)

    def _run(self, args: tuple, kwargs: dict[str, Any]) -> SMCResult:
        """Anneal, and leave in `result` what was reached."""
        limit = TimeLimit(self.settings.max_seconds)
        self.result = None
        found = RunWarnings()
        with found.deduplicated():
            with limit.enforced("the analysis of the model"):
                legs, settings = prepare(self.model, args, kwargs, self.settings)
            if not legs[-1].posterior.size:
                self.result = exact_result(legs[-1], settings, found.texts)
                return self.result
            recorder = Recorder(settings, limit, legs[0].terms.count, found)
            try:
                self._anneal(legs, recorder)
            finally:
                self.result = recorder.result(len(legs))
        assert self.result is not None
        self.result.warn()
        return self.result

    def _anneal(self, legs: list[Leg], recorder: Recorder) -> None:
        """Anneal until the posterior, the end of the time, or Ctrl-C."""
        bar = tqdm(
            total=float(len(legs)),
            disable=not self.progress or recorder.ranks.rank > 0,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
            desc="Annealing",
        )
        state = RunState(recorder.settings, legs, recorder)
        estimate = DurationEstimate(legs[-1].posterior, recorder)
        stages = anneal(
            legs, recorder.settings, limit=recorder.limit, standing=state.standing
        )
        with (
            closing(stages),
            bar,
            keeping(self.checkpoints, state) as keep,
            deferred_interrupt(
                "the evaluation of the model under way, with what the last finished stage "
                "has reached",
                terminate=self.checkpoints is not None,
            ) as interrupt,
        ):
            while recorder.advance(stages, interrupt.watch, estimate):
                interrupt.share(recorder.ranks)
                bar.update(recorder.progress - bar.n)
                if self.progress:
                    bar.set_postfix_str(recorder.line())
                late = recorder.is_late()
                # The result of the last stage is not kept: it is made again from the one
                # before by whoever asks for it again.
                if recorder.progress < len(legs):
                    keep(recorder.num_stages, now=late or interrupt.pending)
                if late or interrupt.pending:
                    break
            if recorder.abandoned:
                interrupt.share(recorder.ranks)
                if recorder.num_stages:
                    keep(recorder.num_stages, now=True)
            recorder.gather()
            interrupt()
            recorder.check()


def exact_result(leg: Leg, settings: Settings, warnings: list[str]) -> SMCResult:
    """Return the result for a model without continuous latents, whose evidence is a sum."""
    posterior = leg.posterior
    assert isinstance(posterior, ModelPosterior)
    if not posterior.model.discrete:
        warn(
            "The model has no latents: its evidence is the likelihood of the data, without "
            "an error, and there are no draws.",
            UserWarning,
        )
    device = posterior.device
    num = settings.num_walkers * settings.num_chains
    zero = torch.zeros(num, dtype=torch.float64, device=device)
    nowhere = torch.empty(num, 0, device=device)
    with torch.no_grad():
        base, goal = (Term(energy, nowhere) for energy in posterior.terms(nowhere))
    walkers = Walkers(
        position=nowhere,
        evaluation=Evaluation(goal.energy, nowhere, zero, terms=(base, goal)),
        log_weight=zero,
        log_banked=-goal.energy[: settings.num_chains].double(),
        ancestor=torch.arange(num, device=device),
        steps=torch.zeros((), dtype=torch.int64, device=device),
    )
    return SMCResult(
        posterior=posterior,
        walkers=walkers,
        history={},
        settings=settings,
        complete=True,
        num_gradients=0,
        seconds=0.0,
        stage_log_weights=[],
        num_undecorrelated=0,
        run_warnings=warnings,
        kernel=settings.kernel,
    )
