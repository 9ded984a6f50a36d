"""Why a model can only be evaluated one walker at a time, and what to do about it."""

import sysconfig
import traceback
from pathlib import Path
from typing import NamedTuple

import torch

from pyro_jarzynski.infer.time_words import expected_seconds, in_words

# Where what is no part of a user's program is: this package, and torch but for its
# distributions, are only on the way to what fails.
_OWN = Path(__file__).parents[1]
_TORCH = Path(torch.__file__).parent
_LIBRARIES = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")]


class Refusal(NamedTuple):
    """Why a way of evaluating many walkers cannot be used.

    Attributes:
        method: The way.
        reason: What happened.
        place: Where, if an operation of the model fails.
    """

    method: str
    reason: str
    place: traceback.FrameSummary | None = None

    @classmethod
    def by(cls, method: str, error: Exception) -> "Refusal":
        """Return the refusal by an error."""
        first_line = (str(error).strip().splitlines() or [""])[0]
        frames = reversed(traceback.extract_tb(error.__traceback__))
        place = next((frame for frame in frames if not _is_on_the_way(frame)), None)
        return cls(method, f"{type(error).__name__}: {first_line}", place)


def advice(refusals: list[Refusal], seconds: float, num_walkers: int, size: int) -> str:
    """Return what to tell of a model that can only be evaluated one walker at a time.

    Args:
        refusals: Why the other ways cannot be used, the fastest first.
        seconds: Time of a gradient of a walker.
        num_walkers: Walkers of all clouds of the run.
        size: Number of coordinates.
    """
    told = "; ".join(f"{each.method}: {each.reason}" for each in refusals)
    expected = in_words(expected_seconds(seconds, num_walkers, size))
    return (
        "The model can only be evaluated one walker at a time, which is slow: "
        f"{in_words(seconds)} for each gradient of a walker, and about {expected}, perhaps "
        f"a third or three times of that, for a run of {num_walkers:,} walkers in all "
        f"clouds ({told}). {_remedy(refusals[0].place)}"
    )


def _remedy(place: traceback.FrameSummary | None) -> str:
    """Return what to change, by where the fastest way fails."""
    if place is None:
        return (
            "Walkers must not share anything that changes, such as tensors that are kept "
            "from one run of the model to the next; or use fewer walkers."
        )
    file = Path(place.filename)
    if any(file.is_relative_to(library) for library in _LIBRARIES):
        return (
            f"`vmap` fails in {file.parent.name}/{file.name}, line {place.lineno} "
            f"(`{place.name}`), which is no part of your program: use another distribution "
            "or function in its place, or fewer walkers."
        )
    return (
        f"`vmap` fails at `{place.line}` in {file.name}, line {place.lineno}: write it "
        "without branches on latents, `item()` and writing in place."
    )


def _is_on_the_way(frame: traceback.FrameSummary) -> bool:
    file = Path(frame.filename)
    if file.is_relative_to(_TORCH):
        return not file.is_relative_to(_TORCH / "distributions")
    return file.is_relative_to(_OWN)
