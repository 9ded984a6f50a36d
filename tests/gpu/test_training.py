"""Training where the network is: all of it there, and with the numbers of the CPU."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyro_jarzynski as pj
from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.data import Whitening
from pyro_jarzynski.errors import ArgumentError
from pyro_jarzynski.experiments.image_output import image_extras, image_results
from pyro_jarzynski.experiments.images import images_run
from tests.command_line import TINY, call
from tests.gpu import pretended

SMALL = {"num_walkers": 48, "audit_walkers": 32}
LEARNERS = [
    pj.JarzynskiLearner,
    pj.PersistentContrastiveDivergence,
    pj.ContrastiveDivergence,
]
KERNELS = [pj.ULA(0.05), pj.MALA(), pj.HMC(0.2, 3), pj.UnderdampedLangevin(0.2)]


def moons(device, num=64):
    with torch.device(device):
        return pj.toy("moons", num)


def network(device, dimension=2, base=None):
    """A network with a normal base; the same numbers on all devices."""
    with torch.device("cpu"):
        net = pj.MLP([dimension, 8])
    if base is None:
        mean = torch.zeros(dimension, device=device)
        base = dist.Normal(mean, 1.5).to_event(1)
    return pj.EnergyModel(net.to(device), base)


def trained(model, data, kind=pj.JarzynskiLearner, steps=4, **settings):
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    learner = kind(model, optimizer, **SMALL | settings)
    learner.fit(data, steps, validation=data[:16], batch_size=32, eval_every=2)
    return learner


def assert_same(found, plain, device):
    """On a pretended device there are the CPU's numbers, to the last bit."""
    pairs = []
    map_tree(
        lambda a, b: pairs.append((a, b)), found.followers.walkers, plain.followers.walkers
    )
    pairs += zip(found.model.parameters(), plain.model.parameters(), strict=True)
    assert {a.device for a, _ in pairs} == {device}
    assert {b.device.type for _, b in pairs} == {"cpu"}
    ours, theirs = (x.history["validation_nll"] for x in (found, plain))
    assert ours == pytest.approx(theirs, abs=0.5, nan_ok=True)
    if device.type == pretended.NAME and pairs[0][1].dtype == torch.float32:
        assert all(torch.equal(a.cpu(), b) for a, b in pairs)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_kernels(device, kernel):
    found, plain = (
        trained(network(d), moons(d), kernel=kernel, conditional_ess=None)
        for d in (device, "cpu")
    )
    assert_same(found, plain, device)


@pytest.mark.parametrize("kind", LEARNERS)
def test_learners(device, kind):
    blocks = {} if kind is pj.ContrastiveDivergence else {"walker_batch_size": 16}
    settings = blocks | {"renewal": pj.Renewal(2, 3, 1), "chunk_size": 20}
    found, plain = (
        trained(network(d), moons(d), kind, **settings) for d in (device, "cpu")
    )
    assert_same(found, plain, device)
    data = moons(device)
    likelihood = found.nll(data)
    assert found.sample(5).device == device
    assert likelihood.nll == pytest.approx(plain.nll(moons("cpu")).nll, abs=0.5)
    assert found.audit.log_prob(data).device == device


def pca(device, dtype=torch.float32):
    generator = stream(0, "images", "cpu")
    x = torch.randn(60, 4, generator=generator, device="cpu", dtype=dtype)
    labels = torch.arange(60, device="cpu") % 3
    x = (x + 2 * labels[:, None]).to(device)
    return pj.PCAMixture.fit(x, labels.to(device), rank=2, noise=0.1), x


