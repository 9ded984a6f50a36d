"""How to anneal: the settings that `AnnealedSMC` and `JarzynskiKernel` share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from inspect import Parameter, Signature, signature
from typing import Any, TypeVar

from pyro_jarzynski.core.compiled import block_size
from pyro_jarzynski.core.digests import described
from pyro_jarzynski.core.kernels import MALA, Kernel
from pyro_jarzynski.core.memory import check_chunk_size
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.pilot import Exploration
from pyro_jarzynski.core.resampling import get_resampler
from pyro_jarzynski.core.shard_parts import sizes_of_shards
from pyro_jarzynski.core.sharing import current
from pyro_jarzynski.core.states import kernel_state, settings_of
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    count,
    fraction,
    one_of,
    positive,
)
from pyro_jarzynski.infer.schedules import (
    AdaptiveTempering,
    DataTempering,
    Schedule,
    check_schedule,
)

Init = TypeVar("Init", bound=Callable[..., None])
PRECONDITIONERS = ("dense", "diagonal", "none")
# What is read of a kernel.
KERNEL_ATTRIBUTES = (
    "move",
    "step_size",
    "langevin_step",
    "with_langevin_step",
    "preconditioner",
    "factor",
    "target_acceptance",
    "moves_on_switch",
    "needs_gradient",
)
# Settings that a run may go on without, or that are told in another way.
OTHERS = ("kernel", "base", "schedule", "max_seconds", "chunk_size", "jit_compile")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to anneal; `AnnealedSMC` has the meaning of each."""

    num_walkers: int = 1024
    num_chains: int = 4
    kernel: Kernel = MALA()  # noqa: RUF009
    schedule: Schedule = AdaptiveTempering()  # noqa: RUF009
    base: Any = "prior"
    learn_base: bool = True
    adapt: str = "pilot"
    preconditioner: str = "dense"
    num_moves: int | None = None
    max_moves: int = 25
    resampler: str = "systematic"
    ess_threshold: float = 0.5
    waste_free: bool = False
    max_seconds: float | None = None
    seed: int = 0
    chunk_size: int | str | None = "auto"
    jit_compile: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        count("num_walkers", self.num_walkers, 2)
        count("num_chains", self.num_chains)
        count("max_moves", self.max_moves)
        one_of("adapt", self.adapt, ("pilot", "online", "off"))
        one_of("preconditioner", self.preconditioner, PRECONDITIONERS)
        fraction("ess_threshold", self.ess_threshold)
        get_resampler(self.resampler)
        if isinstance(self.kernel, type) or not hasattr(self.kernel, "switch"):
            raise ArgumentTypeError(
                "`kernel` must be a kernel such as MALA(), got "
                f"{getattr(self.kernel, '__name__', repr(self.kernel))}."
            )
        missing = [name for name in KERNEL_ATTRIBUTES if not hasattr(self.kernel, name)]
        if missing:
            kind = type(self.kernel).__name__
            raise ArgumentTypeError(
                f"`kernel` must have `{missing[0]}`, which {kind} has not; let it inherit "
                "from `pj.Invariant` if its moves leave the law invariant."
            )
        if not self.kernel.needs_gradient:
            raise ArgumentError(
                "`kernel` must be one of continuous walkers, such as MALA() or HMC(): the "
                f"energy of a Pyro model has no method `gibbs`. Got "
                f"{type(self.kernel).__name__}."
            )
        temperature = getattr(self.kernel, "temperature", 1.0)
        if temperature != 1:
            raise ArgumentError(
                "`kernel` must have temperature 1, that of the posterior; got "
                f"{type(self.kernel).__name__} with temperature {temperature}."
            )
        check_schedule(self.schedule)
        if self.num_moves is not None:
            count("num_moves", self.num_moves)
        if self.max_seconds is not None:
            positive("max_seconds", self.max_seconds)
        check_chunk_size(self.chunk_size)
        if not isinstance(self.jit_compile, bool):
            raise ArgumentTypeError(
                f"`jit_compile` must be True or False, got {self.jit_compile!r}."
            )
        if self.adapt == "off" and self.betas is None:
            raise ArgumentError(
                '`adapt="off"` needs a `schedule` of fixed inverse temperatures.'
            )
        if self.waste_free and self.kernel.moves_on_switch:
            raise ArgumentError(
                "`waste_free` needs a kernel that leaves the law invariant (MALA, HMC), "
                f"got {type(self.kernel).__name__}."
            )
        if self.waste_free and self.adapt == "online":
            raise ArgumentError(
                "`waste_free` needs a plan that is made before the walkers set out: take "
                '`adapt="pilot"` or `adapt="off"`, got `adapt="online"`.'
            )
        stream(self.seed, "check")

    @property
    def learns(self) -> bool:
        """Whether a scout goes first, from whose walkers a base is learned."""
        return (
            self.learn_base
            and self.adapt == "pilot"
            and isinstance(self.schedule, AdaptiveTempering)
        )

    @property
    def block(self) -> int:
        """Walkers per call of compiled code."""
        known = current()
        if known is None:
            most = block_size(self.num_walkers, self.num_chains)
        else:
            # Shards are evaluated by themselves.
            most = block_size(-(-self.num_walkers * self.num_chains // known.num_shards), 1)
        return min(most, self.chunk_size) if isinstance(self.chunk_size, int) else most

    @property
    def whole(self) -> int:
        """Walkers per call of compiled code where memory alone bounds them."""
        most = self.num_walkers * self.num_chains
        return min(most, self.chunk_size) if isinstance(self.chunk_size, int) else most

    @property
    def walkers_of_run(self) -> int:
        """Walkers of all clouds of a run, as far as this process evaluates them."""
        known = current()
        shared = self.num_walkers * self.num_chains
        ranks = 1 if known is None else known.ranks.size
        ahead = self.num_walkers * (self.learns + (self.adapt == "pilot"))
        return ahead + -(-shared // ranks)

    @property
    def cloud_sizes(self) -> list[int]:
        """Numbers of walkers that are evaluated together: of each cloud, or its shards."""
        num, known = self.num_walkers * self.num_chains, current()
        if known is None:
            return sorted({self.num_walkers, num})
        shards = sizes_of_shards(known.num_shards, num, self.num_chains)
        return sorted({self.num_walkers, *shards})

    @property
    def walkers_per_call(self) -> int | None:
        """Walkers per call of the model as it is; `None` takes all at once."""
        assert not isinstance(self.chunk_size, str), "settings of legs have a number"
        return self.chunk_size

    @property
    def betas(self) -> list[float] | None:
        """Inverse temperatures, if they are fixed."""
        if isinstance(self.schedule, AdaptiveTempering | DataTempering):
            return None
        return [float(beta) for beta in self.schedule]

    @property
    def described(self) -> dict[str, Any]:
        """What must not change within a run, in plain values."""
        names = [f.name for f in fields(self) if f.name not in OTHERS]
        known = current()
        return {name: getattr(self, name) for name in names} | {
            "kernel": settings_of(self.kernel) | self._start_of_kernel,
            "base": self._described_base,
            "schedule": str(self.betas or self.schedule),
            "num_shards": None if known is None else known.num_shards,
            "local_resampling": known is not None and known.local_resampling,
        }

    @property
    def _start_of_kernel(self) -> dict[str, Any]:
        """What of the kernel a run changes, as it was given."""
        given = kernel_state(self.kernel)
        return {
            name: value if isinstance(value, float) else described(value)
            for name, value in given.items()
            if value is not None
        }

    @property
    def _described_base(self) -> str:
        if isinstance(self.base, str):
            return self.base
        draws = isinstance(self.base, Mapping)
        return described(dict(self.base)) if draws else type(self.base).__name__

    @property
    def exploration(self) -> Exploration:
        """What the pilot may choose."""
        fixed = self.adapt == "off"
        # A kernel keeps the preconditioner that it was given.
        given = getattr(self.kernel, "preconditioner", None) is not None
        leave = fixed or given or self.preconditioner == "none"
        return Exploration(
            conditional_ess=getattr(self.schedule, "ess", 1.0),
            preconditioner=None if leave else self.preconditioner,
            adapt_step_size=not fixed,
            num_moves=self.num_moves or (1 if fixed else None),
            max_moves=self.max_moves,
            ess_threshold=self.ess_threshold,
        )


def shows_settings(*without: str) -> Callable[[Init], Init]:
    """Show settings in the signature of a constructor that takes them as `**settings`.

    Args:
        without: Settings that it does not take.
    """

    def shown(init: Init) -> Init:
        own = [p for p in signature(init).parameters.values() if p.kind != p.VAR_KEYWORD]
        hidden = {*without, *(parameter.name for parameter in own)}
        shared = [
            Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
            for f in fields(Settings)
            if f.name not in hidden
        ]
        first = [parameter for parameter in own if parameter.kind != Parameter.KEYWORD_ONLY]
        rest = own[len(first) :]
        vars(init)["__signature__"] = Signature([*first, *shared, *rest])
        return init

    return shown
