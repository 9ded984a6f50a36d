"""Walkers as states: what of them is kept, and how they are put back."""

from collections.abc import Mapping
from typing import Any

import torch

from pyro_jarzynski.core.evaluation import Evaluation
from pyro_jarzynski.core.gradients import Term, TermsFn
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.walkers import Walkers


def walkers_state(walkers: Walkers) -> dict[str, Any]:
    """Return walkers with their energies and gradients as a state."""
    evaluation = walkers.evaluation._asdict()
    # A function is no state: whoever restores the walkers knows it.
    del evaluation["source"]
    evaluation["terms"] = [term._asdict() for term in walkers.evaluation.terms]
    return walkers._asdict() | {"evaluation": evaluation}


def walkers_from(
    state: Mapping[str, Any], device: torch.device, source: TermsFn | None = None
) -> Walkers:
    """Return the walkers of a state.

    Args:
        state: From `walkers_state`.
        device: Where they are to be.
        source: Function that gave the terms of their evaluation.
    """
    evaluation = dict(state["evaluation"])
    evaluation["terms"] = tuple(Term(**term) for term in evaluation["terms"])
    known = Evaluation(**evaluation, source=source)
    walkers = Walkers(**(dict(state) | {"evaluation": known}))
    return map_tree(lambda x: x.to(device), walkers)
