"""Annealings have the same bits on any number of ranks, and walkers travel little."""

import warnings

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.annealings import NUM, OTHERS, OUT_OF_BALANCE, RUNS, outcomes
from tests.distributed.launch import run

NAMES = (*RUNS, *OTHERS)
LATER = ("off", "earlier draws", "chunks")
TWO = tuple(name for name in NAMES if name not in LATER)
FOUR = (
    "four islands of two shards",
    "one island of eight shards",
    "data that arrive",
    "travelled",
)


@pytest.fixture(scope="module")
def alone():
    """Return what one process without a process group has, made when it is asked for."""
    known = {}

    def found(names):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in set(names) - known.keys():
                known[name] = outcomes(name)
        torch.set_num_threads(threads)
        return {key: value for name in names for key, value in known[name].items()}

    return found


@pytest.mark.parametrize(
    ("size", "names"),
    [
        (2, TWO),
        (4, FOUR),
        pytest.param(1, NAMES, marks=pytest.mark.slow),
        pytest.param(2, NAMES, marks=pytest.mark.slow),
        pytest.param(3, NAMES, marks=pytest.mark.slow),
        pytest.param(4, NAMES, marks=pytest.mark.slow),
    ],
)
def test_bits_are_those_of_one_process(tmp_path, alone, size, names):
    """All that a result holds, on every rank; and the fewest walkers have travelled."""
    run(size, "tests.distributed.annealings", str(tmp_path / "found"), *names)
    expected = alone(names)
    for rank in range(size):
        found = load_file(f"{tmp_path}/found.{rank}")
        assert found.keys() == expected.keys()
        for share in OUT_OF_BALANCE:
            moved, least = found[f"travelled/{share}"].tolist()
            # The shards of three ranks are no nodes of the tree: there more travel.
            assert least <= moved <= 2 * least if size == 3 else moved == least
            assert size in (1, 3) or least >= share * NUM
        differing = [
            name
            for name, value in expected.items()
            if not name.startswith("travelled") and bits(value) != bits(found[name])
        ]
        assert not differing


def bits(value):
    return value.dtype, value.shape, value.numpy().tobytes()


def test_annealings_are_of_the_kinds_that_they_say(alone):
    """Islands are resampled on the way, and the code that was compiled is not the model."""
    found = alone(TWO)
    stages = {name: found[f"{name}/resampled"][:-1] for name in RUNS if name in TWO}
    resampled = {name for name, flags in stages.items() if flags.any()}
    assert resampled >= {"ULA", "underdamped", "HMC", "data that arrive", "eight schools"}
    assert "local resampling" in resampled
    assert not torch.equal(found["MALA/energy"], found["compiled/energy"])
