"""Trainings, audits and reports are the same in all modes that a caller may have set."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_jarzynski as pj
from pyro_jarzynski.errors import ArgumentError, EnergyError
from tests.core.test_modes import MODES
from tests.ebm.models import mixture_data, seeded, standard_normal

pytestmark = [
    pytest.mark.global_state,
    pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled"),
    pytest.mark.filterwarnings("ignore::pyro_jarzynski.AuditWarning"),
]
DATA = mixture_data(80).float()
FEW = DATA[:20]


def model_of(*layers):
    """Return a model of a network with some layers in its middle."""
    net = seeded(
        lambda: nn.Sequential(nn.Linear(3, 16), *layers, nn.SiLU(), nn.Linear(16, 1))
    )
    return pj.EnergyModel(net, standard_normal())


def learner_of(model, **settings):
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    small = {"num_walkers": 64, "audit_walkers": 64} | settings
    return pj.JarzynskiLearner(model, optimizer, **small)


def trained(learner, steps=12):
    history = learner.fit(DATA, steps, validation=FEW, batch_size=40, eval_every=6)
    return [history["train_nll"], history["log_z"], *report(learner)]


def report(learner):
    law = learner.model.distribution()
    return [
        *learner.nll(DATA),
        learner.log_normalizer_error,
        learner.sample(4, seed=1),
        learner.audit.log_prob(FEW),
        law.log_prob(FEW).detach(),
        law.mean,
    ]


def of_learner():
    return trained(learner_of(model_of()))


def of_blocks():
    settings = {"walker_batch_size": 32, "renewal": pj.Renewal(5, 3, 1)}
    return trained(learner_of(model_of(), kernel=pj.HMC(0.2, 2), **settings))


def of_tracker():
    model = model_of()
    tracker = pj.LikelihoodTracker(model, num_walkers=64)
    for _ in range(4):
        with torch.no_grad():
            model.net[0].weight.add_(0.05)
        tracker.update()
    return [*tracker.nll(DATA), tracker.sample(3, seed=0), *tracker.renew(num_moves=1)]


def of_annealing():
    learner = learner_of(model_of())
    learner.fit(DATA, 5)
    settings = {"num_temperatures": 4, "num_walkers": 32, "num_moves": 1}
    walkers = pj.annealed_walkers(learner.model, **settings)
    bounds = pj.normalizer_bounds(learner.model, DATA[:16], **settings)
    return [walkers.position, walkers.log_weight, *bounds, *trained(learner, 2)]


def of_svi(mode=torch.enable_grad):
    pyro.clear_param_store()
    model = model_of()
    settings = {"num_walkers": 32, "audit_walkers": 32}
    optim = pj.JarzynskiOptim(pyro.optim.Adam({"lr": 0.01}), model, **settings)

    def program(x):
        pyro.module("ebm", model)
        with pyro.plate("data", len(x)):
            pyro.sample("x", model.distribution(), obs=x)

    svi = pyro.infer.SVI(program, lambda x: None, optim, pyro.infer.Trace_ELBO())
    with mode():
        losses = [svi.step(DATA) for _ in range(4)]
    return losses + [p.detach() for p in model.parameters()]


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b)
        else:
            assert a == b


# Models are built in the default mode where a mode would make other parameters.
JOBS = {
    "learner": of_learner,
    "blocks": of_blocks,
    "tracker": of_tracker,
    "annealing": of_annealing,
}
NO_BUILDING = {
    "default float64",
    "default bfloat16",
    "default device",
    "inference_mode",
    "vmap",
    "grad",
}


@pytest.mark.parametrize("name", sorted(MODES.keys() - NO_BUILDING))
@pytest.mark.parametrize("job", JOBS)
def test_all_is_the_same(job, name):
    expected = JOBS[job]()
    with MODES[name]():
        found = JOBS[job]()
    assert_equal(found, expected)


@pytest.mark.parametrize("name", sorted(NO_BUILDING))
def test_a_call_in_a_mode_is_the_same(name):
    """What a learner built outside does inside, and outside again afterwards."""
    found = []
    for mode in (MODES[name], torch.enable_grad):
        learner = learner_of(model_of())
        with mode():
            inside = trained(learner)
        found.append([*inside, *trained(learner, 3)])
    assert_equal(*found)


@pytest.mark.parametrize("name", ["deterministic", "default float64", "anomaly"])
def test_svi_is_the_same(name):
    assert_equal(of_svi(MODES[name]), of_svi())


@pytest.mark.parametrize(
    ("name", "told"), [("autocast", "low precision"), ("no_grad", "gradients are off")]
)
def test_svi_without_whole_gradients_is_refused(name, told):
    with pytest.raises(ArgumentError, match=told):
        of_svi(MODES[name])


def test_a_machine_of_binary_units_is_the_same_under_autocast():
    machine = pj.BinaryRBMEnergy(8, 4, weight_scale=1.0)
    expected = machine.exact_log_normalizer()
    with MODES["autocast"]():
        assert torch.equal(machine.exact_log_normalizer(), expected)


class Halved(nn.Module):
    """A network that computes in low precision by itself."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net(x).float()


def of_halved():
    model = pj.EnergyModel(Halved(seeded(lambda: pj.MLP([3, 16]))), standard_normal())
    return [*trained(learner_of(model)), model.net.net.layers[0].weight.detach()]


