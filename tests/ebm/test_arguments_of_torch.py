"""Optimisers, schedulers, layers and bases of torch work, or are refused when given."""

import copy
import math
import pickle
import warnings
from itertools import pairwise

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import Adam, lr_scheduler

import pyro_jarzynski as pj
from pyro_jarzynski.errors import ArgumentError, ArgumentTypeError, EnergyError
from tests.ebm.models import (
    FLOAT,
    mixture_data,
    network_model,
    seeded,
    standard_normal,
    start_mixture,
)

DATA = mixture_data(60).float()
pytestmark = pytest.mark.filterwarnings("ignore::pyro_jarzynski.AuditWarning")


@pytest.fixture(autouse=True)
def _own_generator():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def learner_of(model, optimizer=None, **settings):
    optimizer = Adam(model.parameters(), 0.02) if optimizer is None else optimizer
    small = {"num_walkers": 40, "audit_walkers": 40} | settings
    return pj.JarzynskiLearner(model, optimizer, **small)


def trains(model, optimizer=None, **settings):
    """Tell whether parameters of a model change in a short training."""
    learner = learner_of(model, optimizer, **settings)
    before = [p.detach().clone() for p in model.parameters()]
    learner.fit(DATA.to(learner.cloud.example.dtype), 4, batch_size=None)
    pairs = zip(before, model.parameters(), strict=True)
    return any(not torch.equal(a, b) for a, b in pairs)


class TestOptimizers:
    @pytest.mark.parametrize(
        "settings",
        [
            {"foreach": True},
            {"fused": True},
            {"lr": torch.tensor(0.01)},
            {"lr": torch.tensor(0.01), "fused": True},
            {"amsgrad": True, "weight_decay": 0.1},
        ],
        ids=str,
    )
    def test_that_work(self, settings):
        model = network_model()
        assert trains(model, Adam(model.parameters(), **({"lr": 0.01} | settings)))

    @pytest.mark.parametrize("name", ["RAdam", "NAdam", "Rprop", "Adafactor", "ASGD"])
    def test_other_kinds_work(self, name):
        model = network_model()
        assert trains(model, getattr(torch.optim, name)(model.parameters(), lr=0.01))

    @pytest.mark.parametrize(
        ("make", "error", "told"),
        [
            (torch.optim.LBFGS, ArgumentError, "`optimizer` is LBFGS, .* a closure"),
            (torch.optim.SparseAdam, ArgumentError, "takes sparse gradients alone"),
            (lambda p: Adam(p, maximize=True), ArgumentError, "`maximize=True`"),
            (lambda p: Adam(p, differentiable=True), ArgumentError, "`differentiable="),
            (lambda p: Adam(p, capturable=True), ArgumentError, "`capturable=True`"),
            (lambda p: Adam, ArgumentTypeError, "got the class Adam; call it"),
            (lambda p: "Adam", ArgumentTypeError, r"must be a torch optimiser.*got str"),
        ],
    )
    def test_that_are_refused(self, make, error, told):
        model = network_model()
        with pytest.raises(error, match=told):
            learner_of(model, make(model.parameters()))

    def test_a_number_that_is_zero_in_half_precision(self):
        """Adam would divide zero by zero at a bias whose gradient is zero."""
        model = network_model().half()
        with pytest.raises(ArgumentError, match="`eps=1e-08`, which is zero in tor"):
            learner_of(model)
        assert trains(model, Adam(model.parameters(), 0.01, eps=1e-4))

    @pytest.mark.parametrize("rate", [-0.01, math.nan, math.inf, torch.tensor(-0.01)])
    def test_a_learning_rate_that_cannot_be(self, rate):
        """torch checks it when an optimiser is built, and NaN not even then."""
        learner = learner_of(network_model())
        learner.fit(DATA, 1)
        learner.optimizer.param_groups[0]["lr"] = rate
        with pytest.raises(ArgumentError, match=f"learning rate of {float(rate):g}, which"):
            learner.fit(DATA, 1)
        learner.optimizer.param_groups[0]["lr"] = 0.01
        learner.fit(DATA, 1)
        assert learner.num_steps == 2

    def test_tensors_that_are_no_parameters_of_the_model(self):
        model, other = network_model(), nn.Parameter(torch.zeros(2))
        optimizer = Adam([*model.parameters(), other])
        with pytest.raises(ArgumentError, match=r"holds 1 tensors .* of shape \(2,\)"):
            learner_of(model, optimizer)


