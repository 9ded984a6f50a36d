"""Inference where the data are: all of it there, and with the numbers of the CPU."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from safetensors.torch import load_file
from torch import Tensor

import pyro_jarzynski as pj
from pyro_jarzynski.core.noise import stream
from pyro_jarzynski.core.resampling import RESAMPLERS, cumulative
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.errors import ArgumentError, ModelError
from pyro_jarzynski.runtime.draw_files import save_draws
from tests.command_line import call
from tests.gpu import models, pretended
from tests.infer.zoo import ZOO

KERNELS = [pj.ULA(0.1), pj.MALA(0.1), pj.HMC(0.3, 3), pj.UnderdampedLangevin(0.3)]
FEW = {"num_walkers": 32, "num_chains": 2, "progress": False}
PLANNED = FEW | {"adapt": "off", "schedule": [0.0, 0.3, 1.0], "num_moves": 2}
# Nats: no run of 64 walkers on these models is so far from another.
TOLERANCE = 1.0

pytestmark = pytest.mark.filterwarnings("ignore::pyro_jarzynski.EvidenceWarning")


def compared(device, model, args, kernel=pj.MALA(0.1), **settings):  # noqa: B008
    """Return the result of a run on the device, after a look at that of one on the CPU."""
    found = pj.AnnealedSMC(model, kernel=kernel, **settings).run(*args)
    plain = pj.AnnealedSMC(model, kernel=kernel, **settings).run(*(x.cpu() for x in args))
    assert_same(found, plain, device)
    return found


def assert_same(found, plain, device):
    """On a pretended device there are the CPU's numbers, to the last bit."""
    pairs = []
    map_tree(lambda a, b: pairs.append((a, b)), found.walkers, plain.walkers)
    assert {a.device for a, _ in pairs} == {device}
    assert {b.device.type for _, b in pairs} == {"cpu"}
    assert found.log_evidence == pytest.approx(plain.log_evidence, abs=TOLERANCE)
    # Normal numbers in float64 are drawn in another way on the CPU.
    if device.type == pretended.NAME and plain.walkers.position.dtype == torch.float32:
        assert all(torch.equal(a.cpu(), b) for a, b in pairs)


def tensors_of(values):
    return [x for x in values.values() if isinstance(x, Tensor)]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_kernels(device, kernel):
    y = models.data(device)
    found = compared(device, models.gaussian, (y,), kernel, **FEW)
    truth = models.log_evidence_of_gaussian(y)
    assert found.log_evidence == pytest.approx(truth, abs=TOLERANCE)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_moves": 2, "resampler": "stratified", "preconditioner": "diagonal"},
        {"schedule": pj.DataTempering([2, 4]), "resampler": "residual", "num_moves": 2},
        {"adapt": "online", "preconditioner": "none", "resampler": "multinomial"},
        {"schedule": torch.tensor([0.0, 0.5, 1.0]), "chunk_size": 17},
        {"waste_free": True, "num_moves": 3, "chunk_size": None},
        {"learn_base": False, "num_chains": 1},
    ],
    ids=lambda s: ", ".join(s),
)
def test_settings(device, settings):
    compared(device, models.gaussian, (models.data(device),), **FEW | settings)


def test_double_precision(device):
    y = models.data(device, torch.float64)
    found = compared(device, models.gaussian, (y,), **PLANNED)
    assert found.walkers.position.dtype == torch.float64


def guide(y):
    pyro.sample("mu", dist.Normal(y.mean(), 0.5))


@pytest.mark.parametrize("base", ["normal", "guide", "draws", "draws of the CPU"])
def test_bases(device, base):
    y = models.data(device)
    draws = torch.randn(50, generator=stream(0, "draws", "cpu"))
    here = draws if base == "draws of the CPU" else draws.to(device)
    chosen = {"normal": "normal", "guide": guide}.get(base, {"mu": here})
    found = pj.AnnealedSMC(models.gaussian, base=chosen, **PLANNED).run(y)
    assert found.walkers.position.device == device
    truth = models.log_evidence_of_gaussian(y)
    assert found.log_evidence == pytest.approx(truth, abs=TOLERANCE)


