"""A pretended accelerator: tensors that are on `gpu:0` while their numbers are on the CPU.

It refuses what CUDA refuses: tensors of two devices in one operation, and generators of
another device. It has a global generator of its own, whose states are of another form than
the CPU's. It shows on which device every tensor and generator is, and nothing of memory,
streams and speed.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch

from pyro_jarzynski.core import noise

NAME = "gpu"
# torch's own switch for back ends that are written in Python.
SETUP = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
COPIES = ("_to_copy", "copy_", "_copy_from")
# Operations on one tensor that take integers from the CPU.
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
# Operations with code of their own here. Torch takes those apart for which a device has
# none, and would then resize a result, lose sight of the device, or round otherwise.
WHOLE = (
    *("arange", "copy_", "empty", "empty_strided", "eye", "linspace", "logspace"),
    *("randperm", "range", "silu_backward"),
)
# Says that a state is one of this device.
MARK = torch.tensor([7], dtype=torch.uint8)


class Pretended(Tensor):
    """A tensor on the pretended device, of the numbers of a CPU tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return _run(func, *args, **(kwargs or {}))

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        # By which `Module.to` keeps the identity of parameters, as on a GPU.
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict, *_: Any) -> "Pretended":
        return Pretended(inner["inner"])

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy.")

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.inner})"


class Generator(noise.Stream):
    """A stream on any device, of the CPU's numbers."""

    def __new__(cls, device: torch.device | str = "cpu") -> "Generator":
        made = super().__new__(cls, "cpu")
        made.pretends = torch.device(device).type == NAME
        return made

    @property
    def device(self) -> torch.device:
        return torch.device(NAME, 0) if self.pretends else torch.device("cpu")

    def get_state(self) -> Tensor:
        state = super().get_state()
        return torch.cat([state, MARK]) if self.pretends else state

    def set_state(self, state: Tensor) -> "Generator":
        if self.pretends and not torch.equal(state[-1:], MARK):
            raise RuntimeError("RNG state is wrong size")
        return super().set_state(state[:-1] if self.pretends else state)


class Module:
    """What `torch.gpu` is: the device and its global generator."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def get_rng_state(self, device: Any = None) -> Tensor:
        return self.generator.get_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        self.generator.set_state(state)


class Generators(TorchFunctionMode):
    """Refuses generators of another device than the result."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        generator = kwargs.get("generator")
        if generator is not None and isinstance(found, Tensor):
            wanted, given = found.device.type, generator.device.type
            if wanted != given:
                raise RuntimeError(
                    f"Expected a '{wanted}' device type for generator but found '{given}'"
                )
        return found


def install() -> None:
    """Make the device; once in a process, before its first backward pass."""
    assert SETUP is not None
    SETUP(NAME, Module())
    _ANY.fallback(_run, "PrivateUse1")
    for name in WHOLE:
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            if "out" not in overload.split("_"):
                operation = getattr(packet, overload)
                _ATEN.impl(operation, partial(_run, operation), "PrivateUse1")
    noise.Stream = Generator


_ANY, _ATEN = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")


def _run(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operation of which a tensor, or the result, is on the pretended device."""
    given = list(_leaves((args, *kwargs.values())))
    here = [x for x in given if isinstance(x, Pretended)]
    device = next((x for x in given if isinstance(x, torch.device)), None)
    on_device = bool(here) if device is None else device.type == NAME
    _check_devices(func, given, here)
    named = {name: _mapped(_inner, x) for name, x in kwargs.items()}
    out = _drawn(func, _mapped(_inner, args), named, given)
    if torch.Tag.inplace_view in func.tags:
        # The numbers have another shape now: so has the tensor that says where they are.
        with no_dispatch():
            func(*args, **kwargs)
    if func._schema.is_mutable:
        assert all(x.shape == x.inner.shape for x in here), f"{func} has resized a tensor"
        # What was written to is returned as it came.
        written = {id(x.inner): x for x in here}
        return _mapped(lambda x: written.get(id(x), x), out)
    return _mapped(_wrapped, out) if on_device else out


def _check_devices(func: Any, given: list[Any], here: list[Pretended]) -> None:
    name = func._schema.name.removeprefix("aten::")
    others = [x for x in given if isinstance(x, Tensor) and not isinstance(x, Pretended)]
    if torch.Tag.pointwise in func.tags or name in ("masked_fill_", "index_put_"):
        # A number that is on the CPU may meet tensors elsewhere.
        others = [x for x in others if x.dim() > 0]
    if name in INDEXING and isinstance(given[0], Pretended):
        others = [x for x in others if x.is_floating_point()]
    if here and others and name not in COPIES:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two "
            f"devices, {NAME}:0 and cpu! ({name})"
        )


def _drawn(func: Any, args: tuple, kwargs: dict[str, Any], given: list[Any]) -> Any:
    """Run an operation; what is drawn without a generator is drawn by the device's."""
    seeded = torch.Tag.nondeterministic_seeded in func.tags
    if not seeded or any(isinstance(x, torch.Generator) for x in given):
        return func(*args, **kwargs)
    module, before = torch.get_device_module(NAME), torch.get_rng_state()
    torch.set_rng_state(module.get_rng_state())
    try:
        return func(*args, **kwargs)
    finally:
        module.set_rng_state(torch.get_rng_state())
        torch.set_rng_state(before)


def _inner(x: Any) -> Any:
    if isinstance(x, torch.device):
        return torch.device("cpu")
    return x.inner if isinstance(x, Pretended) else x


def _wrapped(x: Any) -> Any:
    plain = isinstance(x, Tensor) and not isinstance(x, Pretended)
    return Pretended(x) if plain else x


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, tuple | list):
        for item in tree:
            yield from _leaves(item)
    else:
        yield tree


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, tuple | list):
        return type(tree)([_mapped(function, item) for item in tree])
    return function(tree)
