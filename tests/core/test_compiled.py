"""Compiled terms: the same numbers as autograd, for any number of walkers, or a warning.

Most tests put the recorded graph as it is in the place of its code, which takes no time.
"""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from pyro_jarzynski.core import compiled
from pyro_jarzynski.core.compiled import CompiledTerms, block_size
from pyro_jarzynski.core.evaluation import CombinedEnergy, evaluate
from pyro_jarzynski.core.gradients import differentiate
from pyro_jarzynski.core.recording import Record, UnrecordableError
from pyro_jarzynski.errors import CompilationWarning
from tests.scenarios import FLOAT

BLOCK = 8


def walkers(num=20, size=3, seed=0, dtype=FLOAT):
    return torch.randn(
        num, size, dtype=dtype, generator=torch.Generator().manual_seed(seed)
    )


def terms_of(data):
    """Terms that close over data, and over numbers that are computed from them."""

    def terms(x):
        centre = data.mean()
        return x.square().sum(1) / 2, ((x - data).cosh() * centre).sum(1) + x.exp().sum(1)

    return terms


DATA = torch.tensor([0.5, -1.0, 2.0], dtype=FLOAT)


def assert_equal(found, expected, tolerance=1e-12):
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def ready(terms, block=BLOCK, at=None):
    """Return terms that have been compiled."""
    made = CompiledTerms(terms, block)
    made.graded(walkers() if at is None else at)
    return made


@pytest.mark.parametrize("num", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 21])
def test_any_number_of_walkers(num, compilations):
    terms = terms_of(DATA)
    made = ready(terms)
    assert made.program is not None
    point = walkers(num, seed=1)
    assert_equal(made.graded(point), differentiate(terms, point))
    assert len(compilations) == 1


def test_real_code_and_double_precision():
    terms = terms_of(DATA)
    made, point = ready(terms), walkers(21, seed=1)
    assert made.program is not None
    found = made.graded(point)
    assert_equal(found, differentiate(terms, point))
    assert found[1].grad.dtype == FLOAT
    assert not found[1].energy.requires_grad


def test_evaluation_takes_the_code(compilations):
    terms = terms_of(DATA)
    made, point = ready(terms), walkers(seed=2)
    made.terms = None
    for chunk_size in (None, 3):
        energy = CombinedEnergy(made, (0.3, 0.7))
        found = evaluate(energy, point, chunk_size=chunk_size)
        expected = evaluate(CombinedEnergy(terms, (0.3, 0.7)), point)
        torch.testing.assert_close(found.grad, expected.grad)
        torch.testing.assert_close(found.energy, expected.energy)


def test_other_data_of_the_same_shape_give_their_own_numbers(compilations):
    """The mean of the data is a number of theirs, too."""
    point = walkers(seed=2)
    for data in (DATA, DATA + 1e-6, -3 * DATA):
        assert_equal(
            ready(terms_of(data)).graded(point), differentiate(terms_of(data), point)
        )
    assert len(compilations) == 1


def test_a_python_number_of_the_data_is_part_of_the_code(compilations):
    def with_scale(data):
        return lambda x: (x.square().sum(1) * float(data.max()), x.sum(1))

    point = walkers(seed=2)
    for data in (DATA, 2 * DATA, DATA):
        terms = with_scale(data)
        assert_equal(ready(terms).graded(point), differentiate(terms, point))
    assert len(compilations) == 2


def test_stale_constants_would_show(compilations, monkeypatch):
    """A mutant of the first data's constants fails the comparison with the walkers."""
    made = ready(terms_of(DATA))
    stale = made.program
    monkeypatch.setattr(compiled.Program, "of", lambda _: stale)
    with pytest.warns(CompilationWarning, match="its numbers differ"):
        other = ready(terms_of(-3 * DATA))
    assert other.program is None


def by_item(x):
    return x.square().sum(1), x.square().sum(1) * (2.0 if x[0, 0].item() > 9 else 1.0)


def by_numpy(x):
    """A factor of each walker in a way that torch does not see."""
    factor = torch.from_numpy(np.sin(x.detach().numpy()))
    return x.square().sum(1), (x * factor).sum(1)


def in_place(x):
    state = torch.zeros(len(x), dtype=x.dtype)
    state += x.sum(1)
    return x.square().sum(1), state.square()


OUT_OF_REACH = {
    "Python numbers of tensors that vary": by_item,
    "its numbers differ from those of the model": by_numpy,
    "writes into a tensor in place": in_place,
}


