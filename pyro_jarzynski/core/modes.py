"""The modes of torch in which all is computed, whatever the caller has set.

torch has modes, for a block or for the whole process, that change what its operations do.
Energies, weights and gradients must not depend on them: under autocast for example torch
keeps the first low-precision copy of a parameter, so that an energy would not follow the
parameters at all. A network may still enter such a mode within its own `forward`.
"""

from collections.abc import Callable
from contextlib import ContextDecorator, ExitStack
from typing import Any, TypeVar

import torch
from torch._C._dynamo.eval_frame import get_eval_frame_callback, set_eval_frame
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

Function = TypeVar("Function", bound=Callable[..., Any])

# Devices that have an autocast.
AUTOCAST = ("cpu", "cuda", "xpu", "mps")
# Operations whose float32 numbers can be set to fewer bits.
REDUCIBLE = (
    ("mkldnn", "matmul"),
    ("mkldnn", "conv"),
    ("mkldnn", "rnn"),
    ("cuda", "matmul"),
)


class standard_modes(ContextDecorator):
    """Computes with gradients on and in full precision: a context manager and decorator.

    Within it gradients are enabled and no tensor is an inference tensor, autocast is off,
    products of float32 matrices have all their bits, anomaly detection lets a NaN pass,
    which is dealt with here, transforms of `torch.func` are left, and `torch.compile`
    traces nothing, so that walkers are evaluated as they are outside of these. At the end
    all is as it was before.

    Args:
        gradients: Whether to enable gradients, and to leave transforms and traces; if not
            these are as they are outside.
    """

    def __init__(self, *, gradients: bool = True) -> None:
        """Change nothing yet."""
        self.gradients = gradients
        self._stacks: list[ExitStack] = []

    def __call__(self, func: Function) -> Function:
        """Return a function that runs in these modes."""
        run: Any = super().__call__(func)
        # What `torch.compile` makes of a caller stops before it, and goes on behind it.
        run._torchdynamo_disable = True
        return run

    def _recreate_cm(self) -> "standard_modes":
        return standard_modes(gradients=self.gradients)

    def __enter__(self) -> None:
        """Leave the modes that are not standard."""
        stack = ExitStack()
        if self.gradients:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(mode=False))
            if not torch.is_grad_enabled():
                stack.enter_context(torch.enable_grad())
            if torch._C._functorch.peek_interpreter_stack() is not None:
                stack.enter_context(temporarily_clear_interpreter_stack())
            compiler = get_eval_frame_callback()
            if compiler is not None:
                set_eval_frame(None)
                stack.callback(set_eval_frame, compiler)
        if torch._C._is_any_autocast_enabled():
            _leave_autocast(stack)
        _leave_low_precision(stack)
        if torch.is_anomaly_enabled():
            anomaly = torch.autograd.set_detect_anomaly(mode=True, check_nan=False)
            stack.enter_context(anomaly)
        self._stacks.append(stack)

    def __exit__(self, *failure: Any) -> None:
        """Put the modes back."""
        self._stacks.pop().close()


def _leave_autocast(stack: ExitStack) -> None:
    for device in filter(torch.is_autocast_enabled, AUTOCAST):
        stack.enter_context(torch.autocast(device, enabled=False))
    # The copies of parameters that an inner autocast makes would stay until the outer one
    # ends, whatever becomes of the parameters.
    stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
    torch.set_autocast_cache_enabled(False)


def _leave_low_precision(stack: ExitStack) -> None:
    try:
        legacy = torch.get_float32_matmul_precision()
    except RuntimeError:  # set for single backends, as below
        legacy = "highest"
    if legacy != "highest":
        torch.set_float32_matmul_precision("highest")
        stack.callback(torch.set_float32_matmul_precision, legacy)
    for backend, operation in REDUCIBLE:
        precision = torch._C._get_fp32_precision_getter(backend, operation)
        if precision in ("tf32", "bf16"):
            torch._C._set_fp32_precision_setter(backend, operation, "ieee")
            stack.callback(
                torch._C._set_fp32_precision_setter, backend, operation, precision
            )
