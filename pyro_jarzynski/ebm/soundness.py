"""What walkers ask of an energy before they set out: that it is whole, and theirs alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pyro_jarzynski.core.alone import global_stream
from pyro_jarzynski.core.evaluation import EnergyFn
from pyro_jarzynski.core.gibbs import BlockGibbs, GibbsEnergy
from pyro_jarzynski.core.kernels import Kernel
from pyro_jarzynski.ebm.startable import StartableEnergy
from pyro_jarzynski.ebm.wrapped import is_fully_sharded, shaken_in_place
from pyro_jarzynski.errors import ArgumentError, EnergyError


def is_discrete(model: StartableEnergy) -> bool:
    """Tell whether walkers of a model take separate values."""
    return model.support is not None and model.support.is_discrete


def check_kernel(kernel: Kernel, model: StartableEnergy) -> None:
    """Raise if a kernel moves along gradients where there are none."""
    if kernel.needs_gradient and is_discrete(model):
        raise ArgumentError(
            f"`kernel` must be one of discrete walkers for {type(model).__name__}, such as "
            f"BlockGibbs(); got {type(kernel).__name__}, which moves along gradients."
        )
    if not kernel.needs_gradient and is_fully_sharded(model):
        raise ArgumentError(
            "`kernel` must be one that only evaluates the energy, such as MALA(), where "
            f"`fully_shard` has sliced the network; got {type(kernel).__name__}."
        )
    if isinstance(kernel, BlockGibbs) and not isinstance(model, GibbsEnergy):
        raise ArgumentError(
            "`kernel` is BlockGibbs(), which needs an energy with a method "
            "`gibbs(position, generator)`, such as `BinaryRBMEnergy`; "
            f"{type(model).__name__} has none. Use MALA()."
        )


def check_parameters(name: str, model: nn.Module) -> None:
    """Raise if a model or network has parameters through which no gradient can go."""
    made = [path for path, p in model.named_parameters() if p.is_inference()]
    if made:
        raise ArgumentError(
            f"`{name}` has parameters made in `torch.inference_mode`, {', '.join(made)}, "
            "which have no gradients: build it outside."
        )
    if any(p.is_meta for p in model.parameters()):
        raise ArgumentError(
            f"`{name}` has parameters on the meta device, which holds shapes and no "
            "numbers: build it on another."
        )


def check_walkers_are_independent(model: StartableEnergy, walkers: Tensor) -> None:
    """Raise if the energy of one walker depends on another, or on hidden randomness.

    The parameters are shaken for the test: layers that are zero would hide both.
    """
    sample = walkers[: min(len(walkers), 8)]
    with global_stream(0), torch.no_grad(), _shaken(model, sample) as energy:
        first, again = energy(sample), energy(sample)
        if _change(first, again) > 0:
            raise EnergyError(
                "The energy gives two values at the same walkers: it is random. Call "
                "`eval()` on the network before training (Dropout? Spectral norm, which "
                "goes on with its iteration at every call in train mode?)."
            )
        if len(sample) == 1:
            return
        moved = sample.clone()
        moved[0] = _elsewhere(sample, discrete=is_discrete(model))
        changed = _change(energy(moved)[1:], first[1:])
    largest = first.abs().nan_to_num(0, 0).max()
    if changed > 100 * torch.finfo(first.dtype).eps * (1 + float(largest)):
        raise EnergyError(
            "The energy couples walkers: moving one changed the energy of another by "
            f"{changed:.3g}. BatchNorm in train mode? Call `eval()`, or use a "
            "normalisation within one walker (LayerNorm, GroupNorm)."
        )


def _change(energy: Tensor, known: Tensor) -> float:
    """Return the largest change of an energy; of two infinities, or two NaN, it is none."""
    same = (energy == known) | (energy.isnan() & known.isnan())
    change = (energy - known).abs().nan_to_num(torch.inf)
    return float(change.masked_fill(same, 0).max())


def _elsewhere(sample: Tensor, *, discrete: bool) -> Tensor:
    """Return a point where the first walker is not, `event`."""
    if not discrete:
        return sample[0] + 1 + sample[0].abs()
    # Another walker is where a walker can be.
    differs = (sample != sample[0]).flatten(1).any(1)
    return sample[differs.int().argmax()]


@contextmanager
def _shaken(model: nn.Module, sample: Tensor) -> Iterator[EnergyFn]:
    """Give the energy at other parameters, or as it is where those have no meaning."""
    if is_fully_sharded(model):
        # Such a network takes no parameters but its own.
        with shaken_in_place(model):
            yield model
        return

    # Buffers are copied: BatchNorm writes into its own.
    buffers = {b: b.clone() for b in model.buffers()}
    shaken = {
        p: p + torch.randn_like(p) * (0.1 + p.abs() / 10)
        for p in model.parameters()
        if p.is_floating_point() or p.is_complex()
    }
    energy = _with_tensors(model, buffers | shaken)
    meaningful = torch.isfinite(energy(sample)).all()
    yield energy if meaningful else _with_tensors(model, buffers)


def _with_tensors(model: nn.Module, others: dict[Tensor, Tensor]) -> EnergyFn:
    """Return the energy of a model with other tensors in the place of its own.

    A tensor has one name for each module that has it, whatever paths lead to the module:
    torch would not put back the tensors of a module that is named twice.
    """
    state = {
        f"{path}.{name}" if path else name: others[tensor]
        for path, module in model.named_modules()
        for name, tensor in _own_tensors(module)
        if tensor in others
    }
    return lambda x: torch.func.functional_call(model, state, (x,), tie_weights=False)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)
