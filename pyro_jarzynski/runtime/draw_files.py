"""Draws on disk: tensors in safetensors, evidence and settings in JSON, tables in CSV."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from pyro_jarzynski.errors import ArgumentError, OutputError
from pyro_jarzynski.infer.result import SMCResult


def save_draws(
    directory: Path, result: SMCResult, *, notes: Mapping[str, Any] | None = None
) -> None:
    """Write what a run found into a directory.

    Args:
        directory: Made if it is not there. It gets `draws.safetensors` (draws of equal
            weight by site, `(chains, walkers, *shape)`, deterministic sites and draws of
            the discrete latents included), `summary.csv`, `history.csv`, `result.json`, and
            if there are latents `arviz.nc`, which `arviz.from_netcdf` reads.
        result: The result.
        notes: Further settings and figures that JSON can hold.

    Raises:
        OutputError: A file cannot be written.

    Warns:
        UserWarning: Sites have names that ArviZ cannot have; `arviz.nc` is left out.
    """
    try:
        _save(directory, result, notes or {})
    except OSError as error:
        raise OutputError(
            f"`directory` must be one that can be written, got {directory}: {error}."
        ) from error


def _save(directory: Path, result: SMCResult, notes: Mapping[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    draws = result.get_samples(group_by_chain=True, deterministic=True)
    save_file(
        {name: value.cpu().contiguous() for name, value in draws.items()},
        directory / "draws.safetensors",
    )
    result.summary().table.to_csv(directory / "summary.csv")
    _history(result).to_csv(directory / "history.csv", index_label="stage")
    low, high = result.log_evidence_interval()
    record = {
        "log_evidence": result.log_evidence,
        "log_evidence_error": result.log_evidence_error,
        "log_evidence_interval_90": [low, high],
        "log_evidence_per_chain": result.log_evidence_per_chain.tolist(),
        "complete": result.complete,
        "status": result.status,
        "doubts": result.doubts,
        "method": result.posterior.method,
        "gradient_evaluations": result.num_gradients,
        "seconds": result.seconds,
        "notes": dict(notes),
    }
    (directory / "result.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    if result.has_draws:
        _save_for_arviz(directory / "arviz.nc", result)


def _save_for_arviz(file: Path, result: SMCResult) -> None:
    try:
        tree = result.to_arviz(partial=True)
    except ArgumentError as error:
        # All else is saved: names that ArviZ cannot have must not lose it.
        warnings.warn(f"{file.name} is not written. {error}", UserWarning, stacklevel=4)
        return
    tree.to_netcdf(str(file))


def _history(result: SMCResult) -> Any:
    """Return the history as a table, with one column per island where they differ."""
    import pandas as pd

    columns: dict[str, Tensor] = {}
    for name, values in result.history.items():
        if values.ndim == 1:
            columns[name] = values
            continue
        for island, column in enumerate(values.unbind(1)):
            columns[f"{name}_{island}"] = column
    return pd.DataFrame({name: value.tolist() for name, value in columns.items()})