def test_learned_base(device):
    found = compared(device, models.narrow, (models.data(device),), **FEW)
    assert type(found.posterior).__name__ == "LearnedPosterior"


@pytest.mark.parametrize(
    ("model", "method"),
    [(models.gaussian, "vmap"), (models.doubtful, "plate"), (models.by_item, "loop")],
)
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SlowModelWarning")
def test_methods(device, model, method):
    found = compared(device, model, (models.data(device),), **PLANNED)
    assert found.posterior.method == method


@pytest.mark.parametrize(
    "model", [models.mixture, models.switch, models.improper, models.partly_observed]
)
def test_models(device, model):
    base = {"base": "normal"} if model is models.improper else {}
    with device:
        found = pj.AnnealedSMC(model, **PLANNED | base).run(models.data(device))
    plain = pj.AnnealedSMC(model, **PLANNED | base).run(models.data("cpu"))
    assert_same(found, plain, device)
    values = found.get_samples(deterministic=True)
    assert {x.device for x in values.values()} == {device}
    if device.type == pretended.NAME:
        expected = plain.get_samples(deterministic=True)
        assert all(torch.equal(values[n].cpu(), expected[n]) for n in expected)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.NonFiniteEnergyWarning")
@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.SlowModelWarning")
def test_zoo(device, name):
    """Priors of numbers are on the default device, and data are moved there."""
    case, short = ZOO[name], {"schedule": [0.0, 1.0], "num_moves": 1}
    settings = PLANNED | short | {"num_walkers": 8}
    args, kwargs = map_tree(lambda x: x.to(device), (case.args, case.kwargs))
    with device:
        found = pj.AnnealedSMC(case.model, **settings).run(*args, **kwargs)
        log_likelihood = found.log_likelihood()
        values = found.get_samples(deterministic=True)
    pyro.clear_param_store()
    plain = pj.AnnealedSMC(case.model, **settings).run(*case.args, **case.kwargs)
    assert {x.device for x in [*values.values(), *log_likelihood.values()]} == {device}
    if device.type == pretended.NAME:
        assert found.log_evidence == plain.log_evidence
    pyro.clear_param_store()


def test_correlations(device):
    y = torch.randn(6, 3, generator=stream(0, "data", "cpu")).to(device)
    compared(device, models.correlated, (y,), **PLANNED)


