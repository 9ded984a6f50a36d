"""Models on disk: tensors in safetensors, everything else in JSON, never a pickle.

A directory holds `model.json`, which says what the model is and what its tensors must
hash to, and `model.safetensors`: parameters and buffers, weighted walkers that fit them,
energies at some of these, and what maps data to the model's coordinates.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.sharing import ranks_now
from pyro_jarzynski.core.slices import whole
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.ebm.staleness import check_current
from pyro_jarzynski.ebm.startable import StartableEnergy, device_of, in_checked_mode
from pyro_jarzynski.ebm.wrapped import (
    bare,
    bare_modules,
    bare_names,
    is_fully_sharded,
)
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckpointError,
    ModelFileError,
)
from pyro_jarzynski.runtime import disk
from pyro_jarzynski.runtime.model_checks import (
    MAX_NAMED,
    differences,
    energies_of,
    largest_change,
    outline_of,
)
from pyro_jarzynski.runtime.model_parts import UnknownPartError, build, describe
from pyro_jarzynski.runtime.state_files import decode, encode

FORMAT, VERSION = "pyro-jarzynski model", 2
WRITTEN = (
    "It must be as `save_model` wrote it: save the model again, or name another directory."
)
INSTANCE = "Pass as `model` an instance built like the one that was saved."


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

    def log_prob(self, x: Tensor) -> Tensor:
        """Return `-U(x) - log Z` for data `(n, *event)`, `(n,)`, in nats."""
        return -self.model(x) - self.log_normalizer


@standard_modes()
def save_model(
    directory: Path | str,
    model: StartableEnergy,
    walkers: Walkers,
    *,
    extras: Mapping[str, Tensor] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a model and the walkers that fit its parameters into a directory.

    A model that is there is replaced. If that fails, it is there as it was. Of a network
    that torch's `fully_shard` has sliced all ranks must call it, and the first writes.

    Args:
        directory: Made if it is not there.
        model: The model, of which parameters, buffers, and train or eval mode are kept. If
            all of its parts are energies and networks of this package, with a base of this
            package, torch or Pyro, `load_model` builds it; for others it needs an instance.
            Wrappers such as `torch.compile` are left out.
        walkers: Weighted walkers of the model, from the audit.
        extras: Further tensors.
        notes: Further settings and figures that JSON can hold.

    Raises:
        ArgumentError: The parameters have changed since the walkers followed them, or the
            state of a module is no tensor.
        ArgumentTypeError: `extras` has something else than tensors, or `notes` has a value
            or a key that JSON cannot hold.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> tracker = pj.LikelihoodTracker(model, num_walkers=64)
        >>> pj.save_model("model", model, tracker.cloud.walkers, notes={"data": "none"})
        >>> saved = pj.load_model("model")
        >>> saved.notes, saved.log_normalizer
        ({'data': 'none'}, 0.0)
    """
    folder, extras = Path(directory), dict(extras or {})
    notes = dict(notes or {})
    _check_notes(notes, "notes")
    _check_extras(extras)
    energy: Any = bare(model)
    position: Any = walkers.position
    with in_checked_mode(energy):
        if not is_fully_sharded(model):
            check_current(model, walkers)
        energies = energies_of(energy, position)
        description = _description(energy, position)
    state = _state(energy)
    if is_fully_sharded(model) and ranks_now().rank > 0:
        return
    values, described = encode(description)
    tensors: dict[str, Tensor] = {
        "walkers.position": position,
        "walkers.log_weight": walkers.log_weight,
    }
    parts = {"model": state, "energies": energies, "described": described, "extra": extras}
    for part, named in parts.items():
        tensors |= {f"{part}.{name}": value for name, value in named.items()}
    content = disk.pack(tensors)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "model": values,
        "log_normalizer": float(walkers.log_normalizer),
        "log_normalizer_error": float(walkers.log_normalizer_error),
        "sha256": disk.digest(content),
        "notes": notes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    disk.replace_all(
        {
            folder / "model.safetensors": content,
            folder / "model.json": json.dumps(record, indent=2).encode(),
        }
    )


@standard_modes()
def load_model(
    directory: Path | str,
    model: StartableEnergy | None = None,
    *,
    device: torch.device | str | None = None,
) -> SavedModel:
    """Read what `save_model` wrote.

    The model comes in the train or eval mode in which it was saved. It must have the
    energies that were saved with it, at some of its walkers, at its parameters and at
    others.

    Args:
        directory: The directory.
        model: An instance to fill, for a model with parts that are not of this package.
        device: Where model and tensors come to be, wherever they were saved; `None` is
            where `model` is, or else torch's default device.

    Raises:
        ModelFileError: Files are missing, damaged, of another version, or of another model,
            and `model` is as it was.
    """
    folder = Path(directory)
    record = _read_record(folder)
    if device is None:
        device = torch.get_default_device() if model is None else device_of(model)
    read = _read_tensors(folder, record["sha256"])
    tensors = {name: tensor.to(device) for name, tensor in read.items()}
    try:
        saved = decode(record["model"], _part(tensors, "described."))
        position, log_weight = tensors["walkers.position"], tensors["walkers.log_weight"]
        with torch.device(device):
            known: Any = _built(saved) if model is None else bare(model)
        _fill(known, saved, tensors)
    except ModelFileError:
        raise
    except (CheckpointError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"The files in {folder} do not fit "
            f"the model {'of `model.json`' if model is None else 'that was passed'}: "
            f"{str(error).strip()} {INSTANCE}"
        ) from error
    return SavedModel(
        model=known if model is None else model,
        position=position,
        log_weight=log_weight,
        log_normalizer=float(record["log_normalizer"]),
        log_normalizer_error=float(record["log_normalizer_error"]),
        extras=_part(tensors, "extra."),
        notes=record["notes"],
    )


