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
from pyro_jarzynski.core.memory import chunk_size_for
from pyro_jarzynski.core.recording import Record, UnrecordableError
from pyro_jarzynski.core.trees import map_tree
from pyro_jarzynski.core.watching import look
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


def block_size(num_walkers: int, num_islands: int, most: int = MAX_BLOCK) -> int:
    """Return a number of walkers in which a cloud, and a set of clouds, can be divided."""
    if num_walkers < most:
        return num_walkers * min(num_islands, most // num_walkers)
    return -(-num_walkers // -(-num_walkers // most))


class CompiledTerms:
    """Terms that are compiled where they are first evaluated with gradients.

    Walkers at which the code fails, and all walkers where there is no code, are evaluated
    by autograd.

    Args:
        terms: Function from walkers `(n, D)` to their energies, each `(n,)`, in which
            no walker depends on another.
        block: Walkers per call of the code.
        whole: Walkers that are one call on a GPU, as far as its memory allows; `None` is
            a block there as well.

    Warns:
        CompilationWarning: The terms cannot be compiled, or their code is not exact.
    """

    def __init__(self, terms: TermsFn, block: int, whole: int | None = None) -> None:
        """Compile nothing yet."""
        self.terms, self.block, self.whole = terms, block, whole
        self.program: Program | None = None
        self.refused = False

    def __call__(self, position: Tensor) -> tuple[Tensor, ...]:
        """Return the energies, with their graph."""
        return self.terms(position)

    def graded(self, position: Tensor) -> tuple[Term, ...]:
        """Return the energies and their gradients."""
        if self.program is None and not self.refused:
            self._compile(position.detach())
        blocks = [self._block(self.program, rows) for rows in position.split(self.block)]
        return blocks[0] if len(blocks) == 1 else map_tree(_joined, *blocks)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the code, which cannot be pickled."""
        return {**self.__dict__, "program": None}

    def _block(self, program: "Program | None", rows: Tensor) -> tuple[Term, ...]:
        look()
        if program is None:
            return differentiate(self.terms, rows)
        num = len(rows)
        if num < self.block:
            rows = torch.cat([rows, rows[-1:].expand(self.block - num, -1)])
        try:
            found = _terms_of(program(rows.contiguous()))
        except (torch.linalg.LinAlgError, UnrecordableError):
            # The terms themselves know how to go on.
            return differentiate(self.terms, rows[:num])
        return found if num == self.block else map_tree(lambda x: x[:num], found)

    def _compile(self, position: Tensor) -> None:
        """Compile, and compare to what the model itself gave for the same walkers."""
        if follows_memory(position.device) and self.whole is not None:
            self.block = block_in_memory(self.terms, self.whole, position)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Recorded with the walkers in other places: what came of them in a way
                # that torch does not see is a constant there, and shows in the comparison.
                walkers = _repeated(position, self.block)
                record = record_of(self.terms, walkers.flip(0))
                alive = _sound(_terms_of(record.results)).flip(0)
                if not alive.any():
                    return
                if not alive.all():
                    # The terms may have taken another way where they are not finite.
                    walkers = _repeated(walkers[alive], self.block)
                    record = record_of(self.terms, walkers.flip(0))
                program = Program.of(record)
                found = _terms_of(program(walkers))
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            self._refuse(f"{type(error).__name__}: {first}")
            return
        expected = map_tree(lambda x: x.flip(0), _terms_of(record.results))
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
    """Compiled code, with the tensors that what was recorded closes over.

    Attributes:
        code: The code.
        constants: Its inputs beside those that vary, as they are now.
    """

    code: Code
    constants: tuple[Tensor, ...]

    @classmethod
    def of(cls, record: Record) -> "Program":
        """Return the program of a record."""
        return cls(compile_once(record), record.constants)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Return what the recorded function returns for inputs.

        Raises:
            LinAlgError: A matrix has no factor.
        """
        with torch.no_grad():
            return list(self.code(*inputs, *self.constants))


def record_of(terms: TermsFn, walkers: Tensor) -> Record:
    """Record the energies, then the gradients of terms at so many walkers, `(n, D)`."""

    def energies_and_grads(position: Tensor) -> list[Tensor]:
        graded = differentiate(terms, position)
        return [t.energy for t in graded] + [_tensor(t.grad) for t in graded]

    return Record(energies_and_grads, walkers)


def follows_memory(device: torch.device) -> bool:
    """Tell whether blocks on a device are bounded by memory, and not by caches."""
    return device.type == "cuda"


def block_in_memory(terms: TermsFn, whole: int, walkers: Tensor) -> int:
    """Return a number of walkers that divides a whole cloud evenly and fits into memory.

    Args:
        terms: The terms.
        whole: Walkers of the cloud.
        walkers: Some of them, `(n, D)`.
    """
    fitting = chunk_size_for("auto", lambda x: torch.stack(terms(x)).sum(0), walkers)
    assert fitting is not None
    return block_size(whole, 1, fitting)


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


def _terms_of(found: Sequence[Tensor]) -> tuple[Term, ...]:
    """Return terms from their energies, gradients, and whether the record holds for them.

    Raises:
        UnrecordableError: The walkers take another way than those of the record.
    """
    num = len(found) // 2
    if len(found) > 2 * num and not found[-1]:
        raise UnrecordableError("it branches on values that vary")
    return tuple(map(Term, found[:num], found[num : 2 * num]))


def _sound(terms: tuple[Term, ...]) -> Tensor:
    """Return at which walkers all energies and gradients are finite, `(n,)`."""
    sums = [t.energy + _tensor(t.grad).sum(1) for t in terms]
    return torch.stack([torch.isfinite(x) for x in sums]).all(0)


def _repeated(walkers: Tensor, num: int) -> Tensor:
    """Return so many walkers, the same again and again if there are fewer."""
    return walkers[torch.arange(num, device=walkers.device) % len(walkers)]


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _tensor(grad: Any) -> Tensor:
    assert isinstance(grad, Tensor)
    return grad