def test_network_as_model(device):
    class Regression(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(1, 1)

        def forward(self, y):
            mean = self.linear(y[:, None])[:, 0].detach()
            shift = pyro.sample("shift", dist.Normal(y.new_zeros(()), 1.0))
            with pyro.plate("data", len(y)):
                pyro.sample("y", dist.Normal(mean + shift, 1.0), obs=y)

    with torch.random.fork_rng(devices=()):
        model = Regression()
    found = pj.AnnealedSMC(model.to(device), **PLANNED).run(models.data(device))
    assert found.walkers.position.device == device
    with pytest.raises(ModelError, match=r"'linear\.weight' is on .*'y' is on cpu"):
        pj.AnnealedSMC(model, **PLANNED).run(models.data("cpu"))


def test_compiled(device, request):
    if device.type == pretended.NAME:
        # The recorded operations, as they are: no compiler knows this device.
        graphs = request.getfixturevalue("compilations")
    y = models.data(device)
    plain, found = (
        pj.AnnealedSMC(models.gaussian, jit_compile=compiled, **PLANNED).run(y)
        for compiled in (False, True)
    )
    assert found.log_evidence == pytest.approx(plain.log_evidence, abs=1e-3)
    if device.type == pretended.NAME:
        assert graphs


def test_target(device):
    def prior_sample(num, generator):
        return 2 * torch.randn(num, 1, generator=generator, device=generator.device)

    def run(device):
        target = pj.Target(
            log_prior=lambda x: dist.Normal(0.0 * x.detach()[0], 2.0).log_prob(x).sum(1),
            log_likelihood=lambda x: -(x.square() - 1).square().sum(1) * 4,
            prior_sample=prior_sample,
            device=device,
        )
        return pj.AnnealedSMC(target, **PLANNED).run()

    found = run(device)
    assert_same(found, run("cpu"), device)
    with device:
        assert_same(run(None), run("cpu"), device)


class TestDefaultDevice:
    """`torch.set_default_device` moves priors of numbers, and nothing that has a place."""

    def test_numbers(self, device, default_device):
        found = pj.AnnealedSMC(models.of_numbers, **FEW).run(models.data(device))
        plain = pj.AnnealedSMC(models.gaussian, **FEW).run(models.data("cpu"))
        assert_same(found, plain, device)

    def test_all_on_the_cpu(self, default_device):
        y = models.data("cpu")
        found = pj.AnnealedSMC(models.gaussian, **FEW).run(y)
        with torch.device("cpu"):
            plain = pj.AnnealedSMC(models.gaussian, **FEW).run(y)
        assert_same(found, plain, torch.device("cpu"))
        found.summary(), found.to_arviz(posterior_predictive=True, prior_predictive=True)


class TestMixedDevices:
    def test_data_on_the_cpu(self, device, default_device):
        message = f"the latent 'mu' is on {device}, and the observed 'y' is on cpu"
        with pytest.raises(ModelError, match=message):
            pj.AnnealedSMC(models.of_numbers, **FEW).run(models.data("cpu"))

    def test_priors_on_the_cpu(self, device):
        message = f"the latent 'mu' is on cpu, and the observed 'y' is on {device}"
        with pytest.raises(ModelError, match=message):
            pj.AnnealedSMC(models.of_numbers, **FEW).run(models.data(device))

    def test_an_argument_on_the_cpu(self, device):
        y, sigma = models.schools_data(device)
        message = f"the latent 'mu' is on {device}, and the argument 'sigma' is on cpu"
        with pytest.raises(ModelError, match=message):
            pj.AnnealedSMC(models.schools, **FEW).run(y, sigma.cpu())

    def test_a_tensor_of_the_program_on_the_cpu(self, device):
        weights = torch.ones(4)

        def model(y):
            mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
            pyro.sample("y", dist.Normal(mu * weights, 1.0).to_event(1), obs=y)

        message = f"another device than {device}, on which are the latent 'mu', all"
        with pytest.raises(ModelError, match=message):
            pj.AnnealedSMC(model, **FEW).run(models.data(device))

    def test_a_preconditioner_on_the_cpu(self, device):
        kernel = pj.MALA(0.1, preconditioner=torch.ones(1))
        sampler = pj.AnnealedSMC(models.gaussian, kernel=kernel, **PLANNED)
        message = f"`preconditioner` must be on the device of the walkers, {device}, got"
        with pytest.raises(ArgumentError, match=message):
            sampler.run(models.data(device))

    def test_log_weights_on_the_cpu(self, device):
        with pytest.raises(ArgumentError, match=f"`log_weight` must .* {device}, got cpu"):
            pj.init(
                torch.zeros(3, 1, device=device),
                lambda x: x.square().sum(1),
                log_weight=torch.zeros(3),
            )

    def test_two_latents(self, device):
        def model():
            a = pyro.sample("a", dist.Normal(torch.zeros((), device="cpu"), 1.0))
            pyro.sample(
                "b", dist.Normal(torch.zeros(2, device=device) + a, 1.0).to_event(1)
            )

        with pytest.raises(
            ModelError, match=f"'a' is on cpu, and the latent 'b' is on {device}"
        ):
            pj.AnnealedSMC(model, **FEW).run()


class TestResult:
    @pytest.fixture
    def results(self, device):
        run = pj.AnnealedSMC(models.schools, **PLANNED).run
        return run(*models.schools_data(device)), run(*models.schools_data("cpu"))

    def test_draws_and_history(self, device, results):
        found, _ = results
        weighted, log_weights = found.weighted_samples()
        drawn = found.get_samples(10, group_by_chain=True, deterministic=True)
        assert {x.device for x in [*weighted.values(), *drawn.values()]} == {device}
        assert {log_weights.device, found.log_likelihood()["y"].device} == {device}
        assert {x.device.type for x in found.history.values()} == {"cpu"}
        assert {x.device.type for x in found.stage_log_weights} == {"cpu"}

    def test_tables(self, device, results):
        tables = [result.summary().table for result in results]
        attributes = [r.doubts for r in results], [repr(r) for r in results]
        masses = [pj.mode_masses(r, lambda s: s["mu"] > 4) for r in results]
        assert masses[0][0].device == device
        if device.type == pretended.NAME:
            assert tables[0].equals(tables[1])
            assert attributes[0][0] == attributes[0][1]
            assert torch.equal(masses[0][0].cpu(), masses[1][0])

    def test_weighted_diagnostics(self, results):
        for result in results:
            log_likelihood = result.log_likelihood()
            loo = pj.weighted_loo(log_likelihood["y"], result.log_weights)
            assert loo.elpd < 0
            mu = result.weighted_samples()[0]["mu"]
            assert float(pj.weighted_mean(mu, result.log_weights)) < 20

    @pytest.mark.parametrize("weighted", [False, True])
    def test_arviz(self, device, results, weighted):
        trees = [
            result.to_arviz(
                weighted=weighted, posterior_predictive=True, prior_predictive=True
            )
            for result in results
        ]
        for group in trees[1].groups():
            found, plain = (getattr(tree, group) for tree in trees)
            assert set(found.data_vars) == set(plain.data_vars)
            if device.type == pretended.NAME and group != "warmup_sample_stats":
                assert found.equals(plain), group

    def test_files(self, results, tmp_path):
        save_draws(tmp_path, results[0])
        pj.write_inference_report(tmp_path, results[0], title="", settings={})
        drawn = load_file(tmp_path / "draws.safetensors")
        assert drawn["theta"].shape == (2, 32, 8)
        flat = {n: x.flatten(0, 1) for n, x in drawn.items() if n != "effect"}
        y, sigma = models.schools_data(results[0].walkers.position.device)
        again = pj.AnnealedSMC(models.schools, base=flat, **PLANNED).run(y, sigma)
        assert again.walkers.position.device == y.device


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("ways", ["here", "to the CPU", "from the CPU"])
def test_resumed(device, ways, tmp_path, monkeypatch):
    """On one device with the same bits; on another kind of device as right."""
    settings = FEW | {"schedule": [0.0, 0.1, 0.3, 1.0], "num_moves": 2}
    first = "cpu" if ways == "from the CPU" else device
    second = "cpu" if ways == "to the CPU" else device

    def sampler(**more):
        kept = pj.Checkpoints(tmp_path, every=1, **more)
        return pj.AnnealedSMC(models.gaussian, checkpoints=kept, **settings)

    from pyro_jarzynski.infer.recorder import Recorder

    def add(self, reached, known=Recorder.add):
        known(self, reached)
        if len(self.rows) == 2:
            raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "add", add)
        with pytest.raises(Interrupted):
            sampler().run(models.data(first))
    found = sampler(resume=True).run(models.data(second))
    assert found.walkers.position.device.type == torch.device(second).type
    truth = models.log_evidence_of_gaussian(models.data("cpu"))
    assert found.log_evidence == pytest.approx(truth, abs=TOLERANCE)
    if ways == "here":
        whole = pj.AnnealedSMC(models.gaussian, **settings).run(models.data(device))
        assert found.log_evidence == whole.log_evidence
        assert torch.equal(found.walkers.position, whole.walkers.position)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_mcmc(device, kernel):
    def run(y):
        settings = {"num_walkers": 32, "schedule": [0.0, 0.3, 1.0], "seed": 1}
        made = pj.JarzynskiKernel(models.gaussian, kernel=kernel, **settings)
        mcmc = MCMC(made, 40, warmup_steps=3, disable_progbar=True)
        mcmc.run(y)
        return mcmc

    found, plain = run(models.data(device)), run(models.data("cpu"))
    drawn, expected = (mcmc.get_samples()["mu"] for mcmc in (found, plain))
    assert drawn.device == device
    evidence = [mcmc.diagnostics()["log evidence"]["chain 0"] for mcmc in (found, plain)]
    assert evidence[0] == pytest.approx(evidence[1], abs=TOLERANCE)
    if device.type == pretended.NAME:
        assert torch.equal(drawn.cpu(), expected)