def energies(device):
    """Every energy of the package, with data that it can be trained on."""
    with torch.device(device):
        wide = stream(0, "wide", "cpu")
        x = torch.randn(40, 4, generator=wide, device="cpu").to(device)
        machine = pj.RBMEnergy(4, 3, weight_scale=0.1)
        quadratic = pj.QuadraticEnergy(torch.zeros(4), 2 * torch.eye(4))
        means = torch.tensor([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]])
        mixture = pj.GaussianMixtureEnergy(means, torch.zeros(2))
        base, near = pca(device)
        net = network(device, 4).net
        masses = pj.EnergyModel(pj.ComponentMasses(net, base), base)
        two = [network(device, 4).net, network(device, 4).net]
        total = pj.EnergyModel(pj.SumNet(two), dist.Normal(torch.zeros(4), 1.0).to_event(1))
        given = pj.ConditionedNet(network(device, 6).net, torch.ones(2))
        parts = pj.EnergyModel(
            pj.SumNet([given]),
            dist.Normal(torch.zeros(4), torch.arange(1.0, 5)).to_event(1),
        )
        normal = dist.Normal(torch.zeros(4), 1.0).to_event(1)
        with torch.device("cpu"):
            residual = pj.ResidualMLP(4, 8, 1)
        residual = pj.EnergyModel(residual.to(device), normal)
    return {
        "RBMEnergy": (machine, x),
        "QuadraticEnergy": (quadratic, x),
        "GaussianMixtureEnergy": (mixture, x),
        "ComponentMasses": (masses, near),
        "SumNet": (total, x),
        "ConditionedNet": (parts, x),
        "ResidualMLP": (residual, x),
    }


@pytest.mark.parametrize("name", energies("cpu"))
def test_energies(device, name):
    found, plain = (trained(*energies(d)[name]) for d in (device, "cpu"))
    assert_same(found, plain, device)


BASES = {
    "Normal": lambda t: dist.Normal(t([0.0, 1.0]), t([1.0, 2.0])).to_event(1),
    "StudentT": lambda t: dist.StudentT(t(5.0), t([0.0, 0.0]), 1.0).to_event(1),
    "MultivariateNormal": lambda t: dist.MultivariateNormal(
        t([0.0, 0.0]), t([[1.0, 0.5], [0.5, 1.0]])
    ),
    "MixtureSameFamily": lambda t: dist.MixtureSameFamily(
        dist.Categorical(t([0.5, 0.5])),
        dist.Normal(t([[-1.0, 0.0], [1.0, 0.0]]), 1.0).to_event(1),
    ),
    "TransformedDistribution": lambda t: dist.LogNormal(t([0.0, 0.0]), 0.5).to_event(1),
    "Uniform": lambda t: dist.Uniform(t([-3.0, -3.0]), t([3.0, 3.0])).to_event(1),
}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SupportWarning")
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.NonFiniteEnergyWarning")
def test_bases(device, name):
    def run(place):
        # The base moves with its model.
        model = network("cpu", base=BASES[name](torch.tensor)).to(place)
        tracker = pj.LikelihoodTracker(model, num_walkers=32)
        with torch.no_grad():
            model.net.layers[-1].bias += 0.1
        tracker.update()
        return tracker

    found, plain = run(device), run("cpu")
    assert found.cloud.position.device == device
    assert found.log_normalizer == pytest.approx(-0.1, abs=1e-3)
    if device.type == pretended.NAME:
        assert torch.equal(found.cloud.position.cpu(), plain.cloud.position)


def test_principal_components(device):
    """Fits and draws of `PCAMixture` are where its data are."""
    (found, x), (plain, y) = pca(device), pca("cpu")
    with global_stream(0):
        draws = found.sample((7,))
    assert {draws.device, found.log_prob(x).device} == {device}
    assert all(t.device == device for t in found.parameters.values())
    assert found.log_prob(x).cpu() == pytest.approx(plain.log_prob(y), rel=1e-3)


class TestBinaryMachine:
    def machine(self, device):
        rates = torch.full((6,), 0.3, device=device)
        return pj.BinaryRBMEnergy(6, 4, probs=rates)

    def data(self, device):
        return torch.bernoulli(
            torch.full((40, 6), 0.4, device="cpu"), generator=stream(0, "bits", "cpu")
        ).to(device)

    def test_training(self, device):
        found, plain = (
            trained(self.machine(d), self.data(d), kernel=pj.BlockGibbs(2))
            for d in (device, "cpu")
        )
        assert_same(found, plain, device)
        truth = found.model.exact_log_normalizer()
        assert truth.device == device
        assert found.log_normalizer == pytest.approx(float(truth), abs=0.5)

    def test_renewal_and_scatter(self, device):
        machine = self.machine(device)
        followers = pj.Followers(machine, num_walkers=32, kernel=pj.BlockGibbs())
        machine.scatter(0.1)
        followers.update()
        renewed = followers.audit.renew(num_temperatures=5, num_moves=1)
        assert renewed.after == pytest.approx(
            float(machine.exact_log_normalizer()), abs=0.5
        )

    def test_default_device(self, device, default_device):
        machine = pj.BinaryRBMEnergy(6, 4, weight_scale=0.1)
        plain = pj.BinaryRBMEnergy(6, 4, data=self.data("cpu"), weight_scale=0.1)
        assert machine.weight.device == device
        assert plain.weight.device.type == "cpu"
        assert torch.equal(machine.weight.cpu(), plain.weight)


