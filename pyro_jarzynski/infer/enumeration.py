"""Discrete latents summed out in parallel, in a way that `torch.func.vmap` can map."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

import pyro.poutine as poutine
from opt_einsum import shared_intermediates
from pyro.infer import config_enumerate
from pyro.ops.contract import contract_to_tensor
from pyro.ops.rings import LogRing
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_jarzynski.errors import ModelError

# A site of a trace: a dictionary with name, fn, value, infer, …
Site: TypeAlias = Any


class EnumeratedModel:
    """A model of which all discrete latents are enumerated.

    Args:
        model: Pyro model.
        max_plate_nesting: Dimensions to the right that plates use.
    """

    def __init__(self, model: Callable[..., Any], max_plate_nesting: int) -> None:
        """Wrap the model."""
        self.model = _Enumerate(first_available_dim=-1 - max_plate_nesting)(
            config_enumerate(model)
        )

    def log_sum(
        self, trace: Trace, names: list[str] | None, key: str, *, drawn: bool = False
    ) -> Tensor:
        """Return the logarithm of a product of densities, summed over the discrete sites.

        Args:
            trace: Trace of `model` with its log-probabilities packed.
            names: Continuous sites that take part beside the discrete ones; `None` is all
                sites.
            key: `"log_prob"`, or `"unscaled_log_prob"` without scales and masks.
            drawn: Whether the gradient is to be that at a draw of the discrete sites, not
                the mean over their values.
        """
        ring = _DrawnRing if drawn else _VmapRing
        factors: OrderedDict[frozenset, list[Tensor]] = OrderedDict()
        plates = set(trace.plate_to_symbol.values())
        sites: dict[str, Site] = dict(trace.nodes)
        for name, site in sites.items():
            if not is_density(site):
                continue
            if names is not None and name not in names and not is_enumerated(site):
                continue
            frames = site["cond_indep_stack"]
            ordinal = frozenset(
                trace.plate_to_symbol[frame.name] for frame in frames if frame.vectorized
            )
            packed: Any = site["packed"]
            factors.setdefault(ordinal, []).append(packed[key])
        summed = set(trace.symbol_to_dim) - plates
        with shared_intermediates() as cache:
            return contract_to_tensor(factors, summed, cache=cache, ring=ring(cache))


def is_density(site: Site) -> bool:
    """Tell whether a site of a trace carries a density."""
    return site["type"] == "sample" and not poutine.util.site_is_subsample(site)


def is_enumerated(site: Site) -> bool:
    """Tell whether a site of a trace was enumerated in parallel."""
    return site["infer"].get("_enumerate_dim") is not None


def check_enumerable(name: str, site: Site) -> None:
    """Raise if a discrete latent cannot be summed out in parallel."""
    fn = site["fn"]
    if site["infer"].get("enumerate", "parallel") != "parallel":
        raise ModelError(
            f"The discrete latent {name!r} asks for enumeration "
            f"{site['infer']['enumerate']!r}; only 'parallel' is possible here."
        )
    if not getattr(fn, "has_enumerate_support", False):
        inner = _innermost(fn)
        in_event = fn.event_dim > inner.event_dim
        if in_event and getattr(inner, "has_enumerate_support", False):
            raise ModelError(
                f"The discrete latent {name!r} is declared as one event of shape "
                f"{tuple(fn.event_shape)} by `.to_event`, which cannot be enumerated. Use "
                "a plate for each dimension of it in place of `.to_event`."
            )
        raise ModelError(
            f"The latent {name!r} ({type(inner).__name__}) is discrete and cannot be "
            "enumerated; sum it out by hand, or use a distribution of finite support. Data "
            "that are missing are left out by `poutine.mask` in place of `obs_mask`."
        )


def _innermost(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


class _VmapRing(LogRing):
    _backend = "pyro_jarzynski.infer.log_einsum"


class _DrawnRing(LogRing):
    _backend = "pyro_jarzynski.infer.drawn_einsum"


class _Enumerate(EnumMessenger):
    """Pyro's messenger without its access to `value.data`, which `vmap` refuses."""

    def _pyro_post_sample(self, msg: Any) -> None:
        value, fn = msg["value"], msg["fn"]
        if value is None or not hasattr(fn, "event_dim"):
            return
        shape = value.shape[: value.dim() - fn.event_dim]
        ids = msg["infer"].setdefault("_dim_to_id", {})
        ids.update(self._param_dims.get(msg["name"], {}))
        self._value_dims[msg["name"]] = {
            dim: id_ for dim, id_ in ids.items() if len(shape) >= -dim and shape[dim] > 1
        }
