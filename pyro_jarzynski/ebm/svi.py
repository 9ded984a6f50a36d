"""Energy-based models inside `pyro.infer.SVI`: an optimiser that walkers follow."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_jarzynski.ebm.followers import Followers, all_or_nothing
from pyro_jarzynski.ebm.optimizers import needs_argument
from pyro_jarzynski.ebm.startable import StartableEnergy
from pyro_jarzynski.ebm.step_control import StepControl
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError


class JarzynskiOptim(PyroOptim):
    """An optimiser of Pyro after which the walkers of energy-based models follow.

        optim = pj.JarzynskiOptim(pyro.optim.Adam({"lr": 1e-3}), ebm)
        svi = SVI(model, guide, optim, Trace_ELBO())

    where the Pyro model calls `pyro.module("ebm", ebm)` and `ebm.distribution()`. Walkers
    move once per `svi.step`, whatever the ELBO; `evaluate_loss`, NUTS and predictions
    never move them.

    Args:
        optim: Any optimiser of `pyro.optim`.
        *models: Energy-based models in the Pyro model, at their start or followed already.
        conditional_ess: As of `JarzynskiLearner`: below it the steps of these models, and
            of nothing else, are shortened.
        **settings: Settings of `Followers` for models that nobody follows yet.

    Raises:
        ArgumentError: There is no model, or one twice.
        ArgumentTypeError: `optim` is no optimiser of Pyro.

    Example:
        >>> base = dist.Normal(torch.zeros(1), 1.0).to_event(1)
        >>> ebm = pj.EnergyModel(pj.MLP([1, 8]), base)
        >>> optim = pj.JarzynskiOptim(pyro.optim.Adam({"lr": 1e-3}), ebm, num_walkers=64)
        >>> def program(x):
        ...     pyro.module("ebm", ebm)
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", ebm.distribution(), obs=x)
        >>> svi = pyro.infer.SVI(program, lambda x: None, optim, pyro.infer.Trace_ELBO())
        >>> loss = svi.step(torch.zeros(10, 1))
        >>> ebm.followers.are_current()
        True
    """

    def __init__(
        self,
        optim: PyroOptim | Callable[..., None],
        *models: StartableEnergy,
        conditional_ess: float | None = 0.9,
        **settings: Any,
    ) -> None:
        """Draw the walkers of models that nobody follows."""
        if not isinstance(optim, PyroOptim):
            raise ArgumentTypeError(
                "`optim` must be an optimiser of `pyro.optim`, such as Adam({'lr': 1e-3}); "
                f"got {type(optim).__name__}."
            )
        if needs_argument(getattr(optim.pt_optim_constructor, "step", None)):
            raise ArgumentError(
                "`optim` has a torch optimiser whose steps need a closure that returns the "
                "loss, as those of LBFGS do; use Adam or SGD."
            )
        if not models or len({id(model) for model in models}) < len(models):
            raise ArgumentError(
                f"`models` must be one or several different energies, got {len(models)}."
            )
        self.optim, self.models = optim, models
        for model in models:
            if model.followers is None:
                Followers(model, **settings)
        self.controls = [
            StepControl(conditional_ess, each.cloud.kernel) for each in self.followers
        ]

    @property
    def followers(self) -> list[Followers]:
        """The walkers of all models."""
        return [m.followers for m in self.models if isinstance(m.followers, Followers)]

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Change the parameters, and carry the walkers to where they are."""
        _check_modes()
        params = list(params)
        self._check_held(params)
        with all_or_nothing(self.followers, params, [_TorchOptimizers(self.optim)]):
            with ExitStack() as stack:
                for model, control in zip(self.models, self.controls, strict=True):
                    stack.enter_context(control.shortened(list(model.parameters())))
                self.optim(params, *args, **kwargs)
            for each, control in zip(self.followers, self.controls, strict=True):
                info = each.update()
                control.learn(float(info.conditional_ess) / len(info.log_weight))

    def _check_held(self, params: list[Tensor]) -> None:
        held = {id(param) for param in params}
        for model in self.models:
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and id(parameter) not in held:
                    raise ArgumentError(
                        f"The parameter {name!r} of a followed energy is not among those "
                        "that are trained: call `pyro.module(name, energy)` in the model, "
                        "or set its `requires_grad` to False."
                    )

    def __getattr__(self, name: str) -> Any:
        """Hand what is not known here to the optimiser."""
        if name in ("optim", "models", "controls"):
            raise AttributeError(name)
        return getattr(self.optim, name)

    def get_state(self) -> dict:
        """Return the state of optimiser and walkers."""
        return {
            "optim": self.optim.get_state(),
            "followers": [each.state_dict() for each in self.followers],
            "scales": [control.scale for control in self.controls],
        }

    def set_state(self, state_dict: dict) -> None:
        """Restore optimiser and walkers, which belong to the present parameters."""
        self.optim.set_state(state_dict["optim"])
        for each, state in zip(self.followers, state_dict["followers"], strict=True):
            each.load_state_dict(state)
        for control, scale in zip(self.controls, state_dict["scales"], strict=True):
            control.scale = scale


def _check_modes() -> None:
    """Raise if the gradients of this step are not there, or of low precision."""
    if not torch.is_grad_enabled():
        raise ArgumentError(
            "`svi.step` was called where gradients are off (`torch.no_grad` or "
            "`torch.inference_mode`), so that nothing would be trained: call it outside."
        )
    if torch._C._is_any_autocast_enabled():
        raise ArgumentError(
            "`svi.step` was called under `torch.autocast`, so that its gradients are of "
            "low precision: call it outside, and enter autocast within the `forward` of "
            "the network."
        )


class _TorchOptimizers:
    """The torch optimisers that an optimiser of Pyro has made, one for each parameter.

    Args:
        optim: The optimiser of Pyro; it may have schedulers around its optimisers.
    """

    def __init__(self, optim: PyroOptim) -> None:
        self.optim = optim

    def state_dict(self) -> dict[str, Any]:
        """Return the states by parameter, and those that wait for theirs."""
        made = self.optim.optim_objs
        return {
            "made": {parameter: _states(each) for parameter, each in made.items()},
            "waiting": self.optim._state_waiting_to_be_consumed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states, and remove optimisers that were made since."""
        self.optim._state_waiting_to_be_consumed = state["waiting"]
        for parameter in list(self.optim.optim_objs):
            if parameter not in state["made"]:
                del self.optim.optim_objs[parameter]
                continue
            made = _stateful(self.optim.optim_objs[parameter])
            for each, known in zip(made, state["made"][parameter], strict=True):
                each.load_state_dict(known)


def _stateful(made: Any) -> list[Any]:
    """Return an optimiser, or a scheduler and its optimiser."""
    return [made, made.optimizer] if hasattr(made, "optimizer") else [made]


def _states(made: Any) -> list[dict[str, Any]]:
    return [each.state_dict() for each in _stateful(made)]