@pytest.mark.parametrize(("reason", "terms"), OUT_OF_REACH.items(), ids=list(OUT_OF_REACH))
def test_what_cannot_be_recorded_is_told_once_and_evaluated_as_it_is(
    reason, terms, compilations
):
    made, point = CompiledTerms(terms, BLOCK), walkers()
    with pytest.warns(CompilationWarning, match=f"not compiled.*{reason}") as told:
        evaluations = [made.graded(point) for _ in range(2)]
    assert len(told) == 1
    for found in evaluations:
        assert_equal(found, differentiate(terms, point))


def test_a_compiler_that_fails_is_told(monkeypatch):
    def without(graph):
        raise OSError("no C++ compiler")

    monkeypatch.setattr(compiled, "_kept", {})
    monkeypatch.setattr(compiled, "compile_graph", without)
    with pytest.warns(CompilationWarning, match="OSError: no C"):
        made = ready(terms_of(DATA))
    assert_equal(made.graded(walkers()), differentiate(terms_of(DATA), walkers()))


def branching(x):
    """Twice as high, unless the first of these walkers is to the right of zero."""
    energy = x.square().sum(1)
    return energy, energy if x[0, 0] > 0 and not (x[0, 1] > 99) else 2 * energy


def test_walkers_that_take_another_branch_go_to_autograd(compilations):
    good = walkers(3 * BLOCK).abs()
    made = ready(branching, at=good)
    assert made.program is not None
    for column, value in ((0, -1.0), (1, 100.0)):
        bad = good.clone()
        bad[BLOCK, column] = value
        found = made.graded(bad)
        parts = [differentiate(branching, block) for block in bad.split(BLOCK)]
        for term, one in zip(found, zip(*parts, strict=True), strict=True):
            torch.testing.assert_close(term.energy, torch.cat([p.energy for p in one]))
            torch.testing.assert_close(term.grad, torch.cat([p.grad for p in one]))


def root_terms(x):
    """A matrix that has no factor where the first coordinate is below -1."""
    matrix = torch.diag_embed(x + 1)
    lower = torch.linalg.cholesky(matrix)
    return x.square().sum(1), lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def test_a_matrix_without_factor_goes_to_autograd():
    """As real code: compilers drop what has no result, such as a check."""

    def guarded(x):
        try:
            return root_terms(x)
        except torch.linalg.LinAlgError:
            nothing = x.sum(1) * math.nan
            return nothing, nothing

    good = walkers().abs()
    made = ready(guarded, at=good)
    assert made.program is not None
    bad = good.clone()
    bad[10, 0] = -2.0
    found = made.graded(bad)
    assert found[1].energy[8:16].isnan().all()
    known = differentiate(guarded, torch.cat([good[:8], good[16:]]))
    for a, b in zip(found, known, strict=True):
        torch.testing.assert_close(torch.cat([a.grad[:8], a.grad[16:]]), b.grad)


def test_walkers_that_are_not_finite_do_not_lead_the_record(compilations):
    def walled(x):
        wall = torch.where(x[:, 0] > 0, 0.0, math.inf).to(x.dtype)
        return x.square().sum(1), x.exp().sum(1) + wall

    point = walkers()
    made = ready(walled)
    assert made.program is not None
    assert_equal(made.graded(point), differentiate(walled, point))
    nowhere = CompiledTerms(walled, BLOCK)
    nowhere.graded(-point.abs())
    assert nowhere.program is None
    nowhere.graded(point)
    assert nowhere.program is not None


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_leave_the_code_behind(again, compilations):
    made = ready(root_terms, at=walkers().abs())
    other = again(made)
    assert made.program is not None
    assert other.program is None
    assert_equal(other.graded(walkers().abs()), made.graded(walkers().abs()))


def test_state_of_torch_is_left(compilations):
    threads = torch.get_num_threads()
    with torch.inference_mode():
        ready(terms_of(DATA), at=walkers())
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        ready(terms_of(DATA))
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert torch.get_num_threads() == threads


def test_a_constant_that_is_used_and_then_written_is_refused():
    def terms(x):
        scale = torch.ones(3, dtype=x.dtype)
        first = (x * scale).sum(1)
        scale += 1
        return [first, (x * scale).sum(1)]

    with pytest.raises(UnrecordableError, match="in place"):
        Record(terms, walkers())


@pytest.mark.parametrize(
    ("num_walkers", "num_islands", "block"),
    [(1024, 4, 1024), (1025, 4, 513), (4096, 1, 1024), (64, 4, 256), (16, 4000, 1024)],
)
def test_blocks_divide_a_cloud_and_its_islands(num_walkers, num_islands, block):
    assert block_size(num_walkers, num_islands) == block
