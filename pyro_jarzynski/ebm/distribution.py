"""A trained or trainable energy as a distribution of Pyro."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_jarzynski.core.modes import standard_modes
from pyro_jarzynski.core.team import Tools
from pyro_jarzynski.core.walkers import Walkers
from pyro_jarzynski.ebm.gradient import walker_gradient
from pyro_jarzynski.errors import ArgumentError


class Walked(Protocol):
    """A cloud of walkers of a model."""

    @property
    def walkers(self) -> Walkers:
        """The walkers."""

    @property
    def position(self) -> Tensor:
        """Their positions, `(N, *event)`."""

    @property
    def here(self) -> Walkers:
        """The walkers with the positions of this rank alone."""

    @property
    def example(self) -> Tensor:
        """Some walker, to see of which shape, dtype and device they are, `(1, *event)`."""

    @property
    def active(self) -> Walkers:
        """The walkers that give the gradient."""

    @property
    def tools(self) -> Tools:
        """Tools of the cloud."""


class Following(Protocol):
    """Two clouds that follow a model; see `Followers`."""

    @property
    def cloud(self) -> Walked:
        """Walkers that give the gradient of `log Z`."""

    @property
    def audit_cloud(self) -> Walked:
        """Walkers that give its value."""

    @property
    def module_modes(self) -> AbstractContextManager[None]:
        """Puts the modules of the model into the mode in which they were checked."""

    def are_current(self) -> bool:
        """Tell whether the walkers are weighted for the present parameters."""


STALE = (
    "The parameters of this energy have changed since its walkers followed them. Train it "
    "by `JarzynskiOptim` or a learner, or call `energy.followers.update()` after each "
    "change."
)


class EnergyDistribution(TorchDistribution):
    """The law `e^{-U_θ(x)} / Z_θ` of a model that is followed by walkers.

    `log_prob(x) = -U_θ(x) - log Z_θ`, with `log Z` by the audit walkers and the gradient

        ∂_θ log_prob(x) = -∂_θ U_θ(x) + Σ_i W_i ∂_θ U_θ(X_i)

    by the walkers that train the model, evaluated only where it is asked for. Draws are
    audit walkers by their weights, from torch's global generator, as those of all
    distributions. Nothing here moves walkers.

    Args:
        model: Energy `(N, *event) -> (N,)`, nats.
        followers: Its walkers.
        support: Where the density is positive.
        validate_args: Whether to check arguments of `log_prob`.

    Raises:
        ArgumentError: The parameters have changed since the walkers followed them, here or
            when a density, a draw or a moment is asked for.

    Example:
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> model = pj.EnergyModel(pj.MLP([2, 8]), base)
        >>> followers = pj.Followers(model)
        >>> law = model.distribution()
        >>> law.log_prob(torch.zeros(3, 2)).detach()  # it starts as the base
        tensor([-1.8379, -1.8379, -1.8379])
        >>> law.sample((4,)).shape
        torch.Size([4, 2])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self,
        model: nn.Module,
        followers: Following,
        *,
        support: constraints.Constraint,
        validate_args: bool | None = None,
    ) -> None:
        """Keep what is needed, without a copy of the walkers."""
        self.model, self.followers, self._support = model, followers, support
        self._checked: list[tuple[int, int]] = []
        self._check_current()
        event = self.audit.example.shape[1:]
        super().__init__(torch.Size(), event, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """Where the density is positive."""
        return self._support

    @property
    def audit(self) -> Walked:
        """Walkers that give `log Z`, and draws."""
        self._check_current()
        return self.followers.audit_cloud

    def _check_current(self) -> None:
        """Raise unless walkers are at the present parameters; of the same, look once."""
        versions = [(id(p), p._version) for p in self.model.parameters()]
        if versions != self._checked and not self.followers.are_current():
            raise ArgumentError(STALE)
        self._checked = versions

    @property
    def log_normalizer(self) -> Tensor:
        """Estimate of `log Z`, `()`, nats, with its gradient by the parameters."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        value = self.audit.here.log_normalizer.to(self.audit.example.dtype)
        return _LogNormalizer.apply(self, value, *parameters)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return `-U(x) - log Z` for `(*batch, *event)`, `(*batch)`, nats."""
        if self._validate_args:
            self._validate_sample(value)
        event = len(self.event_shape)
        lead = value.shape[: value.ndim - event]
        with standard_modes(gradients=False), self.followers.module_modes:
            energy = self.model(value.reshape(-1, *self.event_shape)).reshape(lead)
            log_prob = -energy - self.log_normalizer
        return log_prob.expand(torch.broadcast_shapes(self.batch_shape, lead))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw audit walkers by their weights, `(*sample, *batch, *event)`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        audit = self.audit
        if not shape.numel():
            return audit.example.new_empty(shape + self.event_shape)
        drawn = torch.multinomial(audit.here.weight, shape.numel(), replacement=True)
        return audit.position[drawn].reshape(shape + self.event_shape)

    @property
    def mean(self) -> Tensor:
        """Weighted mean of the audit walkers, `(*batch, *event)`."""
        return self._moment(self.audit.position).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Weighted variance of the audit walkers, `(*batch, *event)`."""
        position = self.audit.position
        centred = (position - self._moment(position)).square()
        return self._moment(centred).expand(self.batch_shape + self.event_shape)

    def expand(
        self, batch_shape: Sequence[int], _instance: Any = None
    ) -> "EnergyDistribution":
        """Return independent copies of the law, one for each place of a batch."""
        new = self._get_checked_instance(EnergyDistribution, _instance)
        new.model, new.followers, new._support = self.model, self.followers, self._support
        new._checked = self._checked
        super(EnergyDistribution, new).__init__(
            torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    @standard_modes(gradients=False)
    def _moment(self, values: Tensor) -> Tensor:
        return torch.tensordot(self.audit.here.weight.to(values.dtype), values, 1)


class _LogNormalizer(torch.autograd.Function):
    """`log Z`, whose gradient `-Σ_i W_i ∂_θ U(X_i)` costs nothing until it is asked for."""

    @staticmethod
    def forward(law: EnergyDistribution, value: Tensor, *parameters: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.law = inputs[0]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        law, followers = ctx.law, ctx.law.followers
        with standard_modes(), followers.module_modes:
            slopes = walker_gradient(
                law.model,
                followers.cloud.active,
                ctx.saved_tensors,
                tools=followers.cloud.tools,
            )
        return (None, None, *(-grad * slope for slope in slopes))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple[Tensor, None]:
        if any(dim is not None for dim in in_dims):
            raise ArgumentError(
                "The parameters of an energy cannot be mapped over: its walkers follow one "
                "set of them."
            )
        return _LogNormalizer.apply(*inputs), None
