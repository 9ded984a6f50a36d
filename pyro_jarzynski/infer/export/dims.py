"""Names of the dimensions of sites: their plates'."""

from typing import Any

from torch import Tensor

from pyro_jarzynski.diagnostics.inference_data import TAKEN
from pyro_jarzynski.errors import ArgumentError
from pyro_jarzynski.infer.enumeration import Site, is_density
from pyro_jarzynski.infer.model import PyroModel
from pyro_jarzynski.infer.sites import plate_frames


def exported_name(site: str) -> str:
    """Return the name of a site in a file, where `/` would begin another group."""
    return site.replace("/", ".")


def check_names(names: list[str]) -> None:
    """Raise if two sites would have one name in a file."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(exported_name(name), name)
        if other != name:
            raise ArgumentError(
                f"The sites {other!r} and {name!r} would both be called "
                f"{exported_name(name)!r} in a file, which allows no `/`; rename one."
            )


def site_dims(model: PyroModel) -> dict[str, list[str]]:
    """Return the names of the dimensions of each site, by its exported name.

    A dimension of a plate is called as the plate, or `<plate>_plate` if ArviZ has another
    of that name; any other `<site>_dim_<i>`.
    """
    sites: dict[str, Site] = dict(model.traces[0].nodes)
    return {
        exported_name(name): _dims(exported_name(name), site)
        for name, site in sites.items()
        if is_density(site) and isinstance(site["value"], Tensor)
    }


def _dims(name: str, site: Site) -> list[str]:
    value, fn = site["value"], site["fn"]
    dims = [f"{name}_dim_{i}" for i in range(value.ndim)]
    # A computed value has no declared event: its plates are where the sizes are theirs.
    event = value.ndim - _batch_ndim(value, fn)
    for frame in plate_frames(site):
        place = value.ndim - event + frame.dim
        if place >= 0 and value.shape[place] == frame.size:
            plate = exported_name(frame.name)
            dims[place] = f"{plate}_plate" if plate in TAKEN else plate
    return dims


def _batch_ndim(value: Tensor, fn: Any) -> int:
    whole = len(fn.batch_shape) + len(fn.event_shape)
    return len(fn.batch_shape) if whole == value.ndim else value.ndim
