"""One of the models of `pyro_models`: a program with its data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Example:
    """A model, with data that are simulated when it is built.

    Attributes:
        name: The Pyro example or tutorial, and the variant.
        build: Returns the model and its arguments.
        refusal: Part of the error with which the model must be refused, since no method
            that follows gradients of one density can run it; `None` if it must run.
        hint: Returns settings to try if the default ones raise an error.
        dtype: Default dtype under which the model is built and run.
        log_evidence: Its exact value, by quadrature of what remains once all latents are
            integrated that can be; `None` where it has none.
    """

    name: str
    build: Callable[[], tuple[Any, tuple]]
    refusal: str | None = None
    hint: Callable[[], dict[str, Any]] | None = None
    dtype: torch.dtype = torch.float32
    log_evidence: float | None = None