def test_mcmc_of_numbers(device, default_device):
    made = pj.JarzynskiKernel(models.of_numbers, num_walkers=32, seed=1)
    mcmc = MCMC(made, 20, warmup_steps=3, disable_progbar=True)
    mcmc.run(models.data(device))
    assert mcmc.get_samples()["mu"].device == device
    tree = pj.to_arviz(mcmc, posterior_predictive=True)
    assert tree.posterior["mu"].shape == (1, 20)


@pytest.mark.filterwarnings("ignore::pyro_jarzynski.errors.NonFiniteEnergyWarning")
def test_checks(device):
    sampler = pj.AnnealedSMC(models.gaussian, **PLANNED | {"num_walkers": 64})
    found, plain = (
        pj.evidence_bounds(sampler, models.data(d), num_simulations=1)
        for d in (device, "cpu")
    )
    assert {x.device for x in found if isinstance(x, Tensor)} == {device}
    assert found.gap == pytest.approx(plain.gap, abs=TOLERANCE)
    tests = [pj.self_test(sampler, models.data(d)) for d in (device, "cpu")]
    assert "failed" not in {test.verdict for test in tests}
    if device.type == pretended.NAME:
        assert torch.equal(found.forward.cpu(), plain.forward)
        assert tests[0] == tests[1]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_engine(device, kernel):
    def run(device):
        generator = stream(0, "walkers", device)
        draws = {
            name: torch.randn(64, 2, generator=generator, device=device) for name in "ab"
        }
        energies = [
            lambda x, k=k: k * (x["a"].square() + x["b"].square()).sum(1) / 2
            for k in (1, 2, 3)
        ]
        walkers = pj.init(draws, energies[0], num_islands=2)
        return pj.run(walkers, energies, kernel, num_moves=2, generator=generator)[0]

    found, plain = run(device), run("cpu")
    assert found.log_normalizer.device == device
    if device.type == pretended.NAME:
        assert torch.equal(found.log_normalizer.cpu(), plain.log_normalizer)


