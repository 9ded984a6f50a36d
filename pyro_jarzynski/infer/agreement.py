"""What the ranks of a run must have in common, and what they are told if they have not.

The walkers that count are shared among ranks. The clouds that go ahead are not: every rank
has them as a whole, by the same seeds, and so finds the same way for its own walkers.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from pyro_jarzynski.core.digests import described, digest, versions
from pyro_jarzynski.core.pilot import Found
from pyro_jarzynski.core.ranks import Ranks
from pyro_jarzynski.core.shard_parts import sizes_of_shards
from pyro_jarzynski.core.sharing import current, ranks_now
from pyro_jarzynski.core.states import kernel_state
from pyro_jarzynski.core.watching import on_all
from pyro_jarzynski.errors import ArgumentError, RankError
from pyro_jarzynski.infer.posterior import Posterior
from pyro_jarzynski.infer.settings import Settings

# Walkers whose energies are compared where nobody goes ahead.
NUM_COMPARED = 8


def agree_to_begin(model: Any, args: tuple, kwargs: dict, settings: Settings) -> None:
    """Raise on all ranks unless they have one program, with the same data.

    Raises:
        ArgumentError: The settings are of a kind that cannot be shared.
        RankError: Names what differs.
    """
    ranks = ranks_now()
    if ranks.size > 1:
        known = settings.described | versions() | _named(model, args, kwargs)
        ranks.agree(known | {"jit_compile": settings.jit_compile})
    _check_shareable(settings)


def agree_on_path(posteriors: list[Posterior], settings: Settings) -> None:
    """Raise on all ranks unless they have analysed the model alike."""
    ranks = ranks_now()
    if ranks.size > 1:
        ranks.agree(
            {
                "chunk_size": settings.chunk_size,
                "number of coordinates": [posterior.size for posterior in posteriors],
                "way of evaluating the model": [p.method for p in posteriors],
            }
        )


def agree_on_stage(ranks: Ranks, found: Found) -> None:
    """Raise on all ranks unless those who went ahead have found the same stage.

    Raises:
        RankError: Names the ranks whose energies differ.
    """
    if ranks.size == 1:
        return
    stage, walkers = found.stage, found.walkers
    way = (found.beta, stage.num_moves, stage.ess_threshold, kernel_state(stage.kernel))
    seen = (walkers.log_weight, found.info.log_weight, walkers.evaluation.energy)
    _compare(ranks, digest((way, seen)))


def agree_on_energies(ranks: Ranks, posterior: Posterior, seed: int) -> None:
    """Raise on all ranks unless some walkers have the same energies on all of them.

    Raises:
        RankError: Names the ranks that have others.
    """
    if ranks.size > 1:

        def energies() -> tuple[Tensor, ...]:
            few = posterior.draw(NUM_COMPARED, seed=seed, purpose="agreement")
            return posterior.terms(few)

        with torch.no_grad():
            _compare(ranks, digest(on_all(ranks, energies)))


def _compare(ranks: Ranks, mine: str) -> None:
    digests = ranks.digests(mine)
    others = [str(rank) for rank, text in enumerate(digests) if text != digests[0]]
    if others:
        raise RankError(
            f"Rank {', '.join(others)} computed other energies than rank 0 at the same "
            "walkers. Give all ranks the same data, also those that are not arguments of "
            "the model, processors of one kind and one number of threads, and on GPUs "
            "`torch.use_deterministic_algorithms(True)`."
        )


def _named(model: Any, args: tuple, kwargs: dict) -> dict[str, str]:
    """Return what the arguments of a model are, by their names."""
    try:
        names = inspect.signature(model).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        names = {f"argument {k}": value for k, value in enumerate(args)} | kwargs
    return {name: described(value) for name, value in names.items()}


def _check_shareable(settings: Settings) -> None:
    known = current()
    if known is None:
        return
    if settings.waste_free:
        raise ArgumentError(
            "`waste_free` is for one process: it needs all points that a walker visits in "
            "one place. Leave it out, and use more walkers instead."
        )
    if settings.adapt == "online":
        raise ArgumentError(
            '`adapt="online"` is for one process: walkers in shards do not see each other. '
            'Use `adapt="pilot"`, which also leaves the evidence unbiased.'
        )
    num, islands = settings.num_walkers, settings.num_chains
    sizes_of_shards(known.num_shards, num * islands, islands)
