"""Wrong settings are refused before training, and the message says what to do."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    AbsTransform,
    Independent,
    Normal,
    SoftmaxTransform,
    TransformedDistribution,
)

from pyro_jarzynski import (
    MALA,
    MLP,
    ULA,
    EnergyModel,
    GaussianMixtureEnergy,
    JarzynskiLearner,
    LikelihoodTracker,
)
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    EnergyError,
    JarzynskiError,
)
from tests.ebm.models import (
    FLOAT,
    Bowl,
    Shifted,
    mixture_data,
    mixture_learner,
    seeded,
    standard_normal,
    start_mixture,
)


@pytest.mark.parametrize(
    ("setting", "error", "match"),
    [
        ({"num_walkers": 0}, ArgumentError, "`num_walkers` must be at least 1, got 0"),
        ({"num_walkers": 1.5}, ArgumentTypeError, "`num_walkers` must be an integer"),
        ({"num_walkers": True}, ArgumentTypeError, "`num_walkers` must be an integer"),
        ({"audit_walkers": 0}, ArgumentError, "`audit_walkers` must be at least 1, got 0"),
        ({"moves_per_update": 0}, ArgumentError, "`moves_per_update` must be at least 1"),
        ({"ess_threshold": 1.5}, ArgumentError, r"`ess_threshold` must lie in \[0, 1\]"),
        ({"ess_threshold": "1"}, ArgumentTypeError, "`ess_threshold` must be a number"),
        (
            {"resampler": "foo"},
            ArgumentError,
            "one of multinomial, residual, stratified, systematic, got 'foo'",
        ),
        ({"chunk_size": 0}, ArgumentError, "`chunk_size` must be at least 1, got 0"),
    ],
)
def test_learner_settings(setting, error, match):
    with pytest.raises(error, match=match):
        mixture_learner(**setting)


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"num_steps": -1}, "`num_steps` must be at least 0, got -1"),
        ({"eval_every": 0}, "`eval_every` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"patience": 0}, "`patience` must be at least 1, got 0"),
    ],
)
def test_fit_settings(setting, match):
    learner = mixture_learner()
    with pytest.raises(ArgumentError, match=match):
        learner.fit(mixture_data(), **({"num_steps": 5} | setting))
    assert learner.num_steps == 0


def test_patience_without_validation_is_refused():
    with pytest.raises(ArgumentError, match=r"`patience`.*validation"):
        mixture_learner().fit(mixture_data(), 5, patience=3)


@pytest.mark.parametrize("kernel", [ULA, MALA])
@pytest.mark.parametrize(
    ("step_size", "error"),
    [
        (0, ArgumentError),
        (-0.1, ArgumentError),
        (float("nan"), ArgumentError),
        (float("inf"), ArgumentError),
        ("0.1", ArgumentTypeError),
    ],
)
def test_step_sizes(kernel, step_size, error):
    with pytest.raises(error, match=f"`step_size` must be a positive .*{step_size!r}"):
        kernel(step_size)


def test_something_must_be_trainable():
    model = start_mixture().requires_grad_(requires_grad=False)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    with pytest.raises(ArgumentError, match="there is nothing to train"):
        JarzynskiLearner(model, optimizer)


def test_optimizer_must_hold_every_parameter():
    model = start_mixture()
    optimizer = torch.optim.SGD([model.means], 0.1)
    with pytest.raises(ArgumentError, match="does not hold the parameters free_z of"):
        JarzynskiLearner(model, optimizer)


@pytest.mark.parametrize(
    ("means", "masses"), [((3,), (3,)), ((2, 3), (3,)), ((1, 3), (1,)), ((2, 3), (2, 1))]
)
def test_mixture_shapes(means, masses):
    with pytest.raises(ArgumentError, match="`means` must have shape"):
        GaussianMixtureEnergy(torch.zeros(means), torch.zeros(masses))


def test_network_arguments():
    with pytest.raises(ArgumentError, match="one of silu, softplus, tanh, got 'relu'"):
        MLP([3, 4], activation="relu")
    with pytest.raises(ArgumentError, match="`sizes` must be at least 1, got 0"):
        MLP([3, 0])
    with pytest.raises(JarzynskiError, match="`sizes`"):
        MLP([])


def test_base_without_batch_shape():
    base = Normal(torch.zeros(3), torch.ones(3))
    with pytest.raises(ArgumentError, match=r"got \(3,\); call its `to_event\(1\)`"):
        EnergyModel(MLP([3, 4]), base)


@pytest.mark.parametrize("transform", [AbsTransform(), SoftmaxTransform()])
def test_base_by_a_transform_without_inverse(transform):
    base = TransformedDistribution(standard_normal(), [transform])
    with pytest.raises(ArgumentError, match="made by a transform without inverse"):
        EnergyModel(MLP([3, 4]), base)


def test_base_of_no_finite_density():
    class Everywhere(Normal):
        def log_prob(self, value):
            return super().log_prob(value) + math.inf

    base = Independent(Everywhere(torch.zeros(3), torch.ones(3)), 1)
    with pytest.raises(ArgumentError, match="finite density at its own draws"):
        EnergyModel(MLP([3, 4]), base)


def test_base_on_another_device_than_the_network():
    with pytest.raises(ArgumentError, match="`base` draws on cpu, but `net` is on meta"):
        EnergyModel(MLP([3, 4]).to("meta"), standard_normal())


def test_a_model_that_was_moved_to_the_meta_device():
    model = EnergyModel(MLP([3, 4]), standard_normal()).to("meta")
    with pytest.raises(ArgumentError, match="`model` has parameters on the meta device"):
        LikelihoodTracker(model)


@pytest.mark.parametrize("pair", [(torch.sin, standard_normal()), (MLP([3, 4]), MLP([3]))])
def test_network_and_base_of_other_types(pair):
    with pytest.raises(ArgumentTypeError, match="a torch module and a distribution, got"):
        EnergyModel(*pair)


def test_network_must_start_at_zero():
    with pytest.raises(ArgumentError, match="`net` must start at zero"):
        EnergyModel(MLP([3, 4]), standard_normal(), zero_last_layer=False)


def test_network_without_a_layer_to_set_to_zero():
    with pytest.raises(ArgumentError, match="no layer with a weight to set to zero"):
        EnergyModel(Bowl(), standard_normal())


def test_network_returns_one_energy_per_walker():
    net = seeded(lambda: nn.Linear(3, 2))
    with pytest.raises(EnergyError, match=r"\(4,\) or \(4, 1\) .*got \(4, 2\)"):
        EnergyModel(net, standard_normal())


class Column(Shifted):
    def forward(self, x):
        return super().forward(x)[:, None]


class Scalar(Shifted):
    def forward(self, x):
        return super().forward(x).sum()


class Detached(Shifted):
    def forward(self, x):
        return super().forward(x).detach()


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (Column, r"expected shape \(100,\), got \(100, 1\)"),
        (Scalar, r"expected shape \(100,\), got \(\)"),
        (Detached, "do not depend on the positions"),
    ],
)
def test_energies_of_a_wrong_shape(kind, match):
    model = kind()
    with pytest.raises(EnergyError, match=match):
        LikelihoodTracker(model, num_walkers=100)


class Coupled(Shifted):
    def forward(self, x):
        return super().forward(x - 0.1 * x.mean(0))


class Random(Shifted):
    def forward(self, x):
        noise = torch.randn(len(x), dtype=FLOAT, generator=self.generator)
        return super().forward(x) + noise


def test_energies_that_couple_walkers():
    with pytest.raises(EnergyError, match=r"couples walkers: .*BatchNorm in train mode"):
        LikelihoodTracker(Coupled())


def test_energies_that_are_random(generator):
    model = Random()
    model.generator = generator
    with pytest.raises(EnergyError, match=r"it is random. Call `eval\(\)`"):
        LikelihoodTracker(model)


def network_with(layer):
    """A network that is zero at the start, as all are, whatever `layer` does."""
    net = seeded(lambda: nn.Sequential(nn.Linear(3, 8), layer, nn.SiLU(), nn.Linear(8, 1)))
    return EnergyModel(net, standard_normal())


@pytest.mark.parametrize(
    ("layer", "match"),
    [(nn.BatchNorm1d(8), "couples walkers"), (nn.Dropout(0.5), "it is random")],
    ids=["BatchNorm", "Dropout"],
)
def test_layers_in_train_mode_are_found_behind_a_last_layer_of_zeros(layer, match):
    model = network_with(layer)
    with torch.random.fork_rng(), pytest.raises(EnergyError, match=match):
        mixture_learner(model=model)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(8), nn.Dropout(0.5)])
def test_layers_in_eval_mode_are_fine(layer):
    model = network_with(layer).eval()
    mixture_learner(model=model).fit(mixture_data().float(), 2)


def test_modes_of_layers_are_kept():
    frozen = nn.BatchNorm1d(8).eval()
    model = network_with(frozen)
    assert model.net.training
    assert not frozen.training