class TestAudit:
    def test_bounds_and_annealing(self, device):
        def run(place):
            learner = trained(network(place), moons(place))
            settings = {"num_temperatures": 4, "num_moves": 1, "num_walkers": 32}
            walkers = pj.annealed_walkers(learner.model, **settings)
            draws = learner.audit.sample(20)
            bounds = pj.normalizer_bounds(learner.model, draws, **settings)
            return walkers, bounds

        (found, bounds), (plain, others) = run(device), run("cpu")
        assert found.log_normalizer.device == device
        assert list(bounds) == pytest.approx(list(others), abs=0.5)
        if device.type == pretended.NAME:
            assert bounds == others
            assert torch.equal(found.log_normalizer.cpu(), plain.log_normalizer)

    def test_masses(self, device):
        learner = trained(network(device), moons(device))
        watch = pj.MassWatch(lambda x: x[:, 0] > 0, num_classes=2)
        learner.fit(moons(device), 2, eval_every=1, callbacks=[watch])
        masses = pj.class_masses(learner.audit.cloud.walkers, lambda x: x[:, 0] > 0)
        assert masses.mass.device == device
        assert len(watch.rows) == 2

    def test_export(self, device):
        found, plain = (trained(network(d), moons(d)) for d in (device, "cpu"))
        trees = [x.to_arviz(data=moons(d)) for x, d in ((found, device), (plain, "cpu"))]
        if device.type == pretended.NAME:
            assert trees[0].posterior.equals(trees[1].posterior)
            assert trees[0].log_likelihood.equals(trees[1].log_likelihood)

    def test_pictures(self, device):
        learner = trained(network(device), moons(device))
        pj.plot_energy(learner.model, moons(device))
        pj.plot_training(learner.history)


class TestPyro:
    def test_svi(self, device):
        def run(place):
            model = network(place)
            optim = pj.JarzynskiOptim(pyro.optim.Adam({"lr": 1e-2}), model, **SMALL)

            def program(x):
                pyro.module("ebm", model)
                with pyro.plate("data", len(x)):
                    pyro.sample("x", model.distribution(), obs=x)

            svi = pyro.infer.SVI(program, lambda x: None, optim, pyro.infer.Trace_ELBO())
            losses = [svi.step(moons(place)) for _ in range(3)]
            pyro.clear_param_store()
            return model, losses

        (model, losses), (_, others) = run(device), run("cpu")
        # Sums over 64 data, each with the error of `log Z`; a GPU draws other numbers.
        same = device.type == pretended.NAME
        assert losses == pytest.approx(others, abs=1e-3 if same else 64 * 0.2)
        law = model.distribution()
        places = {law.mean.device, law.variance.device, law.log_normalizer.device}
        with global_stream(0):
            places.add(law.sample((3,)).device)
        assert places == {device}

    def test_latents(self, device):
        def run(place):
            model = network(place)
            followers = pj.Followers(model, **SMALL)
            laws = model.distribution(), dist.Normal(torch.zeros(2, device=place), 1.0)
            x = moons(place, 10)
            found = []
            for law in (laws[0], laws[1].to_event(1)):
                known = pj.LatentLikelihood(
                    law, lambda z: dist.Normal(z, 1.0).to_event(1), num_points=64
                )
                found.append(known.nll(x))
                known.to_arviz(data=x)
            del followers
            return found

        for found, plain in zip(run(device), run("cpu"), strict=True):
            assert found == pytest.approx(plain, abs=0.5)

    def test_as_a_prior(self, device):
        ebm = network(device)
        followers = pj.Followers(ebm, **SMALL)

        def model(x):
            z = pyro.sample("z", ebm.distribution())
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        settings = {"num_walkers": 32, "num_chains": 2, "schedule": [0.0, 0.5, 1.0]}
        x = torch.zeros(2, device=device)
        result = pj.AnnealedSMC(model, progress=False, num_moves=1, **settings).run(x)
        assert result.walkers.position.device == device
        assert followers.are_current()


