"""Models on disk come back bit by bit, and nothing else is ever read from them."""

import errno
import hashlib
import json
import os
import pickle
import shutil
from contextlib import suppress
from typing import ClassVar

import numpy as np
import pyro
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributions import Independent, Normal

from pyro_jarzynski import (
    MLP,
    BinaryRBMEnergy,
    BlockGibbs,
    EnergyModel,
    GaussianMixtureEnergy,
    JarzynskiLearner,
    LikelihoodTracker,
    load_model,
    save_model,
)
from pyro_jarzynski.errors import ArgumentTypeError, ModelFileError
from pyro_jarzynski.runtime import disk
from tests.ebm.models import (
    Bowl,
    Shifted,
    network_model,
    seeded,
    standard_normal,
    start_mixture,
)
from tests.runtime.small_states import Died, FailingDisk, use


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


def saved(folder, model, *, steps=3, **contents):
    """Train a model a little, save it, and return its walkers."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    learner = JarzynskiLearner(model, optimizer, num_walkers=30, audit_walkers=20)
    data = torch.ones((5, 3), dtype=learner.cloud.position.dtype)
    if steps:
        learner.fit(data, steps)
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


@pytest.mark.parametrize("version", [0, 1, "2", None, 2.5])
def test_other_versions(folder, version):
    edit(folder, lambda record: record.update(version=version))
    with pytest.raises(ModelFileError, match=r"has version .*; this release reads 2"):
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


@pytest.mark.parametrize("left_out", ["walkers.", "described.", "model."])
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


class TestAnotherModel:
    """What has other energies than the model that was saved is refused, and named."""

    def refused(self, folder, other, *words):
        before = {name: x.clone() for name, x in other.state_dict().items()}
        with pytest.raises(ModelFileError) as caught:
            load_model(folder, other)
        for word in words:
            assert word in str(caught.value)
        for name, x in other.state_dict().items():
            assert torch.equal(x, before[name])

    @pytest.mark.parametrize("steps", [0, 3])
    @pytest.mark.parametrize(
        ("build", "words"),
        [
            (
                lambda: EnergyModel(MLP([3, 16]), wide_base(9.0)),
                ["`base.base_dist.scale` is [9.0, 9.0, 9.0]", "was [1.0, 1.0, 1.0]"],
            ),
            (
                lambda: EnergyModel(MLP([3, 16], "softplus"), standard_normal()),
                ["`net.activation` is 'softplus', and was 'silu'", "is Softplus, and"],
            ),
            (
                lambda: EnergyModel(Doubled([3, 16]), standard_normal()),
                ["`net` is Doubled, and was MLP"],
            ),
            (
                lambda: network_model().double(),
                ["`net.layers.0.weight` is torch.float64 (16, 3), and was torch.float32"],
            ),
            (lambda: network_model(hidden=8), ["is torch.float32 (8, 3), and was"]),
        ],
        ids=["base", "activation", "subclass", "dtype", "size"],
    )
    def test_of_a_network(self, tmp_path, steps, build, words):
        saved(tmp_path, network_model(), steps=steps)
        self.refused(tmp_path, build(), *words)

    def test_other_offsets_of_a_boltzmann_machine(self, tmp_path):
        model = BinaryRBMEnergy(3, 2, weight_scale=0.5)
        tracker = LikelihoodTracker(model, num_walkers=8, kernel=BlockGibbs())
        save_model(tmp_path, model, tracker.cloud.walkers)
        other = BinaryRBMEnergy(3, 2, centred=False)
        self.refused(tmp_path, other, "`hidden_offset` is 0.0, and was 0.5")

    @pytest.mark.parametrize("persistent", [True, False])
    def test_buffers(self, tmp_path, persistent):
        saved(tmp_path, EnergyModel(Scaled(2.0, persistent), standard_normal()))
        other = EnergyModel(Scaled(3.0, persistent), standard_normal())
        if persistent:
            assert load_model(tmp_path, other).model.net.scale == 2
        else:
            self.refused(tmp_path, other, "`net.scale` is [3.0] of torch.float32, and was")

    def test_a_buffer_that_is_missing(self, tmp_path):
        saved(tmp_path, EnergyModel(Scaled(2.0, persistent=True), standard_normal()))
        other = EnergyModel(Scaled(2.0, persistent=False), standard_normal())
        self.refused(tmp_path, other, "`net.scale` is missing, and was torch.float32 (1,)")

    def test_other_code_of_a_class(self, tmp_path, monkeypatch):
        saved(tmp_path, network_model())
        monkeypatch.setattr(MLP, "forward", lambda net, x: 2 * net.layers(x))
        self.refused(tmp_path, network_model(), "the code of a class differs")
        with pytest.raises(ModelFileError, match="the code of a class differs"):
            load_model(tmp_path)

    def test_a_layer_that_was_exchanged(self, tmp_path):
        model = network_model()
        model.net.layers[1] = nn.Tanh()
        saved(tmp_path, model)
        with pytest.raises(ModelFileError, match=r"`net.layers.1` is SiLU, and was Tanh"):
            load_model(tmp_path)

    def test_counters_do_not_matter(self, tmp_path):
        model = EnergyModel(Doubled([3, 4]), standard_normal())
        saved(tmp_path, model)
        other = EnergyModel(Doubled([3, 4]), standard_normal())
        assert model.net.calls != other.net.calls
        load_model(tmp_path, other)


class Doubled(MLP):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return 2 * super().forward(x)


class Scaled(MLP):
    def __init__(self, scale, persistent):
        super().__init__([3, 4])
        self.register_buffer("scale", torch.tensor([scale]), persistent=persistent)

    def forward(self, x):
        return super().forward(self.scale * x)


def wide_base(scale):
    return Independent(Normal(torch.zeros(3), scale * torch.ones(3)), 1)


class TestModes:
    def test_modules_come_in_the_mode_in_which_they_were_checked(self, tmp_path):
        def build():
            def layers():
                return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))

            return EnergyModel(seeded(layers), standard_normal())

        model = build()
        model.net[1].eval()
        saved(tmp_path, model)
        found = load_model(tmp_path, build()).model
        assert [m.training for m in found.modules()] == [True, True, True, False, True]


WRAPPERS = {
    "plain": lambda net: net,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "DataParallel": nn.DataParallel,
    "twice": lambda net: torch.compile(nn.DataParallel(net), backend="eager"),
}


@pytest.mark.parametrize("first", WRAPPERS)
@pytest.mark.parametrize("second", WRAPPERS)
def test_wrappers_are_left_out(tmp_path, first, second):
    def build(name):
        return EnergyModel(WRAPPERS[name](MLP([3, 4])), standard_normal())

    model = build(first)
    saved(tmp_path, model)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for instance in (None, build(second)):
        assert torch.equal(load_model(tmp_path, instance).model(x), model(x))
    names = load_file(tmp_path / "model.safetensors")
    assert "model.net.layers.0.weight" in names


class TestFailures:
    """Whatever fails, the files are the old ones, or the new ones, whole."""

    NAMES: ClassVar = {"model.json", "model.safetensors"}

    @pytest.fixture
    def walkers(self, folder):
        model = network_model()
        tracker = LikelihoodTracker(model, num_walkers=8)
        return model, tracker.cloud.walkers

    def contents(self, folder):
        return {p.name: p.read_bytes() for p in folder.iterdir()}

    @pytest.mark.parametrize(
        ("contents", "words"),
        [
            ({"notes": {"a": [np.float32(1)]}}, r"notes\['a'\]\[0\] is a float32"),
            ({"notes": {"a": torch.ones(())}}, r"notes\['a'\] is a Tensor"),
            ({"notes": {"a": {1: 2}}}, r"strings for keys.*notes\['a'\] has 1"),
            ({"extras": {"a": np.ones(2)}}, r"got a ndarray as 'a'"),
            ({"extras": {"a": torch.eye(2).to_sparse()}}, r"got a Tensor as 'a'"),
        ],
    )
    def test_what_cannot_be_stored(self, folder, walkers, contents, words):
        before = self.contents(folder)
        with pytest.raises(ArgumentTypeError, match=words):
            save_model(folder, *walkers, **contents)
        assert self.contents(folder) == before
        load_model(folder)

    @pytest.mark.parametrize(
        "how", ["error", "full", "before", "half", "after", "stop before", "stop after"]
    )
    def test_anywhere(self, folder, walkers, monkeypatch, how):
        """At each call that changes the disk: an error, a full disk, a death, a Ctrl-C."""
        old = self.contents(folder)
        fresh = folder / "new"
        with monkeypatch.context() as patch:
            counted = use(patch, FailingDisk(None))
            save_model(fresh, *walkers, notes={"new": True})
        new = self.contents(fresh)
        shutil.rmtree(fresh)
        assert new["model.json"] != old["model.json"]
        outcomes = []
        for at in range(counted.num + 2):
            for name, content in old.items():
                (folder / name).write_bytes(content)
            disk_now = Stopping(at, how) if how.startswith("stop") else FailingDisk(at, how)
            with monkeypatch.context() as patch:
                use(patch, disk_now)
                with suppress(Died, OSError, KeyboardInterrupt):
                    save_model(folder, *walkers, notes={"new": True})
            notes = load_model(folder).notes
            found = self.contents(folder)
            if how not in ("before", "half", "after"):
                pair = {name: found[name] for name in self.NAMES}
                assert pair == (new if notes else old)
            outcomes.append(bool(notes))
            for name in found.keys() - self.NAMES:
                (folder / name).unlink()
        assert outcomes[0] is False
        assert how == "full" or outcomes[-1] is True
        assert sorted(outcomes) == outcomes or how == "error"

    def test_a_first_model_that_cannot_be_written_leaves_nothing(
        self, folder, walkers, monkeypatch
    ):
        other = folder / "other"
        for at in range(9):
            with monkeypatch.context() as patch:
                use(patch, FailingDisk(at))
                with suppress(OSError):
                    save_model(other, *walkers)
            names = {path.name for path in other.iterdir()}
            assert names in (set(), self.NAMES)
            shutil.rmtree(other)


class Stopping(FailingDisk):
    """A Ctrl-C before or after one call; the process goes on to put things right."""

    def _fail(self, name, known, args, settings):
        if self.how == "stop after":
            known(*args, **settings)
        raise KeyboardInterrupt