def test_a_network_may_compute_in_low_precision_by_itself():
    plain, expected = of_learner(), of_halved()
    assert plain[:2] != expected[:2]
    assert not any(z == 0 for z in expected[1])
    with MODES["autocast"]():
        assert_equal(of_halved(), expected)


class Modal(nn.Module):
    """A layer that is another in train mode, as Dropout and BatchNorm are."""

    def forward(self, x):
        return x * 3 if self.training else x


LAYERS = {
    "Dropout": lambda: nn.Dropout(0.5),
    "BatchNorm": lambda: nn.BatchNorm1d(16),
    "one's own": Modal,
    "within another": lambda: nn.Sequential(nn.Identity(), nn.Dropout(0.2)),
}


class Switch:
    """A callback that changes the mode of the model."""

    def __init__(self, training):
        self.training = training

    def __call__(self, learner, row):
        learner.model.train(self.training)


@pytest.mark.parametrize("when", ["before", "callback", "never"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_mode_in_which_a_model_was_checked_stays(name, when):
    """That of a user's own layers may be train mode as well."""
    training = name == "one's own"
    found = []
    for change in (True, False):
        model = model_of(LAYERS[name]()).train(training)
        learner = learner_of(model)
        callbacks = [Switch(not training)] if change and when == "callback" else []
        if change and when == "before":
            model.train(not training)
        history = learner.fit(DATA, 8, eval_every=4, callbacks=callbacks)
        found.append([history["train_nll"], history["log_z"], *report(learner)])
        # Nobody else is disturbed: the mode that was set is still the mode.
        assert model.training is (
            (not training) if change and when != "never" else training
        )
    assert_equal(*found)


class Switched(nn.Module):
    """A layer that becomes random, or couples rows, by another layer or an attribute."""

    def __init__(self):
        super().__init__()
        self.noise, self.coupled = nn.Identity(), False

    def forward(self, x):
        x = self.noise(x)
        return x - x.mean(0) if self.coupled else x


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [("noise", nn.Dropout(0.5), "it is random"), ("coupled", True, "couples walkers")],
)
def test_each_call_of_fit_checks_the_energy(name, value, match):
    """What was checked when the walkers were drawn may have changed since."""
    learner = learner_of(model_of(Switched()))
    layer = learner.model.net[1]
    known = getattr(layer, name)
    trained(learner)
    setattr(layer, name, value)
    with pytest.raises(EnergyError, match=match):
        trained(learner)
    setattr(layer, name, known)
    trained(learner)


def test_a_tracker_beside_a_loop_in_train_mode():
    """Dropout regularises the loop, and the audit knows nothing of it."""
    found = []
    for mode in (True, False):
        model = model_of(nn.Dropout(0.5)).eval()
        tracker = pj.LikelihoodTracker(model, num_walkers=64)
        model.train(mode)
        for _ in range(3):
            with torch.no_grad():
                model.net[0].weight += 0.05
            tracker.update()
        found.append([*tracker.nll(DATA), tracker.ess, tracker.sample(3, seed=0)])
        found[-1] += [*tracker.renew(num_temperatures=4, num_moves=1)]
        assert model.net[1].training is mode
    assert_equal(*found)


def test_modules_within_a_base_count_as_well():
    """BatchNorm as a transform couples walkers in train mode."""
    normal = standard_normal()
    found = []
    for mode in (True, False):
        flow = dist.transforms.BatchNorm(3).eval()
        base = dist.TransformedDistribution(normal, [flow])
        for parameter in flow.parameters():
            parameter.requires_grad_(requires_grad=False)
        model = pj.EnergyModel(seeded(lambda: pj.MLP([3, 8])), base)
        learner = learner_of(model)
        flow.train(mode)
        found.append(trained(learner))
    assert_equal(*found)


def test_annealing_refuses_a_model_that_is_random():
    model = model_of(nn.Dropout(0.5))
    for call in (
        lambda: pj.annealed_walkers(model, num_temperatures=2, num_walkers=8),
        lambda: pj.normalizer_bounds(model, DATA, num_temperatures=2, num_walkers=8),
    ):
        with torch.random.fork_rng(), pytest.raises(EnergyError, match=r"Call `eval\(\)`"):
            call()
    model.eval()
    learner_of(model)
    # From here on it has a mode in which it was checked.
    model.train()
    pj.annealed_walkers(model, num_temperatures=2, num_walkers=8)


def test_a_compiled_program_around_a_training_leaves_it_alone():
    found = []
    for compiled in (True, False):
        learner = learner_of(model_of())
        wrap = (lambda f: torch.compile(f, backend="eager")) if compiled else lambda f: f
        with warnings.catch_warnings():
            # Of what torch cannot trace in the functions around.
            warnings.simplefilter("ignore")
            history = wrap(learner.fit)(DATA, 6, eval_every=3)
            wrap(lambda learner=learner: learner.followers.update())()
            draws = wrap(lambda learner=learner: learner.sample(3, seed=0))()
        found.append([history["train_nll"], history["log_z"], draws, *report(learner)])
    assert_equal(*found)


def test_data_within_a_transform_are_refused():
    tracker = pj.LikelihoodTracker(model_of(), num_walkers=8)
    with pytest.raises(ArgumentError, match=r"within a transform of `torch\.func`"):
        torch.func.vmap(lambda x: tracker.log_prob(x[None])[0])(DATA)
    model = model_of()
    learner_of(model)
    law = model.distribution()
    found = torch.func.vmap(lambda x: law.log_prob(x))(DATA)
    torch.testing.assert_close(found, law.log_prob(DATA))