class TestFiles:
    @pytest.mark.parametrize("ways", ["to the CPU", "from the CPU"])
    def test_models(self, device, ways, tmp_path):
        first = "cpu" if ways == "from the CPU" else device
        second = torch.device("cpu") if ways == "to the CPU" else device
        learner = trained(network(first), moons(first))
        pj.save_model(tmp_path, learner.model, learner.audit.cloud.walkers)
        x = moons(second)
        with torch.device(first):
            saved = pj.load_model(tmp_path, device=second)
        with second:
            assert pj.load_model(tmp_path).position.device == second
        shell = network(second)
        filled = pj.load_model(tmp_path, shell)
        places = {saved.position.device, filled.position.device, saved.log_weight.device}
        assert places == {second}
        assert filled.model is shell
        expected = learner.model(x.to(first)).detach().cpu()
        for each in (saved, filled):
            assert each.model(x).device == second
            assert each.model(x).detach().cpu() == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("ways", ["here", "to the CPU", "from the CPU"])
    def test_checkpoints(self, device, ways, tmp_path):
        first = "cpu" if ways == "from the CPU" else device
        second = torch.device("cpu") if ways == "to the CPU" else device

        def learner(place):
            model = network(place)
            optimizer = torch.optim.Adam(model.parameters(), 1e-2)
            return pj.JarzynskiLearner(model, optimizer, **SMALL)

        def fit(learner, steps, **more):
            place = learner.cloud.example.device
            data = moons(place)
            learner.fit(data, steps, batch_size=16, validation=data, eval_every=1, **more)
            return learner

        class Stopped(Exception):
            pass

        def stop(learner, row):
            if row["step"] == 3:
                raise Stopped

        kept = pj.Checkpoints(tmp_path, every=1)
        with pytest.raises(Stopped):
            fit(learner(first), 5, callbacks=[stop], checkpoints=kept)
        kept = pj.Checkpoints(tmp_path, every=1, resume=True)
        found = fit(learner(second), 5, checkpoints=kept)
        whole = fit(learner(second), 5)
        assert found.history["step"] == whole.history["step"]
        assert found.cloud.example.device == second
        assert found.nll(moons(second)).nll == pytest.approx(
            whole.nll(moons(second)).nll, abs=0.5
        )
        if ways == "here":
            assert found.history["train_nll"] == whole.history["train_nll"]


class TestData:
    def test_loaders(self, device):
        """Workers of a loader leave batches on the CPU; training moves them."""
        generator = torch.Generator().manual_seed(0)
        loader = DataLoader(
            TensorDataset(moons("cpu")), 16, shuffle=True, generator=generator
        )
        model = network(device)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        learner = pj.JarzynskiLearner(model, optimizer, **SMALL)
        learner.fit(loader, 5)
        assert learner.num_steps == 5

    def test_data_elsewhere(self, device):
        message = f"`validation` must be on the device of the walkers, {device}, got cpu"
        with pytest.raises(ArgumentError, match=message):
            trained(network(device), moons("cpu"))

    def test_transforms(self, device):
        generator = stream(0, "grey", "cpu")
        grey = torch.randint(17, (30, 4), generator=generator, device="cpu")
        for transform in (pj.LogitTransform(17), pj.SmoothingTransform(levels=17)):
            x = transform.forward(grey.to(device), stream(0, "noise", device))
            assert {x.device, transform.log_jacobian(x).device} == {device}
            assert transform.inverse(x).device == device
            assert transform.bits_per_dimension(1.0, x) != 0
        with torch.device(device):
            maps = Whitening.fit(grey.to(device), 17, (2, 2), stream(0, "noise", device))
        x = maps.to_coordinates(grey.to(device), stream(0, "a", device))
        assert maps.to_grey(x).device == device

    def test_classifier(self, device):
        labels = torch.arange(40, device=device) % 2
        noise = torch.randn(40, 1, 8, 8, generator=stream(0, "noise", "cpu"), device="cpu")
        images = labels[:, None, None, None] + 0.1 * noise.to(device)
        classifier = pj.train_classifier(images, labels.cpu(), num_epochs=2)
        assert classifier.classify(images).device == device
        features = classifier.features(images)
        assert pj.mmd(features[::2], features[1::2]).value > 0
        assert pj.frechet_distance(features[::2], features[1::2]) > 0