class TestSchedulers:
    @pytest.mark.parametrize(
        ("make", "error", "told"),
        [
            (lr_scheduler.ReduceLROnPlateau, ArgumentError, "whose steps need a score"),
            (lambda o: lr_scheduler.StepLR, ArgumentTypeError, "class StepLR; call it"),
            (lambda o: abs, ArgumentTypeError, "must be a torch scheduler"),
            (
                lambda o: lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)], 0.1), 3),
                ArgumentError,
                "of another optimiser than `optimizer`",
            ),
        ],
    )
    def test_that_are_refused(self, make, error, told):
        model = network_model()
        optimizer = Adam(model.parameters())
        with pytest.raises(error, match=told):
            learner_of(model, optimizer, lr_scheduler=make(optimizer))

    def test_one_that_ends_too_early_is_refused_before_the_first_update(self):
        model = network_model()
        optimizer = Adam(model.parameters())
        one = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6)
        learner = learner_of(model, optimizer, lr_scheduler=one)
        with pytest.raises(ArgumentError, match="build it with `total_steps=7`"):
            learner.fit(DATA, 7)
        assert learner.num_steps == 0
        learner.fit(DATA, 4)
        with pytest.raises(ArgumentError, match="of which 4 are over"):
            learner.fit(DATA, 3)
        learner.fit(DATA, 2)

    def test_one_that_ends_within_another_leaves_a_sound_learner(self):
        model = network_model()
        optimizer = Adam(model.parameters())
        parts = [
            lr_scheduler.ConstantLR(optimizer, 1.0, 2),
            lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            both = lr_scheduler.SequentialLR(optimizer, parts, [2])
        learner = learner_of(model, optimizer, lr_scheduler=both)
        with pytest.raises(
            ArgumentError, match="`lr_scheduler` has no step after update 6"
        ):
            learner.fit(DATA, 10)
        assert learner.num_steps == 5
        assert learner.cloud.is_current()

    def test_one_that_needs_a_score_can_be_a_callback(self, tmp_path):
        """As the refusal says; its state is in checkpoints."""

        class Plateau(lr_scheduler.ReduceLROnPlateau):
            __call__ = lambda self, learner, row: self.step(row["validation_nll"])  # noqa: E731

        def run(folder, steps):
            model = network_model()
            optimizer = torch.optim.SGD(model.parameters(), 0.01)
            plateau = Plateau(optimizer, patience=1, threshold=100.0)
            learner = learner_of(model, optimizer)
            kept = pj.Checkpoints(tmp_path / folder, every=4, resume=True)
            settings = {"validation": DATA[:20], "eval_every": 2, "callbacks": [plateau]}
            return learner.fit(DATA, steps, checkpoints=kept, **settings)["learning_rate"]

        whole = run("whole", 12)
        run("parts", 8)
        assert run("parts", 12) == whole
        assert whole[-1] == pytest.approx(0.0001)

    def test_a_call_within_a_call_is_refused(self):
        learner = learner_of(network_model())

        def again(learner, row):
            learner.fit(DATA, 1)

        with pytest.raises(ArgumentError, match="by a callback of the same learner"):
            learner.fit(DATA, 2, callbacks=[again])
        learner.fit(DATA, 1)

    def test_one_of_a_part_is_taken(self):
        model = network_model()
        joint = pj.muon_and_adam(model)
        scheduler = lr_scheduler.StepLR(joint.parts[1], 1)
        learner = learner_of(model, joint, lr_scheduler=scheduler)
        learner.fit(DATA, 2)
        assert joint.param_groups[1]["lr"] == pytest.approx(1e-5)


class TestJointOptimizer:
    @staticmethod
    def make():
        a, b = (seeded(lambda: nn.Linear(2, 2)) for _ in range(2))
        return (
            a,
            b,
            pj.JointOptimizer(
                torch.optim.SGD(a.parameters(), lr=0.1), Adam(b.parameters(), lr=0.1)
            ),
        )

    def test_a_closure_is_called_once_with_gradients_and_its_loss_returned(self):
        a, b, joint = self.make()
        before, calls = a.weight.detach().clone(), []

        def closure():
            joint.zero_grad()
            loss = (a(torch.ones(1, 2)) + b(torch.ones(1, 2))).sum()
            loss.backward()
            calls.append(float(loss.detach()))
            return loss

        with torch.no_grad():
            loss = joint.step(closure)
        assert [float(loss.detach())] == calls
        torch.testing.assert_close(a.weight, before - 0.1)

    def test_groups_are_added_to_a_part(self):
        _, _, joint = self.make()
        extra = nn.Parameter(torch.ones(2))
        with pytest.raises(ArgumentError, match=r"`optimizer.parts\[0\].add_param_group"):
            joint.add_param_group({"params": [extra]})
        joint.parts[0].add_param_group({"params": [extra], "lr": 0.5})
        assert [group["lr"] for group in joint.param_groups] == [0.1, 0.5, 0.1]
        extra.grad = torch.ones(2)
        joint.step()
        assert extra.tolist() == [0.5, 0.5]

    @pytest.mark.parametrize(
        "copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))]
    )
    def test_copies_are_whole(self, copied):
        a, _, joint = self.make()
        a.weight.grad = torch.ones(2, 2)
        joint.step()
        again = copied(joint)
        assert [type(p).__name__ for p in again.parts] == ["SGD", "Adam"]
        (weight, _) = again.param_groups[0]["params"]
        assert torch.equal(weight, a.weight)
        assert weight is not a.weight
        weight.grad = torch.ones(2, 2)
        again.step()
        assert not torch.equal(weight, a.weight)

    @pytest.mark.parametrize(
        ("make", "error", "told"),
        [
            (lambda p: (), ArgumentError, "at least one optimiser"),
            (lambda p: (Adam(p), Adam(p)), ArgumentError, "two share some"),
            (lambda p: (Adam,), ArgumentTypeError, "got the class Adam"),
            (lambda p: (torch.optim.LBFGS(p),), ArgumentError, "`parts` is LBFGS"),
        ],
    )
    def test_parts_that_are_refused(self, make, error, told):
        parts = make([nn.Parameter(torch.zeros(2))])
        with pytest.raises(error, match=told):
            pj.JointOptimizer(*parts)


def network(last, hidden=nn.Identity):
    return seeded(
        lambda: nn.Sequential(
            hidden(nn.Linear(3, 8)) if hidden is not nn.Identity else nn.Linear(3, 8),
            nn.SiLU(),
            last(nn.Linear(8, 1)),
        )
    )


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


NORMS = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old weight norm": old_weight_norm,
    "old spectral norm": nn.utils.spectral_norm,
}


