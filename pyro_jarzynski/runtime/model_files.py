"""Models on disk: tensors in safetensors, everything else in JSON, never a pickle.

A directory holds `model.json`, which says what the model is and what its tensors must
hash to, and `model.safetensors`: parameters, weighted walkers that fit them, and what
maps data to the model's coordinates.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.core.slices import whole
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.ebm.bases import ComponentMasses, PCAMixture
from pyro_jarzynski.ebm.convolutional import ConvNet, Convolution
from pyro_jarzynski.ebm.energy import EnergyModel
from pyro_jarzynski.ebm.networks import MLP, GaussianMixtureEnergy
from pyro_jarzynski.ebm.staleness import check_current
from pyro_jarzynski.ebm.startable import StartableEnergy, device_of
from pyro_jarzynski.ebm.wrapped import is_fully_sharded, own_class
from pyro_jarzynski.errors import ModelFileError
from pyro_jarzynski.runtime import disk

FORMAT, VERSION = "pyro-jarzynski model", 1
WRITTEN = (
    "It must be as `save_model` wrote it: save the model again, or name another directory."
)


@dataclass(frozen=True)
class SavedModel:
    """A model read from disk, with what belongs to it.

    Attributes:
        model: The energy, with its parameters.
        position: Weighted walkers of the model, `(N, *event)`.
        log_weight: Their log-weights, `(N,)`, float64.
        log_normalizer: `log Z`, in nats.
        log_normalizer_error: Its standard error, in nats.
        extras: Further tensors that were saved with it.
        notes: Further settings and figures that were saved with it.
    """

    model: StartableEnergy
    position: Tensor
    log_weight: Tensor
    log_normalizer: float
    log_normalizer_error: float
    extras: dict[str, Tensor]
    notes: dict[str, Any]


def save_model(
    directory: Path | str,
    model: StartableEnergy,
    walkers: Walkers,
    *,
    extras: Mapping[str, Tensor] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a model and the walkers that fit its parameters into a directory.

    Of a network that torch's `fully_shard` has sliced all ranks must call it, and the first
    writes.

    Args:
        directory: Made if it is not there.
        model: The model. Those of this package can be read back without further ado; for
            a network of your own `load_model` has to be given an instance.
        walkers: Weighted walkers of the model, from the audit.
        extras: Further tensors.
        notes: Further settings and figures that JSON can hold.

    Raises:
        ArgumentError: The parameters have changed since the walkers followed them.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> tracker = pj.LikelihoodTracker(model, num_walkers=64)
        >>> pj.save_model("model", model, tracker.cloud.walkers, notes={"data": "none"})
        >>> saved = pj.load_model("model")
        >>> saved.notes, saved.log_normalizer
        ({'data': 'none'}, 0.0)
    """
    if not is_fully_sharded(model):
        check_current(model, walkers)
    folder = Path(directory)
    description, described = _describe(model)
    state = {name: whole(value) for name, value in model.state_dict().items()}
    if is_fully_sharded(model) and ranks_now().rank > 0:
        return
    tensors: dict[str, Any] = {f"model.{name}": value for name, value in state.items()}
    tensors |= {f"base.{name}": value for name, value in described.items()}
    tensors |= {f"extra.{name}": value for name, value in (extras or {}).items()}
    tensors["walkers.position"] = walkers.position
    tensors["walkers.log_weight"] = walkers.log_weight
    content = disk.pack(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "model": description,
        "log_normalizer": float(walkers.log_normalizer),
        "log_normalizer_error": float(walkers.log_normalizer_error),
        "sha256": disk.digest(content),
        "notes": dict(notes or {}),
    }
    disk.replace(folder / "model.safetensors", content)
    disk.replace(folder / "model.json", json.dumps(record, indent=2).encode())


def load_model(
    directory: Path | str,
    model: StartableEnergy | None = None,
    *,
    device: torch.device | str | None = None,
) -> SavedModel:
    """Read what `save_model` wrote.

    Args:
        directory: The directory.
        model: An instance to fill, for a network that is not of this package.
        device: Where model and tensors come to be, wherever they were saved; `None` is
            where `model` is, or else torch's default device.

    Raises:
        ModelFileError: Files are missing, damaged, or of another model.
    """
    folder = Path(directory)
    record = _read_record(folder)
    if device is None:
        device = torch.get_default_device() if model is None else device_of(model)
    read = _read_tensors(folder, record["sha256"])
    tensors = {name: tensor.to(device) for name, tensor in read.items()}
    try:
        with torch.device(device):
            known = _rebuild(record["model"], tensors) if model is None else model
        known.load_state_dict(_part(tensors, "model."))
        position, log_weight = tensors["walkers.position"], tensors["walkers.log_weight"]
    except ModelFileError:
        raise
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"The tensors in {folder} do not fit "
            f"the model {'of `model.json`' if model is None else 'that was passed'}: "
            f"{str(error).strip()} Pass as `model` an instance built like the "
            "one that was saved."
        ) from error
    return SavedModel(
        model=known,
        position=position,
        log_weight=log_weight,
        log_normalizer=float(record["log_normalizer"]),
        log_normalizer_error=float(record["log_normalizer_error"]),
        extras=_part(tensors, "extra."),
        notes=record["notes"],
    )


