"""Energy-based models: a network on top of a base density.

`U_θ(x) = net_θ(x) - log base(x)`. The network starts at zero, so that the model starts at
the base: `Z_0 = 1` exactly, and draws of the base are exact first walkers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.core.evaluation import EnergyFn
from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.paths import Tempering
from pyro_jarzynski.core.slices import any_sliced
from pyro_jarzynski.distributions.parts import without_validation
from pyro_jarzynski.ebm.base_checks import check_density, checked_energy
from pyro_jarzynski.ebm.base_energy import energy_of, known_support
from pyro_jarzynski.ebm.distribution_parts import check_base_parameters, moved
from pyro_jarzynski.ebm.soundness import check_parameters
from pyro_jarzynski.ebm.startable import Annealing, StartableEnergy, device_of
from pyro_jarzynski.ebm.wrapped import is_fully_sharded, unwrapped
from pyro_jarzynski.ebm.zero_start import initialise_lazy, values_of
from pyro_jarzynski.ebm.zero_start import zero_last_layer as zero_last_layer_of
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, EnergyError

# Draws of the base at which a network must have a gradient.
NUM_PROBES = 64


class EnergyModel(StartableEnergy):
    """The density `e^{-U_θ(x)} / Z_θ` with `U_θ(x) = net_θ(x) - log base(x)`.

    Its support is that of the base, outside of which `U_θ` is plus infinity, whatever the
    network returns there.

    Args:
        net: Module from `(N, *event)` to `(N,)` or `(N, 1)`. The layer with a weight that a
            call comes to last is set to zero, unless `zero_last_layer` is false.
        base: Distribution with batch shape `()` and the event shape of a walker, on the
            device and of the dtype of the network. It is never trained. `to`, `double` and
            the like move it with the network.
        zero_last_layer: Set the last layer to zero; if false the network must already
            return zero.

    Raises:
        ArgumentError: The base has a batch shape or parameters that require a gradient, is
            discrete, lies on a set of measure zero, or cannot be drawn or evaluated; the
            network cannot be evaluated at its draws, or does not start at zero.

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
        check_base_parameters(base)
        check_density(base)
        net = unwrapped(net)
        self.net = net
        self.base = without_validation(base)
        self.base_energy = checked_energy(self.base, device_of(net))
        # A network that knows its base can do with one pass for both.
        self.joint_energy: EnergyFn | None = None
        if getattr(net, "base", None) is base:
            self.joint_energy = getattr(net, "with_base", None)
        probe = self._probe()
        sliced = is_fully_sharded(self)
        if not sliced:
            initialise_lazy(net, probe)
        check_parameters("net", net)
        if zero_last_layer:
            zero_last_layer_of(net, None if sliced else self._probe(NUM_PROBES))
        self._check_start()

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one walker."""
        return torch.Size(self.base.event_shape)

    @property
    def support(self) -> Any:
        """Where the density is positive: where that of the base is."""
        return known_support(self.base)

    def forward(self, x: Tensor) -> Tensor:
        """Return the energies of `(N, *event)` walkers, `(N,)`, in nats."""
        # A call of the module itself gathers parameters that torch has sliced.
        if self.joint_energy is not None and not any_sliced(self.net.parameters()):
            return self.joint_energy(x)
        base = self.base_energy(x)
        if self.base_energy.has_walls:
            # A network may not be finite, nor have a gradient, where there is no density.
            x = self.base_energy.moved_inside(x, base)
        values = self.net(x)
        if values.shape == (len(x), 1):
            values = values.squeeze(1)
        return values + base

    def in_support(self, x: Tensor) -> Tensor | None:
        """Return at which walkers the base has a density, `(N,)`; `None` is all."""
        return self.base_energy.in_support(x)

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw `num` walkers of the base, `(num, *event)`."""
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        # Distributions draw from the global generator: it is put back afterwards.
        with global_stream(seed), torch.no_grad():
            return self.base_energy.draw(num)

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

    def _check_start(self) -> None:
        probe = self._probe()
        if is_fully_sharded(self):
            # torch wants the first call to be that of the outermost module it sliced.
            with torch.no_grad():
                values = self._without_base(probe)
        else:
            values = values_of(self.net, probe)
        if values.shape not in ((4,), (4, 1)):
            raise EnergyError(
                "`net` must return one energy per walker: expected shape (4,) or (4, 1) "
                f"for 4 walkers, got {tuple(values.shape)}."
            )
        # Walkers beyond a wall of the network get weight zero.
        largest = float(values.masked_fill(values == math.inf, 0).abs().max())
        if largest != 0:
            raise ArgumentError(
                "`net` must start at zero, so that the first walkers are exact draws of "
                f"the base; it returns up to {largest:.3g}. End a new "
                "network with a linear layer; build the learner or tracker of a model "
                "before it is trained, or anneal its walkers to the trained model by "
                "`start_temperatures=100`."
            )

    def _probe(self, num: int = 4) -> Tensor:
        """Draw points of the base, to try the network at."""
        return self.draw(num, torch.Generator().manual_seed(0))

    def _apply(self, fn: Callable[[Tensor], Tensor], *recurse: bool) -> Self:
        """Change parameters and buffers, and the tensors of the base, as `to` does."""
        super()._apply(fn, *recurse)
        self.base = moved(self.base, fn, {})
        self.base_energy = energy_of(self.base)
        return self
