"""Where the density of a posterior is not finite: how often in a run, and what can help.

A draw of the base at which the posterior has no finite density gets weight zero, and a
proposed move to such a point is refused. Both are right where the density is zero up to
rounding, and are counted, because otherwise they cut off a part of the posterior.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core.faults import MAX_BROKEN, Fault, Faults
from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.errors import (
    EvidenceWarning,
    NonFiniteEnergyError,
    NonFiniteEnergyWarning,
)
from pyro_jarzynski.infer.posterior import Posterior
from pyro_jarzynski.infer.run_warnings import warn
from pyro_jarzynski.infer.settings import Settings

# Share of the draws of a base that must have a density for walkers to set out from it.
MIN_DENSE = 0.1


def remedies(
    dtype: torch.dtype, posterior: Posterior, settings: Settings, *, sparse: bool = False
) -> str:
    """Return what can help where densities overflow or underflow, as a sentence.

    Args:
        dtype: Of the walkers.
        posterior: Their posterior.
        settings: Settings of the run.
        sparse: Whether few draws of the base have a density at all.
    """
    known = []
    base = settings.base
    if sparse and not settings.learn_base:
        known.append("`learn_base=True`")
    if sparse:
        known.append("more walkers")
        if posterior.method != "torch":
            known.append("a `base` of draws by site from where the density is positive")
    if dtype != torch.float64:
        known.append(
            "double precision, by `torch.set_default_dtype(torch.float64)` and data of it"
        )
    of_a_model = posterior.method != "torch"
    if of_a_model and isinstance(base, str) and base == "prior":
        known.append('`base="normal"`, which starts walkers elsewhere than at the prior')
    known.append(
        "a form that does not overflow, such as `logits` in the place of `probs`, sums of "
        "logarithms, or standard normals that the model scales"
    )
    return f"What can help: {'; '.join(known)}."


class NonFiniteCounts(Faults):
    """Counts the points of a run at which the density is not finite.

    Args:
        settings: Settings of the run.
        posterior: Names the sites that are not finite; may be given later.

    Attributes:
        drawn: Draws of the base.
        zero: Those of them at which the posterior density is zero.
        lost: Those of them that got weight zero.
        moved: Moves that were proposed.
        refused: Those of them that were not made.
        cause: What is not finite at the first such point, as a sentence.
    """

    def __init__(self, settings: Settings, posterior: Posterior | None = None) -> None:
        """Start at zero."""
        super().__init__()
        self.settings, self.posterior = settings, posterior
        self.drawn = self.zero = self.lost = self.moved = self.refused = 0
        self.cause, self.dtype = "", torch.float64

    def report_broken(self, fault: Fault) -> None:
        """Count moves that are not made, or raise an error if they are too many.

        Raises:
            NonFiniteEnergyError: Moves lose more than 1 % of the walkers, or more than half
                of the proposed moves are refused.
        """
        self.blame(fault.first)
        if fault.where == "standing":
            return
        if fault.num_broken > MAX_BROKEN[fault.where] * fault.size:
            raise NonFiniteEnergyError(f"{fault.told}. {self.advice}")
        self.refused += fault.num_broken

    def blame(self, walker: Any) -> None:
        """Find what is not finite at a walker, `(D,)`, unless one was found before."""
        assert isinstance(walker, Tensor)
        if not self.cause and self.posterior is not None:
            self.cause = self.posterior.explain(walker)
            self.dtype = walker.dtype

    @property
    def advice(self) -> str:
        """The cause, and what can help against it."""
        assert self.posterior is not None
        return f"{self.cause} {remedies(self.dtype, self.posterior, self.settings)}"

    @contextmanager
    def by_all(self, ranks: Ranks) -> Iterator[None]:
        """Add up what all ranks count inside the block; elsewhere all count the same."""
        before = self.drawn, self.zero, self.lost, self.refused
        yield
        if ranks.size > 1:
            now = self.drawn, self.zero, self.lost, self.refused
            self.drawn, self.zero, self.lost, self.refused = (
                old + ranks.sum(new - old) for old, new in zip(before, now, strict=True)
            )
            self.cause = next(filter(None, ranks.texts(self.cause)), "")

    @property
    def is_sparse(self) -> bool:
        """Whether few draws of the base have a density."""
        return self.zero + self.lost > (1 - MIN_DENSE) * self.drawn

    def warn(self) -> None:
        """Warn if anything was counted."""
        if 0 < self.zero < self.drawn and self.is_sparse:
            draws = _counted(self.zero, self.drawn, "draws of the base")
            assert self.posterior is not None
            known = remedies(self.dtype, self.posterior, self.settings, sparse=True)
            warn(
                f"The density is zero at {draws}: draws and evidence rest on the others. "
                f"{known}",
                EvidenceWarning,
            )
        found = []
        if self.lost:
            draws = _counted(self.lost, self.drawn, "draws of the base")
            found.append(f"at {draws}, which get weight zero")
        if self.refused:
            moves = _counted(self.refused, self.moved, "proposed moves")
            found.append(f"at the ends of {moves}, which are refused")
        if found:
            warn(
                f"The log-density is not finite {', and '.join(found)}. "
                "Draws and evidence lack what mass the posterior has there. "
                f"{self.advice}",
                NonFiniteEnergyWarning,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted."""
        return {
            "drawn": self.drawn,
            "zero": self.zero,
            "lost": self.lost,
            "moved": self.moved,
            "refused": self.refused,
            "cause": self.cause,
            "double": self.dtype == torch.float64,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what an earlier process has counted."""
        self.drawn, self.lost = int(state["drawn"]), int(state["lost"])
        self.zero = int(state["zero"])
        self.moved, self.refused = int(state["moved"]), int(state["refused"])
        self.cause = str(state["cause"])
        self.dtype = torch.float64 if state["double"] else torch.float32


def _counted(part: int, whole: int, what: str) -> str:
    """Return a count with its share, unless an error came before all were counted."""
    if part > whole:
        return f"{part} {what}"
    return f"{part} of {whole} {what} ({part / whole:.2%})"
