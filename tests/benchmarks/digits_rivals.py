"""Losses that train an energy without walkers: noise contrast and score matching.

Each is called on a model and a batch `(n, d)` and returns the loss; `rows` is the number of
rows that pass forward and backward through the network for one datum, where a derivative
of a derivative counts as two.
"""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily
from torch.distributions import MultivariateNormal as Gaussian
from torch.nn.functional import softplus


class NoiseContrast(nn.Module):
    """Noise-contrastive estimation: tell data from draws of a known density.

    The normaliser is a parameter, learned with the others. Source: Gutmann, Hyvärinen
    (2010), AISTATS.
    """

    def __init__(self, noise: Distribution, ratio: int):
        super().__init__()
        self.noise, self.ratio, self.rows = noise, ratio, 1 + ratio
        self.log_z = nn.Parameter(torch.zeros(()))

    def forward(self, model: nn.Module, x: Tensor) -> Tensor:
        both = torch.cat([x, self.noise.sample((self.ratio * len(x),))])
        log_odds = -model(both) - self.log_z - self.noise.log_prob(both)
        data, noise = (log_odds - math.log(self.ratio)).split([len(x), len(both) - len(x)])
        return softplus(-data).mean() + self.ratio * softplus(noise).mean()


class Denoising(nn.Module):
    """Denoising score matching. Source: Vincent (2011), Neural Computation 23(7)."""

    rows = 2

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, model: nn.Module, x: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        slope = _slope(model, (x + self.scale * noise).requires_grad_())
        return (self.scale * slope - noise).square().sum(1).mean() / 2


class Sliced(nn.Module):
    """Score matching with the trace of the Hessian by one random projection.

    Source: Song, Garg, Shi, Ermon (2019), UAI: sliced, with reduced variance.
    """

    rows = 4

    def forward(self, model: nn.Module, x: Tensor) -> Tensor:
        point = x.clone().requires_grad_()
        slope = _slope(model, point)
        direction = torch.randn_like(x).sign()
        (curved,) = torch.autograd.grad((slope * direction).sum(), point, create_graph=True)
        return slope.square().sum(1).mean() / 2 + (curved * direction).sum(1).mean()


def mixture(x: Tensor, components: int) -> Distribution:
    """Return a mixture of Gaussians fitted to data `(n, d)`, to be noise."""
    from sklearn.mixture import GaussianMixture

    fit = GaussianMixture(components, reg_covar=0.05, random_state=0).fit(x.double())
    shares, means, covariances = (
        torch.as_tensor(value).to(x.dtype)
        for value in (fit.weights_, fit.means_, fit.covariances_)
    )
    return MixtureSameFamily(Categorical(shares), Gaussian(means, covariances))


def _slope(model: nn.Module, point: Tensor) -> Tensor:
    return torch.autograd.grad(model(point).sum(), point, create_graph=True)[0]
