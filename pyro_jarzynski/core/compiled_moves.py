"""Langevin moves in compiled code: proposal, energy, gradient and log-ratio in one.

`langevin.trial` is the plain path, of the same formulas. Compiled, the passes over the
walkers are a few loops, and a move costs one call in place of some fifty.
"""

import warnings
from functools import partial
from itertools import chain
from operator import is_

import torch
from torch import Tensor, nn

from pyro_jarzynski.core.compiled import Program, warn_not_compiled
from pyro_jarzynski.core.evaluation import Evaluation, sound
from pyro_jarzynski.core.gradients import differentiate
from pyro_jarzynski.core.langevin import Trial, trial
from pyro_jarzynski.core.recording import Record
from pyro_jarzynski.core.trees import Position, select
from pyro_jarzynski.core.turning import find_turned

# Numbers of walkers for which there is code: those of the blocks of a cloud, of the audit.
MAX_SIZES = 4
# Largest difference of compiled from plain numbers, as a share of the largest number.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


class CompiledEnergy:
    """An energy whose Langevin moves are compiled, for numbers of walkers that recur.

    Args:
        module: Energy of walkers, `(N, *event) -> (N,)`. Its parameters and buffers are
            inputs of the code, so that they may change, or be replaced by others. If a
            module within is replaced, or its mode is another, code is made anew.

    Warns:
        CompilationWarning: It cannot be compiled, or its code is not exact.
    """

    def __init__(self, module: nn.Module) -> None:
        """Compile nothing yet."""
        self.module = module
        self.modules: dict[nn.Module, bool] = {}
        self.inputs: list[Tensor] = []
        self.seen: set[tuple] = set()
        self.codes: dict[tuple, Program] = {}
        self.refused = False

    def __call__(self, position: Tensor) -> Tensor:
        """Return the energies, with their graph."""
        return self.module(position)

    def langevin(
        self,
        position: Position,
        here: Evaluation,
        noise: Position,
        step_size: float,
        *,
        turns: bool = False,
    ) -> Trial | None:
        """Return a move as `langevin.trial` does, or `None` where there is no code."""
        if not isinstance(position, Tensor) or not isinstance(noise, Tensor):
            return None
        grad = here.grad
        assert isinstance(grad, Tensor)
        step = torch.full((), step_size, dtype=torch.float64, device=position.device)
        walkers = (position, grad, here.energy, here.grad_sq, noise, step)
        kind = (position.shape, position.dtype, position.device)
        key = (*kind, torch.get_num_threads(), turns)
        self._look()
        if key not in self.codes and not self._compile(key, here, walkers):
            return None
        return _trial_of(self.codes[key](*walkers, *self._state()), here)

    def in_support(self, position: Tensor) -> Tensor | None:
        """Return a mask of walkers in the support, `(N,)`; `None` if all of space is."""
        known = getattr(self.module, "in_support", None)
        return None if known is None else known(position)

    def __getstate__(self) -> dict:
        """Leave out the code, which cannot be pickled."""
        return {**self.__dict__, "codes": {}, "modules": {}, "inputs": []}

    def _look(self) -> None:
        """Find the parameters and buffers, and forget code that is not of this module."""
        modules, inputs = _contents(self.module)
        # Most often all are the same objects as before, which is seen at once.
        same = len(inputs) == len(self.inputs) and all(map(is_, inputs, self.inputs))
        if modules != self.modules or not (same or _kinds(inputs) == _kinds(self.inputs)):
            self.codes, self.seen = {}, set()
        self.modules, self.inputs = modules, inputs

    def _state(self) -> list[Tensor]:
        return [x.detach() for x in self.inputs]

    def _compile(self, key: tuple, here: Evaluation, walkers: tuple[Tensor, ...]) -> bool:
        """Compile for a number of walkers that is seen for the second time."""
        first, enough = key not in self.seen, len(self.codes) >= MAX_SIZES
        self.seen.add(key)
        if first or enough or self.refused:
            return False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                turns = key[-1]
                move = partial(_move, self.module, turns)
                # Recorded with the walkers in other places: what came of them in a way
                # that torch does not see is a constant there, and shows in the comparison.
                elsewhere = [x.flip(0) if x.ndim else x for x in walkers]
                program = Program.of(Record(move, *elsewhere, *self.inputs))
                found = _trial_of(program(*walkers, *self._state()), here)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            return self._refuse(f"{type(error).__name__}: {lines[0]}")
        position, noise, step = walkers[0], walkers[4], float(walkers[5])
        plain = trial(self.module, position, here, noise.clone(), step, turns=turns)
        if not _agree(found, plain):
            return self._refuse("its numbers differ from those of the energy as it is")
        self.codes[key] = program
        return True

    def _refuse(self, reason: str) -> bool:
        self.refused = True
        warn_not_compiled("energy", reason)
        return False


