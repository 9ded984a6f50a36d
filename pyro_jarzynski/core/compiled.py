"""Terms whose energies and gradients come from compiled code.

The operations of one evaluation with gradients are recorded, and compiled by TorchInductor,
which fuses them into a few loops. Tensors that the terms close over, data and parameters
say, are inputs of the code, so that one code serves all data of the same shapes: in this
process, and by TorchInductor's cache on disk in later ones.

The code has a fixed number of rows, a block. Any number of walkers is evaluated block by
block, the last one filled up, so that one compilation serves a whole run; and a block fits
into a cache of the processor where a whole cloud does not.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_jarzynski.core.gradients import Term, TermsFn, differentiate
from pyro_jarzynski.core.recording import Record, UnrecordableError
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.errors import CompilationWarning

# Walkers of which the temporaries of a model fit into a cache of a core.
MAX_BLOCK = 1024
# Largest difference of compiled from eager numbers of a walker, as a share of their size:
# sums in another order, times the condition number of a covariance.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}
# Share of walkers that may differ by more: far out, a sum is all rounding.
MAX_DIFFERING = 0.05
# Codes that are kept in this process.
MAX_KEPT = 64

# From a block of walkers and the constants of the terms to a list of tensors.
Code: TypeAlias = Callable[..., Sequence[Tensor]]

# Codes of this process, by the text of what they do.
_kept: dict[str, Code] = {}


def block_size(num_walkers: int, num_islands: int) -> int:
    """Return a number of walkers in which a cloud, and a set of clouds, can be divided."""
    if num_walkers < MAX_BLOCK:
        return num_walkers * min(num_islands, MAX_BLOCK // num_walkers)
    return -(-num_walkers // -(-num_walkers // MAX_BLOCK))


class CompiledTerms:
    """Terms that are compiled where they are first evaluated with gradients.

    Walkers at which the code fails, and all walkers where there is no code, are evaluated
    by autograd.

    Args:
        terms: Function from walkers `(n, D)` to their energies, each `(n,)`, in which
            no walker depends on another.
        block: Walkers per call of the code.

    Warns:
        CompilationWarning: The terms cannot be compiled, or their code is not exact.
    """

    def __init__(self, terms: TermsFn, block: int) -> None:
        """Compile nothing yet."""
        self.terms, self.block = terms, block
        self.program: Program | None = None
        self.refused = False

    def __call__(self, position: Tensor) -> tuple[Tensor, ...]:
        """Return the energies, with their graph."""
        return self.terms(position)

    def graded(self, position: Tensor) -> tuple[Term, ...]:
        """Return the energies and their gradients."""
        if self.program is None:
            known = differentiate(self.terms, position)
            if not self.refused:
                self._compile(position, known)
            return known
        blocks = [self._block(self.program, rows) for rows in position.split(self.block)]
        return blocks[0] if len(blocks) == 1 else map_tree(_joined, *blocks)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the code, which cannot be pickled."""
        return {**self.__dict__, "program": None}

    def _block(self, program: "Program", rows: Tensor) -> tuple[Term, ...]:
        num = len(rows)
        if num < self.block:
            rows = torch.cat([rows, rows[-1:].expand(self.block - num, -1)])
        try:
            found = program(rows.contiguous())
        except (torch.linalg.LinAlgError, UnrecordableError):
            # The terms themselves know how to go on.
            return differentiate(self.terms, rows[:num])
        return found if num == self.block else map_tree(lambda x: x[:num], found)

    def _compile(self, position: Tensor, known: tuple[Term, ...]) -> None:
        """Compile, and compare to what is known of the same walkers."""
        # Where an energy is not finite, a run of the terms may have taken another way.
        sound = torch.stack(
            [torch.isfinite(t.energy + _tensor(t.grad).sum(1)) for t in known]
        )
        (alive,) = sound.all(0).nonzero(as_tuple=True)
        if not len(alive):
            return
        chosen = alive.repeat(-(-self.block // len(alive)))[: self.block]
        walkers = position.detach()[chosen].contiguous()
        expected = map_tree(lambda x: x[chosen], known)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Recorded with the walkers in other places: what came of them in a way
                # that torch does not see is a constant there, and shows in the comparison.
                program = compiled(self.terms, walkers.flip(0), len(known))
                found = program(walkers)
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            self._refuse(f"{type(error).__name__}: {first}")
            return
        if not agree(found, expected):
            self._refuse("its numbers differ from those of the model as it is")
            return
        self.program = program

    def _refuse(self, reason: str) -> None:
        self.refused = True
        warn_not_compiled("model", reason)


def warn_not_compiled(what: str, reason: str) -> None:
    """Tell why a model or an energy is evaluated as it is."""
    warnings.warn(
        f"The {what} is not compiled, which is slower ({reason}). The result is as "
        "valid. Write it in operations of torch alone, without Python numbers of its "
        "tensors; see that there is a C++ compiler; or leave `jit_compile` out.",
        CompilationWarning,
        stacklevel=3,
    )


class Program(NamedTuple):
    """Compiled code of some terms, with the tensors that they close over.

    Attributes:
        code: The code.
        constants: Its inputs beside the walkers, as they are now.
        num_terms: Number of the terms.
    """

    code: Code
    constants: tuple[Tensor, ...]
    num_terms: int

    def __call__(self, walkers: Tensor) -> tuple[Term, ...]:
        """Return energies and gradients of a block of walkers.

        Raises:
            LinAlgError: A matrix has no factor.
            UnrecordableError: The walkers take another way than those of the record.
        """
        with torch.no_grad():
            found = list(self.code(walkers, *self.constants))
        if len(found) > 2 * self.num_terms and not found.pop():
            raise UnrecordableError("it branches on values that vary")
        return tuple(map(Term, found[: self.num_terms], found[self.num_terms :]))


def compiled(terms: TermsFn, walkers: Tensor, num_terms: int) -> Program:
    """Record what terms do to walkers, and compile it.

    Args:
        terms: The terms.
        walkers: As many walkers as the code is to have, `(n, D)`.
        num_terms: Number of the terms.
    """

    def energies_and_grads(position: Tensor) -> list[Tensor]:
        graded = differentiate(terms, position)
        return [t.energy for t in graded] + [_tensor(t.grad) for t in graded]

    record = Record(energies_and_grads, walkers)
    return Program(compile_once(record), record.constants, num_terms)


def compile_once(record: Record) -> Code:
    """Return the code of a record, compiled only if none before was the same."""
    # TorchInductor divides loops by the number of threads.
    key = f"{torch.get_num_threads()} {record.text}"
    if key not in _kept:
        _kept[key] = compile_graph(record.graph())
        for oldest in list(_kept)[:-MAX_KEPT]:
            del _kept[oldest]
    return _kept[key]


def agree(found: tuple[Term, ...], expected: tuple[Term, ...]) -> bool:
    """Tell whether terms are equal up to rounding at nearly all walkers."""
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            known = _tensor(b).reshape(len(b), -1)
            gap = (_tensor(a).reshape(len(a), -1) - known).abs().amax(1)
            limit = TOLERANCE.get(known.dtype, 1e-2) * (1 + known.abs().amax(1))
            if float((~(gap <= limit)).double().mean()) > MAX_DIFFERING:
                return False
    return True


def compile_graph(graph: GraphModule) -> Code:
    """Compile a graph; that happens where it is first called."""
    return torch.compile(graph, dynamic=False)


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _tensor(grad: Any) -> Tensor:
    assert isinstance(grad, Tensor)
    return grad
