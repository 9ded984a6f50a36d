"""Networks made of networks: weighted sums, and networks with a part of their input fixed.

A sum of energies is a product of densities. With `U_θ(x) = Σ_k a_k net_k(x) - log base(x)`
the base counts once, and at `a = 0` the model is the base, so that experts that are
trained already can be put together from an exact start:

    model = EnergyModel(SumNet([first.net, second.net]), base)     # a = 0: log Z = 0
    tracker = LikelihoodTracker(model)
    for share in torch.linspace(0, 1, 51)[1:].tolist():
        model.net.set_weights([share, share])
        tracker.update()
    tracker.log_normalizer, tracker.sample(100)                    # of the product
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, EnergyError


class SumNet(nn.Module):
    """The weighted sum `Σ_k a_k net_k(x)` of networks, `(N, 1)`, with learnable weights.

    `EnergyModel` sets the weights `a` to zero and leaves the networks as they are.

    Args:
        nets: Networks or energies, from `(N, *event)` to `(N,)` or `(N, 1)`.
        weights: The weights `a`; `None` is one for each network.

    Raises:
        ArgumentError: There is no network, or not one weight for each.
        EnergyError: A network returns another shape.

    Example:
        >>> nets = [pj.QuadraticEnergy(torch.zeros(2)), pj.MLP([2, 8])]
        >>> pj.SumNet(nets, [1.0, 0.0])(torch.tensor([[3.0, 4.0]])).detach()
        tensor([[12.5000]])
    """

    def __init__(
        self, nets: Sequence[nn.Module], weights: Sequence[float] | None = None
    ) -> None:
        """Hold the networks and their weights."""
        super().__init__()
        wrong = [type(net).__name__ for net in nets if not isinstance(net, nn.Module)]
        if wrong:
            raise ArgumentTypeError(
                f"`nets` must be torch modules, got {', '.join(wrong)}; wrap a function in "
                "a module."
            )
        if not nets:
            raise ArgumentError("`nets` must have at least one network; got [].")
        self.nets = nn.ModuleList(nets)
        nowhere = torch.zeros((), device=torch.get_default_device())
        some = next((p for p in self.nets.parameters()), nowhere)
        # The last of all modules, since this is the one `EnergyModel` sets to zero.
        self.mix = nn.utils.skip_init(
            nn.Linear, len(nets), 1, bias=False, dtype=some.dtype, device=some.device
        )
        self.set_weights([1.0] * len(nets) if weights is None else weights)

    @property
    def weights(self) -> list[float]:
        """The weights `a`, one for each network."""
        return self.mix.weight.detach().flatten().tolist()

    def set_weights(self, weights: Sequence[float]) -> None:
        """Give the sum other weights, one for each network."""
        if len(weights) != len(self.nets):
            raise ArgumentError(
                f"`weights` must have one number for each of {len(self.nets)} networks, "
                f"got {len(weights)}."
            )
        with torch.no_grad():
            self.mix.weight.copy_(self.mix.weight.new_tensor([list(weights)]))

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, 1)`."""
        values = [net(x) for net in self.nets]
        for value in values:
            if value.shape not in ((len(x),), (len(x), 1)):
                raise EnergyError(
                    "Each of `nets` must return one value per walker: expected shape "
                    f"({len(x)},) or ({len(x)}, 1), got {tuple(value.shape)}."
                )
        return self.mix(torch.cat([value.reshape(len(x), 1) for value in values], 1))


class ConditionedNet(nn.Module):
    """A network of `(x, c)` at a fixed `c`: `net([x, c])` as a function of `x`.

    For a model `U(x, c) = net([x, c]) - log base(x) - log base(c)` that was trained on
    pairs, `e^{-net([x, c])} base(x)` is the conditional density of `x` up to a constant.
    Put it into a `SumNet`: `EnergyModel` would set the last layer of `net` itself to zero.

    Args:
        net: Network of `(N, d + k)`.
        condition: The values `c`, `(k,)`, of the dtype and on the device of the walkers.

    Raises:
        ArgumentError: The condition is no vector.

    Example:
        >>> net = pj.MLP([3, 8])
        >>> given = pj.ConditionedNet(net, torch.tensor([0.5]))
        >>> given(torch.zeros(4, 2)).shape
        torch.Size([4, 1])
    """

    def __init__(self, net: nn.Module, condition: Tensor) -> None:
        """Hold the network and the condition."""
        super().__init__()
        if condition.ndim != 1:
            raise ArgumentError(
                f"`condition` must have shape (k,), got {tuple(condition.shape)}; make one "
                "network for each condition."
            )
        self.net = net
        self.condition: Tensor
        self.register_buffer("condition", condition.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return what the network returns at `(N, d)` walkers and the condition."""
        return self.net(torch.cat([x, self.condition.expand(len(x), -1)], 1))