def _describe(model: StartableEnergy) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if isinstance(model, GaussianMixtureEnergy):
        modes, dimension = model.means.shape
        return {"kind": "gaussian mixture", "modes": modes, "dimension": dimension}, {}
    if isinstance(model, EnergyModel):
        net, base = model.net, model.base
        wrapper = net if isinstance(net, ComponentMasses) else None
        if wrapper is not None:
            net = wrapper.net
        normal = _normal_base(base)
        if isinstance(net, MLP) and normal is not None:
            network = {"sizes": net.sizes, "activation": net.activation}
            return {"kind": "mlp"} | network, {"loc": normal.loc, "scale": normal.scale}
        if isinstance(net, ConvNet) and isinstance(base, PCAMixture):
            names = ("image_shape", "convolutions", "hidden", "activation")
            network = {name: getattr(net, name) for name in names}
            kind = {"kind": "convolutional", "component_masses": wrapper is not None}
            return kind | network, base.parameters
    return {"kind": "other", "class": own_class(model).__qualname__}, {}


def _normal_base(base: Distribution) -> Normal | None:
    inside = base.base_dist if isinstance(base, Independent) else base
    return inside if isinstance(inside, Normal) and len(base.event_shape) == 1 else None


def _rebuild(
    description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> StartableEnergy:
    match description:
        case {"kind": "gaussian mixture", "modes": int(modes), "dimension": int(dimension)}:
            means = tensors["model.means"].new_zeros(modes, dimension)
            return GaussianMixtureEnergy(means, means[:, 0])
        case {"kind": "mlp", "sizes": list(sizes), "activation": str(activation)}:
            prior = Independent(Normal(tensors["base.loc"], tensors["base.scale"]), 1)
            return EnergyModel(MLP(sizes, activation).to(prior.mean.dtype), prior)
        case {
            "kind": "convolutional",
            "image_shape": list(shape),
            "convolutions": list(convolutions),
            "hidden": list(hidden),
            "activation": str(activation),
        }:
            mixture = PCAMixture(**_part(tensors, "base."))
            layers = [Convolution(*settings) for settings in convolutions]
            net = ConvNet(shape, layers, hidden, activation).to(mixture.means.dtype)
            if description.get("component_masses"):
                return EnergyModel(ComponentMasses(net, mixture), mixture)
            return EnergyModel(net, mixture)
        case {"kind": "other", "class": str(name)}:
            raise ModelFileError(
                f"The model is a {name}, which is not of this package: pass an instance of "
                "it as `model` to `load_model`."
            )
    raise ModelFileError(
        f"`model.json` describes no model that is known: {description}. Pass an instance "
        "of it as `model` to `load_model`."
    )


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / "model.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}. {WRITTEN}") from error
    expected: dict[str, type | tuple[type, ...]] = {
        "model": dict,
        "notes": dict,
        "sha256": str,
        "log_normalizer": (int, float),
        "log_normalizer_error": (int, float),
    }
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a model of this package. {WRITTEN}")
    if record.get("version") != VERSION:
        raise ModelFileError(
            f"{path} has version {record.get('version')!r}; this release reads {VERSION}. "
            "Load it with the release that wrote it."
        )
    for name, kind in expected.items():
        if not isinstance(record.get(name), kind):
            raise ModelFileError(f"{path} has no valid entry {name!r}. {WRITTEN}")
    return record


def _read_tensors(folder: Path, sha256: str) -> dict[str, Tensor]:
    path = folder / "model.safetensors"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error}. {WRITTEN}") from error
    found = disk.digest(content)
    if found != sha256:
        raise ModelFileError(
            f"{path} is damaged: its SHA-256 is {found[:12]}…, `model.json` says "
            f"{sha256[:12]}…. Save the model again, or copy both files again."
        )
    try:
        return disk.unpack(content)
    except SafetensorError as error:
        raise ModelFileError(
            f"{path} is not a safetensors file: {error}. {WRITTEN}"
        ) from error


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
