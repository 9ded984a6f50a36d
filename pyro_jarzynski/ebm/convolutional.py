"""Networks of images, and residual networks of vectors, to put into an EBM.

All are smooth, so that Langevin moves are good, free of BatchNorm, which would couple
walkers, and end in a linear layer, which `EnergyModel` sets to zero.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.ebm.networks import ACTIVATIONS
from pyro_jarzynski.errors import ArgumentError, EnergyError, count, one_of


class Convolution(NamedTuple):
    """One layer of a `ConvNet`: its channels, and the side, step and border of its kernel.

    Attributes:
        channels: Channels of its output.
        kernel: Side of the kernel, pixels.
        stride: Pixels between neighbouring places of the kernel.
        padding: Zeros that are put around the image, pixels.

    Example:
        >>> pj.Convolution(16)
        Convolution(channels=16, kernel=3, stride=2, padding=1)
    """

    channels: int
    kernel: int = 3
    stride: int = 2
    padding: int = 1


class ConvNet(nn.Module):
    """A convolutional network from images to `(N, 1)`.

    Images are `(N, C, H, W)`, of one channel also `(N, H, W)`, or flat `(N, C H W)`.

    Args:
        image_shape: `(C, H, W)` of an image.
        convolutions: Convolutions, each followed by the activation.
        hidden: Widths of linear layers between the last convolution and the output.
        activation: `silu`, `softplus` or `tanh`.
        seed: Seed of the initial weights.

    Raises:
        ArgumentError: A size cannot be used, or nothing is left of the image.
        EnergyError: Images of another shape are given.

    Example:
        >>> net = pj.ConvNet((1, 8, 8), [pj.Convolution(4), pj.Convolution(8)], hidden=[16])
        >>> net(torch.zeros(5, 64)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        convolutions: Sequence[Convolution],
        hidden: Sequence[int] = (),
        activation: str = "silu",
        seed: int = 0,
    ) -> None:
        """Build the layers."""
        super().__init__()
        channels, *sides = _check_image_shape(image_shape)
        self.image_shape = (channels, *sides)
        self.convolutions = [Convolution(*settings) for settings in convolutions]
        self.hidden, self.activation = list(hidden), activation
        one_of("activation", activation, ACTIVATIONS)
        for width in hidden:
            count("hidden", width)
        smooth, layers = ACTIVATIONS[activation], list[nn.Module]()
        with global_stream(seed):
            for number, layer in enumerate(self.convolutions, 1):
                sides = _sides_after(layer, sides, number)
                layers += [_ChannelsLast(channels, *layer), smooth()]
                channels = layer.channels
            layers.append(nn.Flatten())
            widths = [channels * math.prod(sides), *hidden]
            for width, after in zip(widths, [*widths[1:], 1], strict=True):
                layers += [nn.Linear(width, after), smooth()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, 1)`."""
        channels, height, width = self.image_shape
        known = [(channels, height, width), (channels * height * width,)]
        if channels == 1:
            known.append((height, width))
        if tuple(x.shape[1:]) not in known:
            raise EnergyError(
                f"`ConvNet` takes images of shape {' or '.join(map(str, known))} after the "
                f"number of walkers, got {tuple(x.shape[1:])}; set `image_shape`."
            )
        return self.layers(x.reshape(len(x), *self.image_shape))


class _ChannelsLast(nn.Conv2d):
    """A convolution whose output has the channels of a pixel side by side.

    Measured: an update of the paper's images takes a seventh less time. The parameters
    stay contiguous, as torch's own functions of them expect.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(memory_format=torch.channels_last)
        return self._conv_forward(x, weight, self.bias)


def mnist_network(
    *, features: int = 32, activation: str = "silu", seed: int = 0
) -> ConvNet:
    """Return the paper's network of 28×28 grey images, of 76,993 parameters.

    Args:
        features: Channels of the second convolution; the others are in proportion.
        activation: `silu`, as in the paper, `softplus` or `tanh`.
        seed: Seed of the initial weights.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), NeurIPS: `MNIST_code/CNNModel.py` of
        its code, commit 3cc3c00.

    Example:
        >>> net = pj.mnist_network()
        >>> sum(parameter.numel() for parameter in net.parameters())
        76993
    """
    count("features", features, 2)
    convolutions = [
        # A wide border makes 16×16 of 28×28, so that it can be halved three times.
        Convolution(features // 2, kernel=5, padding=4),
        Convolution(features),
        Convolution(2 * features),
        Convolution(2 * features),
    ]
    return ConvNet((1, 28, 28), convolutions, [2 * features], activation, seed)


def cifar_network(
    *, features: int = 64, activation: str = "silu", seed: int = 0
) -> ConvNet:
    """Return the paper's network of 32×32 colour images, made smooth: 2,763,393 parameters.

    The paper has LeakyReLU of slope 0.2, whose energy has kinks. Its last convolution
    covers the whole of the 4×4 pixels that are left, and is the linear layer here.

    Args:
        features: Channels of the first convolution; each of three more has twice as many.
        activation: `silu`, `softplus` or `tanh`.
        seed: Seed of the initial weights.

    Source:
        Carbone, Hua, Coste, Vanden-Eijnden (2023), NeurIPS: `Paper_net` of
        `CIFAR-10_code/main_CIFAR_Jarzynski.ipynb` of its code, commit 3cc3c00.

    Example:
        >>> net = pj.cifar_network()
        >>> sum(parameter.numel() for parameter in net.parameters())
        2763393
    """
    count("features", features)
    convolutions = [
        Convolution(features, stride=1),
        Convolution(2 * features, kernel=4),
        Convolution(4 * features, kernel=4),
        Convolution(8 * features, kernel=4),
    ]
    return ConvNet((3, 32, 32), convolutions, (), activation, seed)


class ResidualMLP(nn.Module):
    """A network of residual blocks from `(N, size)` to `(N, 1)`.

    `h ← h + B a(A a(h))` with the activation `a`, between a linear layer and `a` before
    the linear output.

    Args:
        size: Width of the input.
        width: Width of the blocks.
        blocks: Number of blocks.
        activation: `silu`, `softplus` or `tanh`.
        seed: Seed of the initial weights.

    Source:
        He, Zhang, Ren, Sun (2016), ECCV: the full pre-activation, without normalisation.

    Raises:
        ArgumentError: A size is not positive, or the activation is unknown.

    Example:
        >>> pj.ResidualMLP(6, width=16)(torch.zeros(5, 6)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        size: int,
        width: int = 128,
        blocks: int = 2,
        activation: str = "silu",
        seed: int = 0,
    ) -> None:
        """Build the layers."""
        super().__init__()
        count("size", size)
        count("width", width)
        count("blocks", blocks)
        one_of("activation", activation, ACTIVATIONS)
        self.activation, smooth = activation, ACTIVATIONS[activation]
        with global_stream(seed):
            self.first = nn.Linear(size, width)
            self.blocks = nn.ModuleList(_block(width, smooth) for _ in range(blocks))
            # The last of all modules, since this is the one `EnergyModel` sets to zero.
            self.last = nn.Sequential(smooth(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, 1)`."""
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return self.last(h)


def _block(width: int, smooth: Callable[[], nn.Module]) -> nn.Sequential:
    linear = [nn.Linear(width, width) for _ in range(2)]
    return nn.Sequential(smooth(), linear[0], smooth(), linear[1])


def _check_image_shape(image_shape: Sequence[int]) -> list[int]:
    if len(image_shape) != 3:
        raise ArgumentError(
            "`image_shape` must be channels, height and width, got "
            f"{tuple(image_shape)}; grey images have one channel."
        )
    return [count("image_shape", side) for side in image_shape]


def _sides_after(layer: Convolution, sides: list[int], number: int) -> list[int]:
    for name, value in layer._asdict().items():
        count(name, value, 0 if name == "padding" else 1)
    after = [
        (side + 2 * layer.padding - layer.kernel) // layer.stride + 1 for side in sides
    ]
    if min(after) < 1:
        raise ArgumentError(
            f"Convolution {number} leaves nothing of {sides[0]}×{sides[1]} pixels with a "
            f"kernel of {layer.kernel}; use fewer convolutions, or more padding."
        )
    return after