class TestLastLayers:
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("name", ["weight norm", "old weight norm"])
    def test_a_weight_of_norm_zero_is_zero_and_learns(self, name, training):
        model = pj.EnergyModel(network(NORMS[name]).train(training), standard_normal())
        assert not model.net(DATA).any()
        assert trains(model)
        assert model.net(DATA).any()

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("name", ["spectral norm", "orthogonal", "old spectral norm"])
    def test_a_weight_that_keeps_its_norm_is_refused_with_a_way_out(self, name, training):
        net = network(NORMS[name]).train(training)
        before = copy.deepcopy(net.state_dict())
        with (
            torch.random.fork_rng(),
            pytest.raises(ArgumentError, match=r"'2', is made by .* which cannot"),
        ):
            pj.EnergyModel(net, standard_normal())
        for key, value in net.state_dict().items():
            assert torch.equal(value, before[key])
        assert trains(pj.EnergyModel(pj.SumNet([net.eval()]), standard_normal()))

    def test_a_spectral_norm_on_a_hidden_layer_is_for_eval_mode(self):
        net = network(lambda layer: layer, NORMS["spectral norm"])
        model = pj.EnergyModel(net, standard_normal())
        with pytest.raises(EnergyError, match=r"Call `eval\(\)`.*Spectral norm"):
            learner_of(model)
        assert trains(model.eval())

    @pytest.mark.parametrize(
        ("forward", "learns"), [(lambda w: 2 * w, True), (lambda w: w.exp(), False)]
    )
    def test_parametrizations_of_ones_own(self, forward, learns):
        class Made(nn.Module):
            def forward(self, w):
                return forward(w)

        layer = nn.Linear(8, 1)
        nn.utils.parametrize.register_parametrization(layer, "weight", Made())
        net = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), layer)
        if learns:
            assert trains(pj.EnergyModel(net, standard_normal()))
        else:
            with pytest.raises(ArgumentError, match="'2', is made by Made, which cannot"):
                pj.EnergyModel(net, standard_normal())

    def test_parameters_that_are_single_numbers(self):
        """Their gradient is of their dtype, and so are those beside it."""
        layer = parametrizations.weight_norm(nn.Linear(8, 1), dim=None)
        net = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), layer)
        model = pj.EnergyModel(net, standard_normal())
        assert layer.parametrizations.weight.original0.ndim == 0
        assert trains(model)

    @pytest.mark.parametrize("frozen", [False, True])
    def test_networks_that_could_never_leave_zero(self, frozen):
        """Their gradient is zero where their last layer is: all updates would be zero."""

        class Squared(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3, 8).requires_grad_(not frozen)

            def forward(self, x):
                return self.layer(x).square().sum(1)

        net = seeded(Squared)
        before = copy.deepcopy(net.state_dict())
        with pytest.raises(ArgumentError, match="'layer', was set to zero, where no param"):
            pj.EnergyModel(net, standard_normal())
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        assert net.layer.weight.requires_grad is not frozen
        assert trains(pj.EnergyModel(pj.SumNet([net]), standard_normal()))

    def test_a_network_that_is_zero_by_another_parameter_stays_as_it_is(self):
        """With its layer at zero as well it would have no gradient."""

        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3, 8)
                self.scale = nn.Parameter(torch.zeros(()))

            def forward(self, x):
                return self.scale * self.layer(x).tanh().sum(1)

        net = seeded(Scaled)
        before = net.layer.weight.detach().clone()
        model = pj.EnergyModel(net, standard_normal())
        assert torch.equal(net.layer.weight, before)
        assert trains(model)

    def test_a_frozen_last_layer_may_be_unfrozen_later(self):
        model = network_model()
        model.net.layers[-1].requires_grad_(False)
        assert pj.EnergyModel(model.net, standard_normal()).net is model.net

    def test_lazy_layers_are_made(self):
        net = nn.Sequential(nn.LazyLinear(8), nn.SiLU(), nn.LazyLinear(1))
        assert trains(pj.EnergyModel(net, standard_normal()))

    def test_it_is_the_one_that_is_called_last(self):
        class Reordered(nn.Module):
            def __init__(self):
                super().__init__()
                self.last, self.first = nn.Linear(8, 1), nn.Linear(3, 8)
                self.unused = nn.Linear(2, 2)

            def forward(self, x):
                return self.last(self.first(x).tanh())

        net = seeded(Reordered)
        pj.EnergyModel(net, standard_normal())
        sizes = [float(p.detach().abs().sum()) for p in net.parameters()]
        assert [size == 0 for size in sizes] == [True, True] + [False] * 4

    def test_what_is_added_after_it_is_named_and_nothing_changed(self):
        class Skipping(nn.Module):
            def __init__(self):
                super().__init__()
                self.skip, self.last = nn.Linear(3, 1), nn.Linear(3, 1)

            def forward(self, x):
                return self.skip(x) + self.last(x)

        net = seeded(Skipping)
        before = copy.deepcopy(net.state_dict())
        with pytest.raises(ArgumentError, match=r"layer, 'last', .*is added after"):
            pj.EnergyModel(net, standard_normal())
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        assert trains(pj.EnergyModel(pj.SumNet([net]), standard_normal()))

    def test_running_means_are_left_as_they_are(self):
        norm = nn.BatchNorm1d(8)
        net = seeded(lambda: nn.Sequential(nn.Linear(3, 8), norm, nn.Linear(8, 1)))
        pj.EnergyModel(net, standard_normal())
        assert int(norm.num_batches_tracked) == 0