def _description(model: nn.Module, position: Tensor) -> dict[str, Any]:
    """Return what is kept of a model beside its state."""
    try:
        parts, unknown = describe(model, position), None
    except UnknownPartError as error:
        parts, unknown = None, str(error)
    return {
        "parts": parts,
        "unknown": unknown,
        "outline": outline_of(model),
        "frozen": [
            f"{path}.{name}" if path else name
            for path, module in _modules(model)
            for name, parameter in module.named_parameters(recurse=False)
            if not parameter.requires_grad
        ],
        "evaluated": [path for path, module in _modules(model) if not module.training],
    }


def _built(saved: Mapping[str, Any]) -> StartableEnergy:
    if saved["parts"] is None:
        raise ModelFileError(
            f"A part of the model is a {saved['unknown']}, which cannot be built from "
            "`model.json`: pass an instance of the model as `model` to `load_model`."
        )
    model = build(saved["parts"])
    if not isinstance(model, StartableEnergy):
        raise ModelFileError("`model.json` describes no energy.")
    for name in saved["frozen"]:
        model.get_parameter(name).requires_grad = False
    return model


def _fill(
    model: nn.Module, saved: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Give a model the state that was saved, or raise and leave it as it was.

    Args:
        model: The model.
        saved: What `_description` returned.
        tensors: All tensors of the file.

    Raises:
        ModelFileError: It is another model than the one that was saved.
    """
    names, state = bare_names(model), _part(tensors, "model.")
    outline = saved["outline"]
    unlike = _unlike({names[n]: x for n, x in model.state_dict().items()}, state)
    if unlike:
        raise ModelFileError(
            f"The tensors of the file do not fit the model: {unlike} "
            f"{differences(outline_of(model), outline)} {INSTANCE}"
        )
    before = {name: x.detach().clone() for name, x in model.state_dict().items()}
    modes = [(module, module.training) for _, module in _modules(model)]
    try:
        model.load_state_dict({name: state[names[name]] for name in names})
        for path, module in _modules(model):
            module.training = path not in saved["evaluated"]
        position = tensors["walkers.position"].to(device_of(model))
        change = largest_change(energies_of(model, position), _part(tensors, "energies."))
        if change is not None:
            raise ModelFileError(
                "The model is not the one that was saved: with the parameters of the file, "
                f"or at others, its energies differ by up to {change:.3g} nats at walkers "
                f"of the file. {differences(outline_of(model), outline)} {INSTANCE}"
            )
    except BaseException:
        model.load_state_dict(before)
        for module, mode in modes:
            module.training = mode
        raise


def _unlike(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return in words how tensors of two states differ in kind; empty if they do not."""
    words = []
    for name in dict.fromkeys((*expected, *found)):
        kinds = [
            f"{x[name].dtype} {tuple(x[name].shape)}" if name in x else "missing"
            for x in (found, expected)
        ]
        if kinds[0] != kinds[1]:
            words.append(f"`{name}` is {kinds[0]}, and was {kinds[1]}")
    more = f"; and {len(words) - MAX_NAMED} more" if len(words) > MAX_NAMED else ""
    return "; ".join(words[:MAX_NAMED]) + more + "." if words else ""


def _modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules of a model with their paths, both without wrappers."""
    return list(bare_modules(model).values())


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by their names without wrappers, whole on all ranks."""
    names, state = bare_names(model), model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ArgumentError(
                f"`model` has a state that is no tensor, {name!r}, of class "
                f"{type(value).__name__}: keep it as a buffer, or as an argument."
            )
    return {names[name]: whole(value) for name, value in state.items()}


def _check_extras(extras: Mapping[str, Any]) -> None:
    for name, value in extras.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            raise ArgumentTypeError(
                f"`extras` must have dense tensors, got a {type(value).__name__} as "
                f"{name!r}. Convert it by `torch.as_tensor` or `to_dense()`."
            )


def _check_notes(value: Any, path: str) -> None:
    """Raise unless JSON gives the same value back, but for tuples, which become lists."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise ArgumentTypeError(
                    f"`notes` must have strings for keys, as JSON has; {path} has {key!r}."
                )
            _check_notes(entry, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for number, entry in enumerate(value):
            _check_notes(entry, f"{path}[{number}]")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise ArgumentTypeError(
            "`notes` must have values that JSON can hold: strings, numbers, lists and "
            f"dictionaries; {path} is a {type(value).__name__}. Convert it, for instance "
            "by `float`, `tolist()` or `str`."
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
        contents = [path.read_bytes()]
        if disk.digest(contents[0]) != sha256:
            # A process that was killed may have replaced this file alone.
            contents += [each.read_bytes() for each in disk.earlier(path)]
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error}. {WRITTEN}") from error
    intact = [content for content in contents if disk.digest(content) == sha256]
    if not intact:
        raise ModelFileError(
            f"{path} is damaged: its SHA-256 is {disk.digest(contents[0])[:12]}…, "
            f"`model.json` says {sha256[:12]}…. Save the model again, or copy both files "
            "again."
        )
    try:
        return disk.unpack(intact[0])
    except SafetensorError as error:
        raise ModelFileError(
            f"{path} is not a safetensors file: {error}. {WRITTEN}"
        ) from error


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
