"""Names of the scalars in an array, as tables show them."""

from collections.abc import Sequence
from itertools import product


def scalar_names(name: str, shape: Sequence[int]) -> list[str]:
    """Return `name[i, j]` for all places of a shape, the last running fastest."""
    if not shape:
        return [name]
    places = product(*(range(size) for size in shape))
    return [f"{name}[{', '.join(map(str, place))}]" for place in places]
