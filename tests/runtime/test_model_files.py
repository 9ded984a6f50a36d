"""Models on disk come back bit by bit, and nothing else is ever read from them."""

import errno
import hashlib
import json
import os
import pickle

import pyro
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributions import Independent, Normal

from pyro_jarzynski import (
    MLP,
    EnergyModel,
    GaussianMixtureEnergy,
    JarzynskiLearner,
    load_model,
    save_model,
)
from pyro_jarzynski.errors import ModelFileError
from pyro_jarzynski.runtime import disk
from tests.ebm.models import Bowl, Shifted, network_model, standard_normal, start_mixture


def bowl_model():
    return EnergyModel(Bowl(), standard_normal(), zero_last_layer=False)


def narrow_mixture():
    start = start_mixture()
    return GaussianMixtureEnergy(start.means.detach().float(), start.z.detach().float())


def wide_network():
    zero = torch.zeros(3, dtype=torch.float64)
    return EnergyModel(MLP([3, 4]).double(), Independent(Normal(zero, zero + 1), 1))


def pyro_model():
    base = pyro.distributions.Normal(0.5, 1.5).expand([3]).to_event(1)
    return EnergyModel(MLP([3, 4]), base)


MODELS = {
    "network": network_model,
    "float64 network": wide_network,
    "tanh": lambda: EnergyModel(MLP([3, 4, 5], "tanh", seed=2), standard_normal()),
    "Pyro's base": pyro_model,
    "mixture": start_mixture,
    "float32 mixture": narrow_mixture,
    "user's class": Shifted,
    "user's network": bowl_model,
}
STRANGERS = {"user's class": Shifted, "user's network": bowl_model}


