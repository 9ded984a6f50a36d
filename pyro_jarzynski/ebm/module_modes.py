"""Train or eval mode of the modules of a model, kept as it was when walkers were drawn.

Dropout, BatchNorm and others compute something else in train mode. Walkers and data are
evaluated in the mode in which the energy was checked, whatever mode the model is in
by then.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from torch import nn

from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.ebm.distribution_parts import modules_in

Method = TypeVar("Method", bound=Callable[..., Any])


class ModuleModes:
    """Puts all modules of a model into the mode that they are in now, for a block.

    Args:
        model: The model; modules within its base count as well.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take down the modes."""
        modules = [*model.modules(), *modules_in(getattr(model, "base", None))]
        self.modes = [(module, module.training) for module in modules]
        self._changed: list[list[nn.Module]] = []

    def __enter__(self) -> None:
        """Change the mode of modules that are in another."""
        changed = [module for module, mode in self.modes if module.training is not mode]
        for module in changed:
            module.training = not module.training
        self._changed.append(changed)

    def __exit__(self, *failure: Any) -> None:
        """Change it back."""
        for module in self._changed.pop():
            module.training = not module.training


def as_checked(method: Method) -> Method:
    """Let a method compute in torch's standard modes and in the checked mode of its model.

    Its object must have `module_modes`.
    """

    @standard_modes()
    @wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.module_modes:
            return method(self, *args, **kwargs)

    return wrapped  # type: ignore[return-value]