def _contents(module: nn.Module) -> tuple[dict[nn.Module, bool], list[Tensor]]:
    """Return all modules with their modes, and all parameters and buffers, each once.

    Those of torch walk through the modules twice, and take five times as long.
    """
    modules: dict[nn.Module, bool] = {}
    tensors: dict[int, Tensor] = {}
    waiting: list[nn.Module | None] = [module]
    while waiting:
        found = waiting.pop()
        if found is None or found in modules:
            continue
        modules[found] = found.training
        for x in chain(found._parameters.values(), found._buffers.values()):
            if x is not None:
                tensors[id(x)] = x
        waiting += found._modules.values()
    return modules, list(tensors.values())


def _kinds(tensors: list[Tensor]) -> list[tuple]:
    return [(x.shape, x.dtype, x.device) for x in tensors]


def _trial_of(found: list[Tensor], here: Evaluation) -> Trial:
    """Return the move whose parts the code has given."""
    end, energy, grad, grad_sq, ratio = found
    return Trial(end, Evaluation(energy, grad, grad_sq), ratio, here.grad_sq)


def _move(
    module: nn.Module,
    turns: bool,  # noqa: FBT001
    position: Tensor,
    grad: Tensor,
    energy: Tensor,
    grad_sq: Tensor,
    noise: Tensor,
    step: Tensor,
    *parameters: Tensor,
) -> list[Tensor]:
    """Return end, energy, gradient and its square there, and log-ratio of a move."""
    del parameters  # the module has them
    far = position - step * grad + (2 * step).sqrt() * noise
    turned = find_turned(module, position, far) if turns else None
    end = far if turned is None else select(turned, position, far)
    (there,) = differentiate(lambda x: (module(x),), end)
    assert isinstance(there.grad, Tensor)
    known = sound(there.energy, there.grad, _products(there.grad, there.grad))
    energy_there, grad_there, there_sq = known
    assert isinstance(grad_there, Tensor)
    grad_back = grad_there
    if turned is not None:
        grad_back = select(turned, -grad_there, grad_there)
    slopes = _products(far - position, grad + grad_back).double() / 2
    gain = energy.double() - energy_there.double()
    ratio = gain + slopes + (grad_sq - there_sq).double() * step / 4
    return [end, energy_there, grad_there, there_sq, ratio]


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Return `Σ a·b` of each walker, as one loop with what is around it."""
    return (a * b).reshape(len(a), -1).sum(1)


def _agree(found: Trial, expected: Trial) -> bool:
    """Tell whether two moves are equal up to rounding."""
    tolerance = TOLERANCE.get(expected.there.energy.dtype, 1e-2)
    for a, b in zip(_parts(found), _parts(expected), strict=True):
        gap = (a - b).abs().nan_to_num(0.0)
        limit = tolerance * (1 + b.abs().nan_to_num(0, 0, 0).max())
        if a.isnan().ne(b.isnan()).any() or bool((gap > limit).any()):
            return False
    return True


def _parts(found: Trial) -> list[Tensor]:
    there = found.there
    parts = [found.end, there.energy, there.grad, there.grad_sq, found.log_ratio]
    return [part for part in parts if isinstance(part, Tensor)]