def saved(folder, model, **contents):
    """Train a model a little, save it, and return its walkers."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    learner = JarzynskiLearner(model, optimizer, num_walkers=30, audit_walkers=20)
    data = torch.ones((5, 3), dtype=learner.cloud.position.dtype)
    learner.fit(data, 3)
    walkers = learner.audit.cloud.walkers
    save_model(folder, model, walkers, **contents)
    return walkers


@pytest.mark.parametrize("name", MODELS)
def test_everything_comes_back_bit_by_bit(tmp_path, name):
    model = MODELS[name]()
    extras = {"mean": torch.arange(3.0).expand(2, 3), "count": torch.tensor(7)}
    notes = {"settings": {"steps": 3}, "words": "whitening é", "rows": [1, 2.5, None]}
    walkers = saved(tmp_path / "a" / "b", model, extras=extras, notes=notes)
    shell = STRANGERS[name]() if name in STRANGERS else None
    found = load_model(tmp_path / "a" / "b", shell)
    state, expected = found.model.state_dict(), model.state_dict()
    assert list(state) == list(expected)
    assert all(same(state[key], expected[key]) for key in expected)
    assert same(found.position, walkers.position)
    assert same(found.log_weight, walkers.log_weight)
    assert same(found.model(found.position), model(walkers.position))
    assert found.log_normalizer == float(walkers.log_normalizer)
    assert found.log_normalizer_error == float(walkers.log_normalizer_error)
    assert found.extras.keys() == extras.keys()
    assert all(same(found.extras[key], extras[key]) for key in extras)
    assert found.notes == notes
    assert {p.name for p in (tmp_path / "a" / "b").iterdir()} == {
        "model.json",
        "model.safetensors",
    }


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a, b)


def test_saving_again_replaces(tmp_path):
    saved(tmp_path, start_mixture(), notes={"run": 1})
    saved(tmp_path, network_model(), notes={"run": 2})
    found = load_model(tmp_path)
    assert found.notes == {"run": 2}
    assert isinstance(found.model, EnergyModel)


def test_tensors_that_share_memory_can_be_saved(tmp_path):
    model = start_mixture()
    saved(tmp_path, model, extras={"means": model.means, "first": model.means[:1]})
    extras = load_model(tmp_path).extras
    assert same(extras["means"], model.means.detach())
    assert same(extras["first"], model.means[:1].detach())


def test_a_class_that_is_not_known_needs_an_instance(tmp_path):
    saved(tmp_path, Shifted())
    with pytest.raises(ModelFileError, match=r"is a Shifted, .*pass an instance"):
        load_model(tmp_path)


def test_an_instance_that_does_not_fit(tmp_path):
    saved(tmp_path, Shifted())
    for other in (start_mixture(), Shifted(dimension=4)):
        with pytest.raises(ModelFileError, match="do not fit the model"):
            load_model(tmp_path, other)


@pytest.fixture
def folder(tmp_path):
    saved(tmp_path, network_model())
    return tmp_path


def test_one_flipped_bit_is_found(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model.safetensors is damaged: its SHA-256"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 10, 200])
def test_truncated_files(folder, name, kept):
    path = folder / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelFileError, match=name):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelFileError, match=f"{name} cannot be read"):
        load_model(folder)


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(ModelFileError, match=r"model.json cannot be read"):
        load_model(tmp_path / "nowhere")


def edit(folder, change):
    path = folder / "model.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def forge(folder, content):
    """Write another tensor file and the hash that belongs to it."""
    (folder / "model.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(folder, lambda record: record.update(sha256=digest))


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_other_versions(folder, version):
    edit(folder, lambda record: record.update(version=version))
    with pytest.raises(ModelFileError, match=r"has version .*; this release reads 1"):
        load_model(folder)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", '{"format": "other"}'])
def test_other_json(folder, text):
    (folder / "model.json").write_text(text)
    with pytest.raises(ModelFileError, match="is not a model of this package"):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "not json", "[" * 100_000, "\x00"])
def test_no_json(folder, text):
    (folder / "model.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"model.json cannot be read"):
        load_model(folder)


def test_json_that_is_no_text(folder):
    (folder / "model.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelFileError, match=r"model.json cannot be read"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "mlp"),
        ("notes", []),
        ("sha256", 5),
        ("sha256", None),
        ("log_normalizer", "0"),
        ("log_normalizer_error", None),
    ],
)
def test_entries_of_another_type(folder, name, value):
    edit(folder, lambda record: record.update({name: value}))
    with pytest.raises(ModelFileError, match=f"has no valid entry '{name}'"):
        load_model(folder)


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"kind": "os.system"},
        {"kind": "mlp"},
        {"kind": "mlp", "sizes": "3", "activation": "silu"},
        {"kind": "mlp", "sizes": ["3", 16], "activation": "silu"},
        {"kind": "mlp", "sizes": [3, -1], "activation": "silu"},
        {"kind": "mlp", "sizes": [], "activation": "silu"},
        {"kind": "mlp", "sizes": [4, 16], "activation": "silu"},
        {"kind": "mlp", "sizes": [3, 16], "activation": "__class__"},
        {"kind": "gaussian mixture", "modes": "2", "dimension": 3},
        {"kind": "gaussian mixture", "modes": -2, "dimension": 3},
        {"kind": "gaussian mixture", "modes": 2, "dimension": 3},
    ],
    ids=str,
)
def test_descriptions_that_make_no_model(folder, model):
    edit(folder, lambda record: record.update(model=model))
    with pytest.raises(ModelFileError):
        load_model(folder)


@pytest.mark.parametrize("left_out", ["walkers.", "base.", "model."])
def test_tensors_left_out(folder, left_out):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if not k.startswith(left_out)}, path)
    forge(folder, path.read_bytes())
    with pytest.raises(ModelFileError):
        load_model(folder)


class Payload:
    """Makes a file if it is ever unpickled."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.mkdir, (str(self.sentinel),)


def test_a_pickle_is_refused_and_never_run(folder, tmp_path):
    sentinel = tmp_path / "ran"
    content = pickle.dumps(Payload(sentinel))
    forge(folder, content)
    with pytest.raises(ModelFileError, match="is not a safetensors file"):
        load_model(folder)
    assert not sentinel.exists()
    # The payload is live: it is the reader that does not run it.
    pickle.loads(content)
    assert sentinel.exists()


def test_a_torch_file_is_refused_and_never_run(folder, tmp_path):
    sentinel = tmp_path / "ran"
    torch.save(Payload(sentinel), tmp_path / "forged")
    forge(folder, (tmp_path / "forged").read_bytes())
    with pytest.raises(ModelFileError, match="is not a safetensors file"):
        load_model(folder)
    assert not sentinel.exists()


def test_several_writers_of_one_file_do_not_meet(tmp_path, monkeypatch):
    """As where all ranks of a run save the model that they have trained."""
    file, write = tmp_path / "model.json", disk.write

    def write_while_another_does(path, content):
        write(path, content)
        if content == b"first":
            disk.replace(file, b"second")

    monkeypatch.setattr(disk, "write", write_while_another_does)
    disk.replace(file, b"first")
    assert file.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_could_not_be_written_leaves_nothing(tmp_path, monkeypatch):
    file, write = tmp_path / "model.json", disk.write
    file.write_bytes(b"known")

    def full(path, content):
        write(path, content[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, "write", full)
    with pytest.raises(OSError, match="No space left"):
        disk.replace(file, b"other")
    assert file.read_bytes() == b"known"
    assert list(tmp_path.iterdir()) == [file]
