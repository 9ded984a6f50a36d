"""When one rank fails, all leave and raise the same error."""

import pytest
import torch
from torch import distributed

import pyro_jarzynski as pj
from pyro_jarzynski.core.failures import Watch
from tests.distributed.failing import DISAGREEMENTS
from tests.distributed.launch import finish, start, torchrun

MODULE = "tests.distributed.failing"
SILENT = "Rank 1 does not answer: the process was killed, or is slower than the timeout"


def ends(num, *arguments):
    return finish(start(num, MODULE, *arguments))


def test_rank_that_raises_is_named_by_all():
    own = "ZeroDivisionError: the energy of rank 1"
    told = [text.strip() for _, text in ends(3, "raises")]
    assert told == [
        f"RankError: Rank 1 failed: {own}",
        own,
        f"RankError: Rank 1 failed: {own}",
    ]


def test_rank_that_raises_while_torch_gathers_a_network_is_named():
    own = "ZeroDivisionError: the energy of rank 1"
    (_, first), (_, second) = ends(2, "slices")
    assert first.strip() == f"RankError: Rank 1 failed: {own}"
    assert second.strip() == own


@pytest.mark.parametrize(("kind", "num"), [("killed", 3), ("slow", 2)])
def test_rank_that_does_not_answer_is_named_by_all_others(kind, num):
    ranks = start(num, MODULE, kind)
    bad = ranks.pop(1)
    try:
        told = {text for _, text in finish(ranks)}
    finally:
        bad.kill()
        bad.communicate()
    assert len(told) == 1
    assert f"RankError: {SILENT}" in told.pop()


def test_ranks_that_disagree_are_told_so():
    (_, first), (_, second) = ends(2, "disagreements")
    assert first == second
    expected = {
        "settings": "RankError: `seed` is 2 on rank 1 and 1 on rank 0: start all ranks",
        "data": "RankError: `data` is 'a torch.float64 tensor (100, 3) (",
        "versions": "RankError: `torch` is '1.0' on rank 1 and '",
        "few walkers": "ArgumentError: `num_shards` is 8: it must be a multiple of the",
        "few shards": "ArgumentError: `num_shards` must be at least 2, one for each rank",
    }
    for kind, line in zip(DISAGREEMENTS, first.splitlines(), strict=True):
        assert expected[kind] in line


def test_only_what_torch_raises_within_a_collective_is_blamed_on_a_rank():
    distributed.init_process_group(
        "gloo", store=distributed.HashStore(), rank=0, world_size=1
    )
    try:
        watch, x = Watch(0, 2), torch.zeros(2)
        with pytest.raises(RuntimeError, match=r"^of the user's own$"), watch:
            raise RuntimeError("of the user's own")
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), watch:
            x[None] @ torch.zeros(3, 3)
        with pytest.raises(pj.RankError, match="Rank 1 does not answer"), watch:
            distributed.all_to_all_single(torch.zeros(3), x, [3], [2])
    finally:
        distributed.destroy_process_group()


def test_ranks_whose_parameters_drift_apart_are_told_so():
    (_, first), (_, second) = ends(2, "drifts")
    assert first == second
    assert "RankError: `parameters after update 4` is '" in first


@pytest.mark.parametrize(("kind", "code"), [("interrupted", -2), ("told to end", 143)])
def test_signal_to_one_rank_ends_all_after_a_checkpoint(tmp_path, kind, code):
    ended = ends(2, kind, str(tmp_path))
    assert [c for c, _ in ended] == [code] * 2, ended
    assert pj.Checkpoints(tmp_path).steps[0] == 3
    ((status, text),) = ends(1, "none", str(tmp_path))
    assert status == 0
    assert text.startswith("updates 6"), text


def test_torchrun_starts_a_killed_rank_again_and_the_run_goes_on(tmp_path):
    again = torchrun(2, MODULE, "killed once", str(tmp_path / "killed"), restarts=1)
    whole = ends(1, "none", str(tmp_path / "whole"))[0][1]
    assert pj.Checkpoints(tmp_path / "killed").steps[0] == 6, again
    # To the last digit.
    assert whole.splitlines()[1] in again


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("disk", "No space left on device"),
        ("memory", "MemoryError()"),
        ("memory for the state", "MemoryError()"),
    ],
)
def test_what_is_full_on_one_rank_is_told_by_all_and_the_run_goes_on(
    tmp_path, kind, reason
):
    for code, text in ends(2, kind, str(tmp_path)):
        assert code == 0, text
        assert text.startswith("updates 6"), text
        assert "step 6 in " in text, text
        assert f"rank 1: {reason}" in text, text
    assert pj.Checkpoints(tmp_path).steps == []


def test_one_rank_may_ask_for_the_likelihood_of_the_best():
    for code, text in ends(2, "blocks"):
        assert code == 0, text
        assert text.startswith("updates 6"), text
        assert "Error" not in text, text


def test_a_collective_on_one_rank_alone_is_refused_on_all():
    """It would wait for ever for the other rank."""
    ended = ends(2, "draws alone")
    for _, text in ended:
        assert "RankError: Rank 1 failed: " in text
        assert (
            "in the callbacks of update 3, rank 1 called something that needs all " in text
        )
        assert "rank 0 did not. Call it on all, and" in text


@pytest.mark.parametrize("kind", ["draws together", "counts alone"])
def test_what_all_ranks_ask_for_or_none_needs_is_allowed(kind):
    for _, text in ends(2, kind):
        assert "updates 6" in text


def test_batches_of_several_sizes_are_an_error():
    for _, text in ends(2, "other batches"):
        assert "RankError: `batch_size` is 30 on one rank and 40 on another" in text
