"""Every energy, base and network: saved, loaded in another process, trained on there."""

import inspect
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributions import Distribution

import pyro_jarzynski as pj
from pyro_jarzynski.errors import ArgumentError
from tests.runtime.model_matrix import MODELS, PACKAGE, learner_of, normal


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def densities(folder):
    """Train all models a little, save them, and load them in one other process."""
    expected = {}
    for name, build in MODELS.items():
        model = build()
        learner = learner_of(model)
        x = model.draw(12, torch.Generator().manual_seed(1))
        learner.fit(x, 2)
        expected[name] = learner.audit.log_prob(x).detach()
        walkers = learner.audit.cloud.walkers
        pj.save_model(folder / name, model, walkers, extras={"x": x})
    program = [sys.executable, "-m", "tests.runtime.model_matrix", str(folder)]
    answer = subprocess.run(program, capture_output=True, text=True, timeout=500)
    assert answer.returncode == 0, answer.stderr
    return expected


@pytest.mark.parametrize("name", MODELS)
def test_in_another_process(folder, densities, name):
    found = load_file(folder / name / "found")
    assert torch.equal(found.pop("log_prob"), densities[name].cpu())
    assert torch.isfinite(found.pop("nll"))
    kept = load_file(folder / name / "model.safetensors")
    # The gradient by the last bias is zero, since a constant is no density.
    before = {key: kept[key.replace("trained", "model", 1)] for key in found}
    assert any(not torch.equal(found[key], before[key]) for key in found)


def test_of_the_package_no_class_is_missing():
    public = {name: getattr(pj, name) for name in vars(pj) if not name.startswith("_")}
    classes = {
        each
        for each in public.values()
        if inspect.isclass(each)
        and issubclass(each, nn.Module | Distribution)
        and not inspect.isabstract(each)
    }
    makers = {
        name
        for name, each in public.items()
        if inspect.isfunction(each)
        and inspect.isclass(made := inspect.signature(each).return_annotation)
        and issubclass(made, nn.Module)
    }
    models = [build() for build in PACKAGE.values()]
    tried = {type(module) for model in models for module in model.modules()}
    tried |= {type(getattr(model, "base", None)) for model in models}
    assert classes - tried == {pj.EnergyDistribution}
    assert makers - PACKAGE.keys() == {"train_classifier"}


def test_the_law_of_an_energy_is_no_base():
    energy = pj.QuadraticEnergy(torch.zeros(3))
    pj.Followers(energy, num_walkers=8, audit_walkers=8)
    with pytest.raises(ArgumentError):
        pj.EnergyModel(pj.MLP([3, 8]), energy.distribution())


def test_a_trained_model_needs_walkers_that_are_annealed():
    """Its log Z is known: the network is constant."""
    model = pj.EnergyModel(pj.MLP([3, 8]), normal(3))
    with torch.no_grad():
        model.net.layers[-1].bias += 0.5
    with pytest.raises(ArgumentError, match="`start_temperatures=100`"):
        pj.LikelihoodTracker(model)
    tracker = pj.LikelihoodTracker(model, num_walkers=20, start_temperatures=4)
    assert tracker.log_normalizer == pytest.approx(-0.5, abs=1e-5)
    followers = pj.Followers(
        model, num_walkers=20, walker_batch_size=8, audit_walkers=8, start_temperatures=4
    )
    walkers = followers.cloud.walkers
    assert len(walkers.position) == 20
    assert float(walkers.log_normalizer) == pytest.approx(-0.5, abs=1e-5)
    assert int(walkers.ancestor.max()) >= 16
    assert followers.are_current()
