"""Training data: checked once, and served in seeded, shuffled batches."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from pyro_jarzynski.core.noise import set_state
from pyro_jarzynski.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
)

# What to do about data at which the model has density zero.
ON_THE_EDGE = (
    "Data outside the support of the base, or on its edge (a pixel of exactly 1.0), have "
    "an infinite energy whatever the network is: leave these rows out, move them inside, "
    "or use a base with density there."
)


def check_data(name: str, data: object, walkers: Tensor, support: Any = None) -> Tensor:
    """Return data `(n, *event)` that fit the walkers, or raise and name what does not.

    Args:
        name: What they are called, as in "`data`".
        data: The data.
        walkers: Walkers of the model, of whose shape, dtype and device data must be.
        support: Constraint on data of a model of discrete units; others are checked by
            their energy.
    """
    event = ", ".join(map(str, walkers.shape[1:])) or "…"
    if not isinstance(data, Tensor):
        raise ArgumentTypeError(
            f"{name} must be a tensor of shape (n, {event}), got {type(data).__name__}; "
            f"{_conversion(data, walkers.dtype)}."
        )
    if torch._C._functorch.is_functorch_wrapped_tensor(data):
        raise ArgumentError(
            f"{name} is within a transform of `torch.func`, such as vmap or grad, which "
            "walkers cannot follow; call this outside of it, or use the energy itself."
        )
    if data.ndim == 0 or len(data) == 0:
        raise DataError(f"{name} is empty: got shape {tuple(data.shape)}.")
    if data.shape[1:] != walkers.shape[1:]:
        raise DataError(
            f"{name} must have shape (n, {event}), as the walkers do; got "
            f"{tuple(data.shape)}."
        )
    if data.dtype != walkers.dtype:
        raise ArgumentTypeError(
            f"{name} must have the dtype of the walkers, {walkers.dtype}, got "
            f"{data.dtype}; scale whole numbers to the range of the model and call "
            f"`.to({walkers.dtype})`."
        )
    if data.device != walkers.device:
        raise ArgumentError(
            f"{name} must be on the device of the walkers, {walkers.device}, got "
            f"{data.device}; call `.to({str(walkers.device)!r})`."
        )
    bad = ~torch.isfinite(data.reshape(len(data), -1)).all(1)
    if bad.any():
        raise DataError(f"{name} has NaN or infinity in {rows_named(bad)}.")
    if support is not None and support.is_discrete:
        bad = ~support.check(data)
        if bad.any():
            raise DataError(
                f"{name} must lie in the support of the model, {support}; it does not in "
                f"{rows_named(bad)}. Binarise grey levels: `(x > 0.5).to(x.dtype)`."
            )
    return data


def collected(
    name: str, data: Tensor | Iterable, walkers: Tensor, support: Any = None
) -> Tensor:
    """Return data as one tensor `(n, *event)`: themselves, or all batches of a loader.

    Arguments are those of `check_data`.
    """
    if isinstance(data, Tensor):
        return _plain(check_data(name, data, walkers, support))
    check_iterable(name, data, walkers)
    batches = [check_batch(name, batch, walkers, support) for batch in data]
    if not batches:
        raise DataError(f"{name} is empty: the loader yields no batch.")
    return torch.cat(batches)


def check_iterable(name: str, data: object, walkers: Tensor) -> None:
    """Raise if what is no tensor is no iterable of batches either."""
    if hasattr(data, "__array__") or isinstance(data, str | bytes | Mapping):
        check_data(name, data, walkers)
    if not isinstance(data, Iterable):
        raise ArgumentTypeError(
            f"{name} must be a tensor or an iterable of batches (a DataLoader), got "
            f"{type(data).__name__}."
        )


def check_batch(name: str, batch: object, walkers: Tensor, support: Any = None) -> Tensor:
    """Return the data of a batch of a loader: the batch, or the first entry of a tuple."""
    rows = batch
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
        rows = batch[0]
    if isinstance(rows, Tensor) and rows.device.type == "cpu":
        # Processes that load data leave them on the CPU.
        rows = rows.to(walkers.device, non_blocking=True)
    return _plain(check_data(f"A batch of {name}", rows, walkers, support))


def rows_named(bad: Tensor) -> str:
    """Return how many rows of a mask `(n,)` are set, and which."""
    rows = bad.nonzero().flatten().tolist()
    shown = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
    return f"{len(rows)} of {len(bad)} rows: {shown}"


class NonFinite(NamedTuple):
    """Data at which the energy of a model is not finite.

    Attributes:
        value: `"NaN"`, `"minus infinity"` or `"plus infinity"`, which is density zero.
        rows: How many rows they are, and which.
        mask: The rows, `(n,)`.
    """

    value: str
    rows: str
    mask: Tensor

    @property
    def has_density_zero(self) -> bool:
        """Whether all other rows have a density: none is NaN or infinite."""
        return self.value == "plus infinity"


def find_nonfinite(energies: Tensor) -> NonFinite | None:
    """Return the worst kind of energies `(n,)` that are not finite, if there are any."""
    kinds = {
        "NaN": energies.isnan(),
        "minus infinity": energies.isneginf(),
        "plus infinity": energies.isposinf(),
    }
    for value, mask in kinds.items():
        if mask.any():
            return NonFinite(value, rows_named(mask), mask)
    return None


def _conversion(data: object, dtype: torch.dtype) -> str:
    """Return how to make a tensor of what is none."""
    if isinstance(data, Mapping):
        keys = ", ".join(map(repr, data))
        return f"take the tensor out of it, which has the keys {keys}"
    if hasattr(data, "__array__"):
        return f"use `torch.tensor(numpy.asarray(…), dtype={dtype})`"
    if isinstance(data, Iterable) and not isinstance(data, list | tuple | str | bytes):
        return "join its batches by `torch.cat`"
    return "use `torch.as_tensor`"


def _plain(data: Tensor) -> Tensor:
    """Return data that gradients can pass through, wherever they were made."""
    return data.clone() if data.is_inference() else data


class Batches:
    """An endless stream of batches from a tensor or from a loader.

    Its place in the data can be kept and found again: where generators stood when the
    epoch began, and how many batches have been taken since. A loader is taken to yield
    the same batches again from the same state of its generators: `loader.generator` and
    `loader.sampler.generator`, as those of torch have them.

    Args:
        data: Tensor `(n, *event)`, or an iterable of batches (a DataLoader); of a batch
            that is a tuple the first entry is taken; it is moved to the walkers' device.
        batch_size: Rows per batch of a tensor; `None` takes all rows every time.
        walkers: Walkers, whose shape and dtype the data must have.
        generator: Shuffles a tensor anew in every epoch.
        support: As of `check_data`.
    """

    def __init__(
        self,
        data: Tensor | Iterable,
        batch_size: int | None,
        walkers: Tensor,
        generator: torch.Generator,
        support: Any = None,
    ) -> None:
        """Check a tensor at once; batches of a loader are checked as they come."""
        self.data, self.walkers, self.generator = data, walkers[:1], generator
        self.support = support
        if isinstance(data, Tensor):
            self.data = _plain(check_data("`data`", data, walkers, support))
        else:
            check_iterable("`data`", data, walkers)
        self.batch_size = batch_size
        self.generators = [generator, *_generators_of(data)]
        self._epoch: Iterator[Tensor] = iter(())
        self._began, self._taken = self._states(), 0
        self._num_loaded = 0

    def __iter__(self) -> Iterator[Tensor]:
        """Return this stream."""
        return self

    def __next__(self) -> Tensor:
        """Return the next batch; there always is one."""
        batch = next(self._epoch, None)
        if batch is None:
            self._begin()
            batch = next(self._epoch)
        self._taken += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the data.

        Raises:
            ArgumentError: A loader shuffles by torch's global generator, of which nothing
                is known later.
        """
        _check_repeatable(self.data)
        return {
            "taken": self._taken,
            "began": self._began,
            "generators": self._states(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place in the data, by passing over the batches before it."""
        self._set(state["began"])
        self._epoch, self._began, self._taken = iter(()), self._states(), 0
        for _ in range(int(state["taken"])):
            next(self)
        self._set(state["generators"])

    @property
    def described(self) -> dict[str, Any]:
        """What kind of data these are, by which others can be told from them."""
        shape = list(self.data.shape) if isinstance(self.data, Tensor) else None
        kind = "Tensor" if shape else type(self.data).__name__
        return {"kind": kind, "shape": shape, "batch_size": self.batch_size}

    def located(self, rows: Tensor) -> str:
        """Return in words where in the data the first of some rows `(k, *event)` is."""
        first = rows[0]
        shown = ", ".join(f"{x:.4g}" for x in first.flatten()[:5].tolist())
        more = ", …" if first.numel() > 5 else ""
        if not isinstance(self.data, Tensor):
            return f", first at [{shown}{more}]"
        same = (self.data == first).reshape(len(self.data), -1).all(1)
        return f", first at row {int(same.int().argmax())} of `data`, [{shown}{more}]"

    def draw(self, num: int) -> Tensor:
        """Draw `num` data with replacement, `(num, *event)`."""
        pool = self.data if isinstance(self.data, Tensor) else self._pool(self.data, num)
        index = torch.randint(
            len(pool), (num,), generator=self.generator, device=self.generator.device
        )
        return pool[index.to(pool.device)]

    def _begin(self) -> None:
        """Begin an epoch."""
        self._began, self._taken = self._states(), 0
        if isinstance(self.data, Tensor):
            self._epoch = self._shuffled(self.data)
        else:
            self._epoch = self._loaded(self.data)

    def _states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self.generators]

    def _set(self, states: list[Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            set_state(generator, state)

    def _pool(self, loader: Iterable, num: int) -> Tensor:
        parts: list[Tensor] = []
        for batch in self._loaded(loader):
            parts.append(batch)
            if sum(map(len, parts)) >= num:
                break
        return torch.cat(parts)

    def _shuffled(self, data: Tensor) -> Iterator[Tensor]:
        size = self.batch_size
        if size is None or size >= len(data):
            yield data
            return
        order = torch.randperm(
            len(data), generator=self.generator, device=self.generator.device
        ).to(data.device)
        # A last, shorter batch would weigh its rows more: it waits for the next epoch.
        for start in range(0, len(order) - size + 1, size):
            yield data[order[start : start + size]]

    def _loaded(self, loader: Iterable) -> Iterator[Tensor]:
        empty = True
        for batch in loader:
            empty = False
            self._num_loaded += 1
            yield check_batch("`data`", batch, self.walkers, self.support)
        if not empty:
            return
        if self._num_loaded:
            raise DataError(
                f"`data` ended after {self._num_loaded} batches, and is an iterator "
                f"({type(loader).__name__}), which cannot be begun again. Pass a list of "
                "batches or a DataLoader, or ask for fewer `num_steps`."
            )
        raise DataError("`data` is empty: the loader yields no batch.")


def _generators_of(data: Any) -> list[torch.Generator]:
    """Return the generators by which a loader shuffles, each once."""
    owners = (data, getattr(data, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _check_repeatable(data: Any) -> None:
    """Raise if a loader shuffles, and nobody can tell how."""
    shuffles = isinstance(getattr(data, "sampler", None), RandomSampler)
    if shuffles and not _generators_of(data):
        raise ArgumentError(
            "`data` shuffles by torch's global generator, which a checkpoint does not "
            "hold: pass `generator=torch.Generator().manual_seed(0)` to the DataLoader."
        )
