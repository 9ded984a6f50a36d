"""Energy-based models: a network on top of a base density.

`U_θ(x) = net_θ(x) - log base(x)`. The network starts at zero, so that the model starts at
the base: `Z_0 = 1` exactly, and draws of the base are exact first walkers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.core.evaluation import EnergyFn
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.paths import Tempering
from pyro_jarzynski.core.slices import any_sliced
from pyro_jarzynski.ebm.base_energy import energy_of, unvalidated
from pyro_jarzynski.ebm.startable import Annealing, StartableEnergy, device_of
from pyro_jarzynski.ebm.wrapped import is_fully_sharded, unwrapped
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, EnergyError


class EnergyModel(StartableEnergy):
    """The density `e^{-U_θ(x)} / Z_θ` with `U_θ(x) = net_θ(x) - log base(x)`.

    Args:
        net: Module from `(N, *event)` to `(N,)` or `(N, 1)`. Its last layer with a weight
            is set to zero, unless `zero_last_layer` is false.
        base: Distribution with batch shape `()` and the event shape of a walker, on the
            device and of the dtype of the network.
        zero_last_layer: Set the last layer to zero; if false the network must already
            return zero.

    Raises:
        ArgumentError: The base has a batch shape, or the network does not start at zero.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> x = torch.tensor([[3.0, 4.0]])
        >>> bool(torch.allclose(model(x), -base.log_prob(x)))  # it starts as the base
        True
    """

    @standard_modes()
    def __init__(
        self, net: nn.Module, base: Distribution, *, zero_last_layer: bool = True
    ) -> None:
        """Set the network to zero and check that it is."""
        super().__init__()
        if not isinstance(net, nn.Module) or not isinstance(base, Distribution):
            raise ArgumentTypeError(
                "`EnergyModel` takes a torch module and a distribution, got "
                f"{type(net).__name__} and {type(base).__name__}."
            )
        if base.batch_shape:
            raise ArgumentError(
                f"`base` must have batch shape (), got {tuple(base.batch_shape)}; call "
                f"its `to_event({len(base.batch_shape)})`."
            )
        net = unwrapped(net)
        self.net, self.base = net, unvalidated(base)
        self._check_base()
        self.base_energy = energy_of(self.base)
        # A network that knows its base can do with one pass for both.
        self.joint_energy: EnergyFn | None = None
        if getattr(net, "base", None) is base:
            self.joint_energy = getattr(net, "with_base", None)
        if zero_last_layer:
            _zero_last_layer(net)
        self._check_start()

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one walker."""
        return self.base.event_shape

    @property
    def support(self) -> Any:
        """Where the density is positive: where that of the base is."""
        return self.base.support

    def forward(self, x: Tensor) -> Tensor:
        """Return the energies of `(N, *event)` walkers, `(N,)`, in nats."""
        # A call of the module itself gathers parameters that torch has sliced.
        if self.joint_energy is not None and not any_sliced(self.net.parameters()):
            return self.joint_energy(x)
        values = self.net(x)
        if values.shape == (len(x), 1):
            values = values.squeeze(1)
        return values + self.base_energy(x)

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw `num` walkers of the base, `(num, *event)`."""
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        # Distributions draw from the global generator: it is put back afterwards.
        with global_stream(seed), torch.no_grad():
            return self.base.sample(torch.Size([num]))

    def start_log_normalizer(self) -> float:
        """Return `log Z` of the base: 0; raise if the model has left its start."""
        self._check_start()
        return 0.0

    def annealing(self, betas: Sequence[float]) -> Annealing:
        """Return the way from the base to the model."""
        path = Tempering(self.base_energy, self, betas)
        return Annealing(path, self.draw, 0.0)

    def _without_base(self, x: Tensor) -> Tensor:
        """Return the energies above those of the base, `(N,)`, zero up to rounding."""
        base = self.base_energy(x)
        values = self(x) - base
        rounding = 100 * torch.finfo(values.dtype).eps * (1 + base.abs())
        return values.masked_fill(values.abs() <= rounding, 0)

    def _check_base(self) -> None:
        probe = self.draw(4, torch.Generator().manual_seed(0))
        if probe.device != device_of(self.net):
            raise ArgumentError(
                f"`base` draws on {probe.device}, but `net` is on {device_of(self.net)}: "
                "build the base with parameters on the device of the network."
            )
        if probe.device.type == "meta":
            raise ArgumentError(
                "`net` and `base` are on the meta device, which holds shapes and no "
                "numbers: build them on another."
            )
        name = type(self.base).__name__
        try:
            log_prob = self.base.log_prob(probe)
        except NotImplementedError as error:
            raise ArgumentError(
                f"`base` must have a density: {name} has no `log_prob`, as where it "
                "is made by a transform without inverse. Use another base, or map the "
                "data to unconstrained space."
            ) from error
        if not torch.isfinite(log_prob).all():
            raise ArgumentError(
                f"`base` must have a finite density at its own draws; that of {name} is "
                f"{log_prob.tolist()} at four of them."
            )

    def _check_start(self) -> None:
        probe = self.draw(4, torch.Generator().manual_seed(0))
        with torch.no_grad(), _evaluating(self):
            if is_fully_sharded(self):
                # torch wants the first call to be that of the outermost module it sliced.
                values = self._without_base(probe)
            else:
                values = self.net(probe)
        if values.shape not in ((4,), (4, 1)):
            raise EnergyError(
                "`net` must return one energy per walker: expected shape (4,) or (4, 1) "
                f"for 4 walkers, got {tuple(values.shape)}."
            )
        if values.abs().max() != 0:
            raise ArgumentError(
                "`net` must start at zero, so that the first walkers are exact draws of "
                f"the base; it returns up to {float(values.abs().max()):.3g}. End a new "
                "network with a linear layer; build the learner or tracker of a model "
                "before it is trained."
            )


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Let a network be in the mode of evaluation, and put back that of each module."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _zero_last_layer(net: nn.Module) -> None:
    layers = [m for m in net.modules() if isinstance(getattr(m, "weight", None), Tensor)]
    if not layers:
        raise ArgumentError(
            "`net` has no layer with a weight to set to zero; set its output to zero "
            "yourself and pass `zero_last_layer=False`."
        )
    for parameter in layers[-1].parameters(recurse=False):
        nn.init.zeros_(parameter)
