"""Energy-based models: a network on top of a base density.

`U_θ(x) = net_θ(x) - log base(x)`. The network starts at zero, so that the model starts at
the base: `Z_0 = 1` exactly, and draws of the base are exact first walkers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.core.evaluation import EnergyFn
from pyro_jarzynski.core.paths import Path, Tempering
from pyro_jarzynski.core.slices import any_sliced
from pyro_jarzynski.ebm.base_energy import energy_of, unvalidated
from pyro_jarzynski.ebm.distribution import EnergyDistribution, Following
from pyro_jarzynski.ebm.wrapped import is_fully_sharded, unwrapped
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, EnergyError


class Annealing(NamedTuple):
    """A way from a law that can be drawn to a model.

    Attributes:
        path: Energies from that law to the model.
        draw: Function of a number and a generator that draws the law, `(num, *event)`.
        log_normalizer: `log Z` of `path[0]`.
    """

    path: Path | Tempering
    draw: Callable[[int, torch.Generator], Tensor]
    log_normalizer: float


class StartableEnergy(nn.Module, ABC):
    """An energy module whose law at its present parameters can be drawn exactly.

    What can be trained from exact first walkers: `EnergyModel`, `GaussianMixtureEnergy`,
    or a subclass of your own. `forward` takes `(N, *event)` walkers to `(N,)` energies in
    nats.

    Attributes:
        followers: Walkers that follow its parameters, once there are any.

    Example:
        >>> class Shifted(pj.StartableEnergy):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.mean = torch.nn.Parameter(torch.zeros(2))
        ...
        ...     def forward(self, x):
        ...         return (x - self.mean).square().sum(1) / 2
        ...
        ...     def draw(self, num, generator):
        ...         noise = torch.randn(num, 2, generator=generator)
        ...         return self.mean.detach() + noise
        ...
        ...     def start_log_normalizer(self):
        ...         return 1.8378770664093453  # log 2π
        >>> tracker = pj.LikelihoodTracker(Shifted())
        >>> round(tracker.log_normalizer, 4)
        1.8379
    """

    followers: Following | None = None

    @property
    def support(self) -> Any:
        """Where the density is positive; `None` is everywhere."""
        return None

    def distribution(self) -> EnergyDistribution:
        """Return the law of the model as a distribution of Pyro.

        Raises:
            ArgumentError: No walkers follow the model, or its parameters have changed since
                they did.
        """
        followers = self.followers
        if is_fully_sharded(self):
            raise ArgumentError(
                "The law of a network that `fully_shard` has sliced is known to its "
                "learner and tracker alone: ask these for likelihoods and draws."
            )
        if followers is None:
            raise ArgumentError(
                "No walkers follow this energy, so that its normaliser is not known. Build "
                "`JarzynskiOptim(optim, energy)`, a learner, or `Followers(energy)` first, "
                "while it can be drawn exactly."
            )
        if not followers.are_current():
            raise ArgumentError(
                "The parameters of this energy have changed since its walkers followed "
                "them. Train it by `JarzynskiOptim` or a learner, or call "
                "`energy.followers.update()` after each change."
            )
        event = followers.audit_cloud.example.ndim - 1
        everywhere = constraints.independent(constraints.real, event)
        return EnergyDistribution(self, followers, support=self.support or everywhere)

    @abstractmethod
    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw `num` walkers of the law at the start, `(num, *event)`."""

    @abstractmethod
    def start_log_normalizer(self) -> float:
        """Return `log Z` at the start."""

    def annealing(self, betas: Sequence[float]) -> Annealing:
        """Return a way to the model at its present parameters, for `annealed_walkers`.

        Args:
            betas: Increasing inverse temperatures from 0 to 1, one for each energy.

        Raises:
            ArgumentError: The energy has none.
        """
        del betas
        raise ArgumentError(
            f"{type(self).__name__} cannot be annealed: it has no law to start from. "
            "Define `annealing(betas)`, or use an `EnergyModel`."
        )


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


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


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