@pytest.mark.parametrize("scheme", RESAMPLERS.values(), ids=RESAMPLERS)
def test_resampling(device, scheme):
    log_weight = 3 * torch.randn(2, 5000, generator=stream(0, "weights"), device="cpu")
    log_weight[:, 1000:3000] = -torch.inf
    for one in (log_weight.double(), log_weight[0].double()):
        drawn, plain = (
            scheme(one.to(d), 400, stream(1, "levels", d)) for d in (device, "cpu")
        )
        assert drawn.device == device
        assert not ((drawn >= 1000) & (drawn < 3000)).any()
        if device.type == pretended.NAME:
            assert torch.equal(drawn.cpu(), plain)


def test_cumulative_sums(device):
    """They are those of the CPU but for rounding, never fall, and do not differ."""
    x = torch.rand(100_000, generator=stream(0, "numbers"), device="cpu").double().exp()
    x[20_000:40_000] = 0
    sums = cumulative(x.to(device))
    assert sums.cpu() == pytest.approx(x.cumsum(0), rel=1e-12)
    assert (sums.diff() >= 0).all()
    assert not sums[19_999:40_000].diff().any()
    assert torch.equal(cumulative(x.to(device)), sums)


MODEL = """
import pyro
import pyro.distributions as dist

def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
"""


def test_command_line(device, tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "data.json").write_text('{"y": [0.5, 1.5]}')
    source, data = f"{tmp_path / 'model.py'}:model", tmp_path / "data.json"
    options = ("--out", tmp_path / "out", "--walkers", 32, "--chains", 2)
    answer = call("infer", source, "--data", data, *options, "--device", device)
    assert answer.code == 0, answer.error
    assert torch.get_default_device().type == "cpu"
    drawn = load_file(tmp_path / "out" / "draws.safetensors")["mu"]
    plain = pj.AnnealedSMC(models.of_numbers, **FEW).run(torch.tensor([0.5, 1.5]))
    if device.type == pretended.NAME:
        assert torch.equal(drawn, plain.get_samples(group_by_chain=True)["mu"])