class TestDefaultDevice:
    """`torch.set_default_device` moves data and networks, and nothing that has a place."""

    def test_all_there(self, device, default_device):
        base = dist.Normal(torch.zeros(2), 1.5).to_event(1)
        model = pj.EnergyModel(pj.MLP([2, 8]), base)
        optimizer = pj.muon_and_adam(model)
        learner = pj.JarzynskiLearner(model, optimizer, **SMALL, chunk_size="auto")
        learner.fit(pj.toy("moons", 64), 3, batch_size=16)
        assert learner.sample(3).device == device

    def test_all_on_the_cpu(self, device, default_device):
        found = trained(network("cpu"), moons("cpu"), renewal=pj.Renewal(2, 3, 1))
        with torch.device("cpu"):
            plain = trained(network("cpu"), moons("cpu"), renewal=pj.Renewal(2, 3, 1))
        assert_same(found, plain, torch.device("cpu"))
        found.to_arviz(data=moons("cpu"))

    def test_data_are_the_same(self, device, default_device):
        for name in ("moons", "circles", "spirals", "pinwheel", "checkerboard", "rings"):
            found = pj.toy(name, 20)
            with torch.device("cpu"):
                assert torch.equal(found.cpu(), pj.toy(name, 20))
            assert found.device == device


def test_convolutions(device):
    layers = [pj.Convolution(4, 3, 2)]

    def run(place):
        with torch.device("cpu"):
            net = pj.ConvNet((1, 4, 4), layers, [8])
        mean = torch.zeros(16, device=place)
        model = pj.EnergyModel(net.to(place), dist.Normal(mean, 1.0).to_event(1))
        data = torch.randn(32, 16, generator=stream(0, "images", "cpu"), device="cpu")
        return trained(model, data.to(place), kernel=pj.HMC(0.1, 2))

    assert_same(run(device), run("cpu"), device)


def test_compiled(device, request):
    if device.type == pretended.NAME:
        # The recorded operations, as they are: no compiler knows this device.
        graphs = request.getfixturevalue("compilations")
    plain, found = (
        trained(network(device), moons(device), steps=6, jit_compile=compiled)
        for compiled in (False, True)
    )
    expected = plain.nll(moons(device)).nll
    assert found.nll(moons(device)).nll == pytest.approx(expected, abs=1e-2)
    if device.type == pretended.NAME:
        assert graphs


@pytest.mark.parametrize("kind", ["digits", "gmm"])
def test_command_line(device, kind, tmp_path, monkeypatch):
    renew = pj.LikelihoodTracker.renew

    def renew_quickly(tracker, **_):
        return renew(tracker, num_temperatures=2, num_moves=1)

    monkeypatch.setattr(pj.LikelihoodTracker, "renew", renew_quickly)
    options = ("--out", tmp_path, *TINY[kind].split(), "--device", device)
    answer = call("train", kind, *options)
    assert answer.code == 0, answer.error
    assert torch.get_default_device().type == "cpu"
    saved = pj.load_model(tmp_path)
    assert saved.notes["settings"]["device"] == str(device)
    assert saved.position.device.type == "cpu"


def test_images(device, default_device):
    """The experiment of the paper, as `train mnist` does it."""
    generator = stream(0, "images", "cpu")
    grey = torch.randint(256, (40, 1, 28, 28), generator=generator, device="cpu")
    images = grey.to(device, torch.uint8)
    labels = torch.arange(40) % 2
    data = pj.LabelledImages(images, labels, images, labels, ("zero", "one"))
    settings = {"rank": 3, "features": 2, "batch_size": 16, "start": "equal"}
    walkers = {"num_walkers": 16, "audit_walkers": 8, "leapfrog_steps": 1}
    run = images_run(data, **settings, **walkers)
    run.learner.fit(run.train, 2, validation=run.validation, eval_every=1)
    assert run.learner.sample(3).device == device
    assert len(image_results(run, data)["audit_masses"]["mass"]) == 2
    assert image_extras(run, data)["real"].device == device
