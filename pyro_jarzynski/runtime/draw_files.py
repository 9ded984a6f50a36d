"""Draws on disk: tensors in safetensors, evidence and settings in JSON, tables in CSV."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pyro_jarzynski.errors import ExportWarning, JarzynskiError, OutputError
from pyro_jarzynski.infer.result import SMCResult
from pyro_jarzynski.runtime import disk

DRAWS = "draws.safetensors"


def save_draws(
    directory: Path,
    result: SMCResult,
    *,
    notes: Mapping[str, Any] | None = None,
    log_likelihood: bool | None = None,
) -> None:
    """Write what a run found into a directory.

    If draws or `result.json` cannot be written, both are there as they were.

    Args:
        directory: Made if it is not there. It gets `draws.safetensors` (draws of equal
            weight by site, `(chains, walkers, *shape)`, deterministic sites and draws of
            the discrete latents included), `summary.csv`, `history.csv`, `result.json`, and
            if there are latents `arviz.nc`, which `arviz.from_netcdf` reads.
        result: The result.
        notes: Further settings and figures that JSON can hold.
        log_likelihood: Whether `arviz.nc` has the log-likelihood of each datum; `None`
            does if it fits into memory.

    Raises:
        OutputError: The draws or `result.json` cannot be written.

    Warns:
        ExportWarning: Another file cannot be written, and is left out.
    """
    record = json.dumps(_record(result, notes or {}), indent=2).encode()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        disk.replace_all(
            {
                directory / DRAWS: lambda file: _save_draws(file, result),
                directory / "result.json": record,
            }
        )
    except OSError as error:
        raise OutputError(
            f"`directory` must be one that can be written, got {directory}: {error}."
        ) from error
    with left_out_if_it_fails(directory / "summary.csv") as file:
        result.summary().table.to_csv(file)
    with left_out_if_it_fails(directory / "history.csv") as file:
        _history(result).to_csv(file, index_label="stage")
    with left_out_if_it_fails(directory / "arviz.nc") as file:
        if result.has_draws:
            tree = result.to_arviz(partial=True, log_likelihood=log_likelihood)
            tree.to_netcdf(str(file))


@contextmanager
def left_out_if_it_fails(file: Path) -> Iterator[Path]:
    """Warn, instead of raising, if a file is not written that holds no draws.

    What is there of it is removed, also what an earlier run has left.

    Args:
        file: The file.
    """
    with suppress(OSError):
        file.unlink()
    try:
        yield file
    except BaseException as error:
        with suppress(OSError):
            file.unlink()
        if not isinstance(error, Exception):
            raise
        known = isinstance(error, JarzynskiError)
        told = str(error) if known else f"{type(error).__name__}: {error}."
        warnings.warn(f"{file.name} is not written. {told}", ExportWarning, stacklevel=4)


def _save_draws(file: Path, result: SMCResult) -> None:
    draws = result.get_samples(group_by_chain=True, deterministic=True)
    try:
        _save_tensors(file, draws)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        # Computed sites can be of types that these files do not have.
        warnings.warn(
            f"{DRAWS} has the latents alone; the sites that are computed from them "
            f"cannot be stored: {error!r}.",
            ExportWarning,
            stacklevel=6,
        )
        _save_tensors(file, result.get_samples(group_by_chain=True))


def _save_tensors(file: Path, draws: Mapping[str, Tensor]) -> None:
    try:
        save_file({n: value.cpu().contiguous() for n, value in draws.items()}, file)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _record(result: SMCResult, notes: Mapping[str, Any]) -> dict[str, Any]:
    low, high = result.log_evidence_interval()
    return {
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