class TestNetworksAndBases:
    @pytest.mark.parametrize(
        ("net", "told"),
        [
            (lambda: pj.MLP([3, 4]).double(), r"torch.float32: .*parameters are of torch"),
            (lambda: pj.MLP([2, 4]), r"of shape \(64, 3\)"),
            (lambda: nn.Bilinear(3, 3, 1), "cannot be evaluated at draws of `base`"),
        ],
    )
    def test_networks_that_cannot_be_evaluated_are_named(self, net, told):
        with pytest.raises(ArgumentError, match=told):
            pj.EnergyModel(seeded(net), standard_normal())

    WRAPPED = {  # noqa: RUF012
        "data parallel": nn.DataParallel,
        "script": torch.jit.script,
        "trace": lambda net: torch.jit.trace(net, torch.zeros(4, 3)),
        "compiled": lambda net: torch.compile(net, backend="eager"),
    }

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("name", WRAPPED)
    def test_networks_that_torch_wraps(self, name):
        net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        assert trains(pj.EnergyModel(self.WRAPPED[name](net), standard_normal()))

    @pytest.mark.parametrize("tied", ["module", "parameter"])
    def test_layers_that_share_weights_stay_as_they_are(self, tied):
        """The check at other parameters leaves those of the model."""

        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 1)
                self.second = self.first if tied == "module" else nn.Linear(3, 3)
                self.second.weight = self.first.weight

            def forward(self, x):
                return self.last(self.second(self.first(x).tanh()).tanh())

        model = pj.EnergyModel(Twice(), standard_normal())
        before = {name: (p, p.detach().clone()) for name, p in model.named_parameters()}
        pj.LikelihoodTracker(model, num_walkers=20)
        for name, p in model.named_parameters():
            assert p is before[name][0]
            assert torch.equal(p, before[name][1])
        assert trains(model)

    def test_integer_parameters_stay(self):
        class Chosen(nn.Module):
            def __init__(self):
                super().__init__()
                index = torch.tensor([0, 2])
                self.index = nn.Parameter(index, requires_grad=False)
                self.net = pj.MLP([2, 8])

            def forward(self, x):
                return self.net(x[:, self.index])

        model = pj.EnergyModel(seeded(Chosen), standard_normal())
        assert trains(model)
        assert model.net.index.tolist() == [0, 2]

    def test_parameters_of_a_base_are_refused(self):
        loc = nn.Parameter(torch.zeros(3))
        flow = dist.transforms.planar(3)
        for base, told in (
            (dist.Normal(loc, 1.5).to_event(1), "'base_dist.loc'"),
            (dist.TransformedDistribution(standard_normal(), [flow]), "'transforms.0'"),
        ):
            with pytest.raises(ArgumentError, match=rf"`base` has a parameter .*{told}"):
                pj.EnergyModel(seeded(lambda: pj.MLP([3, 8])), base)
        base = dist.Normal(loc.detach(), 1.5).to_event(1)
        assert trains(pj.EnergyModel(seeded(lambda: pj.MLP([3, 8])), base))

    def test_what_was_made_in_inference_mode_is_refused(self):
        with torch.inference_mode():
            base, net = standard_normal(), seeded(lambda: pj.MLP([3, 8]))
        with pytest.raises(ArgumentError, match="`base` has a tensor made in"):
            pj.EnergyModel(seeded(lambda: pj.MLP([3, 8])), base)
        with pytest.raises(ArgumentError, match="`net` has parameters made in"):
            pj.EnergyModel(net, standard_normal())

    BASES = {  # noqa: RUF012
        "normal": lambda: dist.Normal(torch.zeros(3), 1.5).to_event(1),
        "Student": lambda: dist.StudentT(torch.tensor(5.0), torch.zeros(3)).to_event(1),
        "full": lambda: dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + 0.2),
        "mixture": lambda: dist.MixtureSameFamily(
            dist.Categorical(torch.tensor([0.3, 0.7])),
            dist.Normal(torch.arange(6.0).reshape(2, 3), 1.0).to_event(1),
        ),
        "transformed": lambda: dist.TransformedDistribution(
            dist.Normal(torch.zeros(3), 1.0).to_event(1),
            [
                dist.transforms.AffineTransform(torch.ones(3), 2.0),
                dist.transforms.SigmoidTransform().inv,
            ][:1],
        ),
        "PCA": lambda: pj.PCAMixture.fit(DATA, torch.arange(60) // 30, rank=1),
    }

    @pytest.mark.parametrize("name", BASES)
    def test_a_base_moves_with_its_network(self, name):
        """The energy is the same in the other dtype, and comes back to the bit."""
        base = self.BASES[name]()
        model = pj.EnergyModel(seeded(lambda: pj.MLP([3, 8])), base)
        with torch.no_grad():
            model.net.layers[-1].weight += 0.3
        before = model(DATA).detach()
        assert model.double() is model
        torch.testing.assert_close(model(DATA.double()).float(), before)
        assert model.draw(2, torch.Generator().manual_seed(0)).dtype == FLOAT
        with torch.no_grad():
            model.net.layers[-1].weight.zero_()
            model.net.layers[-1].bias.zero_()
        assert trains(model)
        # The base that was given is nobody else's.
        assert base.sample().dtype == torch.float32

    def test_masses_of_components_move_with_their_base(self):
        base = self.BASES["PCA"]()
        net = seeded(lambda: pj.ComponentMasses(pj.MLP([3, 8]), base))
        model = pj.EnergyModel(net, base).double()
        assert trains(model)

    def test_a_model_that_moves_under_its_walkers(self):
        model = network_model()
        tracker = pj.LikelihoodTracker(model, num_walkers=20)
        model.double()
        for call in (tracker.update, lambda: tracker.log_normalizer):
            with pytest.raises(
                ArgumentError, match=r"are of torch\.float32 and the model of"
            ):
                call()
        model.float()
        tracker.update()


