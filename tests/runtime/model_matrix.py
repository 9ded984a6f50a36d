"""One model of each class of the package, and of a user's own, for tests of files.

As a program it loads all of them from a folder, in a process that has not made them:

    python -m tests.runtime.model_matrix FOLDER
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributions import (
    Independent,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Uniform,
)

import pyro_jarzynski as pj
from tests.ebm.models import Shifted, seeded, standard_normal

IMAGE = (1, 8, 8)


def normal(*shape: int) -> Independent:
    return Independent(Normal(torch.zeros(shape), 1.5 * torch.ones(shape)), len(shape))


def mixture() -> pj.PCAMixture:
    x = torch.randn((40, 3), generator=torch.Generator().manual_seed(0))
    return pj.PCAMixture.fit(x + 4 * (x[:, :1] > 0), (x[:, 0] > 0).long(), rank=2)


def with_masses() -> pj.EnergyModel:
    base = mixture()
    return pj.EnergyModel(pj.ComponentMasses(pj.MLP([3, 4]), base), base)


def sum_of_nets() -> pj.EnergyModel:
    given = pj.ConditionedNet(pj.MLP([5, 4], seed=1), torch.tensor([0.5, -1.0]))
    nets = [pj.MLP([3, 4]), given, pj.QuadraticEnergy(torch.ones(3))]
    return pj.EnergyModel(pj.SumNet(nets), normal(3))


def binary(**settings: Any) -> pj.BinaryRBMEnergy:
    return pj.BinaryRBMEnergy(4, 3, probs=torch.tensor([0.2, 0.5, 0.7, 0.9]), **settings)


def images(net: nn.Module) -> pj.EnergyModel:
    return pj.EnergyModel(net, normal(*net.image_shape))


def gaussians() -> MixtureSameFamily:
    parts = Independent(Normal(torch.tensor([[-2.0] * 3, [2.0] * 3]), 1.0), 1)
    masses = torch.distributions.Categorical(torch.tensor([0.25, 0.75]))
    return MixtureSameFamily(masses, parts)


def correlated() -> MultivariateNormal:
    covariance = torch.eye(3) + 0.5
    return MultivariateNormal(torch.arange(3.0), covariance)


PACKAGE: dict[str, Callable[[], pj.StartableEnergy]] = {
    "GaussianMixtureEnergy": lambda: pj.GaussianMixtureEnergy(
        torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.zeros(2)
    ),
    "QuadraticEnergy": lambda: pj.QuadraticEnergy(torch.ones(3), 2 * torch.eye(3)),
    "QuadraticEnergy, float64": lambda: pj.QuadraticEnergy(torch.ones(3).double()),
    "RBMEnergy": lambda: pj.RBMEnergy(4, 3, sd=0.5, weight_scale=0.1),
    "BinaryRBMEnergy": binary,
    "BinaryRBMEnergy, not centred": lambda: binary(centred=False, weight_scale=0.1),
    "MLP": lambda: pj.EnergyModel(pj.MLP([3, 8], "softplus"), normal(3)),
    "MLP, float64": lambda: pj.EnergyModel(pj.MLP([3, 8]), normal(3)).double(),
    "MLP, frozen": lambda: frozen(pj.EnergyModel(pj.MLP([3, 8, 4]), normal(3))),
    "MLP, compiled": lambda: pj.EnergyModel(
        torch.compile(pj.MLP([3, 8]), backend="eager"), normal(3)
    ),
    "MLP, DataParallel": lambda: pj.EnergyModel(nn.DataParallel(pj.MLP([3, 8])), normal(3)),
    "ResidualMLP": lambda: pj.EnergyModel(pj.ResidualMLP(3, 8, 1, "tanh"), normal(3)),
    "ConvNet": lambda: images(pj.ConvNet(IMAGE, [pj.Convolution(2)], [4], "tanh")),
    "mnist_network": lambda: images(pj.mnist_network(features=2)),
    "cifar_network": lambda: images(pj.cifar_network(features=1)),
    "ImageClassifier": lambda: images(pj.ImageClassifier(IMAGE, 1, width=2)),
    "PCAMixture": lambda: pj.EnergyModel(pj.MLP([3, 8]), mixture()),
    "ComponentMasses": with_masses,
    "ComponentMasses, float64": lambda: with_masses().double(),
    "SumNet, ConditionedNet": sum_of_nets,
    "correlated": lambda: pj.EnergyModel(pj.MLP([3, 8]), correlated()),
    "mixture of torch": lambda: pj.EnergyModel(pj.MLP([3, 8]), gaussians()),
    "uniform": lambda: pj.EnergyModel(
        pj.MLP([3, 8]), Independent(Uniform(torch.zeros(3), 2 * torch.ones(3)), 1)
    ),
    "transformed": lambda: pj.EnergyModel(
        pj.MLP([3, 8]), Independent(LogNormal(torch.zeros(3), 0.5 * torch.ones(3)), 1)
    ),
}


def frozen(model: pj.EnergyModel) -> pj.EnergyModel:
    model.net.layers[0].requires_grad_(False)
    return model


class Warped(pj.MLP):
    """A subclass of a network of the package, with a setting of its own."""

    def __init__(self, sizes: list[int], power: float) -> None:
        super().__init__(sizes)
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.abs() ** self.power)


class Wells(pj.StartableEnergy):
    """An energy with buffers, one of which its state leaves out."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))
        self.register_buffer("width", torch.tensor(width))
        self.register_buffer("wells", torch.tensor([-1.0, 1.0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        apart = ((x - self.shift)[..., None] - self.wells) / self.width
        return -(-apart.square() / 2).logsumexp(-1).sum(1)

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        side = torch.randint(2, (num, 3), generator=generator)
        noise = torch.randn((num, 3), generator=generator)
        return self.shift.detach() + self.wells[side] + self.width * noise

    def start_log_normalizer(self) -> float:
        return float(3 * (2 * self.width * (2 * torch.pi) ** 0.5).log())


class Tilted(Normal):
    """A base of a user's own."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value)


def layers() -> nn.Module:
    """A network of torch's layers: weight norm, and a normalisation with buffers."""
    norm = nn.utils.parametrizations.weight_norm(nn.Linear(3, 6))
    net = nn.Sequential(
        norm, nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 1)
    )
    net(torch.randn(50, 3))
    return net.eval()


OWN: dict[str, Callable[[], pj.StartableEnergy]] = {
    "an energy": lambda: Wells(0.7),
    "a subclass": lambda: pj.EnergyModel(Warped([3, 8], 1.5), normal(3)),
    "a base": lambda: pj.EnergyModel(
        pj.MLP([3, 8]), Independent(Tilted(torch.ones(3), torch.ones(3)), 1)
    ),
    "layers of torch": lambda: pj.EnergyModel(seeded(layers), standard_normal(3)),
    "an energy in float64": Shifted,
}
MODELS = PACKAGE | OWN


def learner_of(model: pj.StartableEnergy, **settings: Any) -> pj.JarzynskiLearner:
    discrete = isinstance(model, pj.BinaryRBMEnergy)
    trained = [p for p in model.parameters() if p.requires_grad]
    return pj.JarzynskiLearner(
        model,
        torch.optim.SGD(trained, 0.02),
        num_walkers=16,
        audit_walkers=16,
        kernel=pj.BlockGibbs(1) if discrete else pj.MALA(0.1),
        **settings,
    )


def main(folder: str) -> None:
    """Load each model, write its densities, and train it on."""
    warnings.simplefilter("ignore")
    for path in sorted(Path(folder).iterdir()):
        instance = OWN[path.name]() if path.name in OWN else None
        saved = pj.load_model(path, instance)
        x = saved.extras["x"]
        with torch.no_grad():
            found = {"log_prob": saved.log_prob(x)}
        annealed = isinstance(saved.model, pj.EnergyModel | pj.BinaryRBMEnergy)
        learner = learner_of(saved.model, start_temperatures=3 if annealed else None)
        learner.fit(x, 2)
        found["nll"] = torch.tensor(learner.nll(x).nll)
        for name, parameter in saved.model.named_parameters():
            if parameter.requires_grad:
                found[f"trained.{name}"] = parameter.detach()
        save_file({n: v.contiguous() for n, v in found.items()}, path / "found")


if __name__ == "__main__":
    main(sys.argv[1])
