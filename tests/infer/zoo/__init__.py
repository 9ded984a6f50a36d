"""A zoo of small Pyro models, one for every way of writing that people have.

`ZOO` maps a name to a `Case`: the model, its arguments, and what is expected of it. All
data are arguments, so that a model can be run in another precision.
"""

from tests.infer.zoo import discrete, hierarchies, programs, supports
from tests.infer.zoo.case import COUNT, KIND, LINE, NUM_WALKERS, ZOO, Case, X, Y, noise

__all__ = [
    "COUNT",
    "KIND",
    "LINE",
    "NUM_WALKERS",
    "ZOO",
    "Case",
    "X",
    "Y",
    "discrete",
    "hierarchies",
    "noise",
    "programs",
    "supports",
]