class TestFreezing:
    def test_between_calls(self):
        """Adam goes on with what it knows, and leaves the frozen layer."""
        model = network_model()
        first = model.net.layers[0]
        first.requires_grad_(requires_grad=False)
        learner = learner_of(model)
        learner.fit(DATA, 3)
        before = first.weight.detach().clone()
        first.requires_grad_()
        learner.fit(DATA, 3)
        moved = first.weight.detach().clone()
        assert not torch.equal(moved, before)
        first.requires_grad_(requires_grad=False)
        learner.fit(DATA, 3)
        assert torch.equal(first.weight, moved)

    def test_within_a_call(self):
        model = network_model()
        layer, seen = model.net.layers[0], []
        layer.requires_grad_(requires_grad=False)

        def unfreeze(learner, row):
            seen.append(layer.weight.detach().clone())
            layer.requires_grad_(row["step"] == 4)

        learner_of(model).fit(DATA, 8, eval_every=2, callbacks=[unfreeze])
        equal = [torch.equal(a, b) for a, b in pairwise(seen)]
        assert equal == [True, False, True]

    def test_the_gradient_of_what_is_trained_anew_is_that_of_the_walkers(self):
        """As if the layer had never been frozen, from the same walkers."""
        found = []
        for frozen in (True, False):
            model = start_mixture()
            optimizer = torch.optim.SGD(model.parameters(), 0.0)
            learner = learner_of(model, optimizer)
            model.means.requires_grad_(requires_grad=not frozen)
            learner.fit(mixture_data(), 2, batch_size=None)
            model.means.requires_grad_()
            optimizer.param_groups[0]["lr"] = 0.1
            learner._negative_place = None
            learner.fit(mixture_data(), 1, batch_size=None)
            found.append([p.detach().clone() for p in model.parameters()])
        for a, b in zip(*found, strict=True):
            assert torch.equal(a, b)

    def test_what_the_optimiser_does_not_hold_is_named(self):
        model = network_model()
        model.net.layers[0].requires_grad_(requires_grad=False)
        held = [p for p in model.parameters() if p.requires_grad]
        learner = learner_of(model, Adam(held))
        model.net.layers[0].requires_grad_()
        with pytest.raises(ArgumentError, match=r"does not hold .*net\.layers\.0\.weight"):
            learner.fit(DATA, 1)

    def test_replaced_parameters_are_named(self):
        model = network_model()
        learner = learner_of(model)
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        with pytest.raises(ArgumentError, match="does not hold the parameters"):
            learner.fit(DATA, 1)

    def test_a_resumed_run_must_train_the_same_parameters(self, tmp_path):
        def run(steps, *, frozen):
            model = network_model()
            model.net.layers[0].requires_grad_(requires_grad=not frozen)
            kept = pj.Checkpoints(tmp_path, every=2, resume=True)
            return learner_of(model).fit(DATA, steps, checkpoints=kept)

        run(2, frozen=True)
        with pytest.raises(pj.CheckpointError, match="`parameters` was"):
            run(4, frozen=False)
        run(4, frozen=True)


@pytest.mark.parametrize("kernel", [pj.HMC(0.1, 2), pj.BlockGibbs(2)], ids=["HMC", "Gibbs"])
def test_kernels_that_are_not_compiled(kernel):
    machine = pj.BinaryRBMEnergy(6, 3)
    model = machine if isinstance(kernel, pj.BlockGibbs) else network_model()
    with pytest.raises(ArgumentError, match=r"`jit_compile` must be false .* `kernel` is"):
        learner_of(model, kernel=kernel, jit_compile=True)


def test_gibbs_moves_of_an_energy_without_them():
    with pytest.raises(
        ArgumentError, match=r"`kernel` is BlockGibbs.*EnergyModel has none"
    ):
        learner_of(network_model(), kernel=pj.BlockGibbs())


def test_checkpoints_and_callbacks_of_other_types(tmp_path):
    learner = learner_of(network_model())
    with pytest.raises(ArgumentTypeError, match=r"such as `Checkpoints\('directory'\)`"):
        learner.fit(DATA, 1, checkpoints=str(tmp_path))
    for callbacks in (None, print, [None]):
        with pytest.raises(ArgumentTypeError, match="`callbacks` must be a list of func"):
            learner.fit(DATA, 1, callbacks=callbacks)
    assert math.isfinite(learner.fit(DATA, 1, callbacks=[])["log_z"][0])
